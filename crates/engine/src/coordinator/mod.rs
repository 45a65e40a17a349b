//! The coordinator's half: queries in, dispatches out, exactly one terminal reply for each query.
//!
//! [`Engine::handle`] takes one [`Input`] with the time it happened at and changes the state;
//! [`Engine::poll_output`] hands out what is to be done. It never waits, reads a clock or touches a
//! socket, so the simulator drives it through any order of events, and the driver in `scheduler` is
//! one loop. The file split follows the way of a query: `admit`, `route`, `dispatch`, `queue`, `moving`,
//! `hedge`, `collect`, `rounds`, `fuse`, `answer`, with `fleet`, `health`, `breaker`, `residency`, `line`, `waits`,
//! `shares`, `ledger`, `plan` and `timers` beside it.

mod admit;
mod answer;
mod board;
mod breaker;
mod calendar;
mod collect;
mod committee;
mod config;
mod contenders;
mod coverage;
mod decision;
mod dispatch;
mod fleet;
mod forecast;
mod fuse;
mod health;
mod hedge;
mod input;
mod ledger;
mod line;
mod membership;
mod moving;
mod outbox;
mod plan;
mod prices;
mod query;
mod queue;
mod record;
mod reply;
mod residency;
mod rounds;
mod route;
mod shares;
mod view;
mod waits;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use moe2_gate::Gate;
use moe2_model::{DispatchId, Event, ExpertId, Joules, QueryId, SessionId, TenantId, Time};

pub use config::{Config, Live};
pub use decision::{Decision, Grounds};
pub use health::NodeState;
pub use input::{Input, Output};
pub use ledger::{
    Account, EnergyWindow, Entry, Left, Mark, Past, Room, Settled, Span, Spending, Wall,
};
pub use outbox::{Held, Outbox, Pass, Write};
pub use plan::{
    ConstraintView, Plan, PlanLimits, PlanRequest, PlanView, PlannedExpert, Priced, TenantLimits,
};
pub use prices::{PriceView, TenantPrices};
pub use record::{Ending, QueryRecord};
pub use reply::{Answer, Refusal, Reply};
pub use residency::Residency;
pub use route::{Punctual, Terms};
pub use view::{ExpertView, FleetView, NodeView};

use crate::timers::Timers;
use coverage::Coverage;
use fleet::Fleet;
use hedge::Allowance;
use ledger::Ledger;
use plan::{Calibration, Pace};
use prices::Steering;
use query::Running;
use shares::{Kind, Shares};
use waits::Waits;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A node may have been silent for too long.
    Silence(SessionId),
    /// What a machine is to keep in memory may have changed.
    Memory(SessionId),
    /// A dispatch may be stuck.
    Stall(DispatchId),
    /// An answer should have begun.
    Tail(DispatchId),
    /// A dispatch that was told to stop has not said that it has.
    Unheard(DispatchId),
    /// A dispatch that waits has to begin now to be in time.
    Late(DispatchId),
    /// A node has been gone for long.
    Forget(SessionId),
    /// A query's time is up.
    Timeout(QueryId),
    /// The selection problem may have become another one.
    Review,
    /// The fleet has changed, and enough time has passed for a new problem.
    Settled,
}

/// A dispatch that has not had its terminal frame, also when its query is already answered.
#[derive(Debug)]
struct Open {
    query: QueryId,
    tenant: TenantId,
    expert: ExpertId,
    /// What machine it was sent to.
    kind: Kind,
    choice: bool,
    /// Bytes of prompt text, from which token counts are forecast.
    prompt_bytes: usize,
    /// Its forecast, if an early exit cancelled it.
    spared: Option<Joules>,
}

/// Every decision of the coordinator.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    gate: Gate,
    fleet: Fleet,
    ledger: Ledger,
    steering: Steering,
    coverage: Coverage,
    timers: Timers<Timer>,
    queries: HashMap<QueryId, Running>,
    open: BTreeMap<DispatchId, Open>,
    waiting: Waits,
    shares: Shares,
    hedges: Allowance,
    /// Whose work opened a breaker last, and until when that counts.
    blamed: BTreeMap<TenantId, (ExpertId, Time)>,
    next_dispatch: u64,
    generation: u64,
    calibration: Calibration,
    /// Quality that plans would have added to what was asked since memory last changed for one.
    missed: f64,
    /// The problem last handed out.
    asked_for: Option<PlanRequest>,
    pace: Pace,
    plan: Option<Arc<Plan>>,
    /// Why nothing can be booked, if that is so.
    books_closed: Option<String>,
    outputs: VecDeque<Output>,
}

impl Engine {
    /// An engine with an empty fleet.
    #[must_use]
    pub fn new(mut config: Config, gate: Gate) -> Self {
        let past = std::mem::take(&mut config.past);
        let profiles = std::mem::take(&mut config.profiles);
        let mut engine = Self {
            next_dispatch: config.first_dispatch,
            config,
            gate,
            fleet: Fleet::expecting(profiles),
            ledger: Ledger::new(past),
            steering: Steering::default(),
            coverage: Coverage::default(),
            timers: Timers::default(),
            queries: HashMap::new(),
            open: BTreeMap::new(),
            waiting: Waits::default(),
            shares: Shares::default(),
            hedges: Allowance::default(),
            blamed: BTreeMap::new(),
            generation: 0,
            calibration: Calibration::default(),
            missed: 0.0,
            asked_for: None,
            pace: Pace::default(),
            plan: None,
            books_closed: None,
            outputs: VecDeque::new(),
        };
        engine.limit_tenants(Time::ZERO);
        engine
    }

