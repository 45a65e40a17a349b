//! The Lagrangian bound: phantoms improved by subgradient steps.
//!
//! The bound of `bound` is convex in the phantoms v. A subgradient in `v_x` is k minus how many of the
//! columns that the priced knapsack would take exceed `v_x` on that row: rows that are counted too
//! often get a higher phantom, rows that lack answers a lower one. Steps follow Polyak's rule
//! towards the value to beat. This needs no linear programme; near the optimum cuts are better,
//! and they start from the phantoms found here.

use super::knapsack::{self, Row};
use super::majorant::{self, Majorant};
use crate::reduce::Reduced;

/// Steps without progress after which the step length is cut, and by what.
const PATIENCE: u32 = 4;
const CUT: f64 = 0.6;
/// Part of the last direction that is kept, against zigzagging.
const MOMENTUM: f64 = 0.4;

/// A box of sets: some columns inside, some open, the rest out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region<'b> {
    pub(crate) inside: &'b [usize],
    pub(crate) open: &'b [usize],
    pub(crate) rows: &'b [Row<'b>],
}

/// Multipliers and the bound they prove for a region.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) phantoms: Vec<u32>,
    pub(crate) prices: Vec<f64>,
    pub(crate) majorant: Majorant,
    /// In ticks, before rounding down.
    pub(crate) bound: f64,
}

/// The bound of these multipliers, prices improved on the way.
pub(crate) fn prove(
    reduced: &Reduced,
    region: Region<'_>,
    phantoms: Vec<u32>,
    mut prices: Vec<f64>,
) -> Proof {
    let majorant = majorant::of(reduced, &phantoms);
    let gain = |&column: &usize| majorant.slope[column] as f64;
    let gains: Vec<(usize, f64)> = region.open.iter().map(|c| (*c, gain(c))).collect();
    let inside: f64 = region.inside.iter().map(gain).sum();
    let as_given = knapsack::priced(region.rows, &gains, &prices);
    let given = prices.clone();
    let mut best = knapsack::descend(region.rows, &gains, &mut prices);
    if as_given < best {
        (best, prices) = (as_given, given);
    }
    Proof {
        bound: majorant.constant as f64 + inside + best,
        phantoms,
        prices,
        majorant,
    }
}

/// Improves a proof by at most `steps` subgradient steps, until it is at most `target` ticks.
pub(crate) fn improve(
    reduced: &Reduced,
    region: Region<'_>,
    start: Proof,
    target: u64,
    steps: u32,
) -> Proof {
    let mut best = start;
    let mut point: Vec<f64> = best.phantoms.iter().map(|&v| f64::from(v)).collect();
    let mut direction = vec![0.0; point.len()];
    let (mut length, mut idle) = (1.0, 0);
    let mut current = best.clone();
    for _ in 0..steps {
        if best.bound <= target as f64 {
            break;
        }
        slope(reduced, region, &current, &mut direction);
        let norm: f64 = direction.iter().map(|d| d * d).sum();
        if norm == 0.0 {
            break;
        }
        let step = length * (current.bound - target as f64).max(1.0) / norm;
        for (x, (v, d)) in point.iter_mut().zip(&direction).enumerate() {
            let most = reduced.row(x).1.first().copied().unwrap_or(0);
            *v = (*v - step * d).clamp(0.0, f64::from(most));
        }
        let phantoms = point.iter().map(|v| v.round() as u32).collect();
        current = prove(reduced, region, phantoms, best.prices.clone());
        if current.bound < best.bound {
            best = current.clone();
            idle = 0;
        } else {
            idle += 1;
            if idle == PATIENCE {
                idle = 0;
                length *= CUT;
            }
        }
    }
    best
}

/// Mixes a subgradient at the proof's phantoms into `direction`.
fn slope(reduced: &Reduced, region: Region<'_>, proof: &Proof, direction: &mut [f64]) {
    let mut count = vec![reduced.k as f64; direction.len()];
    let open = region.open.iter().filter(|&&column| {
        let gain = proof.majorant.slope[column] as f64;
        gain > knapsack::cost(region.rows, &proof.prices, column)
    });
    for &column in region.inside.iter().chain(open) {
        let ticks = reduced.column(column).iter().zip(&proof.phantoms);
        for (count, (tick, phantom)) in count.iter_mut().zip(ticks) {
            *count -= f64::from(u8::from(tick > phantom));
        }
    }
    for (x, (kept, fresh)) in direction.iter_mut().zip(count).enumerate() {
        let most = reduced.row(x).1.first().copied().unwrap_or(0);
        let stuck =
            (proof.phantoms[x] == 0 && fresh > 0.0) || (proof.phantoms[x] == most && fresh < 0.0);
        let fresh = if stuck { 0.0 } else { fresh };
        *kept = MOMENTUM * *kept + (1.0 - MOMENTUM) * fresh;
    }
}
