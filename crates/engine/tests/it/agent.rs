//! The agent's half: queue, workers, session.

use std::time::Duration;

use moe2_engine::agent::{Config, Engine, Input, MeterReading, Output, Work};
use moe2_model::{
    DispatchId, EnergySource, ExpertName, ExpertState, Figure, FinishReason, Joules, Seconds, Time,
};
use moe2_wire::{FailureKind, FromAgent, FromExpert, FromWorker, ToAgent, ToWorker};

use crate::support::{GEMMA, SMOL, device, offer, question, worker_ready};

/// No dispatch.
const NONE: [u64; 0] = [];

struct Bench {
    engine: Engine,
    now: Time,
}

fn name(expert: &str) -> ExpertName {
    ExpertName::new(expert).expect("a valid name")
}

impl Bench {
    /// One job at a time, two may wait per expert; connected, with both workers ready.
    fn ready() -> Self {
        let mut bench = Self::new();
        bench.feed(Input::Connected);
        bench.feed(Input::Control(ToAgent::Welcome {
            version: 1,
            heartbeat_ms: 500,
        }));
        for expert in [SMOL, GEMMA] {
            bench.loaded(expert);
        }
        bench
    }

    fn new() -> Self {
        let config = Config {
            device: device(),
            experts: vec![offer(SMOL), offer(GEMMA)],
            queue_limit: 2,
            seed: 7,
        };
        Self {
            engine: Engine::new(config, Time::ZERO),
            now: Time::ZERO,
        }
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.engine.handle(self.now, input);
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    /// Moves to the next timer and fires it.
    fn next_timer(&mut self) -> Vec<Output> {
        self.now = self.engine.next_deadline().expect("a timer is armed");
        self.feed(Input::Tick)
    }

    fn loaded(&mut self, expert: &str) -> Vec<Output> {
        let ready = worker_ready();
        self.worker(expert, ready)
    }

    fn worker(&mut self, expert: &str, message: FromWorker) -> Vec<Output> {
        let expert = name(expert);
        self.feed(Input::Worker { expert, message })
    }

    fn work(&mut self, dispatch: u64, expert: &str) -> Vec<Output> {
        let query = question("Hello?");
        let work = Box::new(Work {
            expert: name(expert),
            prompt: query.prompt,
            task: query.task,
            deadline_ms: 0,
        });
        let dispatch = DispatchId(dispatch);
        self.feed(Input::Work { dispatch, work })
    }

    fn finished(&mut self, dispatch: u64, finish: FinishReason) -> Vec<Output> {
        let message = FromWorker::Finished {
            dispatch: DispatchId(dispatch),
            finish,
            prompt_tokens: 12,
            cached_tokens: 0,
            output_tokens: 3,
            prefill: Seconds::saturating(0.1),
            decode: Seconds::saturating(0.2),
        };
        self.worker(SMOL, message)
    }

    fn exits(&mut self, expert: &str) -> Vec<Output> {
        let reason = "signal 6".to_owned();
        self.feed(Input::WorkerExited {
            expert: name(expert),
            reason,
        })
    }
}

fn modelled(joules: f64) -> Figure {
    Figure {
        joules: Joules::saturating(joules),
        error: Joules::saturating(joules),
        source: EnergySource::Modelled,
    }
}

fn started(outputs: &[Output]) -> Vec<u64> {
    let starts = outputs.iter().filter_map(|output| match output {
        Output::ToWorker {
            message: ToWorker::Start { dispatch, .. },
            ..
        } => Some(dispatch.0),
        _ => None,
    });
    starts.collect()
}

fn stopped(outputs: &[Output]) -> Vec<u64> {
    let stops = outputs.iter().filter_map(|output| match output {
        Output::ToWorker {
            message: ToWorker::Cancel { dispatch },
            ..
        } => Some(dispatch.0),
        _ => None,
    });
    stops.collect()
}

fn ended(outputs: &[Output]) -> Vec<(u64, Result<FinishReason, FailureKind>)> {
    let ends = outputs.iter().filter_map(|output| match output {
        Output::Frame { dispatch, frame } => match frame {
            FromExpert::Done { finish, .. } => Some((dispatch.0, Ok(*finish))),
            FromExpert::Failed { kind, .. } => Some((dispatch.0, Err(*kind))),
            FromExpert::Text(_) | FromExpert::Options(_) => None,
        },
        _ => None,
    });
    ends.collect()
}

#[test]
fn work_is_done_in_order_of_arrival_one_at_a_time() {
    let mut bench = Bench::ready();
    assert_eq!(started(&bench.work(1, SMOL)), [1]);
    assert_eq!(started(&bench.work(2, GEMMA)), NONE, "the cores are taken");
    assert_eq!(started(&bench.work(3, SMOL)), NONE);
    let outputs = bench.finished(1, FinishReason::Stop);
    assert_eq!(ended(&outputs), [(1, Ok(FinishReason::Stop))]);
    assert_eq!(started(&outputs), [2]);
}

#[test]
fn work_beyond_the_queue_is_busy_and_for_strangers_unavailable() {
    let mut bench = Bench::ready();
    for dispatch in 1..=3 {
        assert_eq!(ended(&bench.work(dispatch, SMOL)), []);
    }
    assert_eq!(ended(&bench.work(4, SMOL)), [(4, Err(FailureKind::Busy))]);
    assert_eq!(
        ended(&bench.work(5, GEMMA)),
        [],
        "each expert has its own queue"
    );
    let strange = bench.work(6, "no-such-model");
    assert_eq!(ended(&strange), [(6, Err(FailureKind::Unavailable))]);
    assert_eq!(bench.engine.jobs(), 4);
}

#[test]
fn a_cancel_ends_waiting_work_at_once_and_running_work_when_the_worker_says() {
    let mut bench = Bench::ready();
    bench.work(1, SMOL);
    bench.work(2, SMOL);
    let waiting = bench.feed(Input::Cancel {
        dispatch: DispatchId(2),
    });
    assert_eq!(ended(&waiting), [(2, Ok(FinishReason::Cancelled))]);
    let running = bench.feed(Input::Cancel {
        dispatch: DispatchId(1),
    });
    assert_eq!((stopped(&running), ended(&running)), (vec![1], vec![]));
    let late = FromWorker::Text {
        dispatch: DispatchId(1),
        text: "more".to_owned(),
    };
    assert_eq!(bench.worker(SMOL, late), [], "nobody wants to read on");
    let outputs = bench.finished(1, FinishReason::Cancelled);
    assert_eq!(ended(&outputs), [(1, Ok(FinishReason::Cancelled))]);
    assert_eq!(bench.engine.jobs(), 0);
}

#[test]
fn a_dead_worker_fails_its_work_and_is_started_again_ever_later() {
    let mut bench = Bench::ready();
    bench.work(1, SMOL);
    bench.work(2, SMOL);
    bench.work(3, GEMMA);
    let outputs = bench.exits(SMOL);
    let lost = Err(FailureKind::WorkerLost);
    assert_eq!(ended(&outputs), [(1, lost), (2, lost)]);
    assert_eq!(started(&outputs), [3], "the other expert goes on");
    let told = |o: &Output| {
        matches!(
            o,
            Output::Control(FromAgent::Expert {
                state: ExpertState::Failed { .. },
                ..
            })
        )
    };
    assert!(outputs.iter().any(told), "the coordinator knows");
    assert_eq!(
        ended(&bench.work(4, SMOL)),
        [(4, Err(FailureKind::Unavailable))]
    );
    let start = Output::StartWorker { expert: name(SMOL) };
    let mut delays = Vec::new();
    for _ in 0..4 {
        let died = bench.now;
        while !bench.next_timer().contains(&start) {}
        delays.push(bench.now.since(died));
        bench.exits(SMOL);
    }
    assert!(delays[0] <= Duration::from_millis(1_000), "{delays:?}");
    assert!(delays[3] >= Duration::from_millis(2_000), "{delays:?}");
}

#[test]
fn a_worker_that_goes_on_after_a_cancel_is_killed_and_its_work_ends() {
    let mut bench = Bench::ready();
    bench.work(1, SMOL);
    bench.work(2, GEMMA);
    bench.feed(Input::Cancel {
        dispatch: DispatchId(1),
    });
    let kill = Output::KillWorker { expert: name(SMOL) };
    while !bench.next_timer().contains(&kill) {
        let waited = bench.now.since(Time::ZERO);
        assert!(waited < Duration::from_secs(60), "never killed");
    }
    let outputs = bench.exits(SMOL);
    assert_eq!(ended(&outputs), [(1, Err(FailureKind::WorkerLost))]);
    assert_eq!(started(&outputs), [2]);
}

#[test]
fn a_lost_connection_cancels_everything_silently_and_is_made_again() {
    let mut bench = Bench::ready();
    bench.work(1, SMOL);
    bench.work(2, SMOL);
    let reason = "timed out".to_owned();
    let outputs = bench.feed(Input::Disconnected { reason });
    assert_eq!((stopped(&outputs), ended(&outputs)), (vec![1], vec![]));
    assert_eq!(bench.engine.jobs(), 1, "the worker has not stopped yet");
    assert_eq!(bench.next_timer(), [Output::Connect]);
    let outputs = bench.feed(Input::Connected);
    assert!(
        matches!(&outputs[..], [Output::Control(FromAgent::Hello { experts, .. }), ..]
        if experts.iter().all(|(_, state)| *state == ExpertState::Ready))
    );
    assert_eq!(
        started(&bench.work(3, SMOL)),
        NONE,
        "the slot is still taken"
    );
    let outputs = bench.finished(1, FinishReason::Cancelled);
    assert_eq!(ended(&outputs), [], "nobody is there to hear it");
    assert_eq!(started(&outputs), [3]);
}

#[test]
fn heartbeats_follow_the_pace_the_coordinator_asked_for() {
    let mut bench = Bench::ready();
    for sequence in 1..4 {
        let before = bench.now;
        // 5 W of idle power for half a second, as far as a model knows.
        let standing = modelled(2.5);
        let beat = Output::Control(FromAgent::Heartbeat {
            sequence,
            standing,
            clock: None,
        });
        assert_eq!(bench.next_timer(), [beat]);
        assert_eq!(bench.now.since(before), Duration::from_millis(500));
    }
}

#[test]
fn what_could_not_begin_and_then_can_is_ready() {
    let mut bench = Bench::ready();
    bench.exits(SMOL);
    let begins = |output: &Output| matches!(output, Output::StartWorker { .. });
    while !bench.next_timer().iter().any(begins) {}
    let message = "the server has no such model".to_owned();
    let failed = bench.worker(SMOL, FromWorker::LoadFailed { message });
    let states = |outputs: &[Output]| {
        let states = outputs.iter().filter_map(|output| match output {
            Output::Control(FromAgent::Expert { state, .. }) => Some(state.clone()),
            _ => None,
        });
        states.collect::<Vec<_>>()
    };
    assert!(matches!(states(&failed)[..], [ExpertState::Failed { .. }]));
    assert_eq!(states(&bench.loaded(SMOL)), [ExpertState::Ready]);
    let begun = bench.work(1, SMOL);
    assert_eq!(started(&begun), [1]);
}

#[test]
fn heartbeats_say_what_the_calendar_says_now() {
    let mut bench = Bench::ready();
    let told = bench.now;
    bench.feed(Input::Calendar(1_700_000_000_000_000));
    for _ in 0..2 {
        let outputs = bench.next_timer();
        let since = bench.now.since(told).as_micros();
        let beats = outputs.iter().filter_map(|output| match output {
            Output::Control(FromAgent::Heartbeat { clock, .. }) => Some(clock.map(u128::from)),
            _ => None,
        });
        let beats: Vec<_> = beats.collect();
        assert_eq!(beats, [Some(1_700_000_000_000_000 + since)]);
    }
}

#[test]
fn a_draining_agent_says_so_finishes_and_takes_nothing_new() {
    let mut bench = Bench::ready();
    bench.work(1, SMOL);
    assert_eq!(
        bench.feed(Input::Drain),
        [Output::Control(FromAgent::Draining)]
    );
    assert_eq!(
        ended(&bench.work(2, SMOL)),
        [(2, Err(FailureKind::Unavailable))]
    );
    let outputs = bench.finished(1, FinishReason::Stop);
    assert_eq!(ended(&outputs), [(1, Ok(FinishReason::Stop))]);
    assert!(outputs.contains(&Output::Drained));
}

#[test]
fn an_idle_agent_drains_at_once() {
    let mut bench = Bench::ready();
    assert!(bench.feed(Input::Drain).contains(&Output::Drained));
}

/// A meter that is a tenth off.
fn read(bench: &mut Bench, joules: f64) -> Vec<Output> {
    bench.feed(Input::Meter(MeterReading {
        at: bench.now,
        total: Figure {
            joules: Joules::saturating(joules),
            error: Joules::saturating(joules / 10.0),
            source: EnergySource::Ina3221,
        },
        lag: Seconds::ZERO,
    }))
}

fn bills(outputs: &[Output]) -> Vec<(u64, Figure)> {
    let bills = outputs.iter().filter_map(|output| match output {
        Output::Frame { dispatch, frame } => match frame {
            FromExpert::Done { usage, .. } => Some((dispatch.0, usage.figure())),
            FromExpert::Failed { usage, .. } => Some((dispatch.0, usage.as_ref()?.figure())),
            FromExpert::Text(_) | FromExpert::Options(_) => None,
        },
        _ => None,
    });
    bills.collect()
}

#[test]
fn a_metered_job_asks_for_a_reading_at_either_end_and_its_last_frame_waits_for_the_bill() {
    let mut bench = Bench::ready();
    read(&mut bench, 7.0);
    let outputs = bench.work(1, SMOL);
    assert_eq!(started(&outputs), [1]);
    assert!(outputs.contains(&Output::Measure));
    bench.work(2, SMOL);
    bench.now = bench.now + Duration::from_secs(2);
    let outputs = bench.finished(1, FinishReason::Stop);
    assert_eq!(ended(&outputs), [], "it is not billed yet");
    assert_eq!(
        started(&outputs),
        [2],
        "the next one need not wait for that"
    );
    assert!(outputs.contains(&Output::Measure));
    let outputs = read(&mut bench, 7.0 + 50.0);
    let bills = bills(&outputs);
    let (1, bill) = bills[0] else {
        panic!("the first job's bill: {bills:?}")
    };
    // 25 W for 2 s, less the 5 W that are assumed for idle.
    assert_eq!(bill.joules, Joules::saturating(40.0));
    assert_eq!(bill.source, EnergySource::Ina3221);
    assert!(bill.error >= Joules::saturating(5.0), "{bill:?}");
}

#[test]
fn a_meter_that_does_not_answer_leaves_the_bill_to_the_model() {
    let mut bench = Bench::ready();
    read(&mut bench, 0.0);
    bench.work(1, SMOL);
    bench.now = bench.now + Duration::from_millis(200);
    bench.finished(1, FinishReason::Stop);
    let outputs: Vec<Output> = (0..3).flat_map(|_| bench.next_timer()).collect();
    let ended = bench.now;
    assert_eq!(bills(&outputs).len(), 1, "{outputs:?}");
    assert_eq!(bills(&outputs)[0], (1, modelled(0.2 * 15.0)));
    assert!(ended.since(Time::ZERO) < Duration::from_secs(2));
}

#[test]
fn jobs_that_keep_ending_do_not_put_off_the_bill_of_the_first() {
    let mut bench = Bench::ready();
    read(&mut bench, 0.0);
    let begun = bench.now;
    let mut outputs = Vec::new();
    for dispatch in 1..8 {
        bench.work(dispatch, SMOL);
        bench.now = bench.now + Duration::from_millis(200);
        outputs.extend(bench.finished(dispatch, FinishReason::Stop));
        if !bills(&outputs).is_empty() {
            break;
        }
    }
    let billed: Vec<u64> = bills(&outputs)
        .iter()
        .map(|(dispatch, _)| *dispatch)
        .collect();
    assert!(billed.contains(&1), "{billed:?}");
    assert!(bench.now.since(begun) < Duration::from_secs(1));
}

#[test]
fn a_draining_agent_waits_for_the_last_bill() {
    let mut bench = Bench::ready();
    read(&mut bench, 0.0);
    bench.work(1, SMOL);
    bench.feed(Input::Drain);
    bench.now = bench.now + Duration::from_secs(1);
    let outputs = bench.finished(1, FinishReason::Stop);
    assert!(!outputs.contains(&Output::Drained), "{outputs:?}");
    let outputs = read(&mut bench, 9.0);
    assert!(outputs.contains(&Output::Drained), "{outputs:?}");
}
