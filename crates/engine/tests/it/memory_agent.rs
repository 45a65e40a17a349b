//! The agent's half of memory: what it loads and unloads, and that it never holds more than fits.

use std::collections::BTreeSet;

use moe2_engine::agent::{Config, Engine, Input, Output, Work};
use moe2_model::{
    Bytes, DeviceInfo, DispatchId, ExpertName, ExpertOffer, ExpertState, FinishReason, Rng,
    Seconds, Time,
};
use moe2_wire::{FailureKind, FromAgent, FromExpert, FromWorker, ToAgent};
use proptest::prelude::*;

use crate::support::{GEMMA, QWEN, SMOL, device, offer, question, worker_ready};

const ALL: [&str; 3] = [SMOL, GEMMA, QWEN];

fn name(expert: &str) -> ExpertName {
    ExpertName::new(expert).expect("a valid name")
}

fn loadable(name: &str) -> ExpertOffer {
    ExpertOffer {
        load: Some(Seconds::saturating(2.0)),
        ..offer(name)
    }
}

/// An agent with memory for so many of three experts, its workers as processes that the test plays.
struct Bench {
    engine: Engine,
    now: Time,
    running: BTreeSet<String>,
    killed: BTreeSet<String>,
    said: Vec<FromAgent>,
    frames: Vec<FromExpert>,
    jobs: u64,
}

impl Bench {
    fn holding(experts: u64) -> Self {
        Self::of(
            experts * loadable(SMOL).resident().0,
            ALL.map(loadable).into(),
        )
    }

    fn of(memory: u64, experts: Vec<ExpertOffer>) -> Self {
        let config = Config {
            device: DeviceInfo {
                memory: Bytes(memory),
                ..device()
            },
            experts,
            queue_limit: 4,
            seed: 7,
        };
        let mut bench = Self {
            engine: Engine::new(config, Time::ZERO),
            now: Time::ZERO,
            running: BTreeSet::new(),
            killed: BTreeSet::new(),
            said: Vec::new(),
            frames: Vec::new(),
            jobs: 0,
        };
        bench.feed(Input::Connected);
        bench
    }

    fn feed(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::StartWorker { expert } => {
                    assert!(
                        self.running.insert(expert.to_string()),
                        "{expert} runs already"
                    );
                }
                Output::KillWorker { expert } => {
                    self.killed.insert(expert.to_string());
                }
                Output::Control(message) => self.said.push(message),
                Output::Frame { frame, .. } => self.frames.push(frame),
                _ => {}
            }
        }
    }

    fn keep(&mut self, experts: &[&str]) {
        let experts = experts.iter().copied().map(name).collect();
        self.feed(Input::Control(ToAgent::Keep { experts }));
    }

    fn loaded(&mut self, expert: &str) {
        let message = worker_ready();
        let expert = name(expert);
        self.feed(Input::Worker { expert, message });
    }

    /// A process that was told to end has ended.
    fn ends(&mut self, expert: &str) {
        assert!(self.killed.remove(expert), "{expert} was told to end");
        self.exits(expert);
    }

    fn exits(&mut self, expert: &str) {
        self.running.remove(expert);
        let reason = "it ended".to_owned();
        let expert = name(expert);
        self.feed(Input::WorkerExited { expert, reason });
    }

    fn work(&mut self, expert: &str) -> DispatchId {
        self.jobs += 1;
        let dispatch = DispatchId(self.jobs);
        let query = question("Hello?");
        let work = Box::new(Work {
            expert: name(expert),
            prompt: query.prompt,
            task: query.task,
            deadline_ms: 0,
        });
        self.feed(Input::Work { dispatch, work });
        dispatch
    }

    fn finished(&mut self, expert: &str, dispatch: DispatchId) {
        let message = FromWorker::Finished {
            dispatch,
            finish: FinishReason::Stop,
            prompt_tokens: 12,
            cached_tokens: 0,
            output_tokens: 3,
            prefill: Seconds::saturating(0.1),
            decode: Seconds::saturating(0.2),
        };
        let expert = name(expert);
        self.feed(Input::Worker { expert, message });
    }

    /// The last that was said of an expert.
    fn state(&self, expert: &str) -> Option<ExpertState> {
        let said = self.said.iter().rev();
        said.filter_map(|message| match message {
            FromAgent::Expert { name, state } if name.as_str() == expert => Some(state.clone()),
            FromAgent::Hello { experts, .. } => {
                let own = experts.iter().find(|(o, _)| o.name.as_str() == expert);
                own.map(|(_, state)| state.clone())
            }
            _ => None,
        })
        .next()
    }

    fn runs(&self) -> Vec<&str> {
        self.running.iter().map(String::as_str).collect()
    }
}

