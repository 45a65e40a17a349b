//! The promises, and books kept apart from the engines' own.
//!
//! Every input to the coordinator and every output of it passes here. The judge never asks an engine
//! what it thinks, except to compare: open dispatches after every step, accounts at the end.

use std::collections::{BTreeMap, BTreeSet};

use moe2_engine::coordinator::{Account, Answer, Decision, QueryRecord, Refusal, Reply};
use moe2_model::{
    Budgets, DispatchId, ExpertId, FinishReason, Joules, NodeId, Query, QueryId, RefusalKind,
    SessionId, Task, TenantId, Time, Usage,
};
use moe2_wire::{FromExpert, ToExpert};

use crate::clients::{TENANTS, asked_by};
use crate::report::{Report, Violation};
use crate::worker::token;

/// A run is over after this many violations: more say nothing new.
const ENOUGH: usize = 8;
/// Joules by which sums in another order may differ.
const JOULES_TOLERANCE: f64 = 1e-6;

#[derive(Debug)]
struct Client {
    query: Query,
    ended: bool,
    left: bool,
    started: bool,
    deltas: String,
    tried: BTreeSet<ExpertId>,
    /// Asked to score answers.
    scoring: BTreeSet<ExpertId>,
    /// How it went was told.
    recorded: bool,
}

impl Client {
    fn is_over(&self) -> bool {
        self.ended || self.left
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
    pub(crate) report: Report,
    clients: BTreeMap<QueryId, Client>,
    open: BTreeMap<DispatchId, Open>,
    used: BTreeSet<DispatchId>,
    sessions: BTreeSet<SessionId>,
    spent: BTreeMap<TenantId, f64>,
    /// Joules that each tenant has for a minute.
    window: Option<f64>,
    charges: BTreeMap<DispatchId, Charge>,
}

/// What a dispatch takes from its tenant's window.
#[derive(Debug)]
struct Charge {
    tenant: TenantId,
    minute: u64,
    bound: f64,
    /// The bound until it is known what was used.
    joules: f64,
}

impl Judge {
    pub(crate) fn new(seed: u64, window: Option<f64>) -> Self {
        Self {
            seed,
            window,
            ..Self::default()
        }
    }

    pub(crate) fn blame(&mut self, what: String) {
        self.report.violations.push(Violation {
            seed: self.seed,
            time: self.now,
            what,
        });
    }

    fn demand(&mut self, kept: bool, what: impl FnOnce() -> String) {
        if !kept {
            self.blame(what());
        }
    }

    pub(crate) fn has_seen_enough(&self) -> bool {
        self.report.violations.len() >= ENOUGH
    }

    pub(crate) fn all_over(&self) -> bool {
        self.clients.values().all(Client::is_over)
    }

    pub(crate) fn is_over(&self, id: QueryId) -> bool {
        self.clients.get(&id).is_some_and(Client::is_over)
    }

    pub(crate) fn open_on(&self, session: SessionId) -> Vec<DispatchId> {
        self.open
            .iter()
            .filter(|(_, open)| open.session == session)
            .map(|(dispatch, _)| *dispatch)
            .collect()
    }

    pub(crate) fn submitted(&mut self, id: QueryId, query: &Query) {
        self.report.queries += 1;
        let client = Client {
            query: query.clone(),
            ended: false,
            left: false,
            started: false,
            deltas: String::new(),
            tried: BTreeSet::new(),
            scoring: BTreeSet::new(),
            recorded: false,
        };
        self.clients.insert(id, client);
    }

    pub(crate) fn client_gone(&mut self, id: QueryId) {
        if let Some(client) = self.clients.get_mut(&id)
            && !client.is_over()
        {
            client.left = true;
            self.report.abandoned += 1;
        }
    }

    pub(crate) fn session_began(&mut self, session: SessionId) {
        self.sessions.insert(session);
    }

    /// Work of a session that ended is settled with nothing.
    pub(crate) fn session_ended(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        for dispatch in self.open_on(session) {
            self.charged(dispatch, 0.0);
        }
        self.open.retain(|_, open| open.session != session);
    }

    pub(crate) fn stream_lost(&mut self, dispatch: DispatchId) {
        if self.open.remove(&dispatch).is_some() {
            self.charged(dispatch, 0.0);
        }
    }

