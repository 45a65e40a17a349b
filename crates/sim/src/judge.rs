//! The promises, and books kept apart from the engines' own.
//!
//! Every input to the coordinator and every output of it passes here. The judge never asks an engine
//! what it thinks, except to compare: open dispatches, accounts and deadlines after every step, and what is
//! left of windows after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moe2_engine::coordinator::{Answer, Decision, Engine, QueryRecord, Refusal, Reply, Settled};
use moe2_model::{
    Budgets, DispatchId, ExpertId, FinishReason, Joules, NodeId, Query, QueryId, RefusalKind,
    SessionId, Target, Task, TenantId, Time, Usage,
};
use moe2_wire::{FromExpert, ToExpert};

use crate::books::Ledger;
use crate::clients::{asked_by, tenants};
use crate::coordinator::QUERY_TIMEOUT;
use crate::disk::Disk;
use crate::report::{Report, Violation};
use crate::worker::token;

/// A run is over after this many violations: more say nothing new.
const ENOUGH: usize = 8;
/// Silence after which nothing more is sent: 1.25 s, or up to twice that where links are restless.
const DISTRUST: Duration = Duration::from_millis(2_600);
/// Silence after which a session must have been given up: 2.2 s, or up to twice that where links are restless.
const SILENCE: Duration = Duration::from_secs(5);
/// A timer may fire so much late, because something else was due at the same moment.
const LATE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Client {
    query: Query,
    /// Its terminal reply has left the engine.
    ended: bool,
    /// And has reached it.
    told: bool,
    left: bool,
    /// Its coordinator died.
    cut_off: bool,
    started: bool,
    /// An agent lied about its work.
    lied: bool,
    deltas: String,
    tried: BTreeSet<ExpertId>,
    /// Asked to score answers.
    scoring: BTreeSet<ExpertId>,
    /// How it went was told.
    recorded: bool,
    /// What was sent for it.
    dispatches: Vec<DispatchId>,
    /// What of that was settled when its answer was given out.
    settled: Vec<DispatchId>,
}

impl Client {
    /// Whether the engine has nothing more to say to it.
    fn is_over(&self) -> bool {
        self.ended || self.left || self.cut_off
    }
}

#[derive(Debug)]
struct Open {
    query: QueryId,
    session: SessionId,
    cancelled: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Judge {
    seed: u64,
    pub(crate) now: Time,
    /// What the coordinator's clock says.
    pub(crate) local: Time,
    pub(crate) report: Report,
    clients: BTreeMap<QueryId, Client>,
    /// Clients that wait, with when they came by the coordinator's clock.
    waiting: BTreeMap<QueryId, Time>,
    open: BTreeMap<DispatchId, Open>,
    /// Numbers that were given, and for which query.
    used: BTreeMap<DispatchId, Option<QueryId>>,
    /// What experts said of each, and whether they ended it well.
    said: BTreeMap<DispatchId, (String, bool)>,
    /// With when each was last heard of, by the coordinator's clock.
    sessions: BTreeMap<SessionId, Time>,
    pub(crate) ledger: Ledger,
    active: BTreeSet<ExpertId>,
    /// Sent to who was not active before this step.
    doubtful: Vec<(QueryId, ExpertId)>,
}

impl Judge {
    pub(crate) fn new(seed: u64, window: Option<f64>) -> Self {
        Self {
            seed,
            ledger: Ledger::new(window),
            ..Self::default()
        }
    }

    pub(crate) fn blame(&mut self, promise: &'static str, what: String) {
        self.report.violations.push(Violation {
            seed: self.seed,
            time: self.now,
            promise,
            what,
        });
    }

    pub(crate) fn demand(
        &mut self,
        kept: bool,
        promise: &'static str,
        what: impl FnOnce() -> String,
    ) {
        if !kept {
            self.blame(promise, what());
        }
    }

    pub(crate) fn has_seen_enough(&self) -> bool {
        self.report.violations.len() >= ENOUGH
    }

    /// Whether every client has its one outcome.
    pub(crate) fn all_over(&self) -> bool {
        let over = |client: &Client| client.told || client.left || client.cut_off;
        self.clients.values().all(over)
    }

    pub(crate) fn is_over(&self, id: QueryId) -> bool {
        self.clients.get(&id).is_some_and(Client::is_over)
    }

    pub(crate) fn target(&self, id: QueryId) -> Option<&Target> {
        self.clients.get(&id).map(|client| &client.query.target)
    }

