//! The agent's half: work in, tokens out, workers kept alive, the connection kept up.
//!
//! Like the coordinator's half it is a state machine without I/O. It owns four things: the session
//! with the coordinator (`session`), the queues in front of the experts (`queue`), what is in memory
//! (`residency`) and the account of joules (`energy`). Work that belongs to a lost connection is cancelled
//! at once: the coordinator has already given it to somebody else.

mod backoff;
mod energy;
mod input;
mod queue;
mod residency;
mod session;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use moe2_model::{
    DeviceInfo, DispatchId, EnergySource, ExpertName, ExpertOffer, ExpertState, Time,
};
use moe2_wire::FromExpert;

use crate::timers::Timers;

pub use energy::MeterReading;
pub use input::{Input, Output, Work};
pub use residency::{at_first, load_time};

use energy::Accountant;
use queue::Job;
use session::Session;
use workers::Worker;

/// Settings of the agent's engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The machine, as told to the coordinator.
    pub device: DeviceInfo,
    /// The experts, as told to the coordinator.
    pub experts: Vec<ExpertOffer>,
    /// Work waiting for one expert; more is answered "busy", and the coordinator asks elsewhere.
    pub queue_limit: usize,
    /// Seed of the jitter on reconnects, so that a fleet does not come back in step.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Heartbeat,
    Reconnect,
    Restart(usize),
    Deadline(DispatchId),
    Stuck(DispatchId),
    Unbilled,
}

/// Every decision of an agent.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    session: Session,
    workers: Vec<Worker>,
    /// What is to be in memory, the most needed first.
    wanted: Vec<usize>,
    index: BTreeMap<ExpertName, usize>,
    jobs: BTreeMap<DispatchId, Job>,
    /// The last frames of jobs that are over but for the reading of the meter that bills them.
    unbilled: BTreeMap<DispatchId, FromExpert>,
    accountant: Accountant,
    timers: Timers<Timer>,
    draining: bool,
    outputs: VecDeque<Output>,
}

impl Engine {
    /// An agent that starts as many of its workers as its memory holds, and dials the coordinator at once.
    #[must_use]
    pub fn new(config: Config, now: Time) -> Self {
        let index = config
            .experts
            .iter()
            .enumerate()
            .map(|(n, e)| (e.name.clone(), n))
            .collect();
        let idle = config.device.idle_power.get();
        let dynamic = config.device.busy_power.get() - idle;
        let mut engine = Self {
            accountant: Accountant::new(now, idle, dynamic),
            session: Session::new(config.seed),
            workers: config.experts.iter().map(Worker::new).collect(),
            wanted: Vec::new(),
            index,
            jobs: BTreeMap::new(),
            unbilled: BTreeMap::new(),
            timers: Timers::default(),
            draining: false,
            outputs: VecDeque::new(),
            config,
        };
        engine.refuse_too_large();
        let fits = residency::at_first(&engine.config.experts, engine.config.device.memory);
        engine.wanted = (0..fits.len()).filter(|n| fits[*n]).collect();
        for worker in engine.wanted.clone() {
            engine.load(now, worker);
        }
        engine.outputs.push_back(Output::Connect);
        engine
    }

    /// Takes note of one thing that happened at `now`; `now` never goes backwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.accountant.advance(now);
        self.fire_timers(now);
        match input {
            Input::Connected => self.connected(now),
            Input::Disconnected { reason: _ } => self.disconnected(now),
            Input::Control(message) => self.control(now, message),
            Input::Work { dispatch, work } => self.work(now, dispatch, work),
            Input::Cancel { dispatch } => self.cancel(now, dispatch),
            Input::Worker { expert, message } => self.worker_said(now, &expert, message),
            Input::WorkerExited { expert, reason } => self.worker_exited(now, &expert, &reason),
            Input::Meter(reading) => {
                let loading = |worker: &Worker| worker.state == ExpertState::Loading;
                let quiet = !self.workers.iter().any(loading);
                self.accountant.measured(reading, quiet);
                self.config.device.energy_source = reading.total.source;
            }
            Input::MeterLost => {
                self.accountant.meter_lost();
                self.config.device.energy_source = EnergySource::Modelled;
            }
            Input::Calendar(micros) => self.session.calendar(now, micros),
            Input::Drain => self.drain(),
            Input::Tick => {}
        }
        self.bill();
    }

    /// The next thing to be done; call until `None` after every [`Engine::handle`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call again with [`Input::Tick`] if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Jobs running, waiting, or over but for their bill.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.jobs.len() + self.unbilled.len()
    }

    fn fire_timers(&mut self, now: Time) {
        while let Some((_, timer)) = self.timers.pop_due(now) {
            match timer {
                Timer::Heartbeat => self.beat(now),
                Timer::Reconnect => self.outputs.push_back(Output::Connect),
                Timer::Restart(worker) => self.restart(now, worker),
                Timer::Stuck(dispatch) => self.stuck(dispatch),
                // The meter does not answer. What it says later starts anew.
                Timer::Unbilled => self.accountant.meter_lost(),
                Timer::Deadline(dispatch) => self.deadline(now, dispatch),
            }
        }
    }
}

/// Longest time between attempts to reconnect: an agent must be back soon after its coordinator.
const RECONNECT_MAX: Duration = Duration::from_secs(3);
