//! Work that waits here for a place at its node: sent when its turn comes, moved when its node falls out,
//! refused as soon as it can no longer be in time.
//!
//! Agents are sent no more than they can begin with. What waits, waits here, where tenants take turns
//! ([`super::line`]), where work whose answer is not needed any more costs nothing, and where another
//! expert can still be asked.

use moe2_model::{
    DispatchId, ExpertName, Forecast, Job, NodeId, QueryId, RefusalKind, Seconds, Target, TenantId,
    Time, Verdict,
};

use super::collect::plain;
use super::fleet::Node;
use super::line::{Held, Waiting};
use super::query::Running;
use super::reply::Refusal;
use super::waits::Wait;
use super::{Engine, Output, Timer};

/// Queries under way that a tenant of weight 1 may have for each that could still be taken. The more are
/// under way, the fewer anyone may have, so that nobody takes the last places (Choudhury and Hahne, "Dynamic
/// queue length thresholds for shared-memory packet switches", 1998); alone a tenant gets 8 in 9.
const PER_FREE_PLACE: f64 = 8.0;

impl Engine {
    /// Why nothing more is taken now, from this tenant at least.
    pub(super) fn crowded(&self, tenant: &TenantId) -> Option<String> {
        let (all, most) = (self.queries.len(), self.config.max_queries);
        if all >= most {
            return Some(format!("{all} queries are under way; try again"));
        }
        let own = self.ledger.under_way(tenant);
        let share = PER_FREE_PLACE * self.weight(tenant) * (most - all) as f64;
        (f64::from(own) >= share.max(1.0)).then(|| {
            format!(
                "{own} of this tenant's queries are under way, of {all} in all, and the last of the {most} places are kept for others; try again"
            )
        })
    }

    /// How much a tenant's work counts against others'.
    pub(super) fn weight(&self, tenant: &TenantId) -> f64 {
        self.config.plan.tenant(tenant).map_or(1.0, |t| t.weight)
    }

    /// Whether a tenant has answers late rather than not at all.
    pub(super) fn prefers_late(&self, tenant: &TenantId) -> bool {
        let limits = self.config.plan.tenant(tenant);
        limits.is_some_and(|limits| limits.late)
    }

    /// Sends a node as much as it can begin with.
    pub(super) fn pump(&mut self, now: Time, node: &NodeId) {
        while self.fleet.node(node).is_some_and(Node::could_begin) {
            let held = self.held_at(now, node);
            let job = self.fleet.next_job(node, held);
            // It was asked, whether it could make use of the place or not.
            self.fleet.with(node, |known| known.lent = false);
            let Some(job) = job else {
                return;
            };
            self.send(now, node, job);
        }
    }

    /// Tenants whose work waits, and that have as much as they may on machines like a node.
    pub(super) fn held_at(&self, now: Time, node: &NodeId) -> Held {
        let Some(node) = self.fleet.node(node) else {
            return Held::new();
        };
        let places = self.fleet.places(&node.kind);
        self.shares.held(now, (&node.kind, places))
    }

    /// Takes work out of its line and gives back what was reserved for it. Nothing if it does not wait.
    pub(super) fn unqueue(&mut self, now: Time, dispatch: DispatchId) -> Option<Waiting> {
        let wait = self.stops_waiting(now, dispatch)?;
        let wall = self.wall(now);
        let entry = self.ledger.release(wall, dispatch);
        self.outputs.extend(entry.map(Output::Ledger));
        let node = &wait.expert.node;
        self.fleet.with(node, |node| node.line.remove(dispatch))?
    }

    /// Forgets that something waits.
    pub(super) fn stops_waiting(&mut self, now: Time, dispatch: DispatchId) -> Option<Wait> {
        let wait = self.waiting.remove(dispatch)?;
        let Wait {
            kind, tenant, busy, ..
        } = &wait;
        self.shares.waits_no_more(now, kind, tenant, *busy);
        self.timers.disarm(Timer::Late(dispatch));
        Some(wait)
    }