    pub(crate) fn query_of(&self, dispatch: DispatchId) -> Option<QueryId> {
        self.used.get(&dispatch).copied().flatten()
    }

    pub(crate) fn open_on(&self, session: SessionId) -> Vec<DispatchId> {
        let open = self.open.iter().filter(|(_, o)| o.session == session);
        open.map(|(dispatch, _)| *dispatch).collect()
    }

    pub(crate) fn submitted(&mut self, id: QueryId, query: &Query) {
        self.report.queries += 1;
        let client = Client {
            query: query.clone(),
            ended: false,
            told: false,
            left: false,
            cut_off: false,
            started: false,
            lied: false,
            deltas: String::new(),
            tried: BTreeSet::new(),
            scoring: BTreeSet::new(),
            recorded: false,
            dispatches: Vec::new(),
            settled: Vec::new(),
        };
        self.clients.insert(id, client);
        self.waiting.insert(id, self.local);
    }

    pub(crate) fn client_gone(&mut self, id: QueryId) {
        self.waiting.remove(&id);
        if let Some(client) = self.clients.get_mut(&id)
            && !client.told
            && !client.left
            && !client.cut_off
        {
            client.left = true;
            self.report.abandoned += 1;
        }
    }

    /// Its coordinator is gone: clients see their connections break, and work is everybody's own.
    pub(crate) fn coordinator_died(&mut self) {
        for client in self.clients.values_mut() {
            if !client.told && !client.left && !client.cut_off {
                client.cut_off = true;
                self.report.cut_off += 1;
            }
        }
        self.waiting.clear();
        self.open.clear();
        self.sessions.clear();
        self.active.clear();
        self.ledger.died();
    }

    pub(crate) fn session_began(&mut self, session: SessionId, node: Option<&NodeId>) {
        self.sessions.insert(session, self.local);
        // Who comes anew is not active before a plan has it.
        self.active.retain(|expert| Some(&expert.node) != node);
    }

    pub(crate) fn heard(&mut self, session: SessionId) {
        let local = self.local;
        if let Some(heard) = self.sessions.get_mut(&session) {
            *heard = local;
        }
    }

    /// Whoever stood still itself has heard nobody meanwhile.
    pub(crate) fn coordinator_woke(&mut self) {
        let local = self.local;
        self.sessions.values_mut().for_each(|heard| *heard = local);
    }

    /// Sessions that have been silent for longer.
    pub(crate) fn silent(&self, than: Duration) -> Vec<SessionId> {
        let silent = self.sessions.iter();
        let silent = silent.filter(|(_, heard)| self.local.since(**heard) > than);
        silent.map(|(session, _)| *session).collect()
    }

    /// Work of a session that ended is settled with nothing.
    pub(crate) fn session_ended(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        for dispatch in self.open_on(session) {
            self.ledger.lost(dispatch);
        }
        self.open.retain(|_, open| open.session != session);
    }

    pub(crate) fn stream_lost(&mut self, dispatch: DispatchId) {
        if self.open.remove(&dispatch).is_some() {
            self.ledger.lost(dispatch);
        }
    }

    /// A dispatch that waited for the books and never left.
    pub(crate) fn never_left(&mut self, dispatch: DispatchId) {
        self.cancelled(dispatch);
    }

    pub(crate) fn cancelled(&mut self, dispatch: DispatchId) {
        if let Some(open) = self.open.get_mut(&dispatch) {
            open.cancelled = true;
        }
    }

    pub(crate) fn lied_about(&mut self, dispatch: DispatchId) {
        let query = self.query_of(dispatch);
        if let Some(client) = query.and_then(|query| self.clients.get_mut(&query)) {
            client.lied = true;
        }
    }

    /// These are active from now on.
    pub(crate) fn active_set(&mut self, active: BTreeSet<ExpertId>) {
        self.active = active;
        for (query, expert) in std::mem::take(&mut self.doubtful) {
            let active = self.active.contains(&expert);
            self.demand(active, "only active experts are asked", || {
                format!("query {query} goes to {expert}, which is not in the active set")
            });
        }
    }

