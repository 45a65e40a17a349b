//! One `top_sum` row with j ≤ 3 and nothing else: solved by enumeration in O(N^(j−1)) evaluations.
//!
//! Fix the j − 1 dearest members. Whatever is cheaper than them and fits beside them costs nothing
//! more, since only the j largest count; so all of it is in (MATH section 4, step 2). Columns sorted
//! by cost make that a suffix which only grows while the last fixed member gets cheaper, so the rows'
//! best ticks are kept incrementally.

use super::tops::Tops;
use crate::reduce::{ROOM, Reduced};

/// Largest j.
const MAX_TOP: usize = 3;
/// Ticks read, at most, before branch and bound is the better way: a few seconds.
const MAX_READS: u64 = 1 << 33;

/// Sets that are kept to be compared by exact values, where ticks are rounded up.
const MAX_TIED: usize = 1024;

/// Columns of a set, with its ticks.
type Valued = (Vec<usize>, u64);

/// The sets among which an optimal one is, and the evaluations made, where this case applies. There is
/// one set if ticks are exact.
pub(super) fn solve(reduced: &Reduced) -> Option<(Vec<Valued>, u64)> {
    let [row] = &reduced.heaviest[..] else {
        return None;
    };
    // With j = 1 everything that fits alone fits together, and the row is gone.
    let applies = row.top > 1 && row.top <= MAX_TOP;
    let bare = reduced.linear.iter().all(|linear| linear.implied());
    let tuples = (reduced.width() as u64).pow(row.top.min(MAX_TOP) as u32 - 1);
    let reads = tuples.saturating_mul(reduced.rows as u64 * reduced.k as u64);
    if !applies || !bare || reads > MAX_READS {
        return None;
    }
    let mut order: Vec<usize> = (0..reduced.width()).collect();
    order.sort_by(|&a, &b| row.share[b].total_cmp(&row.share[a]).then(a.cmp(&b)));
    let mut search = Search {
        reduced,
        share: order.iter().map(|&column| row.share[column]).collect(),
        order,
        window: reduced.window(),
        best: 0,
        tied: Vec::new(),
        dropped: 0,
        evaluations: 0,
    };
    if row.top == 2 {
        search.complete(None, ROOM);
    } else {
        for first in 0..search.order.len() {
            search.complete(Some(first), ROOM - search.share[first]);
        }
    }
    if search.dropped > 0 && search.dropped + search.window >= search.best {
        return None;
    }
    let columns = |set: Vec<usize>| set.into_iter().map(|at| search.order[at]).collect();
    let tied = search
        .tied
        .into_iter()
        .map(|(set, value)| (columns(set), value));
    Some((tied.collect(), search.evaluations))
}

/// Positions below are in the order of falling cost.
struct Search<'r> {
    reduced: &'r Reduced,
    order: Vec<usize>,
    share: Vec<f64>,
    /// By how many ticks a value may be overstated.
    window: u64,
    best: u64,
    /// The sets that may be the best, with their ticks.
    tied: Vec<Valued>,
    /// The most ticks of a set for which there was no place among them.
    dropped: u64,
    evaluations: u64,
}

impl Search<'_> {
    /// The best sets whose dearest members are the `first` one, if given, and one more.
    fn complete(&mut self, first: Option<usize>, room: f64) {
        let count = self.order.len();
        let mut suffix = Tops::new(self.reduced.rows, self.reduced.k);
        let mut from = count;
        self.consider(&suffix, first, None, from);
        for second in first.map_or(0, |first| first + 1)..count {
            let left = room - self.share[second];
            if left < 0.0 {
                continue;
            }
            while from > second + 1 && self.share[from - 1] <= left {
                from -= 1;
                suffix.push(self.reduced.column(self.order[from]));
            }
            self.consider(&suffix, first, Some(second), from);
            if from == second + 1 {
                // All from here on fit together; later sets are parts of this one.
                return;
            }
        }
    }

    /// The set of the dearest members and everything from position `from` on.
    fn consider(
        &mut self,
        suffix: &Tops,
        first: Option<usize>,
        second: Option<usize>,
        from: usize,
    ) {
        let dearest = first.into_iter().chain(second);
        let mut tops = suffix.clone();
        for at in dearest.clone() {
            tops.push(self.reduced.column(self.order[at]));
        }
        self.evaluations += 1;
        let value = tops.value();
        if value > self.best {
            self.best = value;
            let least = value.saturating_sub(self.window);
            self.tied.retain(|set| set.1 >= least && self.window > 0);
        } else if self.window == 0 || value + self.window < self.best {
            return;
        }
        if self.tied.len() < MAX_TIED {
            let set = dearest.chain(from..self.order.len()).collect();
            self.tied.push((set, value));
        } else {
            self.dropped = self.dropped.max(value);
        }
    }
}
