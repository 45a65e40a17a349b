//! One machine: an agent's engine, its workers and its end of a connection.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_engine::agent;
use moe2_model::{
    Bytes, DeviceInfo, DeviceKind, DispatchId, EnergySource, ExpertName, ExpertOffer, ExpertState,
    Figure, Joules, NodeId, Rng, Seconds, SessionId, Time, Watts,
};
use moe2_wire::{FromAgent, FromExpert, PROTOCOL_VERSION};

use crate::case::{Ambient, Case};
use crate::clients::node_name;
use crate::clock::Clock;
use crate::liar::Liar;
use crate::mutant::Mutant;
use crate::network::{Link, Path, Up, Way};
use crate::worker::Worker;
use crate::world::{Happening, World};

/// A model that nodes host.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    weights: u64,
    pub(crate) context: u32,
    slots: u32,
}

/// The models of the fleet; node `n` hosts two of them, every third node all three with memory for two.
pub(crate) const MODELS: [Model; 3] = [
    Model {
        name: "smollm2-135m-instruct",
        weights: 100 << 20,
        context: 512,
        slots: 1,
    },
    Model {
        name: "gemma-3-270m",
        weights: 240 << 20,
        context: 600,
        slots: 2,
    },
    Model {
        name: "qwen2.5-coder-0.5b-instruct",
        weights: 470 << 20,
        context: 2048,
        slots: 1,
    },
];

/// Attempts to connect that fail although nothing is wrong.
const DIAL_FAILS: f64 = 0.05;
/// How long a dial into a partition takes to fail.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an agent that has drained stays away.
const AWAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(6));
/// Draw of the metered node, standing and busy alike, in watts.
const METERED_WATTS: f64 = 15.0;

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) node: NodeId,
    pub(crate) config: agent::Config,
    /// `None` while the process is down.
    pub(crate) engine: Option<agent::Engine>,
    /// Counts the processes of this host.
    pub(crate) life: u64,
    /// The agent's end of its connection, and whether it was let in.
    pub(crate) link: Option<SessionId>,
    pub(crate) welcome: bool,
    pub(crate) clock: Clock,
    pub(crate) skew_ppm: u32,
    /// Its links, by [`Way`].
    pub(crate) paths: [Path; 2],
    /// It stands still until then.
    pub(crate) stalled_until: Time,
    /// It works so many times slower until then.
    pub(crate) slow: (f64, Time),
    pub(crate) liar: Option<Liar>,
    pub(crate) rng: Rng,
    pub(crate) workers: Vec<Worker>,
    /// Dispatches that reached it over this connection, and whether it has ended each.
    pub(crate) frames: BTreeMap<DispatchId, bool>,
}

impl Host {
    pub(crate) fn new(index: usize, case: &Case, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let skew_ppm = if case.is_without(Ambient::Skew) {
            0
        } else {
            case.scenario.skew_ppm
        };
        let models = if is_tight(index) { MODELS.len() } else { 2 };
        let hosted = (index..index + models).map(|m| &MODELS[m % MODELS.len()]);
        let experts: Vec<ExpertOffer> = hosted.map(offer).collect();
        let config = agent::Config {
            device: device(index),
            queue_limit: 1 + index % 4,
            seed: rng.bits(),
            experts,
        };
        Self {
            node: node_name(index),
            config,
            engine: None,
            life: 0,
            link: None,
            welcome: false,
            clock: Clock::new(Time::ZERO, 0, 0),
            skew_ppm,
            paths: [Path::default(); 2],
            stalled_until: Time::ZERO,
            slow: (1.0, Time::ZERO),
            liar: None,
            rng,
            workers: Vec::new(),
            frames: BTreeMap::new(),
        }
    }

    /// What its agent says first.
    pub(crate) fn hello(&self) -> FromAgent {
        let experts = self.config.experts.iter();
        FromAgent::Hello {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            software: "simulated".to_owned(),
            device: self.config.device.clone(),
            experts: experts.map(|e| (e.clone(), ExpertState::Ready)).collect(),
        }
    }

    /// By how much longer than usual work takes now.
    pub(crate) fn slowdown(&self, now: Time) -> f64 {
        if self.slow.1 > now { self.slow.0 } else { 1.0 }
    }

