//! The k best ticks per row of a growing set: values and marginal values as streams.
//!
//! Level j holds, for all rows, the j-th best tick so far. A marginal value is `Σ (r − level k)⁺`, one
//! pass over a column; joining is a min/max exchange through the levels. The loops have no branches
//! and no early exit, which compilers turn into vector code on every target; partial sums of 32 bits
//! cannot overflow because a table's total fits (`reduce::ticks`).

/// Rows summed side by side: enough for the widest vectors, any number gives the same sums.
const LANES: usize = 16;

/// The k largest ticks per row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tops {
    rows: usize,
    /// Level 0 first; `k · rows` ticks.
    levels: Vec<u32>,
}

impl Tops {
    pub(crate) fn new(rows: usize, k: usize) -> Self {
        Self {
            rows,
            levels: vec![0; rows * k],
        }
    }

    /// As if k experts with the ticks `phantom` had joined.
    pub(crate) fn with_phantoms(phantom: &[u32], k: usize) -> Self {
        Self {
            rows: phantom.len(),
            levels: phantom.repeat(k),
        }
    }

    /// Ticks that a column of this set must exceed on each row to count there.
    pub(crate) fn last(&self) -> &[u32] {
        &self.levels[self.levels.len() - self.rows..]
    }

    pub(crate) fn push(&mut self, column: &[u32]) {
        if self.levels.len() == self.rows {
            for (best, &new) in self.levels.iter_mut().zip(column) {
                *best = (*best).max(new);
            }
            return;
        }
        let mut carry = column.to_vec();
        for level in self.levels.chunks_exact_mut(self.rows.max(1)) {
            for (best, new) in level.iter_mut().zip(&mut carry) {
                let larger = (*best).max(*new);
                *new = (*best).min(*new);
                *best = larger;
            }
        }
    }

    /// What the column would add.
    pub(crate) fn gain(&self, column: &[u32]) -> u64 {
        excess(column, self.last())
    }

    pub(crate) fn value(&self) -> u64 {
        sum(&self.levels)
    }

    /// The same on some of the rows.
    pub(crate) fn on(&self, rows: &[usize]) -> Self {
        let levels = self.levels.chunks_exact(self.rows.max(1));
        Self {
            rows: rows.len(),
            levels: levels
                .flat_map(|level| rows.iter().map(|&x| level[x]))
                .collect(),
        }
    }

    pub(crate) fn copy_from(&mut self, from: &Self) {
        self.rows = from.rows;
        self.levels.clone_from(&from.levels);
    }
}

/// `Σ (a − b)⁺`.
pub(crate) fn excess(a: &[u32], b: &[u32]) -> u64 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0u32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            lanes[lane] = lanes[lane].wrapping_add(a[lane].max(b[lane]) - b[lane]);
        }
    }
    let rest = a_rest
        .iter()
        .zip(b_rest)
        .map(|(a, b)| u64::from(a.max(b) - b));
    lanes.iter().map(|&lane| u64::from(lane)).sum::<u64>() + rest.sum::<u64>()
}

fn sum(values: &[u32]) -> u64 {
    values.iter().map(|&value| u64::from(value)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_and_gains_follow_the_definition(
            columns in prop::collection::vec(prop::collection::vec(0u32..50, 37), 1..6), k in 1usize..4,
        ) {
            let value = |set: &[Vec<u32>]| -> u64 {
                (0..37).map(|x| {
                    let mut row: Vec<u32> = set.iter().map(|c| c[x]).collect();
                    row.sort_unstable_by(|a, b| b.cmp(a));
                    row.iter().take(k).map(|&r| u64::from(r)).sum::<u64>()
                }).sum()
            };
            let mut tops = Tops::new(37, k);
            for n in 0..columns.len() {
                prop_assert_eq!(tops.gain(&columns[n]), value(&columns[..=n]) - value(&columns[..n]));
                tops.push(&columns[n]);
                prop_assert_eq!(tops.value(), value(&columns[..=n]));
            }
        }
    }
}
