//! `moe2 gate collect`: what every expert of a fleet makes of every question, through the real path.
//!
//! One line per question, written when all experts have answered it, so that an interrupted run loses at
//! most the questions under way and the next one goes on from there. An expert that refuses a question
//! (its context is too short, say) is missing on that line; a coordinator that is gone ends the run.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use moe2_gate::{Item, OptionRule, Outcome, read_questions};
use moe2_model::{ExpertName, Rng};
use serde_json::{Value, json};

use super::files;
use crate::client::{Answered, Client, Credential, Where};
use crate::progress::Count;
use crate::{BadInput, out};

/// Attempts at one answer before the run ends.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest sleep before a signal is looked at.
const NAP: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 gate collect --questions questions.jsonl.zst --out outcomes.jsonl\n  moe2 gate collect --questions questions.jsonl.zst --sample 3000 --without-texts --out record.jsonl\n\nRun it again with the same --out to go on after an interruption. Questions need `choices` and\n`answer`: each expert scores every option, and its score is 1 if the best one is right."
)]
pub(crate) struct Args {
    /// Questions, one JSON object a line, plain or zstd.
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
    /// Outcome file to write, or to go on with.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only these experts; by default all that the coordinator lists.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    experts: Vec<ExpertName>,
    /// Take only so many questions, equally from every data set.
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Decides which are sampled, and the order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Leave question texts out of the file; ids and fingerprints stay.
    #[arg(long)]
    without_texts: bool,
    /// Questions under way at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Print a summary as JSON.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    place: Where,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let all = files::questions(&args.questions)?;
    let chosen = choose(&all, args.sample, args.seed)?;
    let client = args.place.client(Credential::Api)?;
    let experts = experts(args, &client)?;
    let (mut file, done) = open(&args.out, &experts)?;
    let left: Vec<&Item> = chosen
        .iter()
        .map(|&at| &all[at])
        .filter(|q| !done.contains(q.id.as_deref().unwrap_or_default()))
        .collect();
    if !done.is_empty() {
        out::note(&format!(
            "going on: {} of {} questions are there",
            chosen.len() - left.len(),
            chosen.len()
        ));
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let work = Work {
        client: &client,
        experts: &experts,
        left: &left,
        next: AtomicUsize::new(0),
        interrupted: &interrupted,
        failed: Mutex::new(None),
    };
    let bar = Count::new("asking", left.len(), args.quiet);
    let mut tally = Tally::default();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 0..args.parallel {
            let (work, send) = (&work, send.clone());
            scope.spawn(move || work.run(&send));
        }
        drop(send);
        for mut item in receive {
            tally.add(&item);
            if args.without_texts {
                item.drop_texts();
            }
            let written = line(&mut file, &item).context("the outcome file cannot be written");
            if written.is_err() {
                interrupted.store(true, Ordering::Relaxed);
            }
            written?;
            bar.step(|| tally.brief());
        }
        Ok(())
    })?;
    bar.finish();
    file.sync_all()
        .context("the outcome file cannot be written")?;
    let failed = work.failed.into_inner().unwrap_or_default();
    report(args, &tally, &experts)?;
    if let Some(error) = failed {
        return Err(error.context(format!(
            "stopped after {} questions; run the same command again to go on",
            tally.questions
        )));
    }
    if interrupted.load(Ordering::Relaxed) {
        bail!(
            "interrupted after {} questions; run the same command again to go on",
            tally.questions
        );
    }
    Ok(())
}

/// Which questions to ask, in which order: all, or the same number of each data set.
fn choose(all: &[Item], sample: Option<usize>, seed: u64) -> anyhow::Result<Vec<usize>> {
    let usable =
        |item: &Item| item.answer.is_some() && !item.lacks_text() && distinct(&item.choices);
    let usable: Vec<usize> = (0..all.len()).filter(|&at| usable(&all[at])).collect();
    if usable.is_empty() {
        let why = "no question has a text, at least two different choices and an answer";
        return Err(BadInput(why.to_owned()).into());
    }
    let mut rng = Rng::new(seed);
    let Some(wanted) = sample else {
        let mut order = usable;
        rng.shuffle(&mut order);
        return Ok(order);
    };
    let mut sets: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for at in usable {
        let name = all[at].dataset.as_deref().unwrap_or_default();
        let family = name.split('/').next().unwrap_or(name);
        sets.entry(family).or_default().push(at);
    }
    let mut sets: Vec<Vec<usize>> = sets.into_values().collect();
    sets.iter_mut().for_each(|set| rng.shuffle(set));
    // One of each set in turn, until there are enough: small sets run out, large ones fill up.
    let mut chosen = Vec::new();
    let mut round = 0;
    while chosen.len() < wanted && sets.iter().any(|set| set.len() > round) {
        let of_round = sets.iter().filter_map(|set| set.get(round));
        chosen.extend(of_round.take(wanted - chosen.len()));
        round += 1;
    }
    Ok(chosen)
}

