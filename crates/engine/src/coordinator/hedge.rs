//! Hedging: a second expert for an answer that does not begin (Dean and Barroso, "The tail at scale", 2013).
//!
//! When an answer has not begun by the time it was to begin in 95 of 100 cases, as measured, another expert may be
//! asked as well. Who begins first goes on, the other is told to stop. That costs joules, so it is done only where
//! it pays at the query's prices: an expert with a free place, better by quality less joules, seconds and the risk
//! of being late than what the one at work still promises; within all that is left of the budgets; and for no more
//! than a small share of all work, so that a fleet which is slow as a whole is not made slower.

use std::time::Duration;

use moe2_model::{
    Budgets, Candidate, DispatchId, Event, ExpertId, Forecast, Job, Mode, QueryId, Seconds, Time,
};

use super::contenders::Scope;
use super::decision::Decision;
use super::query::{Attempt, Progress, Round};
use super::route::{Terms, later};
use super::{Engine, Timer};

/// Outcomes behind a percentile that is measured and not computed from the machine's description.
const MEASURED: u64 = 20;
/// Work is not looked at more often than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);
/// Hedges that may come at once after quiet times.
const BURST: f64 = 8.0;

/// How many more hedges are allowed.
#[derive(Debug, Default)]
pub(crate) struct Allowance(f64);

impl Allowance {
    /// Work was sent; `share` of it may be hedged.
    pub(crate) fn earn(&mut self, share: f64) {
        self.0 = (self.0 + share).min(BURST);
    }

    fn enough(&self) -> bool {
        self.0 >= 1.0
    }

    fn spend(&mut self) {
        self.0 -= 1.0;
    }
}

impl Engine {
    /// Has a look at work that was just sent when its answer should have begun.
    pub(super) fn watch_tail(&mut self, now: Time, id: QueryId, dispatch: DispatchId) {
        let share = self.config.hedge_share;
        let Some(running) = self.queries.get(&id) else {
            return;
        };
        let Some(attempt) = running.attempt(dispatch) else {
            return;
        };
        if running.hedge == Some(dispatch) {
            return;
        }
        self.hedges.earn(share);
        let measured = attempt.forecast.samples >= MEASURED;
        let alone = matches!(running.query.mode, Mode::Auto | Mode::Single)
            && running.round == Round::Answers
            && running.hedge.is_none()
            && running.active().count() == 1;
        if share > 0.0 && measured && alone && attempt.job == Job::Answer {
            let late = attempt.forecast.first_token_busy_p95().get();
            let late = Duration::try_from_secs_f64(late).unwrap_or(running.limit);
            self.timers.arm(Timer::Tail(dispatch), now + late);
        }
    }

    /// Asks another expert as well, if that pays by now; looks again when twice the time has passed.
    pub(super) fn hedge(&mut self, now: Time, dispatch: DispatchId) {
        let (Some(id), Some(late)) = (self.query_of(dispatch), self.attempt(dispatch)) else {
            return;
        };
        let Some(sent) = late.sent.filter(|_| late.is_active()) else {
            return;
        };
        let late = late.expert.clone();
        let allowed = self.hedges.enough();
        let better = allowed.then(|| self.better_late(now, id, dispatch));
        let Some((candidate, decision)) = better.flatten() else {
            let again = now.since(sent).max(SHORTEST_LOOK);
            self.timers.arm(Timer::Tail(dispatch), now + again);
            return;
        };
        self.hedges.spend();
        let records = self.config.records;
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        running.choices.note_hedge(decision, records);
        running.hedge = Some(DispatchId(self.next_dispatch));
        self.dispatch(now, id, &candidate, Job::Answer);
        let by = candidate.expert;
        self.event(Event::Hedged { late, by });
    }

