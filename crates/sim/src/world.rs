//! The run itself: one queue of happenings, one clock, one coordinator, several hosts.
//!
//! The next thing is whichever comes first of the queue and the engines' own deadlines, as in the
//! real drivers. Equal times keep the order they were queued in, so a run is a function of its case.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use moe2_engine::agent;
use moe2_engine::coordinator::{Engine, Entry, Input, Output, PlanRequest, Reply};
use moe2_model::{DispatchId, Event, Figure, Joules, QueryId, Rng, SessionId, Target, Time};
use moe2_solve::{Limits, solver};
use moe2_wire::{FromAgent, FromExpert, FromWorker, ToAgent, ToExpert};

use crate::case::Case;
use crate::clients::{asked_by, node_name};
use crate::coordinator::Coordinator;
use crate::fault::Fault;
use crate::host::{Host, MODELS};
use crate::judge::Judge;
use crate::mutant::Mutant;
use crate::network::{Down, Link, Up};
use crate::report::Report;
use crate::script::{Asked, Script, stream};
use crate::worker::{Line, ProcessId};

/// Everything must have ended this long after the last thing from outside: the query timeout, the time that
/// agents give a deaf worker for each of the few jobs that may be queued behind one another, and that in
/// which the coordinator waits for the last word of a silent one fit in.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long the silence after everything ended is listened to.
const LISTEN: Duration = Duration::from_secs(2);

/// One thing that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Arrival(Box<Asked>),
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
    Planned {
        life: u64,
        request: Box<PlanRequest>,
    },
    Unsent {
        life: u64,
        dispatch: DispatchId,
        reason: String,
    },
    Committed {
        life: u64,
    },
    Fault(Box<Fault>),
    Boot {
        node: usize,
    },
    CoordinatorBoots,
    DiskEmptied,
}

pub(crate) struct World<'a> {
    pub(crate) case: &'a Case,
    /// Of planted faults, which take nothing from anybody's stream.
    pub(crate) mischief: Rng,
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    pub(crate) links: BTreeMap<SessionId, Link>,
    pub(crate) judge: Judge,
    pub(crate) sessions: u64,
    pub(crate) coordinator: Coordinator,
    pub(crate) streams: BTreeMap<DispatchId, SessionId>,
    queue: BTreeMap<(Time, u64), Happening>,
    queued: u64,
    /// The place in the queue of what happens now.
    place: u64,
    /// Things from outside that are still to come.
    ahead: usize,
    stood_still: bool,
}

impl<'a> World<'a> {
    pub(crate) fn new(case: &'a Case) -> Self {
        let mut rng = Rng::new(stream(case.seed, 3));
        let mut seeds = || rng.bits();
        let coordinator = Coordinator::new(case, seeds());
        let mischief = Rng::new(seeds());
        let hosts = (0..case.scenario.nodes)
            .map(|n| Host::new(n, case, seeds()))
            .collect();
        let mut world = Self {
            case,
            mischief,
            now: Time::ZERO,
            hosts,
            links: BTreeMap::new(),
            judge: Judge::new(case.seed, case.scenario.window),
            sessions: 0,
            coordinator,
            streams: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            place: 0,
            ahead: 0,
            stood_still: false,
        };
        let script = Script::of(case);
        world.ahead = script.queries.len() + script.faults.len();
        for asked in script.queries {
            world.at(asked.at, Happening::Arrival(Box::new(asked)));
        }
        for fault in script.faults {
            world.at(fault.at, Happening::Fault(Box::new(fault)));
        }
        world
    }

    pub(crate) fn run(mut self) -> Report {
        for node in (0..self.hosts.len()).filter(|n| self.case.hosts(*n)) {
            self.boot(node);
        }
        let mut last_busy = Time::ZERO;
        let mut last_outside = Time::ZERO;
        while self.step() {
            self.compare();
            if self.ahead > 0 {
                last_outside = self.now;
            }
            if !self.is_quiet() {
                last_busy = self.now;
            }
            if self.judge.has_seen_enough() {
                break;
            }
            if self.now.since(last_busy) > LISTEN {
                self.end();
                break;
            }
            if self.now.since(last_outside) > PATIENCE {
                self.blame_hang();
                break;
            }
        }
        let mut report = self.judge.report;
        report.virtual_seconds = self.now.seconds_since(Time::ZERO).get();
        report
    }

