//! Hours of requests on a large fleet, in virtual time: the real coordinator, and machines reduced to how
//! long work takes there and what it draws.
//!
//! The scenarios of this crate look for broken promises among a few nodes; this looks at figures: delays,
//! joules, who was refused. Machines drift in speed, leave and come back. A run is a function of its setup.

mod machine;
mod memory;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use moe2_engine::coordinator::{Config, Engine, Entry, Input, Output, Reply};
use moe2_gate::Gate;
use moe2_model::{
    DispatchId, Event, ExpertId, ExpertName, ExpertState, FinishReason, Query, QueryId,
    RefusalKind, Rng, Seconds, SessionId, Time,
};
use moe2_solve::{Limits, solver};
use moe2_wire::{FromAgent, FromExpert, PROTOCOL_VERSION, ToAgent, ToExpert};

pub use machine::{Drift, Hosted, Machine, Rates};
use machine::{Job, Site};
use memory::Change;

/// One request; what it asks is made when it is asked, because hours of prompts take gigabytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// When it is asked.
    pub at: Time,
    /// Tokens of prompt, whoever reads it.
    pub input_tokens: u32,
    /// Tokens of answer, whoever writes it.
    pub output_tokens: u32,
}

/// What is played.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The fleet.
    pub machines: Vec<Machine>,
    /// How speeds change.
    pub drift: Drift,
    /// Mean time that a machine is there, and that it is away; `None` keeps all of them.
    pub outages: Option<(Duration, Duration)>,
    /// The coordinator's settings.
    pub config: Config,
    /// Its gate.
    pub gate: Gate,
    /// Of drift and outages.
    pub seed: u64,
}

/// How one request ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Place among the requests.
    pub request: usize,
    /// From asking to the end.
    pub delay: Seconds,
    /// From asking to the first token, if one came.
    pub first_token: Option<Seconds>,
    /// Who answered, or why nobody did.
    pub end: Result<ExpertId, RefusalKind>,
}

/// Loads of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loads {
    /// All.
    pub count: u64,
    /// Those that work waited for.
    pub needed: u64,
    /// Machine-seconds.
    pub seconds: f64,
    /// Above idle.
    pub joules: f64,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Played {
    /// In the order of their ends.
    pub outcomes: Vec<Outcome>,
    /// Joules settled for each request, of attempts that failed too.
    pub joules: Vec<f64>,
    /// Work that ran to its end, and how often its delay and its energy stayed within the forecasts' p95.
    pub forecasts: (u64, u64, u64),
    /// Machine-seconds at work, and machine-seconds there.
    pub busy: f64,
    /// See [`Played::busy`].
    pub there: f64,
    /// Experts loaded where a machine hosts more than it holds; those of them that work waited for, machine-seconds of
    /// loading, and joules above idle that it took.
    pub loads: Loads,
    /// Times a machine went away.
    pub losses: u64,
    /// Work moved to another expert after a loss.
    pub redispatches: u64,
    /// Work that a machine which had come free took over from another's line.
    pub moves: u64,
    /// Tenants whose mean budgets no mix of experts was forecast to keep, when all had joined.
    pub hopeless: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Ask(usize),
    First(DispatchId),
    Done(DispatchId),
    Beat(usize, SessionId),
    Leave(usize),
    Join(usize),
    Loaded(usize, SessionId, ExpertName),
    Settle(usize),
}

struct World<'a> {
    setup: &'a Setup,
    requests: &'a [Request],
    ask: &'a dyn Fn(usize) -> Query,
    engine: Engine,
    rng: Rng,
    now: Time,
    sites: Vec<Site>,
    sessions: BTreeMap<SessionId, usize>,
    next_session: u64,
    jobs: BTreeMap<DispatchId, Job>,
    queue: BinaryHeap<Reverse<(Time, u64, Happening)>>,
    happened: u64,
    ended: usize,
    first: Vec<Option<Time>>,
    played: Played,
}

