//! From what happened and what was seen to figures, and to what does not hold.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use moe2_cost::percentile;
use serde_json::{Value, json};

use super::books::Account;
use super::faults::{Fault, Round};
use super::watch::{Log, Watch};
use crate::live::api::End;
use crate::live::load::{Kind, Sample, Tenant};

/// A machine that cannot answer is to get no more work within this time, in 95 of 100 cases.
const EJECT_P95: f64 = 3.0;
/// A machine that is well again is to get work within this time, in 95 of 100 cases.
const READMIT_P95: f64 = 5.0;
/// The experiment's own word for an answer that broke off with text before.
const MID_STREAM: &str = "lost_mid_stream";

/// All that happened.
pub(super) struct Run {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) plan_rate: f64,
    pub(super) names: Vec<String>,
    /// Which machines have a model; all of them may answer `auto`.
    pub(super) hosts: Vec<(&'static str, Vec<usize>)>,
    pub(super) tenants: Vec<Tenant>,
    pub(super) rounds: Vec<Round>,
    pub(super) samples: Vec<Sample>,
    pub(super) books: Vec<Account>,
}

/// What a request's end means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Class {
    Answered,
    /// By the tenant's own budgets.
    Refused(String),
    /// Text had been sent; the documented error event ended it.
    MidStream(String),
    /// No machine took work all the time that it was under way.
    Unserved(String),
    /// It should have been answered, or should have ended otherwise.
    Lost(String),
}

impl Class {
    fn of(sample: &Sample, tenant: &Tenant, admissible: bool) -> Self {
        let own = |code: &str| tenant.refusals.contains(&code);
        let not_own = |what: String| {
            if admissible {
                Self::Lost(what)
            } else {
                Self::Unserved(what)
            }
        };
        match &sample.ended.end {
            End::Answered { .. } => Self::Answered,
            End::Refused { code, .. } if own(code) => Self::Refused(code.clone()),
            End::Refused { code, .. } if sample.barred => {
                Self::Refused(format!("{code}, and who was left was beyond its budgets"))
            }
            End::Refused {
                status,
                code,
                message,
            } => not_own(format!("{status} {code}: {message}")),
            End::Broken { code, text: true } if code == MID_STREAM || own(code) => {
                Self::MidStream(code.clone())
            }
            // Nothing had been said: another expert could have answered.
            End::Broken { code, text: false } if own(code) => Self::Refused(code.clone()),
            End::Broken { code, text } => not_own(format!("event {code}, text before: {text}")),
            // Nobody leaves in this experiment.
            End::Left => Self::Lost("the client left".to_owned()),
            End::Undocumented(why) => Self::Lost(why.clone()),
        }
    }

    const fn as_str(&self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused(_) => "refused",
            Self::MidStream(_) => "mid_stream",
            Self::Unserved(_) => "unserved",
            Self::Lost(_) => "lost",
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Self::Answered => None,
            Self::Refused(why) | Self::MidStream(why) | Self::Unserved(why) | Self::Lost(why) => {
                Some(why)
            }
        }
    }
}

/// When a machine was ejected and let in again in one round, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Times {
    /// From the fault; `None` if it got work all the time.
    ejected: Option<f64>,
    /// From healing; of a killed agent, from its new start. `None` if it had not been ejected, or was back before.
    readmitted: Option<f64>,
    /// It was ejected, and let in again while the fault still held.
    back_before: bool,
}

fn times(round: &Round, log: &Log) -> Times {
    let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64();
    let out = log
        .first(round.node, false, round.began)
        .filter(|at| *at <= round.ended);
    let Some(out) = out else {
        return Times::default();
    };
    let ejected = Some(seconds(round.began, out));
    // One that was healed before it was noticed is let in when it is let in after that.
    let from = out.max(round.healed);
    let back = log.first(round.node, true, from);
    let back_before = back == Some(round.healed);
    let readmitted = back
        .filter(|_| !back_before)
        .map(|at| seconds(round.healed, at));
    Times {
        ejected,
        readmitted,
        back_before,
    }
}

/// A line of progress.
pub(super) fn line(round: &Round, (number, of): (usize, usize), watch: &Watch) -> String {
    let (times, states) = watch.with(|log| {
        (
            times(round, log),
            log.states(round.node, (round.began, round.ended)),
        )
    });
    let ejected = times
        .ejected
        .map_or("kept".to_owned(), |s| format!("out after {s:.2} s"));
    let back = times
        .readmitted
        .map_or(String::new(), |s| format!(", back {s:.2} s after healing"));
    let (node, fault) = (round.node + 1, round.fault.as_str());
    let again = round.redispatched;
    format!(
        "{number}/{of}: edge-{node} {fault}: {ejected}{back}; {again} asked again; {}",
        states.join(" ")
    )
}

