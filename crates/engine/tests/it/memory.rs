//! The coordinator's half of memory: what machines are told to keep that host more than they hold.

use std::time::Duration;

use moe2_engine::coordinator::{Config, Output, Residency};
use moe2_model::{
    Bytes, DeviceInfo, ExpertName, ExpertOffer, ExpertState, Query, RefusalKind, Seconds,
    SessionId, Target,
};
use moe2_wire::{FromAgent, PROTOCOL_VERSION, ToAgent};

use crate::support::{Bench, GEMMA, QWEN, SMOL, device, done, offer, question};

/// The first is the one that a plan with room for one chooses.
const ALL: [&str; 3] = [QWEN, GEMMA, SMOL];
const LOAD_S: f64 = 2.0;

fn name(expert: &str) -> ExpertName {
    ExpertName::new(expert).expect("a valid name")
}

fn loadable(expert: &str) -> ExpertOffer {
    ExpertOffer {
        load: Some(Seconds::saturating(LOAD_S)),
        ..offer(expert)
    }
}

/// One machine with room for so many of three experts; the first of them are in memory.
fn holding(experts: usize, config: Config) -> Bench {
    let mut bench = Bench::configured(config);
    bench.agent(1, "a", hello(experts));
    bench
}

fn hello(experts: usize) -> FromAgent {
    let state = |n: usize| {
        if n < experts {
            ExpertState::Ready
        } else {
            ExpertState::Unloaded
        }
    };
    let offers = ALL.iter().enumerate();
    FromAgent::Hello {
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        software: "test".to_owned(),
        device: DeviceInfo {
            memory: Bytes(experts as u64 * loadable(SMOL).resident().0),
            ..device()
        },
        experts: offers.map(|(n, e)| (loadable(e), state(n))).collect(),
    }
}

/// What the machine was told to keep last, since this was last called.
fn kept(bench: &mut Bench) -> Option<Vec<String>> {
    let mut last = None;
    bench.outputs.retain(|output| match output {
        Output::ToAgent {
            session: SessionId(1),
            message: ToAgent::Keep { experts },
        } => {
            last = Some(experts.iter().map(ToString::to_string).collect());
            false
        }
        _ => true,
    });
    last
}

fn says(bench: &mut Bench, expert: &str, state: ExpertState) {
    let name = name(expert);
    bench.agent(1, "a", FromAgent::Expert { name, state });
}

/// The machine does what it was told: one leaves, another comes.
fn swaps(bench: &mut Bench, out: &str, into: &str) {
    says(bench, out, ExpertState::Unloaded);
    says(bench, into, ExpertState::Loading);
    bench.live_all(2, &["a"]);
    says(bench, into, ExpertState::Ready);
}

fn named(expert: &str) -> Query {
    Query {
        target: Target::Model(expert.parse().expect("a valid name")),
        ..question("Hello?")
    }
}

#[test]
fn until_there_is_a_plan_what_is_there_stays() {
    let mut bench = holding(1, Config::default());
    let problem = bench.problem().expect("a plan was asked for");
    assert_eq!(kept(&mut bench), None);
    assert_eq!(bench.active(), [QWEN]);
    bench.planned(&problem);
    assert_eq!(kept(&mut bench), None, "it is the best");
}

#[test]
fn who_is_named_is_loaded_and_the_load_is_in_its_forecast() {
    let mut bench = holding(1, Config::default());
    bench.plan();
    kept(&mut bench);
    bench.ask(named(GEMMA));
    assert_eq!(kept(&mut bench), Some(vec![GEMMA.to_owned()]));
    assert!(bench.sent().is_empty(), "it is not there yet");
    swaps(&mut bench, QWEN, GEMMA);
    let sent = bench.sent();
    assert_eq!(sent[0].expert, GEMMA);
    bench.says(&sent[0], done(3.0));
    let explained = bench.finished().explanation;
    let loaded = explained.candidates[0].forecast;
    assert!(loaded.waiting.get() >= LOAD_S, "{loaded:?}");
    let sent = bench.ask_one(named(GEMMA));
    bench.says(&sent, done(3.0));
    let there = bench.finished().explanation.candidates[0].forecast;
    assert_eq!(there.waiting, Seconds::ZERO);
    // 15 W above idle for two seconds, beside what was learnt from the first answer.
    let joules = (loaded.energy - there.energy).get();
    assert!((joules - 30.0).abs() < 6.0, "{joules}");
}

#[test]
fn a_budget_that_has_no_room_for_a_load_is_refused_with_what_would_have() {
    let mut bench = holding(1, Config::default());
    bench.plan();
    kept(&mut bench);
    let mut hurried = named(GEMMA);
    hurried.budgets.delay = Some(Seconds::saturating(1.5));
    bench.ask(hurried);
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::BudgetInfeasible);
    assert!(refusal.smallest.delay.is_some_and(|s| s.get() > LOAD_S));
    assert_eq!(kept(&mut bench).unwrap_or_default(), Vec::<String>::new());
}

#[test]
fn what_was_measured_takes_the_place_of_the_guess() {
    let mut bench = holding(1, Config::default());
    bench.plan();
    let took = Seconds::saturating(20.0);
    let loaded = FromAgent::Loaded {
        name: name(GEMMA),
        took,
    };
    bench.agent(1, "a", loaded);
    bench.ask(named(GEMMA));
    swaps(&mut bench, QWEN, GEMMA);
    let sent = bench.sent().remove(0);
    bench.says(&sent, done(3.0));
    let forecast = bench.finished().explanation.candidates[0].forecast;
    assert!(forecast.waiting >= took, "{forecast:?}");
}

