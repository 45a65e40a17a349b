//! Prices for tenants with mean budgets to begin with: those under which routing what a tenant asks among
//! the active experts keeps its means (MATH 2.2), by the forecasts of today.
//!
//! They are a start. What is really used corrects them query by query ([`super::super::prices`]).

use moe2_model::{Forecast, Joules, Prices, Seconds, TenantId};
use moe2_solve::{
    Routing, RoutingLimits, RoutingParts, RoutingStatus, Solution, Status, check_routing, price,
};

use super::{PlanRequest, with_spares};

/// All prompts of one tenant: its means are over all that it asks.
const ALL: &str = "all";

/// A tenant's mean budgets, and what it asks.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(crate) tenant: TenantId,
    pub(crate) energy: Option<Joules>,
    pub(crate) delay: Option<Seconds>,
    /// Prompts with their weights, and every expert's forecast; 0 is the utility of what is not admitted.
    pub(crate) prompts: Vec<(f64, Vec<(f64, Forecast)>)>,
}

/// What a tenant's joules and seconds should cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Priced {
    /// Whose.
    pub tenant: TenantId,
    /// Prices that keep its means; `None` if no mix of the active experts does.
    pub prices: Option<Prices>,
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
        let routing = self.routing(members)?;
        let solution = price(&routing);
        let prices = match solution.status {
            RoutingStatus::Infeasible(_) => None,
            _ => {
                check_routing(&routing, &solution).ok()?;
                Some(Prices {
                    per_joule: solution.prices.energy,
                    per_second: solution.prices.latency.first().copied().unwrap_or(0.0),
                })
            }
        };
        Some(Priced {
            tenant: self.tenant.clone(),
            prices,
        })
    }

    fn routing(&self, members: &[usize]) -> Option<Routing> {
        let total: f64 = self.prompts.iter().map(|(weight, _)| weight).sum();
        let table = |of: fn(&(f64, Forecast)) -> f64| {
            let row = |(_, line): &(f64, Vec<(f64, Forecast)>)| {
                members.iter().map(|n| of(&line[*n])).collect()
            };
            self.prompts.iter().map(row).collect()
        };
        let delay = self.delay.map(|limit| (ALL.to_owned(), limit.get()));
        Routing::new(RoutingParts {
            experts: members.iter().map(usize::to_string).collect(),
            utility: table(|(quality, _)| *quality),
            energy_j: table(|(_, forecast)| forecast.energy.get()),
            latency_s: table(|(_, forecast)| forecast.delay.get()),
            category: vec![ALL.to_owned(); self.prompts.len()],
            weights: Some(self.prompts.iter().map(|p| p.0 / total).collect()),
            limits: RoutingLimits {
                energy_j_mean: self.energy.map(Joules::get),
                latency_s_mean: delay.into_iter().collect(),
            },
        })
        .ok()
    }
}