fn distinct(choices: &[String]) -> bool {
    let different: HashSet<&String> = choices.iter().collect();
    choices.len() > 1 && different.len() == choices.len()
}

fn experts(args: &Args, client: &Client) -> anyhow::Result<Vec<ExpertName>> {
    let list = client.get("/v1/models")?;
    let listed: Vec<ExpertName> = list["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|model| model["id"].as_str())
        .filter(|id| *id != "auto" && !id.contains('@'))
        .filter_map(|id| ExpertName::new(id).ok())
        .collect();
    if let Some(missing) = args.experts.iter().find(|e| !listed.contains(e)) {
        let names: Vec<&str> = listed.iter().map(ExpertName::as_str).collect();
        return Err(BadInput(format!(
            "no expert {missing} can answer now; there are: {}",
            names.join(", ")
        ))
        .into());
    }
    match (args.experts.is_empty(), listed.is_empty()) {
        (false, _) => Ok(args.experts.clone()),
        (true, false) => Ok(listed),
        (true, true) => bail!("no expert can answer now: see `moe2 fleet`"),
    }
}

/// The file, cut after its last whole line, and the ids that stand in it.
fn open(path: &Path, experts: &[ExpertName]) -> anyhow::Result<(File, HashSet<String>)> {
    let name = path.display();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {name}"))?;
    file.try_lock()
        .with_context(|| format!("another process writes {name}"))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)
        .with_context(|| format!("cannot read {name}"))?;
    let whole = text
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    file.set_len(whole as u64)?;
    file.seek(SeekFrom::End(0))?;
    if whole == 0 {
        return Ok((file, HashSet::new()));
    }
    let items = read_questions(BufReader::new(&text[..whole]))
        .map_err(|e| BadInput(format!("{name}: {e}; is it an outcome file?")))?;
    let others = items
        .iter()
        .flat_map(|item| item.outcomes.keys())
        .find(|e| !experts.contains(e));
    if let Some(other) = others {
        return Err(BadInput(format!(
            "{name} has outcomes of {other}, which is not asked now: take another --out, or the same experts"
        ))
        .into());
    }
    Ok((file, items.into_iter().filter_map(|item| item.id).collect()))
}

fn line(file: &mut File, item: &Item) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(item)?;
    text.push(b'\n');
    file.write_all(&text)?;
    Ok(())
}

/// What the threads share.
struct Work<'w> {
    client: &'w Client,
    experts: &'w [ExpertName],
    left: &'w [&'w Item],
    next: AtomicUsize,
    interrupted: &'w AtomicBool,
    failed: Mutex<Option<anyhow::Error>>,
}

impl Work<'_> {
    fn run(&self, send: &std::sync::mpsc::Sender<Item>) {
        while !self.interrupted.load(Ordering::Relaxed) {
            let Some(question) = self.left.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            match self.question(question) {
                Ok(Some(item)) => {
                    if send.send(item).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    self.interrupted.store(true, Ordering::Relaxed);
                    if let Ok(mut failed) = self.failed.lock() {
                        failed.get_or_insert(error);
                    }
                    return;
                }
            }
        }
    }

    /// Everyone's outcome; nothing if it was interrupted.
    fn question(&self, question: &Item) -> anyhow::Result<Option<Item>> {
        let answers: Vec<anyhow::Result<Given>> = std::thread::scope(|scope| {
            let each = self.experts.iter();
            let asked: Vec<_> = each
                .map(|expert| scope.spawn(|| self.ask(question, expert)))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| bail!("a thread failed"))
            };
            asked.into_iter().map(join).collect()
        });
        let mut item = question.clone();
        item.outcomes.clear();
        for (expert, given) in self.experts.iter().zip(answers) {
            match given? {
                Given::Outcome(outcome) => {
                    item.outcomes.insert(expert.clone(), *outcome);
                }
                Given::Refused => {}
                Given::Interrupted => return Ok(None),
            }
        }
        Ok(Some(item))
    }

    fn ask(&self, question: &Item, expert: &ExpertName) -> anyhow::Result<Given> {
        let body = json!({
            "model": expert,
            "messages": [{"role": "user", "content": question.prompt}],
            "structured_outputs": {"choice": question.choices},
            "moe2": {"mode": "single", "explain": true},
        });
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let began = Instant::now();
            let why = match self.client.try_post("/v1/chat/completions", &body) {
                Ok(Answered::Reply(reply)) => {
                    let latency = began.elapsed().as_secs_f64();
                    return outcome(question, &reply, latency)
                        .with_context(|| format!("{expert} on {:?}", question.id))
                        .map(|outcome| Given::Outcome(Box::new(outcome)));
                }
                Ok(Answered::Refused(status, why)) if is_final(status) => {
                    let missing = "this question is too much for it";
                    if matches!(status, 400 | 413 | 422) {
                        out::note(&format!("{expert}: {missing} ({:?}): {why}", question.id));
                        return Ok(Given::Refused);
                    }
                    bail!("{why} (status {status})");
                }
                Ok(Answered::Refused(status, why)) => anyhow::anyhow!("{why} (status {status})"),
                Err(error) => error,
            };
            if attempt == ATTEMPTS {
                return Err(why.context(format!("{expert} gave no answer in {ATTEMPTS} attempts")));
            }
            let until = Instant::now() + wait;
            while Instant::now() < until {
                if self.interrupted.load(Ordering::Relaxed) {
                    return Ok(Given::Interrupted);
                }
                std::thread::sleep(NAP);
            }
            wait *= 2;
        }
        unreachable!("the last attempt returns")
    }
}