#[test]
fn it_begins_with_what_fits_in_the_order_of_its_configuration() {
    let bench = Bench::holding(2);
    assert_eq!(bench.runs(), [GEMMA, SMOL]);
    assert_eq!(bench.state(QWEN), Some(ExpertState::Unloaded));
    assert_eq!(Bench::holding(3).runs().len(), 3);
    // What cannot leave memory is there already, and comes first.
    let experts = vec![loadable(SMOL), loadable(GEMMA), offer(QWEN)];
    let bench = Bench::of(2 * offer(SMOL).resident().0, experts);
    assert_eq!(bench.runs(), [QWEN, SMOL]);
}

#[test]
fn what_needs_more_memory_than_there_is_says_so() {
    let mut bench = Bench::of(loadable(SMOL).resident().0 - 1, vec![loadable(SMOL)]);
    let says = |bench: &Bench| match bench.state(SMOL) {
        Some(ExpertState::Failed { reason }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(says(&bench).contains("lower its context, or raise memory_mb"));
    bench.keep(&[SMOL]);
    bench.keep(&[]);
    assert!(
        bench.running.is_empty() && says(&bench).contains("174 MiB"),
        "{}",
        says(&bench)
    );
}

#[test]
fn one_leaves_before_the_other_comes() {
    let mut bench = Bench::holding(1);
    bench.loaded(SMOL);
    bench.keep(&[GEMMA]);
    assert_eq!(bench.state(SMOL), Some(ExpertState::Unloading));
    assert_eq!(bench.runs(), [SMOL], "its process has not ended");
    bench.ends(SMOL);
    assert_eq!(bench.state(SMOL), Some(ExpertState::Unloaded));
    assert_eq!(bench.runs(), [GEMMA]);
    bench.now = Time::from_micros(3_000_000);
    bench.loaded(GEMMA);
    let took = Seconds::saturating(3.0);
    let loaded = FromAgent::Loaded {
        name: name(GEMMA),
        took,
    };
    assert!(bench.said.contains(&loaded), "{:?}", bench.said);
}

#[test]
fn what_leaves_finishes_its_work_first_and_takes_what_was_on_its_way() {
    let mut bench = Bench::holding(1);
    bench.loaded(SMOL);
    let first = bench.work(SMOL);
    bench.keep(&[GEMMA]);
    let late = bench.work(SMOL);
    bench.finished(SMOL, first);
    assert!(bench.killed.is_empty(), "the late one runs");
    bench.finished(SMOL, late);
    let ends = |f: &FromExpert| matches!(f, FromExpert::Done { .. });
    assert_eq!(bench.frames.iter().filter(|f| ends(f)).count(), 2);
    assert!(bench.killed.contains(SMOL));
    bench.work(SMOL);
    let refused = |f: &FromExpert| {
        matches!(
            f,
            FromExpert::Failed {
                kind: FailureKind::Unavailable,
                ..
            }
        )
    };
    assert!(
        bench.frames.last().is_some_and(refused),
        "{:?}",
        bench.frames
    );
    bench.ends(SMOL);
    assert_eq!(bench.runs(), [GEMMA]);
}

#[test]
fn who_is_wanted_again_stays_if_it_has_not_been_told_to_end() {
    let mut bench = Bench::holding(1);
    bench.loaded(SMOL);
    let work = bench.work(SMOL);
    bench.keep(&[GEMMA]);
    bench.keep(&[SMOL]);
    assert_eq!(bench.state(SMOL), Some(ExpertState::Ready));
    bench.finished(SMOL, work);
    assert!(bench.killed.is_empty());
    // And if it has, it comes back when it has ended.
    bench.keep(&[GEMMA]);
    bench.keep(&[SMOL]);
    bench.ends(SMOL);
    assert_eq!(bench.runs(), [SMOL]);
}

#[test]
fn one_that_failed_gives_its_memory_away() {
    let mut bench = Bench::holding(1);
    bench.exits(SMOL);
    assert!(matches!(
        bench.state(SMOL),
        Some(ExpertState::Failed { .. })
    ));
    bench.keep(&[GEMMA]);
    assert_eq!(bench.runs(), [GEMMA]);
    assert!(
        matches!(bench.state(SMOL), Some(ExpertState::Failed { .. })),
        "its reason is shown for a while"
    );
    while let Some(at) = bench
        .engine
        .next_deadline()
        .filter(|at| *at < Time::from_micros(90_000_000))
    {
        bench.now = bench.now.max(at);
        bench.feed(Input::Tick);
    }
    assert_eq!(bench.runs(), [GEMMA], "it is not started again by itself");
    assert_eq!(bench.state(SMOL), Some(ExpertState::Unloaded));
}

proptest! {
    /// Whatever is asked and whatever fails: never more processes than memory holds, no expert twice, and when all is
    /// quiet what was asked for last is there.
    #[test]
    fn never_more_is_there_than_fits(seed: u64, steps in 1usize..120, room in 1u64..3) {
        let mut rng = Rng::new(seed);
        let mut bench = Bench::holding(room);
        let mut wanted: Vec<&str> = bench.runs().into_iter().map(|r| ALL.into_iter().find(|a| *a == r).expect("known")).collect();
        let mut jobs: Vec<(&str, DispatchId)> = Vec::new();
        for _ in 0..steps {
            let expert = ALL[rng.below(3)];
            match rng.below(7) {
                0 => {
                    wanted = ALL.into_iter().filter(|_| rng.chance(0.5)).collect();
                    rng.shuffle(&mut wanted);
                    bench.keep(&wanted);
                }
                1 if bench.running.contains(expert) => bench.loaded(expert),
                2 => jobs.push((expert, bench.work(expert))),
                3 if !jobs.is_empty() => {
                    let (expert, job) = jobs.remove(0);
                    if bench.running.contains(expert) { bench.finished(expert, job) }
                }
                4 if bench.killed.contains(expert) => bench.ends(expert),
                5 if bench.running.contains(expert) && rng.chance(0.3) => { bench.killed.remove(expert); bench.exits(expert) }
                _ => {
                    bench.now = bench.now + std::time::Duration::from_secs(1);
                    bench.feed(Input::Tick);
                }
            }
            prop_assert!(bench.running.len() as u64 <= room, "{:?}", bench.runs());
        }
        // All work ends, every process does what it is told, and what failed has been started again.
        for _ in 0..200 {
            for (expert, job) in std::mem::take(&mut jobs) {
                if bench.running.contains(expert) { bench.finished(expert, job) }
            }
            for expert in ALL {
                if bench.killed.contains(expert) { bench.ends(expert) }
                if bench.running.contains(expert) { bench.loaded(expert) }
            }
            bench.now = bench.now + std::time::Duration::from_secs(1);
            bench.feed(Input::Tick);
        }
        let mut expected: Vec<&str> = wanted.into_iter().take(room as usize).collect();
        expected.sort_unstable();
        prop_assert_eq!(bench.runs(), expected);
    }
}
