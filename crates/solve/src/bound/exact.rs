//! The bound of given multipliers in double precision, for boxes that whole ticks cannot close.
//!
//! Where ticks are rounded up, a bound may exceed the truth by up to a tick per row. That is enough to
//! keep the box around an incumbent open although the relaxation is tight there. The same bound from the
//! utilities themselves is off by the rounding of a sum only, far below the tolerance of optimality.

use super::knapsack;
use super::lagrange::Region;
use crate::problem::Problem;
use crate::reduce::Reduced;

/// Relative error of the sums here, generously: 10⁸ terms in double precision.
const ROUNDING: f64 = 1e-12;

/// A phantom's ticks as the weighted utility that was rounded up to them.
pub(crate) fn phantom(reduced: &Reduced, problem: &Problem, row: usize, ticks: u32) -> f64 {
    let (order, sorted) = reduced.row(row);
    let at = sorted.partition_point(|&tick| tick > ticks);
    let same = sorted.get(at) == Some(&ticks);
    if same {
        reduced.worth(problem, row, usize::from(order[at]))
    } else {
        reduced.ticks.value(u64::from(ticks))
    }
}

/// Upper bound in value on every set of the region, from phantoms in value and prices in ticks.
pub(crate) fn bound(
    reduced: &Reduced,
    problem: &Problem,
    region: Region<'_>,
    phantoms: &[f64],
    prices: &[f64],
) -> f64 {
    let mut slope = vec![0.0; reduced.width()];
    let mut constant = 0.0;
    for (x, &phantom) in phantoms.iter().enumerate() {
        constant += phantom;
        let (order, sorted) = reduced.row(x);
        for (&column, &tick) in order.iter().zip(sorted) {
            // Nothing that was rounded up to this is above the phantom.
            if reduced.ticks.value(u64::from(tick)) <= phantom {
                break;
            }
            let column = usize::from(column);
            slope[column] += (reduced.worth(problem, x, column) - phantom).max(0.0);
        }
    }
    let gains: Vec<(usize, f64)> = region.open.iter().map(|&c| (c, slope[c])).collect();
    let prices: Vec<f64> = prices.iter().map(|p| p * reduced.ticks.value(1)).collect();
    let inside: f64 = region.inside.iter().map(|&c| slope[c]).sum();
    let added = knapsack::priced(region.rows, &gains, &prices);
    (reduced.k as f64 * constant + inside + added) * (1.0 + ROUNDING)
}