    /// Who could begin at once and is worth more than what is still to be had from work that is late.
    fn better_late(
        &self,
        now: Time,
        id: QueryId,
        dispatch: DispatchId,
    ) -> Option<(Candidate, Decision)> {
        let running = self.queries.get(&id)?;
        let late = running
            .attempt(dispatch)
            .filter(|a| waits_for_its_first(a))?;
        // One of several that were to answer together has company.
        let alone = running.active().count() == 1 && !running.has_answer();
        if !alone
            || running.hedge.is_some()
            || running.attempts.len() >= self.config.max_attempts as usize
        {
            return None;
        }
        let choice = self.choose(now, id, Scope::default())?;
        let [chosen] = choice.route.chosen() else {
            return None;
        };
        if !self.begins_at_once(now, &chosen.expert, &chosen.forecast) {
            return None;
        }
        let both = late.forecast.energy_p95 + chosen.forecast.energy_p95;
        if self.config.plan.energy.is_some_and(|limit| both > limit) {
            return None;
        }
        let rest = late.forecast.after(now.seconds_since(late.sent?));
        let terms = &choice.grounds.terms;
        let worth = |f: &Forecast| worth(f, terms, &choice.own);
        // What the late one costs in joules is spent either way.
        let sunk = terms.prices.per_joule * rest.energy.get();
        let pays = worth(&chosen.forecast) > worth(&rest) + sunk;
        let chosen = chosen.clone();
        pays.then(|| (chosen, choice.decision()))
    }

    fn begins_at_once(&self, now: Time, expert: &ExpertId, forecast: &Forecast) -> bool {
        let node = self.fleet.node(&expert.node);
        node.is_some_and(|node| {
            let known = node.experts.get(&expert.name);
            let free = known.is_some_and(|known| node.next_place(known, now) == Seconds::ZERO);
            node.has_place() && node.line.is_empty() && free && forecast.waiting == Seconds::ZERO
        })
    }

    /// An answer begins: where two experts were asked for it, the other is told to stop.
    pub(super) fn first_wins(&mut self, now: Time, id: QueryId, dispatch: DispatchId) {
        let Some(running) = self.queries.get(&id) else {
            return;
        };
        let Some(hedge) = running.hedge else {
            return;
        };
        let of = |d: DispatchId| running.attempt(d).filter(|a| a.is_active());
        let (Some(winner), others) = (of(dispatch), running.active().count()) else {
            return;
        };
        if others < 2 {
            return;
        }
        let winner = winner.expert.clone();
        let stopped: Vec<DispatchId> = running
            .active()
            .map(|a| a.dispatch)
            .filter(|d| *d != dispatch)
            .collect();
        for other in stopped {
            self.cover_late(now, id, other);
            let attempt = self.queries.get_mut(&id);
            if let Some(attempt) = attempt.and_then(|r| r.attempt_mut(other)) {
                attempt.progress = Progress::Cancelled;
            }
            self.call_off(now, other);
        }
        if hedge == dispatch {
            self.event(Event::HedgeWon { expert: winner });
        }
    }
}

fn waits_for_its_first(attempt: &Attempt) -> bool {
    attempt.is_active() && attempt.sent.is_some() && attempt.began.is_none()
}

/// What an answer is worth: its score, where one that breaks a hard budget of time has no quality.
fn worth(forecast: &Forecast, terms: &Terms, hard: &Budgets) -> f64 {
    let missed = later(forecast, (hard.delay, hard.first_token));
    forecast.quality * (1.0 - missed) - terms.cost(forecast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_all_work_may_be_hedged_and_few_at_once() {
        let mut allowance = Allowance::default();
        let mut hedged = 0;
        for _ in 0..1_000 {
            allowance.earn(0.05);
            if allowance.enough() {
                allowance.spend();
                hedged += 1;
            }
        }
        assert!((49..=50).contains(&hedged), "{hedged}");
        for _ in 0..10_000 {
            allowance.earn(0.05);
        }
        for _ in 0..8 {
            assert!(allowance.enough());
            allowance.spend();
        }
        assert!(!allowance.enough());
    }
}
