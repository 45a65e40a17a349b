//! What a run came to for each tenant, beside its budgets.

use std::collections::BTreeMap;

use moe2_cost::percentile;
use moe2_model::RefusalKind;
use moe2_sim::traffic::{Outcome, Played};
use serde::Serialize;

use super::load::Asked;
use super::tenants::{Policy, Tenant};

/// Length of a window in which a p95 is taken.
const WINDOW_S: f64 = 300.0;
/// A mean is kept if it is not further above its budget.
const TOLERANCE: f64 = 1.02;
/// Share of windows that must be within the delay budget.
const WINDOWS_KEPT: f64 = 0.95;

/// One tenant's figures.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) tenant: String,
    /// No mix of experts was forecast to keep its budgets when all machines had joined.
    pub(super) hopeless: bool,
    pub(super) served: bool,
    pub(super) asked: usize,
    pub(super) answered: usize,
    /// Mean score over all that was asked; what was refused is wrong.
    pub(super) accuracy: f64,
    pub(super) energy_budget_j: f64,
    /// Of all settled joules, over answered queries.
    pub(super) energy_mean_j: f64,
    pub(super) energy_kept: bool,
    pub(super) delay_budget_s: f64,
    pub(super) delay_p95_s: f64,
    /// Answers later than the budget, over answers.
    pub(super) late: f64,
    pub(super) windows: usize,
    /// Windows whose p95 is within the budget, over windows.
    pub(super) windows_kept: f64,
    /// The same if a refused query counts as one that is late.
    pub(super) windows_kept_if_refused_is_late: f64,
    pub(super) delay_kept: bool,
    /// Mean score over all that was asked, where late answers are wrong too.
    pub(super) accuracy_in_time: f64,
    /// Refusals, by reason.
    pub(super) refused: String,
}

/// A run with its load.
pub(super) struct Run<'a> {
    pub(super) policy: Policy,
    pub(super) asked: &'a [Asked],
    pub(super) played: &'a Played,
    /// Score of an answer: request and who gave it.
    pub(super) score: &'a dyn Fn(&Asked, &Outcome) -> f64,
}

impl Run<'_> {
    /// One row per tenant.
    pub(super) fn rows(&self, tenants: &[Tenant]) -> Vec<Row> {
        let mut own: Vec<Vec<&Outcome>> = vec![Vec::new(); tenants.len()];
        for outcome in &self.played.outcomes {
            own[self.asked[outcome.request].tenant].push(outcome);
        }
        let rows = tenants.iter().zip(own);
        rows.map(|(tenant, own)| self.row(tenant, &own)).collect()
    }

    fn row(&self, tenant: &Tenant, own: &[&Outcome]) -> Row {
        let answers: Vec<&&Outcome> = own.iter().filter(|o| o.end.is_ok()).collect();
        let over = |part: f64, whole: usize| part / whole.max(1) as f64;
        let delays: Vec<f64> = answers.iter().map(|o| o.delay.get()).collect();
        let late = delays.iter().filter(|d| **d > tenant.delay).count();
        let joules: f64 = own.iter().map(|o| self.played.joules[o.request]).sum();
        let energy_mean_j = over(joules, answers.len());
        let score = |o: &&&Outcome| (self.score)(&self.asked[o.request], o);
        let right: f64 = own.iter().map(|o| score(&o)).sum();
        let in_time = own.iter().filter(|o| o.delay.get() <= tenant.delay);
        let in_time: f64 = in_time.map(|o| score(&o)).sum();
        let (windows, kept) = self.windows(tenant, own, false);
        let (all, strictly) = self.windows(tenant, own, true);
        let windows_kept = over(kept as f64, windows);
        Row {
            tenant: tenant.id.to_string(),
            hopeless: self
                .played
                .hopeless
                .iter()
                .any(|h| *h == tenant.id.as_str()),
            served: tenant.served(self.policy),
            asked: own.len(),
            answered: answers.len(),
            accuracy: over(right, own.len()),
            energy_budget_j: tenant.energy,
            energy_mean_j,
            energy_kept: energy_mean_j <= TOLERANCE * tenant.energy,
            delay_budget_s: tenant.delay,
            delay_p95_s: percentile(&delays, 0.95).unwrap_or_default(),
            late: over(late as f64, answers.len()),
            windows,
            windows_kept,
            windows_kept_if_refused_is_late: over(strictly as f64, all),
            delay_kept: windows_kept >= WINDOWS_KEPT,
            accuracy_in_time: over(in_time, own.len()),
            refused: refusals(own),
        }
    }

    /// Windows with answers, and those of them whose p95 is within the budget.
    fn windows(&self, tenant: &Tenant, own: &[&Outcome], strict: bool) -> (usize, usize) {
        let mut windows: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for outcome in own {
            let at = self.asked[outcome.request].request.at;
            let window = at.seconds_since(moe2_model::Time::ZERO).get() / WINDOW_S;
            let delay = match (&outcome.end, strict) {
                (Ok(_), _) => outcome.delay.get(),
                // Percentiles are taken of finite numbers.
                (Err(_), true) => f64::MAX,
                (Err(_), false) => continue,
            };
            windows.entry(window as u64).or_default().push(delay);
        }
        let kept = |delays: &&Vec<f64>| percentile(delays, 0.95).is_some_and(|p| p <= tenant.delay);
        let kept = windows.values().filter(kept).count();
        (windows.len(), kept)
    }
}

fn refusals(own: &[&Outcome]) -> String {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for kind in own.iter().filter_map(|o| o.end.as_ref().err()) {
        *reasons.entry(reason(*kind)).or_default() += 1;
    }
    let each = reasons
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"));
    each.collect::<Vec<_>>().join(", ")
}

fn reason(kind: RefusalKind) -> String {
    format!("{kind:?}")
}