    /// The calendar's time.
    fn wall(&self, now: Time) -> Wall {
        Wall((self.config.epoch + now.as_micros()) / 1_000_000)
    }

    fn limit_tenants(&mut self, now: Time) {
        let now = self.wall(now);
        let tenants = self.config.plan.tenants.iter();
        let limits = tenants.map(|t| (&t.tenant, &t.spending));
        self.ledger.limit(now, limits);
        let tenants = &self.config.plan.tenants;
        self.steering.limit(tenants, self.config.prices);
    }

    /// Takes other tenants' budgets, which hold for queries under way too.
    fn take_tenants(&mut self, now: Time, tenants: Vec<TenantLimits>) {
        self.config.plan.tenants = tenants;
        self.limit_tenants(now);
        self.replan(now);
    }

    /// Takes other settings: budgets hold for queries under way too, time limits for those that come.
    fn take_settings(&mut self, now: Time, live: Live) {
        self.config.take(live);
        self.limit_tenants(now);
        self.replan(now);
    }

    /// Takes note of one thing that happened at `now`; `now` never goes backwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.fire_timers(now);
        match input {
            Input::Submit { query, request } => self.submit(now, query, *request),
            Input::ClientGone { query } => self.abandon(now, query),
            Input::Agent {
                session,
                node,
                message,
            } => self.agent_said(now, session, node, message),
            Input::AgentLost { session, reason } => self.agent_lost(now, session, &reason),
            Input::Work { dispatch, frame } => self.expert_said(now, dispatch, frame),
            Input::WorkLost { dispatch, reason } => {
                self.at_fault(now, dispatch);
                self.dispatch_lost(now, dispatch, &reason);
            }
            Input::Unsent { dispatch, reason } => self.dispatch_lost(now, dispatch, &reason),
            Input::Planned {
                request,
                solution,
                prices,
                took,
            } => {
                self.planned(now, *request, (*solution, &prices), took);
                self.all_freed(now);
            }
            Input::Proven { generation, cases } => self.proven(generation, cases),
            Input::PlanFailed { generation, reason } => self.plan_failed(generation, reason),
            Input::GateLoaded(gate) => self.take_gate(now, *gate),
            Input::Tenants(tenants) => self.take_tenants(now, tenants),
            Input::Settings(live) => self.take_settings(now, *live),
            Input::BooksClosed(why) => self.books_closed = why,
            Input::Tick => {}
        }
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

    /// A snapshot for people.
    #[must_use]
    pub fn view(&self, now: Time) -> FleetView {
        FleetView {
            nodes: self.fleet.view(now),
            queries: self.queries.len(),
        }
    }

    /// What a tenant has spent and reserved.
    #[must_use]
    pub fn account(&self, tenant: &TenantId) -> Account {
        self.ledger.account(tenant)
    }

    /// What is left of a tenant's limits.
    #[must_use]
    pub fn room(&self, now: Time, tenant: &TenantId) -> Room {
        self.ledger.room(self.wall(now), tenant)
    }

    /// A tenant's prices, where it has budgets on means and percentiles.
    #[must_use]
    pub fn tenant_prices(&self, tenant: &TenantId) -> TenantPrices {
        self.steering.view(tenant)
    }

    /// The query that a dispatch was sent for; nothing once it is settled.
    #[must_use]
    pub fn query_of(&self, dispatch: DispatchId) -> Option<QueryId> {
        self.open.get(&dispatch).map(|open| open.query)
    }

    /// Dispatches whose terminal frame has not come yet.
    #[must_use]
    pub fn open_dispatches(&self) -> usize {
        debug_assert_eq!(
            self.open.len() + self.waiting.len(),
            self.ledger.open(),
            "what is open or waits is reserved"
        );
        debug_assert_eq!(
            self.open.len(),
            self.shares.running(),
            "what is open is somebody's"
        );
        self.open.len()
    }

    fn fire_timers(&mut self, now: Time) {
        while let Some((due, timer)) = self.timers.pop_due(now) {
            match timer {
                // Whoever calls was late by more than an agent may be: what the agent said meanwhile
                // is still on its way.
                Timer::Silence(session) if now.since(due) > self.config.heartbeat => {
                    self.timers.arm(timer, now + self.config.heartbeat);
                    debug_assert!(self.fleet.node_of(session).is_some(), "its timer is armed");
                }
                Timer::Stall(_) | Timer::Tail(_) if now.since(due) > self.config.heartbeat => {
                    self.timers.arm(timer, now + self.config.heartbeat);
                }
                Timer::Silence(session) => self.check_silence(now, session),
                Timer::Memory(session) => {
                    if let Some(node) = self.fleet.node_of(session).cloned() {
                        self.settle_memory(now, &node);
                    }
                }
                Timer::Stall(dispatch) => self.check_stall(now, dispatch),
                Timer::Unheard(dispatch) => {
                    self.blame(now, dispatch);
                    self.dispatch_lost(now, dispatch, "it did not stop when it was told to");
                }
                Timer::Tail(dispatch) => self.hedge(now, dispatch),
                Timer::Late(dispatch) => self.too_late(now, dispatch),
                Timer::Forget(session) => self.forget(session),
                Timer::Timeout(query) => self.time_out(now, query),
                Timer::Review => self.review(now),
                Timer::Settled => self.ask(now),
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}