    /// Takes out all that waits for a node, or for one expert of it.
    pub(super) fn withdraw(
        &mut self,
        now: Time,
        node: &NodeId,
        expert: Option<&ExpertName>,
    ) -> Vec<Waiting> {
        let line = self.fleet.node(node).map(|node| &node.line);
        let jobs = line.into_iter().flat_map(|line| line.jobs());
        let jobs = jobs.filter(|job| expert.is_none_or(|expert| job.expert == *expert));
        let jobs: Vec<DispatchId> = jobs.map(|job| job.dispatch).collect();
        jobs.into_iter()
            .filter_map(|dispatch| self.unqueue(now, dispatch))
            .collect()
    }

    /// Has others asked for what waits for experts that are not active any more. Who names one waits on, and so
    /// does a round of scores, which is for those who answered.
    pub(super) fn withdraw_inactive(&mut self, now: Time) {
        let left_out = |(dispatch, wait): (DispatchId, &Wait)| {
            let active = self.fleet.expert(&wait.expert).is_some_and(|e| e.selected);
            let running = self.queries.get(&wait.query)?;
            let answers = running.attempt(dispatch)?.job == Job::Answer;
            (!active && answers && running.query.target == Target::Auto).then_some(dispatch)
        };
        let left_out: Vec<DispatchId> = self.waiting.iter().filter_map(left_out).collect();
        let jobs = left_out.into_iter();
        let jobs = jobs.filter_map(|d| self.unqueue(now, d)).collect();
        self.reroute(now, jobs);
    }

    /// Has others asked for what was withdrawn.
    pub(super) fn reroute(&mut self, now: Time, jobs: Vec<Waiting>) {
        for job in jobs {
            self.ask_others(now, job.query, job.dispatch);
        }
    }

    /// Work that has to begin now to be in time, and has no place yet.
    pub(super) fn too_late(&mut self, now: Time, dispatch: DispatchId) {
        if let Some(job) = self.unqueue(now, dispatch) {
            self.ask_others(now, job.query, dispatch);
        }
    }

    /// Goes on without an attempt that never began.
    fn ask_others(&mut self, now: Time, id: QueryId, dispatch: DispatchId) {
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        running.attempts.retain(|a| a.dispatch != dispatch);
        running.waited = true;
        if running.has_answer() {
            self.conclude(now, id);
        } else if running.active().next().is_none() {
            self.send_to_best(now, id);
        }
    }
}

/// The refusal of a query that waited until nobody could answer it in time.
pub(super) fn waited_in_vain(now: Time, running: &Running) -> Option<Refusal> {
    let budgets = running.query.budgets;
    let soonest = |time: fn(&Forecast) -> Seconds| {
        // Of those that time alone rules out; another may be soon and have failed, or be too dear.
        let slow = running.choices.candidates().iter();
        let slow = slow.filter(|c| c.verdict == Verdict::TooSlow);
        let times = slow.map(|c| time(&c.forecast));
        times.min_by(|a, b| a.get().total_cmp(&b.get()))
    };
    // An answer in one piece begins when it ends.
    let first = if running.query.in_one_piece() {
        soonest(|f| f.delay_p95)
    } else {
        soonest(|f| f.first_token_p95)
    };
    let kinds = [
        (
            "answer",
            "delay_budget_ms",
            budgets.delay,
            soonest(|f| f.delay_p95),
        ),
        (
            "first token",
            "first_token_budget_ms",
            budgets.first_token,
            first,
        ),
    ];
    let waited = now.seconds_since(running.submitted);
    // That which is further off. Where the budgets still hold there is another reason, which is told instead.
    let kinds = kinds.into_iter().filter(|_| running.waited);
    let kinds = kinds.filter_map(|(what, field, budget, soonest)| {
        let (budget, soonest) = (budget?, soonest?);
        Some((
            what,
            field,
            budget,
            soonest,
            (waited + soonest).get() - budget.get(),
        ))
    });
    let kinds = kinds.filter(|kind| kind.4 > 0.0);
    let (what, field, budget, soonest, _) = kinds.max_by(|a, b| a.4.total_cmp(&b.4))?;
    let message = format!(
        "after {:.1} s in line the soonest {what} is forecast in another {:.1} s (p95), beyond the budget of {:.1} s: the fleet is busy; ask again later, or with a larger {field}",
        waited.get(),
        soonest.get(),
        budget.get()
    );
    Some(plain(RefusalKind::DeadlineExceeded, message))
}