    /// The agent's end of its connection is over, and with it all work that came over it.
    pub(crate) fn hangs_up(&mut self) {
        self.link = None;
        self.welcome = false;
        self.frames.clear();
    }

    /// When its agent's next timer is due.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let local = self.engine.as_ref()?.next_deadline()?;
        Some(self.clock.when(local).max(self.stalled_until))
    }

    /// The process ends, and its workers with it.
    pub(crate) fn kill(&mut self) {
        self.engine = None;
        self.welcome = false;
        self.life += 1;
        self.workers.clear();
        self.frames.clear();
    }

    pub(crate) fn expert_index(&self, name: &ExpertName) -> Option<usize> {
        self.config.experts.iter().position(|e| e.name == *name)
    }
}

/// Whether a node hosts more than its memory holds.
fn is_tight(index: usize) -> bool {
    index % MODELS.len() == 2
}

pub(crate) fn offer(model: &Model) -> ExpertOffer {
    ExpertOffer {
        name: ExpertName::new(model.name).expect("a literal name is valid"),
        family: "test".to_owned(),
        quantisation: "Q4_0".to_owned(),
        parameters: model.weights * 2,
        weights: Bytes(model.weights),
        kv_per_token: Bytes(12_288),
        context_tokens: model.context,
        slots: model.slots,
        load: Some(Seconds::saturating(0.5)),
    }
}

pub(crate) fn device(index: usize) -> DeviceInfo {
    DeviceInfo {
        kind: DeviceKind::Cpu,
        model: "simulated".to_owned(),
        threads: 4,
        parallel: 1 + u32::from(index % 2 == 1),
        memory: if is_tight(index) {
            Bytes(610 << 20)
        } else {
            Bytes(1 << 30)
        },
        gpus: Vec::new(),
        cpu: None,
        gpu: None,
        energy_source: if index == 0 {
            EnergySource::Rapl
        } else {
            EnergySource::Modelled
        },
        idle_power: Watts::saturating(4.0),
        busy_power: Watts::saturating(18.0),
    }
}

/// What the meter of a machine that draws the same all the time says.
fn reading(now: Time) -> agent::MeterReading {
    let drawn = now.seconds_since(Time::ZERO).get() * METERED_WATTS;
    agent::MeterReading {
        at: now,
        total: Figure {
            joules: Joules::saturating(drawn),
            error: Joules::saturating(drawn / 20.0),
            source: EnergySource::Rapl,
        },
        lag: Seconds::ZERO,
    }
}

/// The clock of a process that starts now.
pub(crate) fn clock(rng: &mut Rng, now: Time, skew_ppm: u32) -> Clock {
    let draw = (rng.bits(), rng.between(0, 2 * skew_ppm));
    if skew_ppm == 0 {
        return Clock::new(now, 0, 0);
    }
    let ppm = i64::from(draw.1) - i64::from(skew_ppm);
    Clock::new(now, draw.0 % 3_600_000_000, ppm)
}