/// Judges it all.
pub(super) fn judge(run: &Run, log: &Log) -> Value {
    let classes: Vec<Class> = run
        .samples
        .iter()
        .map(|sample| {
            let span = (sample.sent, sample.done);
            let mut able = able(run, sample.model);
            let admissible = able.any(|node| log.took_throughout(node, span));
            Class::of(sample, &run.tenants[sample.tenant], admissible)
        })
        .collect();
    let all: Vec<Times> = run.rounds.iter().map(|round| times(round, log)).collect();
    let firsts: Vec<Option<f64>> = (0..run.rounds.len())
        .map(|at| first_answer(run, at))
        .collect();
    let of_round: Vec<Option<usize>> = run.samples.iter().map(|s| round_of(run, s.done)).collect();
    let faults: Vec<Value> = Fault::ALL
        .into_iter()
        .map(|fault| {
            let picked: Vec<usize> = (0..run.rounds.len())
                .filter(|at| run.rounds[*at].fault == fault)
                .collect();
            let mut row = figures(run, &picked, (&all, &firsts));
            let inside = |at: &Option<usize>| at.is_some_and(|at| run.rounds[at].fault == fault);
            let own = classes
                .iter()
                .zip(&of_round)
                .filter(|(_, at)| inside(at))
                .map(|(c, _)| c);
            row["requests"] = tally(own);
            row["fault"] = json!(fault.as_str());
            row
        })
        .collect();
    let silenced: Vec<usize> = (0..run.rounds.len())
        .filter(|at| run.rounds[*at].fault.silences())
        .collect();
    let every: Vec<usize> = (0..run.rounds.len()).collect();
    let quiet = classes
        .iter()
        .zip(&of_round)
        .filter(|(_, at)| at.is_none())
        .map(|(c, _)| c);
    let mut result = json!({
        "faults": faults,
        "silenced": figures(run, &silenced, (&all, &firsts)),
        "all": figures(run, &every, (&all, &firsts)),
        "requests": tally(classes.iter()),
        "requests_without_faults": tally(quiet),
        "delays_s": delays(run, &classes),
        "books": run.books.iter().map(|account| &account.row).collect::<Vec<_>>(),
        "watch": {"longest_between_looks_s": log.blind.as_secs_f64(), "unanswered": log.unanswered},
    });
    result["missed"] = json!(missed(run, &result));
    result["samples"] = json!({
        "rounds": round_samples(run, log, (&all, &firsts)),
        "requests": request_samples(run, &classes, &of_round),
    });
    result
}

/// Machines that could answer a request for this.
fn able<'a>(run: &'a Run, model: &str) -> impl Iterator<Item = usize> + use<'a> {
    let hosts = run.hosts.iter().find(|(name, _)| *name == model);
    let all = 0..run.names.len();
    let hosts = hosts.map(|(_, nodes)| nodes.as_slice());
    all.filter(move |node| hosts.is_none_or(|nodes| nodes.contains(node)))
}

/// The round in which a request ended; none during the warm-up.
fn round_of(run: &Run, done: Instant) -> Option<usize> {
    run.rounds
        .partition_point(|round| round.began <= done)
        .checked_sub(1)
}

/// From healing to the machine's first answer to what was asked after that, before its next fault.
fn first_answer(run: &Run, at: usize) -> Option<f64> {
    let round = &run.rounds[at];
    let next = run.rounds[at + 1..].iter().find(|r| r.node == round.node);
    let until = next.map_or(run.ended, |r| r.began);
    let name = run.names[round.node].as_str();
    let own = |s: &&Sample| s.sent >= round.healed && s.done <= until && s.node() == Some(name);
    let done = run.samples.iter().filter(own).map(|s| s.done).min()?;
    Some((done - round.healed).as_secs_f64())
}