/// Whether asking again cannot help.
fn is_final(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 409 | 429)
}

/// What one expert gave.
enum Given {
    Outcome(Box<Outcome>),
    Refused,
    Interrupted,
}

/// Reads a reply that was asked to explain itself.
fn outcome(question: &Item, reply: &Value, latency_s: f64) -> anyhow::Result<Outcome> {
    let own = &reply["moe2"];
    let mut answered = own["experts"].as_array().into_iter().flatten();
    let expert = answered
        .rfind(|e| e["option_logprobs"].is_array())
        .context("the reply has no option_logprobs: is the coordinator of this release?")?;
    let logprobs: Vec<f64> = serde_json::from_value(expert["option_logprobs"].clone())?;
    if logprobs.len() != question.choices.len() {
        bail!(
            "{} log-probabilities for {} options",
            logprobs.len(),
            question.choices.len()
        );
    }
    let bytes = question.choices.iter().map(String::len);
    let choice = OptionRule::default().choose(&logprobs, bytes);
    let right = Some(choice) == question.answer;
    // Nothing is learnt of the likelihoods of options from who only says which it picked.
    let scored = moe2_wire::picked_of(&logprobs).is_none();
    let choice_logprobs = if scored { logprobs } else { Vec::new() };
    let actual = &expert["actual"];
    let count = |field: &str| actual[field].as_u64();
    Ok(Outcome {
        score: f64::from(u8::from(right)),
        choice: Some(choice),
        choice_logprobs,
        prompt_tokens: count("prompt_tokens"),
        output_tokens: count("output_tokens"),
        latency_s: Some(latency_s),
        energy_j: own["energy_j"].as_f64(),
        energy_source: own["energy_source"].as_str().map(str::to_owned),
        ..Outcome::default()
    })
}

/// What was collected in this run.
#[derive(Debug, Default)]
struct Tally {
    questions: usize,
    experts: BTreeMap<ExpertName, Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    outcomes: usize,
    right: f64,
    seconds: f64,
    joules: f64,
}

impl Tally {
    fn add(&mut self, item: &Item) {
        self.questions += 1;
        for (expert, outcome) in &item.outcomes {
            let sums = self.experts.entry(expert.clone()).or_default();
            sums.outcomes += 1;
            sums.right += outcome.score;
            sums.seconds += outcome.latency_s.unwrap_or(0.0);
            sums.joules += outcome.energy_j.unwrap_or(0.0);
        }
    }

    fn brief(&self) -> String {
        let shown = self.experts.iter().take(4);
        let each = shown
            .map(|(expert, s)| format!("{expert} {:.0} %", 100.0 * s.right / s.outcomes as f64));
        each.collect::<Vec<_>>().join(", ")
    }
}

fn report(args: &Args, tally: &Tally, experts: &[ExpertName]) -> anyhow::Result<()> {
    if args.json {
        let rows = tally.experts.iter().map(|(expert, s)| {
            let n = s.outcomes as f64;
            (
                expert.to_string(),
                json!({"outcomes": s.outcomes, "score": s.right / n, "latency_s": s.seconds / n, "energy_j": s.joules / n}),
            )
        });
        let rows: serde_json::Map<String, Value> = rows.collect();
        return out::json(&json!({"questions": tally.questions, "experts": rows}));
    }
    let mut table = crate::table::Table::new(&["EXPERT", "OUTCOMES", "RIGHT", "SECONDS", "JOULES"]);
    for expert in experts {
        let Some(s) = tally.experts.get(expert) else {
            continue;
        };
        let n = s.outcomes as f64;
        table.row([
            expert.to_string(),
            s.outcomes.to_string(),
            format!("{:.1} %", 100.0 * s.right / n),
            format!("{:.2}", s.seconds / n),
            format!("{:.1}", s.joules / n),
        ]);
    }
    out::data(&format!(
        "{table}\n{} questions in {}",
        tally.questions,
        args.out.display()
    ));
    Ok(())
}
