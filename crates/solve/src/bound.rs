//! An upper bound on the value of every feasible set, from any set whatever.
//!
//! `F` is monotone and submodular, so for every set P and every feasible S
//! `F(S) ≤ F(P) + Σ_{i ∈ S∖P} F(i|P)`; the sum is then relaxed one constraint row at a time and the
//! tightest row counts. P need not be feasible nor a subset of S: the empty set, the incumbent and
//! the set of everything that fits alone all give valid bounds, and each wins on some instances.
//! An LP over all rows together would be tighter; it belongs to the exact solvers.

use crate::problem::{Constraint, Kind, Problem};
use crate::rows::capacity;
use crate::state::State;

/// Rounding of the sums inside a bound, relative; added so that a bound never dips below the
/// exactly computed value of a set.
const ROUNDING: f64 = 1e-11;

/// Tiers of a `top_sum` row that are tried; deeper ones almost never bind first.
const MAX_TIER: usize = 8;

/// Upper bound on the value of every feasible set, from the set in `state`. `eligible` are the
/// experts that fit alone.
pub(crate) fn upper(problem: &Problem, eligible: &[usize], state: &State<'_>) -> f64 {
    let outside = eligible.iter().filter(|n| !state.members().contains(n));
    let gains: Vec<(usize, f64)> = outside.map(|&n| (n, state.gain(n))).collect();
    let everything: f64 = gains.iter().map(|(_, gain)| gain).sum();
    let rows = problem.constraints().iter().map(|row| relax(row, &gains));
    let added = rows.fold(everything, f64::min);
    (state.value() + added) * (1.0 + ROUNDING)
}

/// The most that experts outside can add if `row` were the only constraint.
fn relax(row: &Constraint, gains: &[(usize, f64)]) -> f64 {
    let all = || gains.iter().map(|(_, gain)| gain).sum();
    match row.kind {
        // Costs above the limit were filtered before; the rest are free.
        Kind::Max { .. } => all(),
        Kind::Count => largest(gains.iter().map(|g| g.1).collect(), capacity(row) as usize),
        Kind::Sum { .. } => fractional_knapsack(row, gains),
        // It then counts every cost.
        Kind::TopSum { top, .. } if top >= gains.len() => fractional_knapsack(row, gains),
        Kind::TopSum { top, .. } => {
            let tiers = 2..=top.min(MAX_TIER);
            tiers
                .map(|tier| few_heavy(row, gains, tier))
                .fold(all(), f64::min)
        }
    }
}

fn largest(mut gains: Vec<f64>, count: usize) -> f64 {
    gains.sort_unstable_by(|a, b| b.total_cmp(a));
    gains.iter().take(count).sum()
}

/// Fill the row by gain per cost, the last expert in part.
fn fractional_knapsack(row: &Constraint, gains: &[(usize, f64)]) -> f64 {
    let room = capacity(row);
    // In shares of the room, so that costs of any magnitude divide safely.
    let share = |n: usize| if room > 0.0 { row.cost(n) / room } else { 0.0 };
    let mut items: Vec<(f64, f64)> = gains.iter().map(|&(n, gain)| (share(n), gain)).collect();
    items.sort_unstable_by(|a, b| (b.1 / b.0).total_cmp(&(a.1 / a.0)));
    let (mut left, mut total) = (1.0, 0.0);
    for (share, gain) in items {
        if share <= left {
            left -= share;
            total += gain;
        } else {
            total += gain * (left / share);
            break;
        }
    }
    total
}

/// In a feasible set fewer than `tier ≤ top` members cost more than `room / tier`, since that many
/// alone would overfill the row; all lighter experts are taken as free.
fn few_heavy(row: &Constraint, gains: &[(usize, f64)], tier: usize) -> f64 {
    let line = capacity(row) / tier as f64;
    let (heavy, light): (Vec<_>, Vec<_>) = gains.iter().partition(|(n, _)| row.cost(*n) > line);
    let light: f64 = light.iter().map(|(_, gain)| gain).sum();
    light + largest(heavy.iter().map(|(_, gain)| *gain).collect(), tier - 1)
}
