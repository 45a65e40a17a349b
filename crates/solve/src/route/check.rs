//! The judge of routings: every claim of a [`RoutingSolution`] tested against the raw problem.
//!
//! As `check` does for selections, it shares no arithmetic with the search. Unlike there, optimality
//! can be proven here: the prices are given, so the bound is recomputed from them in one pass.

use super::problem::Routing;
use super::solution::{RoutingInfeasible, RoutingSolution, RoutingStatus};

/// Relative slack on limits, values and sums computed in another order.
const SLACK: f64 = 2e-9;

/// Relative error of a mean by the rounding of shares, of what it would be if everything went to the
/// dearest expert.
const SHARES: f64 = 8.0 * f64::EPSILON;
/// The most that rounding may be allowed to explain, relative to the largest value there could be.
const MAX_ROUNDING: f64 = 1e-7;

/// The first claim found to be false.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RoutingCheckError {
    /// A list does not have a number per category with a limit.
    #[error("{what}: has {length} entries for {categories} categories with a limit")]
    Length {
        /// The list.
        what: &'static str,
        /// Its length.
        length: usize,
        /// Categories with a limit.
        categories: usize,
    },
    /// A prompt's shares are not a distribution over experts.
    #[error("assignment[{prompt}]: not shares of experts that sum to 1")]
    Shares {
        /// Index of the prompt.
        prompt: usize,
    },
    /// More prompts are split than there are budgets.
    #[error("assignment: {split} prompts are split, {budgets} budgets need at most that many")]
    Split {
        /// Prompts with more than one expert.
        split: usize,
        /// Number of budgets.
        budgets: usize,
    },
    /// A mean is over its limit or not what is claimed.
    #[error("spent: {what} is {actual}, {claimed} is claimed, the limit is {limit}")]
    Spent {
        /// The budget.
        what: String,
        /// As computed here.
        actual: f64,
        /// As claimed.
        claimed: f64,
        /// Its limit.
        limit: f64,
    },
    /// The value is not that of the assignment.
    #[error("value: {claimed} is claimed, the assignment is worth {actual}")]
    Value {
        /// As claimed.
        claimed: f64,
        /// As computed here.
        actual: f64,
    },
    /// The prices are negative or prove less than what is claimed.
    #[error("bound: {claimed} is claimed, the prices prove {proven}")]
    Bound {
        /// As claimed.
        claimed: f64,
        /// As computed here.
        proven: f64,
    },
    /// Optimality is claimed although the bound is above the value.
    #[error("status: optimal is claimed with value {value} and bound {bound}")]
    Gap {
        /// Claimed value.
        value: f64,
        /// Claimed bound.
        bound: f64,
    },
    /// Infeasibility is claimed for a limit that can be kept.
    #[error("status: {what} can be kept with {least}, its limit is {limit}")]
    NotInfeasible {
        /// The budget.
        what: String,
        /// The least mean there is, or a routing's.
        least: f64,
        /// Its limit.
        limit: f64,
    },
}

/// Tests every claim of `solution`.
///
/// # Errors
/// The first [`RoutingCheckError`] found.
pub fn check(problem: &Routing, solution: &RoutingSolution) -> Result<(), RoutingCheckError> {
    let categories = problem.categories().len();
    if let RoutingStatus::Infeasible(reason) = &solution.status {
        return infeasible(problem, reason);
    }
    for (what, length) in [
        ("spent.latency_s_mean", solution.spent.latency_s_mean.len()),
        ("prices.latency_s", solution.prices.latency.len()),
    ] {
        if length != categories {
            return Err(RoutingCheckError::Length {
                what,
                length,
                categories,
            });
        }
    }
    shares(problem, solution)?;
    let value = spent(problem, solution)?;
    if !close(value, solution.value, scale(problem)) {
        return Err(RoutingCheckError::Value {
            claimed: solution.value,
            actual: value,
        });
    }
    let (proven, rounding) = proven(problem, solution);
    let claimed = solution.bound;
    // Large prices cancel; beyond this they prove nothing.
    let rounding = rounding.min(MAX_ROUNDING * scale(problem));
    let short = proven - claimed > SLACK * scale(problem) + rounding;
    if short || claimed.is_nan() || claimed < solution.value {
        return Err(RoutingCheckError::Bound { claimed, proven });
    }
    if solution.status == RoutingStatus::Optimal && !close(claimed, value, scale(problem)) {
        return Err(RoutingCheckError::Gap {
            value,
            bound: claimed,
        });
    }
    Ok(())
}

