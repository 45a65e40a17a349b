//! What routing hands back: prices, an upper bound they prove, and a routing inside the limits.

use crate::problem::MAX_EXPERTS;

use super::problem::Routing;

/// One price per budget, each at least 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Prices {
    /// λ, in utility per joule; 0 without a limit.
    pub energy: f64,
    /// μ, in utility per second, for each category with a limit.
    pub latency: Vec<f64>,
}

/// Means under a routing.
#[derive(Debug, Clone, PartialEq)]
pub struct Spent {
    /// Weighted joules, `Σ_x w_x Σ_n y_xn e_xn`.
    pub energy_j_mean: f64,
    /// Mean seconds within each category that has a limit.
    pub latency_s_mean: Vec<f64>,
}

/// Limits that cannot be kept, with the smallest values that could.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingInfeasible {
    /// Categories (by index) whose fastest routing is slower than their limit: limit and mean.
    pub latency: Vec<(usize, f64, f64)>,
    /// The limit on joules, where the limits on seconds alone can be kept.
    pub energy: Option<EnergyShortfall>,
}

/// A limit on joules that is too low.
#[derive(Debug, Clone, PartialEq)]
pub struct EnergyShortfall {
    /// The limit.
    pub limit: f64,
    /// The least mean that the limits on seconds allow.
    pub needed: f64,
    /// Prices of seconds, in joules per second by category, that prove it: no routing spends less
    /// than `Σ_x w_x min_n (e_xn + μ·(t_xn − limit))`.
    pub prices: Vec<f64>,
}

impl RoutingInfeasible {
    /// The reason in words.
    pub fn describe(&self, problem: &Routing) -> String {
        let seconds = self.latency.iter().map(|&(category, limit, needed)| {
            let name = &problem.categories()[category].0;
            let needed = rounded_up(needed);
            format!("latency_s_mean.{name} needs a limit of at least {needed} (is {limit})")
        });
        let joules = self.energy.iter().map(|short| {
            let (limit, needed) = (short.limit, rounded_up(short.needed));
            format!("energy_j_mean needs a limit of at least {needed} (is {limit})")
        });
        seconds.chain(joules).collect::<Vec<_>>().join(", ")
    }
}

/// Six digits, upwards: what is shown as needed must do.
fn rounded_up(value: f64) -> f64 {
    let unit = 10f64.powi(value.max(f64::MIN_POSITIVE).log10().floor() as i32 - 5);
    (value / unit - 1e-6).ceil() * unit
}

/// How far the proof got.
#[derive(Debug, Clone, PartialEq)]
pub enum RoutingStatus {
    /// Value and bound agree within 1e-9 of the largest value possible.
    Optimal,
    /// They do not quite; both are true.
    Feasible,
    /// The limits exclude each other.
    Infeasible(RoutingInfeasible),
}

impl RoutingStatus {
    /// The status as written in result files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Optimal => "optimal",
            Self::Feasible => "feasible",
            Self::Infeasible(_) => "infeasible",
        }
    }
}

/// An answer to a routing problem.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingSolution {
    /// How far the proof got.
    pub status: RoutingStatus,
    /// Value of the routing.
    pub value: f64,
    /// No routing inside the limits is worth more.
    pub bound: f64,
    /// The prices that prove the bound.
    pub prices: Prices,
    /// What the routing spends.
    pub spent: Spent,
    /// Experts and shares per prompt, the largest share first; at most one prompt per budget has
    /// more than one. Empty if infeasible.
    pub assignment: Vec<Vec<(usize, f64)>>,
    /// Rounds of the price search.
    pub rounds: u32,
}

impl RoutingSolution {
    /// Number of prompts that are split between experts.
    pub fn split(&self) -> usize {
        self.assignment
            .iter()
            .filter(|shares| shares.len() > 1)
            .count()
    }

    pub(crate) fn infeasible(problem: &Routing, reason: RoutingInfeasible) -> Self {
        let none = || vec![0.0; problem.categories().len()];
        Self {
            status: RoutingStatus::Infeasible(reason),
            value: 0.0,
            bound: 0.0,
            prices: Prices {
                energy: 0.0,
                latency: none(),
            },
            spent: Spent {
                energy_j_mean: 0.0,
                latency_s_mean: none(),
            },
            assignment: Vec::new(),
            rounds: 0,
        }
    }
}

// Policies store experts in 16 bits.
const _: () = assert!(MAX_EXPERTS <= 1 << 16);