    /// The coordinator wants an expert to work, as soon as its books allow.
    pub(crate) fn dispatched(
        &mut self,
        dispatch: DispatchId,
        (session, node): (SessionId, Option<NodeId>),
        work: &ToExpert,
    ) {
        self.report.dispatches += 1;
        let fresh = self.used.insert(dispatch, None).is_none();
        self.demand(fresh, "a dispatch has one number, and is sent once", || {
            format!("dispatch {dispatch} is used twice")
        });
        let current = self.sessions.contains_key(&session);
        self.demand(current, "work goes to agents that are there", || {
            format!("dispatch {dispatch} to session {session}, which is over")
        });
        let silent = self.silent(DISTRUST).contains(&session);
        self.demand(!silent, "a silent agent gets no work", || {
            format!("dispatch {dispatch} to session {session}")
        });
        let ToExpert::Work {
            expert,
            prompt,
            task,
            ..
        } = work
        else {
            self.blame(
                "a dispatch carries work",
                format!("dispatch {dispatch} carries none"),
            );
            return;
        };
        let (Some(query), Some(node)) = (asked_by(prompt), node) else {
            self.blame(
                "work goes to agents that are there",
                format!("dispatch {dispatch} for nobody, or to nobody"),
            );
            return;
        };
        let expert = ExpertId {
            name: expert.clone(),
            node,
        };
        self.open.insert(
            dispatch,
            Open {
                query,
                session,
                cancelled: false,
            },
        );
        self.asked((query, dispatch), expert, task);
    }

    fn asked(&mut self, (query, dispatch): (QueryId, DispatchId), expert: ExpertId, task: &Task) {
        let Some(client) = self.clients.get_mut(&query) else {
            return;
        };
        client.dispatches.push(dispatch);
        self.used.insert(dispatch, Some(query));
        let wanted = client.query.target.admits(&expert);
        let waiting = !client.is_over() && !client.started;
        // A choice among answers that is not the query's own is a round of scoring.
        let scoring = matches!(task, Task::Choice { .. }) && *task != client.query.task;
        let fresh = if scoring {
            let answered = client.tried.contains(&expert);
            answered && client.scoring.insert(expert.clone())
        } else {
            client.tried.insert(expert.clone())
        };
        // Whoever has answered scores, active or not any more.
        let auto = client.query.target == Target::Auto && !scoring;
        if auto && !self.active.contains(&expert) {
            self.doubtful.push((query, expert.clone()));
        }
        self.demand(wanted, "only whom a query admits is asked", || {
            format!("query {query} does not admit {expert}")
        });
        self.demand(waiting, "nobody works for nobody", || {
            format!("query {query} needs no dispatch to {expert}")
        });
        self.demand(fresh, "an expert is asked once", || {
            format!("query {query} asks {expert} again, or for scores of answers it did not try")
        });
    }

    /// A dispatch leaves for its agent.
    pub(crate) fn left(&mut self, dispatch: DispatchId, disk: &Disk) {
        if let Some(what) = self.ledger.left(dispatch, disk) {
            self.blame("work leaves after its mark is on disk", what);
        }
    }

    /// A frame that the coordinator receives; the first terminal one of each dispatch is billed.
    pub(crate) fn framed(&mut self, dispatch: DispatchId, frame: &FromExpert) {
        let Some(session) = self.open.get(&dispatch).map(|open| open.session) else {
            return;
        };
        self.heard(session);
        let said = self.said.entry(dispatch).or_default();
        let usage: Option<Usage> = match frame {
            FromExpert::Done { usage, .. } => {
                said.1 = true;
                Some(*usage)
            }
            FromExpert::Failed { usage, .. } => *usage,
            FromExpert::Text(text) => {
                said.0.push_str(text);
                return;
            }
            FromExpert::Options(_) => return,
        };
        self.open.remove(&dispatch);
        let energy = usage.map_or(0.0, |usage| usage.energy.get());
        self.ledger.used(dispatch, energy);
    }

    pub(crate) fn reserved(
        &mut self,
        dispatch: DispatchId,
        tenant: &TenantId,
        bound: Joules,
        minute: u64,
    ) {
        if let Some(what) = self.ledger.reserve(dispatch, tenant, bound.get(), minute) {
            self.blame("a window is never overdrawn", what);
        }
    }

    /// Work that never left the coordinator gives back all that was set aside for it.
    pub(crate) fn released(&mut self, dispatch: DispatchId) {
        let sent = self.used.contains_key(&dispatch);
        self.demand(!sent, "what was sent is settled", || {
            format!("dispatch {dispatch} was sent, and given back")
        });
        let once = self.ledger.release(dispatch);
        self.demand(once, "a dispatch is settled once", || {
            format!("dispatch {dispatch} is given back, and was not reserved")
        });
    }