fn infeasible(problem: &Routing, reason: &RoutingInfeasible) -> Result<(), RoutingCheckError> {
    let categories = problem.categories().len();
    for &(category, ..) in &reason.latency {
        let Some((name, limit)) = problem.categories().get(category) else {
            return Err(RoutingCheckError::Length {
                what: "status: categories",
                length: category + 1,
                categories,
            });
        };
        let (least, limit) = (fastest(problem, category), *limit);
        if least.is_nan() || least <= limit {
            let what = format!("latency_s_mean.{name}");
            return Err(RoutingCheckError::NotInfeasible { what, least, limit });
        }
    }
    if let Some(short) = &reason.energy {
        // Without prices of seconds the limits on seconds are left out, which is valid too.
        let length = short.prices.len();
        if length != categories && length != 0 {
            return Err(RoutingCheckError::Length {
                what: "status: prices",
                length,
                categories,
            });
        }
        let least = thriftiest(problem, &short.prices);
        let limit = problem.energy_limit().unwrap_or(f64::INFINITY);
        let out = least.is_nan() || least <= limit;
        if out || !close(least, short.needed, short.needed) {
            let what = "energy_j_mean".to_owned();
            return Err(RoutingCheckError::NotInfeasible { what, least, limit });
        }
    } else if reason.latency.is_empty() {
        return Err(RoutingCheckError::NotInfeasible {
            what: "every limit".to_owned(),
            least: 0.0,
            limit: f64::INFINITY,
        });
    }
    Ok(())
}

fn shares(problem: &Routing, solution: &RoutingSolution) -> Result<(), RoutingCheckError> {
    for (prompt, shares) in solution.assignment.iter().enumerate() {
        let sound = |&(expert, share): &(usize, f64)| {
            expert < problem.experts().len() && (0.0..=1.0 + SLACK).contains(&share)
        };
        let total: f64 = shares.iter().map(|s| s.1).sum();
        if !shares.iter().all(sound) || !close(total, 1.0, 1.0) {
            return Err(RoutingCheckError::Shares { prompt });
        }
    }
    if solution.assignment.len() != problem.prompt_count() {
        let prompt = solution.assignment.len();
        return Err(RoutingCheckError::Shares { prompt });
    }
    let budgets = problem.categories().len() + usize::from(problem.energy_limit().is_some());
    let split = solution.assignment.iter().filter(|s| s.len() > 1).count();
    if split > budgets {
        return Err(RoutingCheckError::Split { split, budgets });
    }
    Ok(())
}

/// Tests the means; returns the value.
fn spent(problem: &Routing, solution: &RoutingSolution) -> Result<f64, RoutingCheckError> {
    let limits = problem.categories();
    let (mut value, mut energy) = (0.0, 0.0);
    let mut latency = vec![(0.0, 0.0); limits.len()];
    for (x, shares) in solution.assignment.iter().enumerate() {
        let weight = problem.weights()[x];
        for &(n, share) in shares {
            value += weight * share * problem.utility(x)[n];
            energy += weight * share * problem.energy(x)[n];
            if let Some(category) = problem.category(x) {
                latency[category].0 += weight * share * problem.latency(x)[n];
                latency[category].1 += weight * share;
            }
        }
    }
    // Shares are doubles: beside an expert that costs a billion times the limit, the last bit of a share
    // is more than the slack.
    let judge = |what: &str, actual: f64, claimed: f64, (limit, most): (f64, f64)| {
        let over = actual > limit * (1.0 + SLACK) + SHARES * most;
        if over || !close(actual, claimed, actual.max(limit.min(actual))) {
            let what = what.to_owned();
            return Err(RoutingCheckError::Spent {
                what,
                actual,
                claimed,
                limit,
            });
        }
        Ok(())
    };
    let largest = |costs: &[f64]| costs.iter().copied().fold(0.0, f64::max);
    let mut dearest = 0.0;
    let mut slowest = vec![0.0; limits.len()];
    for (x, weight) in problem.weights().iter().enumerate() {
        dearest += weight * largest(problem.energy(x));
        if let Some(category) = problem.category(x) {
            slowest[category] += weight * largest(problem.latency(x));
        }
    }
    let limit = problem.energy_limit().unwrap_or(f64::INFINITY);
    judge(
        "energy_j_mean",
        energy,
        solution.spent.energy_j_mean,
        (limit, dearest),
    )?;
    let means = latency.iter().zip(&solution.spent.latency_s_mean);
    for ((((seconds, weight), claimed), (name, limit)), slowest) in means.zip(limits).zip(slowest) {
        if *weight > 0.0 {
            judge(
                &format!("latency_s_mean.{name}"),
                seconds / weight,
                *claimed,
                (*limit, slowest / weight),
            )?;
        }
    }
    Ok(value)
}

