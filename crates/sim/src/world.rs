//! The run itself: one queue of happenings, one clock, one coordinator, several hosts.
//!
//! The next thing is whichever comes first of the queue and the engines' own deadlines, as in the
//! real drivers. Equal times keep the order they were queued in, so a run is a function of scenario
//! and seed.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_engine::agent;
use moe2_engine::coordinator::{
    Config, EnergyWindow, Engine, Entry, Input, Output, PlanLimits, PlanRequest, Span, Spending,
    TenantLimits,
};
use moe2_gate::Gate;
use moe2_model::{DispatchId, Joules, QueryId, Rng, SessionId, TenantId, Time};
use moe2_solve::{Limits, solver};
use moe2_wire::{FromExpert, FromWorker, ToAgent, ToExpert};

use crate::clients::{TENANTS, ask, node_name};
use crate::host::{Host, MODELS};
use crate::judge::Judge;
use crate::mutant::Mutant;
use crate::network::{Down, Link, Up};
use crate::report::Report;
use crate::scenario::Scenario;
use crate::worker::{Line, ProcessId};

/// Everything must have ended this long after the last query: the query timeout and the time agents
/// give a deaf worker, for each of the few jobs that may be queued behind one another, fit in.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long the silence after everything ended is listened to.
const LISTEN: Duration = Duration::from_secs(2);

/// One thing that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Arrival,
    Leave(QueryId),
    Up {
        session: SessionId,
        packet: Up,
    },
    Down {
        session: SessionId,
        packet: Down,
    },
    EndAtCoordinator {
        session: SessionId,
    },
    EndAtAgent {
        session: SessionId,
    },
    Die {
        session: SessionId,
    },
    Dialled {
        node: usize,
        life: u64,
        failed: bool,
    },
    Worker {
        process: ProcessId,
        line: Line,
    },
    Said {
        process: ProcessId,
        said: FromWorker,
    },
    Planned(Box<PlanRequest>),
    StreamLost(DispatchId),
    Fault,
    Boot {
        node: usize,
    },
}

pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) rng: Rng,
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    pub(crate) links: BTreeMap<SessionId, Link>,
    pub(crate) judge: Judge,
    pub(crate) sessions: u64,
    coordinator: Engine,
    streams: BTreeMap<DispatchId, SessionId>,
    queue: BTreeMap<(Time, u64), Happening>,
    queued: u64,
    asked: usize,
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario, seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::new(seed);
        let hosts = (0..scenario.nodes)
            .map(|n| Host::new(n, rng.bits()))
            .collect();
        let config = Config {
            plan: scenario.window.map(limits).unwrap_or_default(),
            query_timeout: Duration::from_secs(20),
            stall_grace: Duration::from_secs(2),
            max_queries: 12,
            records: true,
            ..Config::default()
        };
        Self {
            scenario,
            mutant,
            rng,
            now: Time::ZERO,
            hosts,
            links: BTreeMap::new(),
            judge: Judge::new(seed, scenario.window),
            sessions: 0,
            coordinator: Engine::new(config, Gate::builtin()),
            streams: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            asked: 0,
        }
    }

    pub(crate) fn run(mut self) -> Report {
        for node in 0..self.hosts.len() {
            self.boot(node);
        }
        self.after(Duration::from_millis(500), Happening::Arrival);
        if let Some(gap) = self.scenario.fault_gap {
            self.after(gap, Happening::Fault);
        }
        let mut last_busy = Time::ZERO;
        let mut last_arrival = Time::ZERO;
        while self.step() {
            self.judge.compare(self.coordinator.open_dispatches());
            if !self.clients_done() {
                last_arrival = self.now;
            }
            if !self.is_quiet() {
                last_busy = self.now;
            }
            if self.now.since(last_busy) > LISTEN || self.judge.has_seen_enough() {
                break;
            }
            if self.now.since(last_arrival) > PATIENCE {
                self.blame_hang();
                break;
            }
        }
        let coordinator = &self.coordinator;
        if !self.judge.has_seen_enough() {
            self.judge.close_books(|tenant| coordinator.account(tenant));
        }
        let mut report = self.judge.report;
        report.virtual_seconds = self.now.seconds_since(Time::ZERO).get();
        report
    }

    /// The next thing happens. False when nothing ever will.
    fn step(&mut self) -> bool {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let coordinator = self.coordinator.next_deadline();
        let agent = |(n, host): (usize, &Host)| {
            let at = host
                .engine
                .as_ref()
                .and_then(agent::Engine::next_deadline)?;
            Some((at, n))
        };
        let agent = self.hosts.iter().enumerate().filter_map(agent).min();
        let timer = coordinator.into_iter().chain(agent.map(|(at, _)| at)).min();
        self.judge.report.events += 1;
        if let Some(at) = queued
            && timer.is_none_or(|timer| at <= timer)
        {
            self.pass(at);
            if let Some((_, happening)) = self.queue.pop_first() {
                self.happen(happening);
            }
            return true;
        }
        let Some(at) = timer else { return false };
        self.pass(at);
        match agent {
            Some((due, node)) if due == at => self.tell_agent(node, agent::Input::Tick),
            _ => self.tell_coordinator(Input::Tick),
        }
        true
    }

    fn pass(&mut self, at: Time) {
        self.now = self.now.max(at);
        self.judge.now = self.now;
    }

    pub(crate) fn at(&mut self, at: Time, happening: Happening) {
        self.queued += 1;
        self.queue.insert((at, self.queued), happening);
    }

    pub(crate) fn after(&mut self, wait: Duration, happening: Happening) {
        self.at(self.now + wait, happening);
    }

    pub(crate) fn clients_done(&self) -> bool {
        self.asked >= self.scenario.queries
    }

    fn is_quiet(&self) -> bool {
        let idle = |host: &Host| host.engine.as_ref().is_none_or(|engine| engine.jobs() == 0);
        self.clients_done()
            && self.judge.all_over()
            && self.coordinator.open_dispatches() == 0
            && self.hosts.iter().all(idle)
    }

    fn blame_hang(&mut self) {
        let jobs: usize = self
            .hosts
            .iter()
            .filter_map(|host| host.engine.as_ref())
            .map(agent::Engine::jobs)
            .sum();
        let open = self.coordinator.open_dispatches();
        let over = self.judge.all_over();
        self.judge.blame(format!(
            "no end: all queries over: {over}, {open} dispatches open, {jobs} jobs at agents"
        ));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival => self.arrival(),
            Happening::Leave(query) => {
                // Leaving may cross with the terminal reply on the way.
                if !self.judge.is_over(query) || self.rng.chance(0.3) {
                    self.tell_coordinator(Input::ClientGone { query });
                }
            }
            Happening::Up { session, packet } => self.arrive_up(session, packet),
            Happening::Down { session, packet } => self.arrive_down(session, packet),
            Happening::EndAtCoordinator { session } => self.end_at_coordinator(session),
            Happening::EndAtAgent { session } => self.end_at_agent(session),
            Happening::Die { session } => {
                if let Some(link) = self.links.get_mut(&session) {
                    link.dead = true;
                }
            }
            Happening::Dialled { node, life, failed } => self.dialled(node, life, failed),
            Happening::Worker { process, line } => self.worker_goes_on(process, line),
            Happening::Said { process, said } => self.worker_says(process, said),
            Happening::Planned(request) => {
                let solved = solver("auto")
                    .ok()
                    .and_then(|s| s.solve(&request.problem, &mut Limits::default()).ok());
                if let Some(solution) = solved.map(Box::new) {
                    let took = moe2_model::Seconds::ZERO;
                    self.tell_coordinator(Input::Planned {
                        prices: request.price(&solution),
                        request,
                        solution,
                        took,
                    });
                }
            }
            Happening::StreamLost(dispatch) => {
                let reason = "the agent is gone".to_owned();
                self.tell_coordinator(Input::WorkLost { dispatch, reason });
            }
            Happening::Fault => self.fault(),
            Happening::Boot { node } => self.boot(node),
        }
    }

    fn arrival(&mut self) {
        self.asked += 1;
        let query = QueryId(self.asked as u64);
        let request = Box::new(ask(&mut self.rng, query, self.hosts.len()));
        if self.rng.chance(self.scenario.leave) {
            let wait = self.rng.gap(Duration::from_millis(800));
            self.after(wait, Happening::Leave(query));
        }
        if !self.clients_done() {
            let gap = self.rng.gap(self.scenario.mean_gap);
            self.after(gap, Happening::Arrival);
        }
        self.tell_coordinator(Input::Submit { query, request });
    }

    pub(crate) fn tell_coordinator(&mut self, input: Input) {
        match &input {
            Input::Submit { query, request } => self.judge.submitted(*query, request),
            Input::ClientGone { query } => self.judge.client_gone(*query),
            Input::AgentLost { session, .. } => self.judge.session_ended(*session),
            Input::WorkLost { dispatch, .. } => self.judge.stream_lost(*dispatch),
            Input::Work { dispatch, frame } => self.judge.framed(*dispatch, frame),
            Input::Agent { .. }
            | Input::Planned { .. }
            | Input::Proven { .. }
            | Input::PlanFailed { .. }
            | Input::GateLoaded(_)
            | Input::Tenants(_)
            | Input::Settings(_)
            | Input::BooksClosed(_)
            | Input::Tick => {}
        }
        if let Some(input) = self.mutate(input) {
            self.coordinator.handle(self.now, input);
        }
        while let Some(output) = self.coordinator.poll_output() {
            self.coordinator_wants(output);
        }
    }

    fn mutate(&mut self, mut input: Input) -> Option<Input> {
        let Input::Work { frame, .. } = &mut input else {
            return Some(input);
        };
        match (self.mutant, frame) {
            (Some(Mutant::ForgetSettle), frame) if frame.is_terminal() && self.rng.chance(0.3) => {
                return None;
            }
            (Some(Mutant::BillMore), FromExpert::Done { usage, .. }) => {
                usage.energy += Joules::saturating(1.0);
            }
            (Some(Mutant::BillLess), FromExpert::Done { usage, .. }) => {
                usage.energy = Joules::ZERO;
            }
            _ => {}
        }
        Some(input)
    }

    fn coordinator_wants(&mut self, output: Output) {
        match output {
            Output::Reply { query, reply } => {
                let swallowed = match self.mutant {
                    Some(Mutant::SwallowReply) => reply.is_terminal() && self.rng.chance(0.3),
                    Some(Mutant::LoseDelta) => !reply.is_terminal() && self.rng.chance(0.1),
                    _ => false,
                };
                if !swallowed {
                    self.judge.replied(query, &reply);
                }
                if self.mutant == Some(Mutant::RepeatReply) && reply.is_terminal() {
                    self.judge.replied(query, &reply);
                }
            }
            Output::Dispatch {
                dispatch,
                session,
                work,
            } => self.dispatch(dispatch, session, *work),
            Output::Cancel { dispatch } => {
                if self.mutant == Some(Mutant::ForgetCancel) {
                    return;
                }
                self.judge.cancelled(dispatch);
                if let Some(session) = self.streams.get(&dispatch).copied() {
                    self.send_down(session, Down::Cancel(dispatch));
                }
            }
            Output::ToAgent { session, message } => {
                if matches!(message, ToAgent::Welcome { .. }) {
                    self.judge.session_began(session);
                }
                self.send_down(session, Down::Control(message));
            }
            Output::CloseAgent { session, reason: _ } => {
                self.judge.session_ended(session);
                self.close_at_coordinator(session);
            }
            Output::Plan(request) => {
                let wait = self.rng.within((Duration::ZERO, Duration::from_millis(50)));
                self.after(wait, Happening::Planned(request));
            }
            Output::Ledger(Entry::Reserved {
                dispatch,
                tenant,
                bound,
                ..
            }) => self.judge.reserved(dispatch, &tenant, bound),
            Output::Ledger(Entry::Released { dispatch, .. }) => self.judge.released(dispatch),
            Output::Ended(mut record) => {
                if self.mutant == Some(Mutant::MisstatePrice) {
                    for decision in &mut record.decisions {
                        decision.grounds.terms.prices.per_second *= 1.1;
                    }
                }
                self.judge.recorded(&record);
            }
            Output::Ledger(Entry::Settled(_)) | Output::Event(_) => {}
        }
    }

    fn dispatch(&mut self, dispatch: DispatchId, mut session: SessionId, mut work: ToExpert) {
        if self.mutant == Some(Mutant::WrongSession) && self.rng.chance(0.3) {
            session = SessionId(session.0 + 1_000);
        }
        if self.mutant == Some(Mutant::WrongExpert)
            && let ToExpert::Work { expert, .. } = &mut work
            && let Ok(other) = self.rng.pick(&MODELS).name.parse()
        {
            *expert = other;
        }
        let node = self.links.get(&session).map(|link| node_name(link.node));
        self.judge.dispatched(dispatch, (session, node), &work);
        self.streams.insert(dispatch, session);
        let ToExpert::Work {
            expert,
            prompt,
            task,
            deadline_ms,
            ..
        } = work
        else {
            return;
        };
        let work = Box::new(agent::Work {
            expert,
            prompt,
            task,
            deadline_ms,
        });
        let open = self
            .links
            .get(&session)
            .is_some_and(|link| link.coordinator_until.is_none());
        if open {
            self.send_down(session, Down::Work(dispatch, work));
        } else {
            // The driver has no connection for it any more.
            self.after(Duration::from_micros(20), Happening::StreamLost(dispatch));
        }
    }
}

/// Every tenant has so many joules for a minute.
fn limits(joules: f64) -> PlanLimits {
    let tenant = |name: &&str| TenantLimits {
        spending: Spending {
            energy_windows: vec![EnergyWindow {
                joules: Joules::saturating(joules),
                per: Span::Minute,
                rolling: false,
                soft: false,
            }],
            ..Spending::default()
        },
        ..TenantLimits::unlimited(TenantId::new(name).expect("a literal name is valid"))
    };
    PlanLimits {
        tenants: TENANTS.iter().map(tenant).collect(),
        ..PlanLimits::default()
    }
}