    /// A dispatch is settled, mostly because of what its agent said or because that is gone.
    pub(crate) fn settled(&mut self, settled: &Settled) {
        let dispatch = settled.dispatch;
        if let Some(open) = self.open.remove(&dispatch) {
            // Nothing came: only a dispatch that was told to stop may be given up so.
            let given_up = open.cancelled && settled.usage.is_none();
            self.demand(given_up, "work is settled by what is said of it", || {
                format!("dispatch {dispatch} is settled, and nobody said anything of it")
            });
            self.ledger.lost(dispatch);
        }
        if let Some(what) = self.ledger.settle(settled) {
            self.blame("a settlement is what was reported, once", what);
        }
    }

    /// A reply as the engine gives it out.
    pub(crate) fn replied(&mut self, id: QueryId, reply: &Reply) {
        let Some(client) = self.clients.get_mut(&id) else {
            self.blame(
                "only who asked is told",
                format!("a reply to unknown query {id}"),
            );
            return;
        };
        let recorded = client.recorded || !reply.is_terminal();
        if client.is_over() {
            let when = if client.ended {
                "its terminal reply"
            } else {
                "its client left"
            };
            self.blame(
                "nothing follows a query's end",
                format!("query {id}: a reply after {when}"),
            );
            return;
        }
        self.demand(recorded, "how a query went is told before its end", || {
            format!("query {id}: ended without a record")
        });
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let (streamed, started) = (client.query.stream, client.started);
        match reply {
            Reply::Started { .. } => {
                client.started = true;
                self.demand(streamed && !started, "a stream starts once", || {
                    format!("query {id}: started in vain")
                });
            }
            Reply::Delta(text) => {
                client.deltas.push_str(text);
                self.demand(started, "a stream starts before its text", || {
                    format!("query {id}: a delta before its start")
                });
            }
            Reply::Finished(answer) => {
                client.ended = true;
                let settled = client.dispatches.iter().copied();
                client.settled = settled.filter(|d| self.ledger.is_settled(*d)).collect();
                self.waiting.remove(&id);
                self.finished(id, answer);
            }
            Reply::Refused(refusal) => {
                client.ended = true;
                self.waiting.remove(&id);
                self.refused(id, refusal);
            }
        }
    }

    /// A terminal reply reaches its client, if that is still there.
    pub(crate) fn told(&mut self, id: QueryId, reply: &Reply, (disk, closed): (&Disk, bool)) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if client.left || client.cut_off || client.told {
            return;
        }
        client.told = true;
        match reply {
            Reply::Finished(answer) => {
                self.report.answered += 1;
                self.report.redispatches += u64::from(answer.explanation.redispatches);
                let mut settled = client.settled.iter();
                let unwritten = settled.find(|d| !disk.has(**d)).copied();
                self.demand(
                    unwritten.is_none() || closed,
                    "an answer ends after its settlements are on disk",
                    || format!("query {id}: dispatch {unwritten:?} is not"),
                );
            }
            Reply::Refused(refusal) => {
                let kind = refusal.kind.as_str();
                *self.report.refused.entry(kind).or_default() += 1;
            }
            Reply::Started { .. } | Reply::Delta(_) => {}
        }
    }

    /// How a query went is told once, before its end, and every choice follows from what is told of it.
    pub(crate) fn recorded(&mut self, record: &QueryRecord) {
        let id = record.query;
        let Some(client) = self.clients.get_mut(&id) else {
            self.blame(
                "only who asked is told",
                format!("query {id}: a record of what nobody asked"),
            );
            return;
        };
        let first = !std::mem::replace(&mut client.recorded, true) && !client.ended;
        self.demand(first, "how a query went is told once", || {
            format!("query {id}: its record came twice or late")
        });
        let same = |decision: &Decision| decision.replay() == decision.candidates;
        let replayed = record.decisions.iter().all(same);
        self.demand(replayed, "a choice follows from its grounds", || {
            format!("query {id}: a choice is not what its grounds give")
        });
    }