    /// The next thing happens. False when nothing ever will.
    fn step(&mut self) -> bool {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let forgets = self.case.mutant == Some(Mutant::ForgetTimers);
        let coordinator = self.coordinator.next_deadline().filter(|_| !forgets);
        let agent = |(n, host): (usize, &Host)| Some((host.next_deadline()?, n));
        let agent = self.hosts.iter().enumerate().filter_map(agent).min();
        let timer = coordinator.into_iter().chain(agent.map(|(at, _)| at)).min();
        self.judge.report.events += 1;
        if let Some(at) = queued
            && timer.is_none_or(|timer| at <= timer)
        {
            self.pass(at);
            if let Some(((_, place), happening)) = self.queue.pop_first() {
                self.place = place;
                match self.waits_for(&happening) {
                    Some(until) => self.put_off(until, happening),
                    None => self.happen(happening),
                }
            }
            return true;
        }
        let Some(at) = timer else { return false };
        self.pass(at);
        match agent {
            Some((due, node)) if due == at => self.tell_agent(node, agent::Input::Tick),
            _ => {
                self.distract();
                self.tell_coordinator(Input::Tick);
            }
        }
        true
    }

    fn pass(&mut self, at: Time) {
        self.now = self.now.max(at);
        self.judge.now = self.now;
        self.judge.local = self.coordinator.read(self.now);
        self.stood_still |= self.coordinator.stalled_until > self.now;
    }

    /// Until when something has to wait, because the process that it happens to stands still.
    fn waits_for(&self, happening: &Happening) -> Option<Time> {
        let node_of = |session: &SessionId| self.links.get(session).map(|link| link.node);
        let node = match happening {
            Happening::Down { session, .. } | Happening::EndAtAgent { session } => node_of(session),
            Happening::Dialled { node, .. } => Some(*node),
            Happening::Worker { process, .. } | Happening::Said { process, .. } => {
                Some(process.node)
            }
            _ => None,
        };
        let until = match (node, happening) {
            (Some(node), _) => self.hosts[node].stalled_until,
            (
                None,
                Happening::Arrival(_)
                | Happening::Leave(_)
                | Happening::Up { .. }
                | Happening::EndAtCoordinator { .. }
                | Happening::Planned { .. }
                | Happening::Unsent { .. }
                | Happening::Committed { .. },
            ) => self.coordinator.stalled_until,
            (None, _) => Time::ZERO,
        };
        (until > self.now).then_some(until)
    }

    pub(crate) fn at(&mut self, at: Time, happening: Happening) {
        self.queued += 1;
        self.queue.insert((at, self.queued), happening);
    }

    /// What happens now happens later, before all that was queued after it.
    pub(crate) fn put_off(&mut self, until: Time, happening: Happening) {
        self.queue.insert((until, self.place), happening);
    }

    pub(crate) fn after(&mut self, wait: Duration, happening: Happening) {
        self.at(self.now + wait, happening);
    }

    fn compare(&mut self) {
        if self.stood_still {
            return;
        }
        if let Some(engine) = &self.coordinator.engine {
            self.judge.compare(engine);
        }
    }

    /// Whether everybody has ended, and whoever was thrown out is back.
    fn is_quiet(&self) -> bool {
        let idle = |host: &Host| host.engine.as_ref().is_none_or(|engine| engine.jobs() == 0);
        let there = |(n, host): (usize, &Host)| host.welcome || !self.case.hosts(n);
        let open = self
            .coordinator
            .engine
            .as_ref()
            .map(Engine::open_dispatches);
        self.ahead == 0
            && open == Some(0)
            && self.judge.all_over()
            && self.hosts.iter().all(idle)
            && self.hosts.iter().enumerate().all(there)
    }

    /// Nothing is left anywhere.
    fn end(&mut self) {
        let runs = self.runs();
        self.judge.demand(runs == 0, "nobody works for nobody", || {
            format!("{runs} pieces of work at workers, and nobody knows of them")
        });
        let unended = |host: &Host| {
            let mut frames = host.frames.iter();
            let dispatch = frames.find(|(_, ended)| !**ended)?;
            Some((host.node.clone(), *dispatch.0))
        };
        let unended = self.hosts.iter().find_map(unended);
        let all = unended.is_none();
        self.judge
            .demand(all, "agents end what they were given", || {
                format!("{unended:?}")
            });
        let books = self.coordinator.engine.as_ref();
        let reserved = |engine: &Engine| {
            let own = crate::clients::tenants().map(|t| engine.account(&t).reserved.get());
            own.iter().sum::<f64>()
        };
        let reserved = books.map_or(0.0, reserved);
        let none = self.judge.ledger.is_nothing(reserved);
        self.judge
            .demand(none, "the ledger is the sum of its entries", || {
                format!("{reserved} J are reserved for nothing")
            });
    }