/// Figures of some rounds.
fn figures(run: &Run, picked: &[usize], (times, firsts): (&[Times], &[Option<f64>])) -> Value {
    let own = |at: &&usize| times[**at].ejected.is_some();
    let ejected: Vec<f64> = picked.iter().filter_map(|at| times[*at].ejected).collect();
    let back: Vec<f64> = picked
        .iter()
        .filter_map(|at| times[*at].readmitted)
        .collect();
    let first: Vec<f64> = picked
        .iter()
        .filter(own)
        .filter_map(|at| firsts[*at])
        .collect();
    let back_before = picked.iter().filter(|at| times[**at].back_before).count();
    let redispatched: u64 = picked.iter().map(|at| run.rounds[*at].redispatched).sum();
    json!({"rounds": picked.len(), "ejected": ejected.len(), "kept": picked.len() - ejected.len(),
        "back_under_fault": back_before, "eject_s": quantiles(&ejected), "readmit_s": quantiles(&back),
        "first_answer_s": quantiles(&first), "redispatched": redispatched})
}

fn quantiles(values: &[f64]) -> Value {
    let at = |level| percentile(values, level);
    json!({"count": values.len(), "p50": at(0.5), "p95": at(0.95), "max": at(1.0)})
}

/// How many ended how, and why.
fn tally<'a>(classes: impl Iterator<Item = &'a Class>) -> Value {
    let mut counts: BTreeMap<&str, u64> = ["answered", "refused", "mid_stream", "unserved", "lost"]
        .map(|name| (name, 0))
        .into();
    let mut whys: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    let mut sent = 0_u64;
    for class in classes {
        sent += 1;
        *counts.entry(class.as_str()).or_default() += 1;
        if let Some(why) = class.why() {
            *whys
                .entry(class.as_str())
                .or_default()
                .entry(why)
                .or_default() += 1;
        }
    }
    let mut tally = json!(counts);
    tally["sent"] = json!(sent);
    tally["why"] = json!(whys);
    tally
}

/// From sending to the end of answers, and from sending to the error event of broken streams.
fn delays(run: &Run, classes: &[Class]) -> Value {
    let of = |wanted: &str, kind: Option<Kind>| {
        let own = run.samples.iter().zip(classes);
        let own = own.filter(|(s, c)| c.as_str() == wanted && kind.is_none_or(|k| k == s.kind));
        let values: Vec<f64> = own.map(|(s, _)| (s.done - s.sent).as_secs_f64()).collect();
        quantiles(&values)
    };
    json!({"answered": of("answered", None), "answered_stream": of("answered", Some(Kind::Stream)),
        "mid_stream": of("mid_stream", None)})
}

/// What was to hold and does not.
fn missed(run: &Run, result: &Value) -> Vec<String> {
    let mut missed = Vec::new();
    let requests = &result["requests"];
    let count = |name: &str| requests[name].as_u64().unwrap_or(0);
    if count("lost") > 0 {
        missed.push(format!(
            "{} answers lost: {}",
            count("lost"),
            requests["why"]["lost"]
        ));
    }
    if count("unserved") > 0 {
        missed.push(format!(
            "{} requests found no machine, with one in trouble",
            count("unserved")
        ));
    }
    let silenced = &result["silenced"];
    let never = silenced["kept"].as_u64().unwrap_or(0);
    if never > 0 {
        missed.push(format!(
            "{never} machines that could not answer were never ejected"
        ));
    }
    let p95 = |row: &Value, what: &str| row[what]["p95"].as_f64();
    if let Some(p95) = p95(silenced, "eject_s").filter(|p95| *p95 >= EJECT_P95) {
        missed.push(format!(
            "time to eject: p95 {p95:.2} s, to be below {EJECT_P95} s"
        ));
    }
    if let Some(p95) = p95(&result["all"], "readmit_s").filter(|p95| *p95 >= READMIT_P95) {
        missed.push(format!(
            "time to re-admit: p95 {p95:.2} s, to be below {READMIT_P95} s"
        ));
    }
    missed.extend(run.books.iter().flat_map(|account| account.wrong.clone()));
    // What was not asked cannot be lost.
    let due = run.plan_rate * (run.ended - run.began).as_secs_f64();
    if (run.samples.len() as f64) < 0.8 * due || count("answered") == 0 {
        missed.push(format!(
            "the load was not there: {} requests of {due:.0}",
            run.samples.len()
        ));
    }
    missed
}