    fn finished(&mut self, id: QueryId, answer: &Answer) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let text = answer.text.clone();
        let by_one = |d: &DispatchId| {
            self.said
                .get(d)
                .is_some_and(|(said, well)| *well && *said == text)
        };
        let whole = match &client.query.task {
            Task::Choice { options } if client.lied => options.contains(&text),
            Task::Choice { options } => options.first() == Some(&text),
            Task::Generate(_) => {
                let honest: String = (0..answer.output_tokens.min(64)).map(token).collect();
                client.dispatches.iter().any(by_one) && (client.lied || text == honest)
            }
        };
        let query = &client.query;
        let streamed = !query.stream || client.deltas == answer.text;
        let participants = || answer.explanation.participants.iter();
        let welcome = participants()
            .all(|p| query.target.admits(&p.expert) && client.tried.contains(&p.expert));
        let weight: f64 = participants().map(|p| p.weight).sum();
        self.demand(streamed, "what was streamed is the answer", || {
            format!("query {id}: the deltas are not the answer {text:?}")
        });
        self.demand(whole, "an answer is what experts said", || {
            format!("query {id}: {text:?} is not")
        });
        self.demand(welcome, "only whom a query admits is asked", || {
            format!("query {id}: an unwelcome participant")
        });
        self.demand((weight - 1.0).abs() < 1e-9, "weights sum to one", || {
            format!("query {id}: weights sum to {weight}")
        });
        let complete = answer.finish != FinishReason::Cancelled;
        self.demand(complete, "no answer is cut short", || {
            format!("query {id}: a cancelled answer is given out")
        });
    }

    fn refused(&mut self, id: QueryId, refusal: &Refusal) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let (budgets, started) = (client.query.budgets, client.started);
        let sane = match refusal.kind {
            RefusalKind::BudgetInfeasible => {
                let more = |smallest: Option<f64>, budget: Option<f64>| match (smallest, budget) {
                    (Some(smallest), Some(budget)) => smallest > budget,
                    (Some(_), None) => false,
                    (None, _) => true,
                };
                let amounts = |b: &Budgets| {
                    let seconds = [b.delay, b.first_token].map(|s| s.map(|s| s.get()));
                    [seconds[0], seconds[1], b.energy.map(|e| e.get())]
                };
                let smallest = amounts(&refusal.smallest);
                let pairs = smallest.into_iter().zip(amounts(&budgets));
                smallest != [None; 3] && { pairs }.all(|(smallest, budget)| more(smallest, budget))
            }
            RefusalKind::LostMidStream => started,
            _ => true,
        };
        self.demand(sane, "a refusal says what would help", || {
            format!("query {id}: {budgets:?} refused with {refusal:?}")
        });
    }

    /// After each step, while the coordinator does not stand still: the engine's books are ours, nobody
    /// works for nobody, and what was to happen by now has.
    pub(crate) fn compare(&mut self, engine: &Engine) {
        let open = self.open.len();
        let theirs = engine.open_dispatches();
        self.demand(
            open == theirs,
            "what is sent is open until it is settled",
            || format!("{open} dispatches are open, the engine has {theirs}"),
        );
        let in_vain = self.open.iter().find(|(_, open)| {
            let over = || self.clients.get(&open.query).is_some_and(Client::is_over);
            !open.cancelled && over()
        });
        if let Some((dispatch, open)) = in_vain {
            let query = open.query;
            let what = format!("query {query} is over and dispatch {dispatch} not cancelled");
            self.blame("nobody works for nobody", what);
        }
        for tenant in tenants() {
            if let Some(what) = self.ledger.differs(&tenant, engine.account(&tenant)) {
                self.blame("the ledger is the sum of its entries", what);
            }
        }
        let deadline = engine
            .next_deadline()
            .filter(|due| *due + LATE < self.local);
        self.demand(deadline.is_none(), "timers fire when they are due", || {
            format!("one was due at {deadline:?}")
        });
        let overdue = self.waiting.first_key_value();
        let overdue = overdue.filter(|(_, came)| self.local.since(**came) > QUERY_TIMEOUT + LATE);
        let overdue = overdue.map(|(query, _)| *query);
        self.demand(
            overdue.is_none(),
            "no query takes longer than it may",
            || format!("query {overdue:?}"),
        );
        let silent = self.silent(SILENCE);
        self.demand(silent.is_empty(), "a silent agent is given up", || {
            format!("sessions {silent:?}")
        });
        // No new plan came with the step.
        for (query, expert) in std::mem::take(&mut self.doubtful) {
            self.blame(
                "only active experts are asked",
                format!("query {query} goes to {expert}, which is not in the active set"),
            );
        }
    }

    /// A coordinator that has just been started again charges what was under way when the last one died.
    pub(crate) fn compare_windows(&mut self, minute: u64, left: impl Fn(&TenantId) -> Option<f64>) {
        for tenant in tenants() {
            if let Some(what) = self.ledger.overlooked(&tenant, minute, left(&tenant)) {
                self.blame("a restart accounts for what was under way", what);
            }
        }
    }
}