/// The bound that the prices prove, and how far off it may be by rounding where prices are large.
fn proven(problem: &Routing, solution: &RoutingSolution) -> (f64, f64) {
    let prices = &solution.prices;
    let all = prices.latency.iter().chain([&prices.energy]);
    if all.clone().any(|p| p.is_nan() || *p < 0.0) {
        return (f64::INFINITY, 0.0);
    }
    let mut terms = vec![prices.energy * problem.energy_limit().unwrap_or(0.0)];
    let mut size = terms[0];
    for x in 0..problem.prompt_count() {
        let category = problem.category(x);
        let late = |n: usize| {
            category.map_or((0.0, 0.0), |c| {
                let limit = problem.categories()[c].1;
                (
                    prices.latency[c] * problem.latency(x)[n],
                    prices.latency[c] * limit,
                )
            })
        };
        let worth = |n: usize| {
            let (seconds, limit) = late(n);
            problem.utility(x)[n] - prices.energy * problem.energy(x)[n] - (seconds - limit)
        };
        let best = (0..problem.experts().len()).max_by(|&a, &b| worth(a).total_cmp(&worth(b)));
        let best = best.expect("a problem has experts");
        let weight = problem.weights()[x];
        terms.push(weight * worth(best));
        let (seconds, limit) = late(best);
        size += weight * (prices.energy * problem.energy(x)[best] + seconds + limit);
    }
    // From the smallest, so that as little as possible is lost.
    terms.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let rounding = 4.0 * f64::EPSILON * (terms.len() as f64).sqrt().max(4.0);
    (terms.iter().sum(), rounding * size)
}

fn fastest(problem: &Routing, category: usize) -> f64 {
    let (mut seconds, mut weight) = (0.0, 0.0);
    for x in (0..problem.prompt_count()).filter(|x| problem.category(*x) == Some(category)) {
        let least = problem
            .latency(x)
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min);
        seconds += problem.weights()[x] * least;
        weight += problem.weights()[x];
    }
    seconds / weight
}

/// What every routing spends that keeps the limits on seconds, by these prices of seconds.
fn thriftiest(problem: &Routing, prices: &[f64]) -> f64 {
    let least = |x: usize| {
        let costs = problem.energy(x).iter().zip(problem.latency(x));
        let priced = costs.map(|(joules, seconds)| {
            let late = problem.category(x).map_or(0.0, |c| {
                let price = prices.get(c).copied().unwrap_or(0.0);
                price.max(0.0) * (seconds - problem.categories()[c].1)
            });
            joules + late
        });
        priced.fold(f64::INFINITY, f64::min)
    };
    let rows = problem.weights().iter().enumerate();
    rows.map(|(x, weight)| weight * least(x)).sum()
}

/// The largest value there could be.
fn scale(problem: &Routing) -> f64 {
    let best = |x: usize| problem.utility(x).iter().copied().fold(0.0, f64::max);
    problem
        .weights()
        .iter()
        .enumerate()
        .map(|(x, w)| w * best(x))
        .sum()
}

fn close(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= SLACK * scale
}