#[test]
fn a_planned_change_waits_until_nobody_has_used_what_has_to_leave() {
    let mut bench = holding(1, Config::default());
    bench.plan();
    kept(&mut bench);
    bench.ask(named(GEMMA));
    kept(&mut bench);
    swaps(&mut bench, QWEN, GEMMA);
    let sent = bench.sent().remove(0);
    bench.live_all(20, &["a"]);
    bench.says(&sent, done(3.0));
    bench.live_all(29, &["a"]);
    assert_eq!(kept(&mut bench), None, "a conversation may go on");
    let active = bench.active();
    assert_ne!(active, [GEMMA], "the plan is another");
    bench.live_all(2, &["a"]);
    assert_eq!(kept(&mut bench), Some(active));
}

#[test]
fn loading_is_bounded_whatever_is_asked_and_forecasts_know() {
    let mut bench = holding(1, Config::default());
    bench.plan();
    kept(&mut bench);
    let mut loads = 0;
    let mut there = QWEN;
    while loads < 100 {
        let next = if there == QWEN { GEMMA } else { QWEN };
        bench.ask(named(next));
        match kept(&mut bench) {
            Some(experts) => assert_eq!(experts[0], next),
            None => break,
        }
        loads += 1;
        swaps(&mut bench, there, next);
        there = next;
        let sent = bench.sent().remove(0);
        bench.says(&sent, done(3.0));
        bench.finished();
    }
    // A minute's worth at once, and a twentieth of the two seconds that each took.
    assert!((30..=33).contains(&loads), "{loads}");
    // The next one is there when there is time for it again: forty seconds for a load of two.
    bench.live_all(42, &["a"]);
    assert!(kept(&mut bench).is_some());
    swaps(&mut bench, there, if there == QWEN { GEMMA } else { QWEN });
    let sent = bench.sent().remove(0);
    bench.says(&sent, done(3.0));
    let forecast = bench.finished().explanation.candidates[0].forecast;
    assert!(forecast.waiting.get() > 10.0 * LOAD_S, "{forecast:?}");
}

#[test]
fn without_the_bound_and_the_plan_what_was_used_least_lately_makes_room() {
    let config = Config {
        residency: Residency::LeastRecentlyUsed,
        ..Config::default()
    };
    let mut bench = holding(2, config);
    bench.plan();
    assert_eq!(bench.active().len(), 3, "memory is no matter of the plan");
    kept(&mut bench);
    for expert in [GEMMA, QWEN] {
        let sent = bench.ask_one(named(expert));
        bench.says(&sent, done(3.0));
        bench.live_all(1, &["a"]);
    }
    bench.ask(named(SMOL));
    let keeps = kept(&mut bench);
    assert_eq!(keeps, Some(vec![SMOL.to_owned(), QWEN.to_owned()]));
}

#[test]
fn a_load_that_fails_has_another_asked_or_says_so() {
    let mut bench = holding(1, Config::default());
    bench.plan();
    bench.ask(named(GEMMA));
    says(&mut bench, QWEN, ExpertState::Unloaded);
    says(&mut bench, GEMMA, ExpertState::Loading);
    let reason = "its file is gone".to_owned();
    says(&mut bench, GEMMA, ExpertState::Failed { reason });
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::NoExpert);
    bench.live_all(1, &["a"]);
    bench.plan();
    let keeps = kept(&mut bench).expect("the others may come");
    assert!(!keeps.contains(&GEMMA.to_owned()), "{keeps:?}");
}

#[test]
fn what_waits_longest_comes_first_however_much_another_is_asked() {
    let mut bench = holding(1, Config::default());
    bench.plan();
    kept(&mut bench);
    let sent = bench.ask_one(named(QWEN));
    for _ in 0..5 {
        bench.ask(named(QWEN));
    }
    bench.ask(named(GEMMA));
    for _ in 0..5 {
        bench.ask(named(QWEN));
    }
    // Five come before it.
    let mut next = sent;
    for _ in 0..5 {
        bench.live_all(1, &["a"]);
        bench.says(&next, done(1.0));
        next = bench.sent().remove(0);
        assert_eq!((next.expert.as_str(), kept(&mut bench)), (QWEN, None));
    }
    bench.says(&next, done(1.0));
    assert_eq!(kept(&mut bench), Some(vec![GEMMA.to_owned()]));
    assert!(bench.sent().is_empty(), "no more for who has to leave");
    swaps(&mut bench, QWEN, GEMMA);
    let next = bench.sent().remove(0);
    assert_eq!(next.expert, GEMMA);
    bench.says(&next, done(1.0));
    assert_eq!(kept(&mut bench), Some(vec![QWEN.to_owned()]));
}

#[test]
fn whoever_has_room_for_all_is_told_nothing() {
    let mut bench = Bench::with_fleet();
    bench.plan();
    bench.pass(Duration::from_secs(1));
    let told = |o: &Output| {
        matches!(
            o,
            Output::ToAgent {
                message: ToAgent::Keep { .. },
                ..
            }
        )
    };
    assert!(!bench.outputs.iter().any(told));
}