    fn blame_hang(&mut self) {
        let engines = self.hosts.iter().filter_map(|host| host.engine.as_ref());
        let jobs: usize = engines.map(agent::Engine::jobs).sum();
        let away = self.hosts.iter().enumerate();
        let away = away.filter(|(n, host)| self.case.hosts(*n) && !host.welcome);
        let away: Vec<String> = away.map(|(_, host)| host.node.to_string()).collect();
        let open = self
            .coordinator
            .engine
            .as_ref()
            .map(Engine::open_dispatches);
        let over = self.judge.all_over();
        self.judge.blame(
            "everything ends, and everybody comes back",
            format!(
                "all queries over: {over}, dispatches open: {open:?}, {jobs} jobs at agents, away: {away:?}"
            ),
        );
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(asked) => self.arrival(*asked),
            Happening::Leave(query) => {
                // Leaving may cross with the terminal reply on the way.
                if !self.judge.is_over(query) || self.coordinator.chance(0.3) {
                    self.tell_coordinator(Input::ClientGone { query });
                }
            }
            Happening::Up { session, packet } => self.arrive_up(session, packet),
            Happening::Down { session, packet } => self.arrive_down(session, packet),
            Happening::EndAtCoordinator { session } => self.end_at_coordinator(session),
            Happening::EndAtAgent { session } => self.end_at_agent(session),
            Happening::Dialled { node, life, failed } => self.dialled(node, life, failed),
            Happening::Worker { process, line } => self.worker_goes_on(process, line),
            Happening::Said { process, said } => self.worker_says(process, said),
            Happening::Planned { life, request } if life == self.coordinator.life => {
                self.planned(request);
            }
            Happening::Unsent {
                life,
                dispatch,
                reason,
            } if life == self.coordinator.life => {
                self.tell_coordinator(Input::Unsent { dispatch, reason });
            }
            // Of a process that is gone.
            Happening::Planned { .. } | Happening::Unsent { .. } => {}
            Happening::Committed { life } => self.committed(life),
            Happening::Fault(fault) => {
                self.ahead -= 1;
                self.fault(*fault);
            }
            Happening::Boot { node } => self.boot(node),
            Happening::CoordinatorBoots => self.coordinator_boots(),
            Happening::DiskEmptied => self.disk_emptied(),
        }
    }

    fn planned(&mut self, request: Box<PlanRequest>) {
        let solved = solver("auto")
            .ok()
            .and_then(|s| s.solve(&request.problem, &mut Limits::default()).ok());
        if let Some(solution) = solved.map(Box::new) {
            self.tell_coordinator(Input::Planned {
                prices: request.price(&solution),
                request,
                solution,
                took: moe2_model::Seconds::ZERO,
            });
        }
    }

    fn arrival(&mut self, asked: Asked) {
        self.ahead -= 1;
        if self.coordinator.engine.is_none() {
            self.judge.report.unheard += 1;
            return;
        }
        let (query, request) = (asked.id, Box::new(asked.query));
        if let Some(patience) = asked.leaves {
            self.after(patience, Happening::Leave(query));
        }
        self.tell_coordinator(Input::Submit { query, request });
    }

    pub(crate) fn tell_coordinator(&mut self, input: Input) {
        let now = self.coordinator.read(self.now);
        if self.coordinator.engine.is_none() {
            return;
        }
        if std::mem::take(&mut self.stood_still) {
            self.judge.coordinator_woke();
        }
        match &input {
            Input::Submit { query, request } => self.judge.submitted(*query, request),
            Input::ClientGone { query } => self.judge.client_gone(*query),
            Input::Agent { session, .. } => self.judge.heard(*session),
            Input::AgentLost { session, .. } => self.judge.session_ended(*session),
            Input::WorkLost { dispatch, .. } | Input::Unsent { dispatch, .. } => {
                self.judge.stream_lost(*dispatch);
            }
            Input::Work { dispatch, frame } => self.judge.framed(*dispatch, frame),
            Input::Planned { .. }
            | Input::Proven { .. }
            | Input::PlanFailed { .. }
            | Input::GateLoaded(_)
            | Input::Tenants(_)
            | Input::Settings(_)
            | Input::BooksClosed(_)
            | Input::Tick => {}
        }
        let input = self.mutate(input);
        let Some(engine) = self.coordinator.engine.as_mut() else {
            return;
        };
        if let Some(input) = input {
            engine.handle(now, input);
        }
        let mut outputs = VecDeque::new();
        let mut selected = false;
        while let Some(output) = engine.poll_output() {
            selected |= matches!(output, Output::Event(Event::ActiveSet { .. }));
            outputs.push_back(output);
        }
        for output in outputs {
            for output in self.mutate_output(output) {
                self.judge_output(&output);
                self.put(output);
            }
        }
        if selected {
            self.tell_active();
        }
    }

    /// The judge hears who is active, as the fleet's view has it.
    fn tell_active(&mut self) {
        let Some(engine) = &self.coordinator.engine else {
            return;
        };
        let view = engine.view(self.coordinator.read(self.now));
        let experts = view.nodes.into_iter().flat_map(|node| node.experts);
        let active: BTreeSet<_> = experts.filter(|e| e.selected).map(|e| e.id).collect();
        self.judge.active_set(active);
    }

    /// What the engine gives out, before its driver does anything about it.
    fn judge_output(&mut self, output: &Output) {
        match output {
            Output::Reply { query, reply } => self.judge.replied(*query, reply),
            Output::Dispatch {
                dispatch,
                session,
                work,
            } => {
                let node = self.links.get(session).map(|link| node_name(link.node));
                self.judge.dispatched(*dispatch, (*session, node), work);
            }
            Output::Cancel { dispatch } => self.judge.cancelled(*dispatch),
            Output::ToAgent {
                session,
                message: ToAgent::Welcome { .. },
            } => {
                let node = self.links.get(session).map(|link| node_name(link.node));
                self.judge.session_began(*session, node.as_ref());
            }
            Output::CloseAgent { session, .. } => self.judge.session_ended(*session),
            Output::Ledger(Entry::Reserved {
                dispatch,
                tenant,
                bound,
                ..
            }) => {
                let minute = self.coordinator.wall(self.now).0 / 60;
                self.judge.reserved(*dispatch, tenant, *bound, minute);
            }
            Output::Ledger(Entry::Released { dispatch, .. }) => self.judge.released(*dispatch),
            Output::Ledger(Entry::Settled(settled)) => self.judge.settled(settled),
            Output::Ended(record) => self.judge.recorded(record),
            Output::ToAgent { .. } | Output::Plan(_) | Output::Event(_) => {}
        }
    }

    /// Does what the engine wants, once nothing is to be waited for.
    pub(crate) fn coordinator_wants(&mut self, output: Output) {
        match output {
            Output::Reply { query, reply } => {
                if reply.is_terminal() {
                    let coordinator = &self.coordinator;
                    let books = (&coordinator.disk, coordinator.outbox.is_broken());
                    self.judge.told(query, &reply, books);
                }
            }
            Output::Dispatch {
                dispatch,
                session,
                work,
            } => self.dispatch(dispatch, session, *work),
            Output::Cancel { dispatch } => {
                if let Some(session) = self.streams.get(&dispatch).copied() {
                    self.send_down(session, Down::Cancel(dispatch));
                }
            }
            Output::ToAgent { session, message } => {
                self.send_down(session, Down::Control(message));
            }
            Output::CloseAgent { session, reason: _ } => self.close_at_coordinator(session),
            Output::Plan(request) => {
                let range = (Duration::ZERO, Duration::from_millis(50));
                let wait = self.coordinator.within(range);
                let life = self.coordinator.life;
                self.after(wait, Happening::Planned { life, request });
            }
            Output::Ledger(entry) => {
                if let Some(write) = self.coordinator.outbox.book(entry) {
                    self.write(write);
                }
            }
            Output::Ended(_) | Output::Event(_) => {}
        }
    }

    fn dispatch(&mut self, dispatch: DispatchId, session: SessionId, work: ToExpert) {
        self.judge.left(dispatch, &self.coordinator.disk);
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
            let lost = Happening::Unsent {
                life: self.coordinator.life,
                dispatch,
                reason: "the agent is gone".to_owned(),
            };
            self.after(Duration::from_micros(20), lost);
        }
    }
}