/// Plays requests; `ask` makes the query of each, by its place.
#[must_use]
pub fn play(setup: &Setup, requests: &[Request], ask: &dyn Fn(usize) -> Query) -> Played {
    let mut world = World::new(setup, requests, ask);
    world.run();
    world.played
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup, requests: &'a [Request], ask: &'a dyn Fn(usize) -> Query) -> Self {
        let mut rng = Rng::new(setup.seed);
        let sites = setup.machines.iter().map(|_| Site::new(&mut rng)).collect();
        Self {
            setup,
            requests,
            ask,
            engine: Engine::new(setup.config.clone(), setup.gate.clone()),
            rng,
            now: Time::ZERO,
            sites,
            sessions: BTreeMap::new(),
            next_session: 1,
            jobs: BTreeMap::new(),
            queue: BinaryHeap::new(),
            happened: 0,
            ended: 0,
            first: vec![None; requests.len()],
            played: Played {
                joules: vec![0.0; requests.len()],
                ..Played::default()
            },
        }
    }

    fn run(&mut self) {
        for machine in 0..self.sites.len() {
            self.join(machine);
        }
        for (n, request) in self.requests.iter().enumerate() {
            self.at(request.at, Happening::Ask(n));
        }
        while self.ended < self.requests.len() {
            let next = self.queue.peek().map(|Reverse((at, ..))| *at);
            let due = self.engine.next_deadline();
            match (next, due) {
                (Some(next), Some(due)) if due <= next => self.tick(due),
                (Some(_), _) => {
                    let Some(Reverse((at, _, happening))) = self.queue.pop() else {
                        return;
                    };
                    self.now = self.now.max(at);
                    self.happens(happening);
                }
                (None, Some(due)) => self.tick(due),
                (None, None) => return,
            }
        }
        for site in &mut self.sites {
            self.played.there += site.there(self.now);
        }
    }

    fn tick(&mut self, due: Time) {
        self.now = self.now.max(due);
        self.tell(Input::Tick);
    }

    fn at(&mut self, at: Time, happening: Happening) {
        self.happened += 1;
        self.queue.push(Reverse((at, self.happened, happening)));
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Ask(n) => self.tell(Input::Submit {
                query: QueryId(n as u64),
                request: Box::new((self.ask)(n)),
            }),
            Happening::First(dispatch) => {
                if self.jobs.contains_key(&dispatch) {
                    let frame = FromExpert::Text("w".to_owned());
                    self.tell(Input::Work { dispatch, frame });
                }
            }
            Happening::Done(dispatch) => self.done(dispatch),
            Happening::Beat(machine, session) => self.beat(machine, session),
            Happening::Leave(machine) => self.leave(machine),
            Happening::Join(machine) => self.join(machine),
            Happening::Settle(machine) => self.settle(machine),
            Happening::Loaded(machine, session, expert) => self.loaded(machine, session, expert),
        }
    }

    fn say(&mut self, machine: usize, message: FromAgent) {
        let Some(session) = self.sites[machine].session else {
            return;
        };
        let node = self.setup.machines[machine].node.clone();
        self.tell(Input::Agent {
            session,
            node,
            message,
        });
    }

    fn join(&mut self, machine: usize) {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.sites[machine].join(self.now, session);
        self.sessions.insert(session, machine);
        let described = &self.setup.machines[machine];
        self.sites[machine].memory.start(described.at_first());
        let hello = FromAgent::Hello {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            software: "traffic".to_owned(),
            device: described.device.clone(),
            experts: described.offers(&self.sites[machine].memory),
        };
        self.say(machine, hello);
        self.beat(machine, session);
        if let Some((stays, _)) = self.setup.outages {
            let until = self.now + self.rng.gap(stays);
            self.at(until, Happening::Leave(machine));
        }
    }

    /// Has a machine bring its memory nearer to what it is to keep.
    fn settle(&mut self, machine: usize) {
        let Some(session) = self.sites[machine].session else {
            return;
        };
        let described = &self.setup.machines[machine];
        let changes = self.sites[machine].memory.settle(self.now, described);
        for change in changes {
            match change {
                Change::State(name, state) => {
                    self.say(machine, FromAgent::Expert { name, state });
                }
                Change::Loads(name, at) => {
                    let took = at.seconds_since(self.now).get();
                    let device = &described.device;
                    let watts = (device.busy_power - device.idle_power).get();
                    self.played.loads.count += 1;
                    self.played.loads.seconds += took;
                    self.played.loads.joules += took * watts.max(0.0);
                    self.at(at, Happening::Loaded(machine, session, name));
                }
            }
        }
    }

    fn loaded(&mut self, machine: usize, session: SessionId, name: ExpertName) {
        let site = &mut self.sites[machine];
        if site.session != Some(session) || !site.memory.loaded(self.now, &name) {
            return;
        }
        let took = self.setup.machines[machine].experts[&name].load;
        let took = Seconds::from_duration(took);
        let loaded = FromAgent::Loaded {
            name: name.clone(),
            took,
        };
        self.say(machine, loaded);
        let state = ExpertState::Ready;
        self.say(machine, FromAgent::Expert { name, state });
    }

    fn beat(&mut self, machine: usize, session: SessionId) {
        if self.sites[machine].session == Some(session) {
            self.say(
                machine,
                FromAgent::Heartbeat {
                    sequence: 0,
                    standing: moe2_model::Figure::NONE,
                    clock: None,
                },
            );
            let next = self.now + self.setup.config.heartbeat;
            self.at(next, Happening::Beat(machine, session));
        }
    }

    /// Without a word, as when its power fails.
    fn leave(&mut self, machine: usize) {
        let Some(session) = self.sites[machine].leave(self.now) else {
            return;
        };
        self.played.losses += 1;
        self.sessions.remove(&session);
        self.jobs.retain(|_, job| job.machine != machine);
        let reason = "it went away".to_owned();
        self.tell(Input::AgentLost { session, reason });
        if let Some((_, away)) = self.setup.outages {
            let until = self.now + self.rng.gap(away);
            self.at(until, Happening::Join(machine));
        }
    }

    fn tell(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            self.wants(output);
        }
    }

    fn wants(&mut self, output: Output) {
        match output {
            Output::Dispatch {
                dispatch,
                session,
                work,
            } => self.dispatch(dispatch, session, &work),
            Output::Cancel { dispatch } => self.cancel(dispatch),
            Output::Reply { query, reply } => self.replied(query.0 as usize, reply),
            Output::Plan(request) => {
                let solved =
                    solver("auto").map(|s| s.solve(&request.problem, &mut Limits::default()));
                let Ok(Ok(solution)) = solved else { return };
                let prices = request.price(&solution);
                if self.played.hopeless.is_empty() && self.now < Time::from_micros(5_000_000) {
                    let without = prices.iter().filter(|p| p.prices.is_none());
                    self.played.hopeless = without.map(|p| p.tenant.to_string()).collect();
                    let unserved = request.unserved.iter().map(ToString::to_string);
                    self.played.hopeless.extend(unserved);
                }
                self.engine.handle(
                    self.now,
                    Input::Planned {
                        prices,
                        request,
                        solution: Box::new(solution),
                        took: Seconds::ZERO,
                    },
                );
            }
            Output::Ledger(Entry::Settled(settled)) => {
                self.played.joules[settled.query.0 as usize] += settled.energy.get();
            }
            Output::Event(Event::Used {
                covered: Some(covered),
                ..
            }) => {
                let (all, delay, energy) = &mut self.played.forecasts;
                *all += 1;
                *delay += u64::from(covered.delay);
                *energy += u64::from(covered.energy);
            }
            Output::Event(Event::Dispatched {
                redispatch: true, ..
            }) => self.played.redispatches += 1,
            Output::Event(Event::Moved { .. }) => self.played.moves += 1,
            Output::Event(Event::Loads { needed: true, .. }) => self.played.loads.needed += 1,
            Output::ToAgent {
                session,
                message: ToAgent::Keep { experts },
            } => {
                if let Some(&machine) = self.sessions.get(&session) {
                    self.sites[machine].memory.keep(experts);
                    // After what is being handled.
                    self.at(self.now, Happening::Settle(machine));
                }
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, dispatch: DispatchId, session: SessionId, work: &ToExpert) {
        let ToExpert::Work { expert, .. } = work else {
            return;
        };
        let Some(&machine) = self.sessions.get(&session) else {
            return;
        };
        let Some(query) = self.engine.query_of(dispatch) else {
            return;
        };
        let request = &self.requests[query.0 as usize];
        let tokens = (request.input_tokens, request.output_tokens);
        let described = &self.setup.machines[machine];
        let rates = described.rates(expert);
        let slow = self.sites[machine].slowdown(&self.setup.drift, self.now, &mut self.rng);
        debug_assert!(
            self.sites[machine].memory.has(expert),
            "who is given work is in memory"
        );
        self.sites[machine].memory.begins(expert);
        let who = (machine, expert);
        let job = self.sites[machine].begin(self.now, who, (rates, slow), tokens);
        let (first, done) = (job.first, job.done);
        self.jobs.insert(dispatch, job);
        self.at(first, Happening::First(dispatch));
        self.at(done, Happening::Done(dispatch));
    }

    fn done(&mut self, dispatch: DispatchId) {
        let Some(job) = self.jobs.remove(&dispatch) else {
            return;
        };
        let site = &mut self.sites[job.machine];
        site.end(self.now, &job);
        if site.memory.ends(&job.expert) {
            self.at(self.now, Happening::Settle(job.machine));
        }
        let machine = &self.setup.machines[job.machine];
        let usage = job.usage(self.now, machine.device.idle_power.get());
        self.played.busy += usage.prefill.get() + usage.decode.get();
        let finish = if job.was_cut() {
            FinishReason::Cancelled
        } else {
            FinishReason::Stop
        };
        let frame = FromExpert::Done { finish, usage };
        self.tell(Input::Work { dispatch, frame });
    }

    fn cancel(&mut self, dispatch: DispatchId) {
        // The agent hears it at once; what it says of it comes after what is being handled.
        let now = self.now;
        if let Some(job) = self.jobs.get_mut(&dispatch) {
            job.done = job.done.min(now);
            self.at(now, Happening::Done(dispatch));
        }
    }

    fn replied(&mut self, n: usize, reply: Reply) {
        let asked = self.requests[n].at;
        let end = match reply {
            Reply::Started { .. } | Reply::Delta(_) => {
                self.first[n].get_or_insert(self.now);
                return;
            }
            Reply::Finished(answer) => {
                let answered = answer.explanation.participants.iter();
                let by = answered.rev().find(|p| p.failure.is_none());
                by.map(|p| p.expert.clone())
                    .ok_or(RefusalKind::ExpertFailed)
            }
            Reply::Refused(refusal) => Err(refusal.kind),
        };
        self.ended += 1;
        self.played.outcomes.push(Outcome {
            request: n,
            delay: self.now.seconds_since(asked),
            first_token: self.first[n].map(|at| at.seconds_since(asked)),
            end,
        });
    }
}

impl Played {
    /// Mean share of the machines that was at work.
    #[must_use]
    pub fn utilisation(&self) -> f64 {
        self.busy / self.there.max(f64::MIN_POSITIVE)
    }
}
