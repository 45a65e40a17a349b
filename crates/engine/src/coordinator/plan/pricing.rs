//! Prices for tenants with mean budgets to begin with: those under which routing what a tenant asks among
//! the active experts keeps its means (MATH 2.2), by the forecasts of today.
//!
//! They are a start. What is really used corrects them query by query ([`super::super::prices`]).

use moe2_model::{Forecast, Joules, Prices, Seconds, TenantId};
use moe2_solve::{
    Routing, RoutingLimits, RoutingParts, RoutingStatus, Solution, Status, check_routing, price,
};

use super::{PlanRequest, with_spares};

/// Prompts that a mean counts, and those that it does not.
const COUNTED: &str = "counted";
const OTHERS: &str = "others";

/// Which mean of seconds; the solver's problem has one for each prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mean {
    /// Of the delay, beside that of joules.
    Whole,
    /// Of the time to the first token of what is streamed, by itself: each price is a start only.
    FirstToken,
}

/// A tenant's mean budgets, and what it asks.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(crate) tenant: TenantId,
    pub(crate) energy: Option<Joules>,
    pub(crate) delay: Option<Seconds>,
    /// Of streamed answers.
    pub(crate) first_token: Option<Seconds>,
    pub(crate) prompts: Vec<Prompt>,
}

/// What a tenant asks, with its weight.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    pub(crate) weight: f64,
    pub(crate) streamed: bool,
    pub(crate) in_one_piece: bool,
    /// Every expert's utility, 0 of what is not admitted, and forecast.
    pub(crate) cells: Vec<(f64, Forecast)>,
}

impl Prompt {
    /// Until the first token, if the answer is streamed.
    fn first_token(&self, forecast: &Forecast) -> f64 {
        match (self.streamed, self.in_one_piece) {
            (false, _) => 0.0,
            (true, true) => forecast.delay.get(),
            (true, false) => forecast.first_token.get(),
        }
    }
}

/// What a tenant's joules and seconds should cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Priced {
    /// Whose.
    pub tenant: TenantId,
    /// Prices of joules and of seconds that keep its means; `None` if no mix of the active experts does.
    pub prices: Option<Prices>,
    /// The price of seconds until the first token that keeps their mean, if it were the only one; `None` if no
    /// mix does. Nothing without such a budget.
    pub per_first_token_second: Option<Option<f64>>,
}

impl PlanRequest {
    /// Prices of all tenants with mean budgets, once the active set is known. Takes milliseconds for each.
    #[must_use]
    pub fn price(&self, solution: &Solution) -> Vec<Priced> {
        if matches!(solution.status, Status::Infeasible(_)) {
            return Vec::new();
        }
        let members = with_spares(&self.problem, solution.selected.clone());
        let priced = self.means.iter();
        priced.filter_map(|means| means.price(&members)).collect()
    }
}

impl Means {
    /// Nothing if the problem is none, as when nobody is active, or the solver's answer does not hold.
    fn price(&self, members: &[usize]) -> Option<Priced> {
        let whole = self.solve(members, Mean::Whole)?;
        // Without an answer it keeps what it has.
        let first = self
            .first_token
            .and_then(|_| self.solve(members, Mean::FirstToken));
        Some(Priced {
            tenant: self.tenant.clone(),
            prices: whole.map(|(per_joule, per_second)| Prices {
                per_joule,
                per_second,
                per_first_token_second: 0.0,
            }),
            per_first_token_second: first.map(|first| first.map(|(_, per_second)| per_second)),
        })
    }

    /// Prices of joules and seconds; an inner `None` if no mix keeps the means.
    fn solve(&self, members: &[usize], mean: Mean) -> Option<Option<(f64, f64)>> {
        let routing = self.routing(members, mean)?;
        let solution = price(&routing);
        if let RoutingStatus::Infeasible(_) = solution.status {
            return Some(None);
        }
        check_routing(&routing, &solution).ok()?;
        // Only what is counted has a limit, and so a price.
        let seconds = solution.prices.latency.iter().fold(0.0, |a, b| a + b);
        Some(Some((solution.prices.energy, seconds)))
    }

    fn routing(&self, members: &[usize], mean: Mean) -> Option<Routing> {
        let total: f64 = self.prompts.iter().map(|p| p.weight).sum();
        let table = |of: &dyn Fn(&Prompt, &(f64, Forecast)) -> f64| {
            let row = |p: &Prompt| members.iter().map(|n| of(p, &p.cells[*n])).collect();
            self.prompts.iter().map(row).collect()
        };
        let whole = mean == Mean::Whole;
        let limit = if whole { self.delay } else { self.first_token };
        let counted = |p: &Prompt| whole || p.streamed;
        // There may be nothing yet that counts.
        let limit = limit.filter(|_| self.prompts.iter().any(counted));
        let limit = limit.map(|limit| (COUNTED.to_owned(), limit.get()));
        let category = |p: &Prompt| if counted(p) { COUNTED } else { OTHERS }.to_owned();
        Routing::new(RoutingParts {
            experts: members.iter().map(usize::to_string).collect(),
            utility: table(&|_, (quality, _)| *quality),
            energy_j: table(&|_, (_, forecast)| forecast.energy.get()),
            latency_s: table(&|prompt, (_, forecast)| match mean {
                Mean::Whole => forecast.delay.get(),
                Mean::FirstToken => prompt.first_token(forecast),
            }),
            category: self.prompts.iter().map(category).collect(),
            weights: Some(self.prompts.iter().map(|p| p.weight / total).collect()),
            limits: RoutingLimits {
                energy_j_mean: self.energy.filter(|_| whole).map(Joules::get),
                latency_s_mean: limit.into_iter().collect(),
            },
        })
        .ok()
    }
}