    /// Set aside for a dispatch. With it the tenant's window holds no more than it may, but for what
    /// dispatches used beyond their own bounds.
    pub(crate) fn reserved(&mut self, dispatch: DispatchId, tenant: &TenantId, bound: Joules) {
        let minute = self.now.as_micros() / 60_000_000;
        let charge = Charge {
            tenant: tenant.clone(),
            minute,
            bound: bound.get(),
            joules: bound.get(),
        };
        self.charges.insert(dispatch, charge);
        let Some(limit) = self.window else { return };
        let of = |c: &&Charge| c.tenant == *tenant && c.minute == minute;
        let held: f64 = self.charges.values().filter(of).map(|c| c.joules).sum();
        let beyond = |c: &Charge| (c.joules - c.bound).max(0.0);
        let beyond: f64 = self.charges.values().filter(of).map(beyond).sum();
        self.demand(held <= limit + beyond + JOULES_TOLERANCE, || {
            format!("{tenant} holds {held} J of {limit} J in minute {minute}")
        });
    }

    /// Work that never left the coordinator gives back all that was set aside for it.
    pub(crate) fn released(&mut self, dispatch: DispatchId) {
        let sent = self.used.contains(&dispatch);
        self.demand(!sent, || {
            format!("dispatch {dispatch} was sent, and given back")
        });
        self.charged(dispatch, 0.0);
    }

    /// It is known what a dispatch used.
    fn charged(&mut self, dispatch: DispatchId, joules: f64) {
        if let Some(charge) = self.charges.get_mut(&dispatch) {
            charge.joules = joules;
        }
    }

    pub(crate) fn cancelled(&mut self, dispatch: DispatchId) {
        if let Some(open) = self.open.get_mut(&dispatch) {
            open.cancelled = true;
        }
    }