/// Planted faults between the coordinator's engine and the world.
impl World<'_> {
    fn mutate(&mut self, mut input: Input) -> Option<Input> {
        let Input::Work { dispatch, frame } = &mut input else {
            return Some(input);
        };
        match (self.case.mutant, frame) {
            (Some(Mutant::ForgetSettle), frame)
                if frame.is_terminal() && self.rarely(self.judge.query_of(*dispatch)) =>
            {
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

    /// An engine that does not set the timer of silence anew believes that it has heard something.
    fn distract(&mut self) {
        if self.case.mutant != Some(Mutant::ForgetSilence) {
            return;
        }
        let now = self.coordinator.read(self.now);
        for session in self.judge.silent(Duration::from_millis(1_000)) {
            let Some(link) = self.links.get(&session) else {
                continue;
            };
            let input = Input::Agent {
                session,
                node: self.hosts[link.node].node.clone(),
                message: FromAgent::Heartbeat {
                    sequence: 0,
                    standing: Figure::NONE,
                    clock: None,
                },
            };
            if let Some(engine) = self.coordinator.engine.as_mut() {
                engine.handle(now, input);
            }
        }
    }

    /// Whether a planted fault that is rare strikes a query: always or never, whatever else there is.
    pub(crate) fn rarely(&self, query: Option<QueryId>) -> bool {
        let struck = |query: QueryId| {
            let own = stream(self.case.seed, 1_000 + query.0);
            Rng::new(own).chance(0.3)
        };
        self.case.mutant.is_some() && query.is_some_and(struck)
    }

    fn mutate_output(&mut self, mut output: Output) -> Vec<Output> {
        let query = match &output {
            Output::Reply { query, .. } => Some(*query),
            Output::Dispatch { work, .. } => match work.as_ref() {
                ToExpert::Work { prompt, .. } => asked_by(prompt),
                ToExpert::Cancel => None,
            },
            _ => None,
        };
        let rarely = self.rarely(query);
        match (self.case.mutant, &mut output) {
            (Some(Mutant::SwallowReply), Output::Reply { reply, .. })
                if rarely && reply.is_terminal() =>
            {
                Vec::new()
            }
            (Some(Mutant::LoseDelta), Output::Reply { reply, .. })
                if rarely && !reply.is_terminal() =>
            {
                Vec::new()
            }
            (Some(Mutant::RepeatReply), Output::Reply { reply, .. }) if reply.is_terminal() => {
                vec![output.clone(), output]
            }
            (Some(Mutant::LateDelta), Output::Reply { query, reply })
                if rarely && reply.is_terminal() =>
            {
                let late = Output::Reply {
                    query: *query,
                    reply: Reply::Delta("late".to_owned()),
                };
                vec![output, late]
            }
            (Some(Mutant::ForgetCancel), Output::Cancel { .. }) => Vec::new(),
            (Some(Mutant::DoubleDispatch), Output::Dispatch { .. }) if rarely => {
                vec![output.clone(), output]
            }
            (Some(Mutant::WrongSession), Output::Dispatch { session, .. }) if rarely => {
                *session = SessionId(session.0 + 1_000);
                vec![output]
            }
            (Some(Mutant::WrongExpert), Output::Dispatch { work, .. }) => {
                if let ToExpert::Work { expert, .. } = work.as_mut()
                    && let Ok(other) = self.mischief.pick(&MODELS).name.parse()
                {
                    *expert = other;
                }
                vec![output]
            }
            (Some(Mutant::Inactive), Output::Dispatch { session, work, .. }) => {
                self.redirect(session, work);
                vec![output]
            }
            (Some(Mutant::MisstatePrice), Output::Ended(record)) => {
                for decision in &mut record.decisions {
                    decision.grounds.terms.prices.per_second *= 1.1;
                }
                vec![output]
            }
            _ => vec![output],
        }
    }

    /// Sends work for anybody to somebody who is not active, if there is one.
    fn redirect(&self, session: &mut SessionId, work: &mut ToExpert) {
        let ToExpert::Work { expert, prompt, .. } = work else {
            return;
        };
        let auto = asked_by(prompt).and_then(|query| self.judge.target(query));
        let Some(engine) = self.coordinator.engine.as_ref() else {
            return;
        };
        if auto != Some(&Target::Auto) {
            return;
        }
        let view = engine.view(self.coordinator.read(self.now));
        let experts = view.ready_experts().filter(|e| !e.selected);
        for other in experts {
            let to = self.hosts.iter().find(|host| host.node == other.id.node);
            if let Some(link) = to.and_then(|host| host.link) {
                *session = link;
                *expert = other.id.name.clone();
                return;
            }
        }
    }
}
