//! Experts that some optimal set does without.
//!
//! Expert n *dominates* m when it is at least as good on every row and costs no more in every
//! constraint. Swapping m for a dominator outside the set never hurts, and with k dominators inside m
//! counts for nothing; so an expert with k dominators can be dropped (k = 1 is the usual rule). Of
//! equals the first one dominates. Compared are the exact utilities, not ticks: rounding up can
//! make two numbers equal that are not.

use crate::problem::{Constraint, Problem};

/// Comparisons of two utilities before the search is given up, a few seconds' worth. Real pairs
/// differ within a few rows; only tables full of near twins come close.
const MAX_COMPARISONS: u64 = 1 << 31;

/// Those of `experts` that have fewer than k dominators among them, in order.
pub(super) fn undominated(problem: &Problem, experts: &[usize]) -> Vec<usize> {
    let mean: Vec<f64> = (0..problem.expert_count())
        .map(|n| {
            problem
                .column(n)
                .zip(problem.weights())
                .map(|(u, w)| u * w)
                .sum()
        })
        .collect();
    // Likely dominators first.
    let mut strongest = experts.to_vec();
    strongest.sort_by(|&a, &b| mean[b].total_cmp(&mean[a]).then(a.cmp(&b)));
    let costs = Costs::of(problem);
    let mut left = MAX_COMPARISONS;
    let kept = experts.iter().copied().filter(|&m| {
        let mut dominators = 0;
        for &n in strongest.iter().take_while(|&&n| mean[n] >= mean[m] * SURE) {
            if n != m && costs.no_dearer(n, m) && costs.no_worse((n, m), &mut left) {
                dominators += 1;
            }
            if dominators >= problem.k() || left == 0 {
                break;
            }
        }
        dominators < problem.k()
    });
    kept.collect()
}

/// The experts that fit alone and are not among `kept`, each with k experts that dominate it.
pub(crate) fn dominators(problem: &Problem, kept: &[usize]) -> Vec<(usize, Vec<usize>)> {
    let costs = Costs::of(problem);
    let eligible = crate::rows::eligible(problem);
    let gone = eligible.iter().filter(|m| !kept.contains(m));
    let by = |m: usize| {
        let others = eligible
            .iter()
            .copied()
            .filter(|&n| n != m && costs.dominates(n, m));
        others.take(problem.k()).collect()
    };
    gone.map(|&m| (m, by(m))).collect()
}

/// A dominator's weighted mean is at least as large, up to the rounding of the sum.
const SURE: f64 = 1.0 - 1e-9;

/// What each expert costs, without the rows in which it costs nothing: most rows are one device's, and cost only the
/// experts there.
pub(crate) struct Costs<'a> {
    problem: &'a Problem,
    of: Vec<Vec<(&'a Constraint, f64)>>,
}

impl<'a> Costs<'a> {
    pub(crate) fn of(problem: &'a Problem) -> Self {
        let costs = |n: usize| {
            let rows = problem.constraints().iter();
            rows.map(|row| (row, row.cost(n)))
                .filter(|(_, cost)| *cost > 0.0)
                .collect()
        };
        Self {
            problem,
            of: (0..problem.expert_count()).map(costs).collect(),
        }
    }

    /// Whether n is as good as m on every row and costs no more in any constraint; of equals the first
    /// one dominates.
    pub(crate) fn dominates(&self, n: usize, m: usize) -> bool {
        self.no_dearer(n, m) && self.no_worse((n, m), &mut u64::MAX.clone())
    }

    fn no_dearer(&self, n: usize, m: usize) -> bool {
        self.of[n].iter().all(|(row, cost)| *cost <= row.cost(m))
    }

    /// Whether n is as good as m everywhere and, if it is the same in all respects, comes first.
    fn no_worse(&self, (n, m): (usize, usize), left: &mut u64) -> bool {
        let mut better = n < m;
        for row in 0..self.problem.row_count() {
            *left = left.saturating_sub(1);
            let utilities = self.problem.row(row);
            if utilities[n] < utilities[m] || *left == 0 {
                return false;
            }
            better |= utilities[n] > utilities[m];
        }
        better || self.of[m].iter().any(|(row, cost)| row.cost(n) < *cost)
    }
}