fn round_samples(run: &Run, log: &Log, (times, firsts): (&[Times], &[Option<f64>])) -> Vec<Value> {
    let since = |at: Instant| (at - run.began).as_secs_f64();
    let rows = run.rounds.iter().enumerate().map(|(at, round)| {
        let Times { ejected, readmitted, back_before } = times[at];
        json!({"round": at + 1, "fault": round.fault.as_str(), "node": run.names[round.node],
            "began_s": since(round.began), "healed_s": since(round.healed), "ended_s": since(round.ended),
            "ejected_s": ejected, "readmitted_s": readmitted, "back_under_fault": back_before,
            "first_answer_s": firsts[at], "redispatched": round.redispatched,
            "states": log.states(round.node, (round.began, round.ended))})
    });
    rows.collect()
}

fn request_samples(run: &Run, classes: &[Class], rounds: &[Option<usize>]) -> Vec<Value> {
    let millis = |d: Duration| d.as_micros() as f64 / 1e3;
    let rows = run.samples.iter().zip(classes).zip(rounds).map(|((sample, class), round)| {
        let moe2 = sample.moe2();
        let mut row = json!({"ms": millis(sample.sent.saturating_duration_since(run.began)), "round": round.map(|at| at + 1),
            "tenant": run.tenants[sample.tenant].name, "kind": sample.kind.as_str(), "model": sample.model, "end": class.as_str(),
            "took_ms": millis(sample.done - sample.sent)});
        let optional = [("why", json!(class.why())), ("first_ms", json!(sample.ended.first.map(millis))),
            ("node", json!(sample.node())), ("id", json!((*class != Class::Answered).then_some(&sample.ended.id))), ("redispatches", moe2["redispatches"].clone()), ("j", moe2["energy_j"].clone())];
        for (name, value) in optional {
            if !value.is_null() && value != json!(0) {
                row[name] = value;
            }
        }
        row
    });
    rows.collect()
}

