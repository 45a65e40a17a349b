//! The most that a linear function can reach inside the constraints, relaxed by prices.
//!
//! For prices λ ≥ 0 on the linear rows, `Σ_r λ_r·left_r + Σ_n (gain_n − λ·share_n)⁺` bounds every
//! choice of open columns. For one row the best price is the density of the critical item, which
//! makes this the fractional knapsack; with several rows each price in turn is set to its best with
//! the others held (coordinate descent), which may stop short of the optimum and is valid anyway.

/// Sweeps over the rows; later ones gain next to nothing.
const SWEEPS: usize = 4;
/// Rows beyond which only one sweep is made.
const MANY: usize = 16;
/// Largest price: a product with any share stays a number.
const MAX_PRICE: f64 = 1e18;
/// Relative change of a price that counts as one.
const CHANGED: f64 = 1e-9;

/// One linear row as seen by a knapsack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'s> {
    /// Share of the limit by column.
    pub(crate) share: &'s [f64],
    /// Room left.
    pub(crate) left: f64,
}

/// Columns that may still join, each with what it would add at most, in ticks.
pub(crate) type Gains<'g> = &'g [(usize, f64)];

/// The bound for given prices.
pub(crate) fn priced(rows: &[Row<'_>], gains: Gains<'_>, prices: &[f64]) -> f64 {
    let room: f64 = rows
        .iter()
        .zip(prices)
        .map(|(row, price)| row.left * price)
        .sum();
    let worth = gains
        .iter()
        .map(|&(column, gain)| (gain - cost(rows, prices, column)).max(0.0));
    room + worth.sum::<f64>()
}

/// What a column costs at these prices.
pub(crate) fn cost(rows: &[Row<'_>], prices: &[f64], column: usize) -> f64 {
    let terms = rows.iter().zip(prices).filter(|(_, price)| **price > 0.0);
    terms.map(|(row, price)| price * row.share[column]).sum()
}

/// Improves `prices` by coordinate descent and returns the bound.
pub(crate) fn descend(rows: &[Row<'_>], gains: Gains<'_>, prices: &mut [f64]) -> f64 {
    let mut scratch = Vec::with_capacity(gains.len());
    if rows.len() > 1 && rows.len() <= MANY && prices.iter().all(|&price| price == 0.0) {
        // From zero, descent ends wherever the first row leads: start at the best single row.
        let single = (0..rows.len()).map(|at| {
            let mut alone = vec![0.0; rows.len()];
            alone[at] = critical(rows, gains, &alone, at, &mut scratch);
            (priced(rows, gains, &alone), alone)
        });
        if let Some((_, best)) = single.min_by(|a, b| a.0.total_cmp(&b.0)) {
            prices.copy_from_slice(&best);
        }
    }
    let sweeps = if rows.len() > MANY { 1 } else { SWEEPS };
    for _ in 0..sweeps {
        let mut moved = false;
        for at in 0..rows.len() {
            let before = prices[at];
            prices[at] = 0.0;
            let price = critical(rows, gains, prices, at, &mut scratch);
            moved |= (price - before).abs() > CHANGED * price.max(before);
            prices[at] = price;
        }
        if !moved || rows.len() == 1 {
            break;
        }
    }
    priced(rows, gains, prices)
}

/// The best price of row `at`, the others held: the density at which the row is full.
fn critical(
    rows: &[Row<'_>],
    gains: Gains<'_>,
    prices: &[f64],
    at: usize,
    scratch: &mut Vec<(f64, f64)>,
) -> f64 {
    let row = rows[at];
    scratch.clear();
    let mut total = 0.0;
    for &(column, gain) in gains {
        let share = row.share[column];
        if share > 0.0 {
            let net = gain - cost(rows, prices, column);
            if net > 0.0 {
                total += share;
                scratch.push(((net / share).min(MAX_PRICE), share));
            }
        }
    }
    if total <= row.left {
        return 0.0;
    }
    scratch.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let mut left = row.left;
    for &(density, share) in scratch.iter() {
        left -= share;
        if left < 0.0 {
            return density;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_choice_exceeds_the_bound_and_one_row_gives_the_fractional_knapsack(
            items in prop::collection::vec((0.0..9.0f64, 0.0..1.0f64, 0.0..1.0f64), 1..9),
            left in prop::array::uniform2(0.0..2.0f64),
        ) {
            let gains: Vec<(usize, f64)> = items.iter().map(|i| i.0).enumerate().collect();
            let shares: [Vec<f64>; 2] =
                [items.iter().map(|i| i.1).collect(), items.iter().map(|i| i.2).collect()];
            let rows = [0, 1].map(|r| Row { share: &shares[r], left: left[r] });
            let both = descend(&rows, &gains, &mut [0.0, 0.0]);
            let one = descend(&rows[..1], &gains, &mut [0.0]);
            prop_assert!(both <= one + 1e-9);
            for mask in 0u32..1 << items.len() {
                let inside = |n: &usize| mask >> n & 1 == 1;
                let members: Vec<usize> = (0..items.len()).filter(inside).collect();
                let load = |r: usize| members.iter().map(|&n| shares[r][n]).sum::<f64>();
                let worth: f64 = members.iter().map(|&n| items[n].0).sum();
                if load(0) <= left[0] {
                    prop_assert!(worth <= one + 1e-9);
                    prop_assert!(load(1) > left[1] || worth <= both + 1e-9);
                }
            }
        }
    }
}