impl World<'_> {
    pub(crate) fn boot(&mut self, node: usize) {
        let now = self.now;
        let host = &mut self.hosts[node];
        if host.engine.is_some() {
            return;
        }
        host.clock = clock(&mut host.rng, now, host.skew_ppm);
        let mut config = host.config.clone();
        if self.case.mutant == Some(Mutant::TooParallel) {
            config.device.parallel += 1;
        }
        if self.case.mutant == Some(Mutant::TooFull) {
            config.device.memory = Bytes(1 << 30);
        }
        host.workers = config.experts.iter().map(|_| Worker::default()).collect();
        host.engine = Some(agent::Engine::new(config, host.clock.read(now)));
        self.tell_agent(node, agent::Input::Tick);
    }

    pub(crate) fn tell_agent(&mut self, node: usize, input: agent::Input) {
        let gone = matches!(input, agent::Input::Disconnected { .. });
        if gone && self.case.mutant == Some(Mutant::ForgetDisconnect) {
            // It dials as it should.
            let engine = self.hosts[node].engine.as_ref();
            if engine.is_some_and(|engine| engine.jobs() > 0) {
                self.dial(node);
                return;
            }
        }
        let metered = self.hosts[node].config.device.energy_source == EnergySource::Rapl;
        let now = self.hosts[node].clock.read(self.now);
        let Some(engine) = self.hosts[node].engine.as_mut() else {
            return;
        };
        if metered {
            engine.handle(now, agent::Input::Meter(reading(now)));
        }
        engine.handle(now, input);
        while let Some(output) = self.hosts[node]
            .engine
            .as_mut()
            .and_then(agent::Engine::poll_output)
        {
            self.agent_wants(node, output);
        }
    }

    fn agent_wants(&mut self, node: usize, output: agent::Output) {
        match output {
            agent::Output::Connect => {
                let forgets = self.case.mutant == Some(Mutant::ForgetDial);
                if !forgets || self.now == Time::ZERO {
                    self.dial(node);
                }
            }
            agent::Output::Control(message) => {
                if let Some(session) = self.hosts[node].link {
                    let message = self.control_of(node, message);
                    self.send_up(session, Up::Control(message));
                }
            }
            agent::Output::Frame { dispatch, frame } => self.say(node, dispatch, frame),
            agent::Output::StartWorker { expert } => self.start_worker(node, &expert),
            agent::Output::ToWorker { expert, message } => {
                self.tell_worker(node, &expert, message);
            }
            agent::Output::KillWorker { expert } => {
                if self.case.mutant != Some(Mutant::ForgetKill) {
                    self.kill_worker(node, &expert);
                }
            }
            agent::Output::Measure => {
                let now = self.hosts[node].clock.read(self.now);
                if let Some(engine) = self.hosts[node].engine.as_mut() {
                    engine.handle(now, agent::Input::Meter(reading(now)));
                }
            }
            // The process ends; a supervisor starts it again.
            agent::Output::Drained => {
                let away = self.hosts[node].rng.within(AWAY);
                self.crash(node, away);
            }
        }
    }

    fn say(&mut self, node: usize, dispatch: DispatchId, frame: FromExpert) {
        let terminal = frame.is_terminal();
        let swallows = self.case.mutant == Some(Mutant::SwallowFrame);
        if terminal && swallows && self.rarely(self.judge.query_of(dispatch)) {
            return;
        }
        self.judge_frame(node, dispatch, terminal);
        if terminal && self.case.mutant == Some(Mutant::RepeatFrame) {
            self.judge_frame(node, dispatch, terminal);
        }
        let Some(session) = self.hosts[node].link else {
            return;
        };
        for (dispatch, frame) in self.frames_of(node, dispatch, frame) {
            self.send_up(session, Up::Frame(dispatch, frame));
        }
    }

    fn judge_frame(&mut self, node: usize, dispatch: DispatchId, terminal: bool) {
        match self.hosts[node].frames.get_mut(&dispatch) {
            None => self.judge.blame(
                "agents speak of what they were given",
                format!("an agent speaks of unknown dispatch {dispatch}"),
            ),
            Some(true) => self.judge.blame(
                "nothing follows an agent's last frame",
                format!("dispatch {dispatch}: a frame after the last"),
            ),
            Some(ended) => *ended = terminal,
        }
    }

    fn dial(&mut self, node: usize) {
        let now = self.now;
        let host = &mut self.hosts[node];
        let apart = Way::BOTH
            .iter()
            .any(|way| host.paths[*way as usize].held_until > now);
        let apart = apart || self.coordinator.is_away(now);
        let life = host.life;
        let latency = host.rng.within(self.case.scenario.latency);
        let failed = apart || host.rng.chance(DIAL_FAILS);
        let wait = if apart { DIAL_TIMEOUT } else { latency * 3 };
        self.after(wait, Happening::Dialled { node, life, failed });
    }

    pub(crate) fn dialled(&mut self, node: usize, life: u64, failed: bool) {
        if self.hosts[node].life != life {
            return;
        }
        if failed || self.coordinator.is_away(self.now) {
            let reason = "no answer".to_owned();
            self.tell_agent(node, agent::Input::Disconnected { reason });
            return;
        }
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.links.insert(session, Link::new(node));
        self.hosts[node].link = Some(session);
        self.tell_agent(node, agent::Input::Connected);
    }
}