/// For people.
pub(super) fn table(result: &Value) -> String {
    let seconds = |row: &Value, what: &str| {
        let of = |level: &str| {
            row[what][level]
                .as_f64()
                .map_or("-".to_owned(), |s| format!("{s:.2}"))
        };
        format!("{}/{}/{}", of("p50"), of("p95"), of("max"))
    };
    let mut lines = vec![format!(
        "{:<12} {:>6} {:>7} {:>5} {:>16} {:>16} {:>16} {:>8} {:>5} {:>10} {:>6} {:>8}",
        "FAULT",
        "ROUNDS",
        "EJECTED",
        "KEPT",
        "EJECT P50/95/MAX",
        "READMIT",
        "FIRST ANSWER",
        "ANSWERS",
        "LOST",
        "MID-STREAM",
        "AGAIN",
        "REFUSED"
    )];
    let empty = json!({});
    let faults = result["faults"].as_array().into_iter().flatten();
    let total = (&result["all"], &result["requests"], "all");
    let rows = faults.map(|row| {
        (
            row,
            &row["requests"],
            row["fault"].as_str().unwrap_or_default(),
        )
    });
    let quiet = (&empty, &result["requests_without_faults"], "before");
    for (row, requests, name) in rows.chain([quiet, total]) {
        let count =
            |of: &Value, field: &str| of[field].as_u64().map_or("-".to_owned(), |n| n.to_string());
        lines.push(format!(
            "{name:<12} {:>6} {:>7} {:>5} {:>16} {:>16} {:>16} {:>8} {:>5} {:>10} {:>6} {:>8}",
            count(row, "rounds"),
            count(row, "ejected"),
            count(row, "kept"),
            seconds(row, "eject_s"),
            seconds(row, "readmit_s"),
            seconds(row, "first_answer_s"),
            count(requests, "answered"),
            count(requests, "lost"),
            count(requests, "mid_stream"),
            count(row, "redispatched"),
            count(requests, "refused")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::watch::Seen;
    use crate::live::api::{Api, Ended};

    fn tenant(refusals: &'static [&'static str]) -> Tenant {
        let api = Api::new("http://127.0.0.1:1", "k");
        Tenant {
            name: "t",
            share: 1.0,
            refusals,
            budgets: json!({}),
            api,
        }
    }

    fn sample(end: End, (sent, done): (Instant, Instant)) -> Sample {
        let ended = Ended {
            end,
            first: None,
            id: String::new(),
        };
        Sample {
            tenant: 0,
            kind: Kind::Stream,
            model: "auto",
            sent,
            done,
            ended,
            barred: false,
        }
    }

    fn answered() -> End {
        End::Answered {
            model: "stub-1@edge-1".to_owned(),
            text: "stub".to_owned(),
            moe2: json!({"energy_j": 1.0}),
        }
    }

    fn refused(code: &str) -> End {
        let code = code.to_owned();
        End::Refused {
            status: 503,
            code,
            message: "m".to_owned(),
        }
    }

    fn broken(code: &str, text: bool) -> End {
        let code = code.to_owned();
        End::Broken { code, text }
    }

    #[test]
    fn only_budgets_and_text_that_was_sent_excuse_an_answer() {
        let now = Instant::now();
        let class = |end: End, own: &'static [&'static str], admissible| {
            Class::of(&sample(end, (now, now)), &tenant(own), admissible).as_str()
        };
        assert_eq!(class(answered(), &[], true), "answered");
        let quota = || refused("insufficient_quota");
        assert_eq!(class(quota(), &["insufficient_quota"], true), "refused");
        assert_eq!(class(quota(), &[], true), "lost");
        let nobody = || refused("no_expert_available");
        assert_eq!(class(nobody(), &["insufficient_quota"], true), "lost");
        assert_eq!(class(nobody(), &[], false), "unserved");
        let barred = Sample {
            barred: true,
            ..sample(nobody(), (now, now))
        };
        assert_eq!(Class::of(&barred, &tenant(&[]), true).as_str(), "refused");
        assert_eq!(class(broken(MID_STREAM, true), &[], true), "mid_stream");
        assert_eq!(class(broken(MID_STREAM, false), &[], true), "lost");
        assert_eq!(class(broken("expert_failed", true), &[], true), "lost");
        let cut = End::Undocumented("the stream broke off".to_owned());
        assert_eq!(class(cut, &[], false), "lost");
    }

    /// A machine that is out from the first to the second of these milliseconds, and one that never is.
    fn seen(out: Option<(u64, u64)>, zero: Instant) -> Log {
        let mut log = Log::default();
        let takes = |takes: bool| Seen {
            takes,
            state: "x".to_owned(),
        };
        log.note(zero, 0, takes(true));
        log.note(zero, 1, takes(true));
        if let Some((from, to)) = out {
            log.note(zero + Duration::from_millis(from), 0, takes(false));
            log.note(zero + Duration::from_millis(to), 0, takes(true));
        }
        log
    }

    /// What is missed in a run of one cut from 1 s to 5 s, in which a request ended like this.
    fn missed_in(out: Option<(u64, u64)>, end: End) -> Vec<String> {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let round = Round {
            fault: Fault::Cut,
            node: 0,
            began: at(1_000),
            healed: at(5_000),
            ended: at(15_000),
            redispatched: 0,
        };
        let whole = sample(answered(), (at(100), at(200)));
        let run = Run {
            began: zero,
            ended: at(15_000),
            plan_rate: 0.1,
            names: vec!["edge-1".to_owned(), "edge-2".to_owned()],
            hosts: Vec::new(),
            tenants: vec![tenant(&[])],
            rounds: vec![round],
            samples: vec![whole, sample(end, (at(1_500), at(4_000)))],
            books: Vec::new(),
        };
        let result = judge(&run, &seen(out, zero));
        let missed = result["missed"].as_array().cloned().unwrap_or_default();
        missed.iter().map(Value::to_string).collect()
    }

    #[test]
    fn what_does_not_hold_is_said() {
        let fine = Some((2_500, 6_000));
        assert!(missed_in(fine, answered()).is_empty());
        assert!(missed_in(fine, broken(MID_STREAM, true)).is_empty());
        let one = |out, end, word: &str| {
            let missed = missed_in(out, end);
            assert!(missed.len() == 1 && missed[0].contains(word), "{missed:?}");
        };
        one(fine, refused("no_expert_available"), "1 answers lost");
        one(None, answered(), "never ejected");
        one(Some((4_500, 6_000)), answered(), "time to eject");
        one(Some((2_500, 11_000)), answered(), "time to re-admit");
    }

    #[test]
    fn a_machine_that_is_noticed_late_or_back_early_is_told_apart() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let round = Round {
            fault: Fault::Delay,
            node: 0,
            began: at(1_000),
            healed: at(5_000),
            ended: at(9_000),
            redispatched: 0,
        };
        let of = |out| times(&round, &seen(out, zero));
        assert_eq!(of(None), Times::default());
        let early = of(Some((2_000, 3_000)));
        assert!(early.back_before && early.readmitted.is_none(), "{early:?}");
        let late = of(Some((6_000, 7_000)));
        assert_eq!((late.ejected, late.readmitted), (Some(5.0), Some(2.0)));
    }
}