    pub(crate) fn dispatched(
        &mut self,
        dispatch: DispatchId,
        to: (SessionId, Option<NodeId>),
        work: &ToExpert,
    ) {
        let (session, node) = to;
        self.report.dispatches += 1;
        let fresh = self.used.insert(dispatch);
        self.demand(fresh, || format!("dispatch {dispatch} is used twice"));
        let current = self.sessions.contains(&session);
        self.demand(current, || {
            format!("dispatch {dispatch} to session {session}, which is over")
        });
        let ToExpert::Work {
            expert,
            prompt,
            task,
            ..
        } = work
        else {
            self.blame(format!("dispatch {dispatch} carries no work"));
            return;
        };
        let (Some(query), Some(node)) = (asked_by(prompt), node) else {
            self.blame(format!("dispatch {dispatch} for nobody, or to nobody"));
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
        let Some(client) = self.clients.get_mut(&query) else {
            return;
        };
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
        self.demand(wanted, || format!("query {query} does not admit {expert}"));
        self.demand(waiting, || {
            format!("query {query} needs no dispatch to {expert}")
        });
        self.demand(fresh, || {
            format!("query {query} asks {expert} again, or for scores of answers it did not try")
        });
    }

    /// A frame that the coordinator receives; the first terminal one of each dispatch is billed.
    pub(crate) fn framed(&mut self, dispatch: DispatchId, frame: &FromExpert) {
        if !frame.is_terminal() {
            return;
        }
        let Some(open) = self.open.remove(&dispatch) else {
            return;
        };
        let usage: Option<Usage> = match frame {
            FromExpert::Done { usage, .. } => Some(*usage),
            FromExpert::Failed { usage, .. } => *usage,
            FromExpert::Text(_) | FromExpert::Options(_) => None,
        };
        self.charged(dispatch, usage.map_or(0.0, |usage| usage.energy.get()));
        if let (Some(usage), Some(client)) = (usage, self.clients.get(&open.query)) {
            let tenant = client.query.tenant.clone();
            *self.spent.entry(tenant).or_default() += usage.energy.get();
        }
    }

    pub(crate) fn replied(&mut self, id: QueryId, reply: &Reply) {
        let Some(client) = self.clients.get_mut(&id) else {
            self.blame(format!("a reply to unknown query {id}"));
            return;
        };
        let recorded = client.recorded || !reply.is_terminal();
        if client.is_over() {
            let when = if client.left {
                "its client left"
            } else {
                "its terminal reply"
            };
            self.blame(format!("query {id}: a reply after {when}"));
            return;
        }
        self.demand(recorded, || format!("query {id}: ended without a record"));
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let (streamed, started) = (client.query.stream, client.started);
        match reply {
            Reply::Started { .. } => {
                client.started = true;
                self.demand(streamed && !started, || {
                    format!("query {id}: started in vain")
                });
            }
            Reply::Delta(text) => {
                client.deltas.push_str(text);
                self.demand(started, || format!("query {id}: a delta before its start"));
            }
            Reply::Finished(answer) => {
                client.ended = true;
                self.report.answered += 1;
                self.report.redispatches += u64::from(answer.explanation.redispatches);
                self.finished(id, answer);
            }
            Reply::Refused(refusal) => {
                client.ended = true;
                *self
                    .report
                    .refused
                    .entry(refusal.kind.as_str())
                    .or_default() += 1;
                self.refused(id, refusal);
            }
        }
    }

    /// How a query went is told once, before its end, and every choice follows from what is told of it.
    pub(crate) fn recorded(&mut self, record: &QueryRecord) {
        let id = record.query;
        let Some(client) = self.clients.get_mut(&id) else {
            self.blame(format!("query {id}: a record of what nobody asked"));
            return;
        };
        let first = !std::mem::replace(&mut client.recorded, true) && !client.ended;
        self.demand(first, || {
            format!("query {id}: its record came twice or late")
        });
        let same = |decision: &Decision| decision.replay() == decision.candidates;
        let replayed = record.decisions.iter().all(same);
        self.demand(replayed, || {
            format!("query {id}: a choice is not what its grounds give")
        });
    }

    fn finished(&mut self, id: QueryId, answer: &Answer) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let whole: String = match &client.query.task {
            Task::Choice { options } => options.first().cloned().unwrap_or_default(),
            Task::Generate(_) => (0..answer.output_tokens).map(token).collect(),
        };
        let query = &client.query;
        let streamed = !query.stream || client.deltas == answer.text;
        let welcome = answer
            .explanation
            .participants
            .iter()
            .all(|p| query.target.admits(&p.expert) && client.tried.contains(&p.expert));
        let weight: f64 = answer
            .explanation
            .participants
            .iter()
            .map(|p| p.weight)
            .sum();
        let text = answer.text.clone();
        self.demand(streamed, || {
            format!("query {id}: the deltas are not the answer {text:?}")
        });
        self.demand(text == whole, || {
            format!("query {id}: {text:?} is not what experts said")
        });
        self.demand(welcome, || format!("query {id}: an unwelcome participant"));
        self.demand((weight - 1.0).abs() < 1e-9, || {
            format!("query {id}: weights sum to {weight}")
        });
        let complete = answer.finish != FinishReason::Cancelled;
        self.demand(complete, || {
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
        self.demand(sane, || {
            format!("query {id}: {budgets:?} refused with {refusal:?}")
        });
    }

    /// After each step: the engine's open dispatches are ours, and nobody works for nobody.
    pub(crate) fn compare(&mut self, open_dispatches: usize) {
        let open = self.open.len();
        self.demand(open == open_dispatches, || {
            format!("{open} dispatches are open, the engine has {open_dispatches}")
        });
        let in_vain: Vec<(DispatchId, QueryId)> = self
            .open
            .iter()
            .filter(|(_, open)| !open.cancelled)
            .filter(|(_, open)| self.clients.get(&open.query).is_some_and(Client::is_over))
            .map(|(dispatch, open)| (*dispatch, open.query))
            .collect();
        for (dispatch, query) in in_vain {
            self.blame(format!(
                "query {query} is over and dispatch {dispatch} not cancelled"
            ));
        }
    }

    /// After everything: the books agree.
    pub(crate) fn close_books(&mut self, account: impl Fn(&TenantId) -> Account) {
        for name in TENANTS {
            let tenant = TenantId::new(name).expect("a literal name is valid");
            let ours = self.spent.get(&tenant).copied().unwrap_or(0.0);
            let theirs = account(&tenant);
            let reserved = theirs.reserved.get();
            let spent = theirs.spent.get();
            self.demand(reserved < JOULES_TOLERANCE, || {
                format!("{name}: {reserved} J reserved")
            });
            self.demand((spent - ours).abs() < JOULES_TOLERANCE, || {
                format!("{name}: {spent} J billed, {ours} J reported")
            });
        }
    }
}
