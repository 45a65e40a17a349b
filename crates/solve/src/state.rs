//! A growing set of experts with everything a search asks of it.
//!
//! Per calibration row the k best utilities so far are kept in descending order, so the marginal
//! value of one more expert is `Σ w·(u − k-th best)⁺`: one pass over its column, whatever the size
//! of the set. Undo is by saved copy rather than by removal, since the (k+1)-th best is not kept.

use crate::problem::Problem;
use crate::rows::Loads;

#[derive(Debug, Clone)]
pub(crate) struct State<'p> {
    problem: &'p Problem,
    members: Vec<usize>,
    loads: Loads,
    /// `best[x·depth ..][..depth]`: the largest utilities of row x, descending, 0 where unfilled.
    best: Vec<f64>,
    depth: usize,
}

impl<'p> State<'p> {
    pub(crate) fn new(problem: &'p Problem) -> Self {
        let depth = depth(problem);
        Self {
            problem,
            members: Vec::new(),
            loads: Loads::new(problem),
            best: vec![0.0; problem.row_count() * depth],
            depth,
        }
    }

    /// The state of `members`, in that order.
    pub(crate) fn of(problem: &'p Problem, members: impl IntoIterator<Item = usize>) -> Self {
        let mut state = Self::new(problem);
        members.into_iter().for_each(|n| state.push(n));
        state
    }

    pub(crate) fn members(&self) -> &[usize] {
        &self.members
    }

    /// Whether `expert` is new and every row holds after it joins.
    pub(crate) fn fits(&self, expert: usize) -> bool {
        !self.members.contains(&expert) && self.loads.fits(self.problem, expert)
    }

    /// What `expert` would add to the value.
    pub(crate) fn gain(&self, expert: usize) -> f64 {
        let worst = self.best.iter().skip(self.depth - 1).step_by(self.depth);
        let column = self.problem.column(expert).iter();
        let rows = self.problem.weights().iter().zip(column).zip(worst);
        rows.map(|((w, u), worst)| w * (u - worst).max(0.0)).sum()
    }

    pub(crate) fn push(&mut self, expert: usize) {
        self.members.push(expert);
        self.loads.add(self.problem, expert);
        let rows = self.best.chunks_exact_mut(self.depth);
        for (best, &u) in rows.zip(self.problem.column(expert)) {
            let last = best.len() - 1;
            if u <= best[last] {
                continue;
            }
            let mut at = last;
            while at > 0 && best[at - 1] < u {
                best[at] = best[at - 1];
                at -= 1;
            }
            best[at] = u;
        }
    }

    pub(crate) fn value(&self) -> f64 {
        let rows = self
            .problem
            .weights()
            .iter()
            .zip(self.best.chunks_exact(self.depth));
        rows.map(|(w, best)| w * best.iter().sum::<f64>()).sum()
    }

    /// Overwrites `self` with `from`, reusing the memory.
    pub(crate) fn copy_from(&mut self, from: &Self) {
        self.members.clone_from(&from.members);
        self.loads = from.loads.clone();
        self.best.copy_from_slice(&from.best);
    }
}

/// How many utilities per row can ever count.
pub(crate) fn depth(problem: &Problem) -> usize {
    problem.k().min(problem.expert_count())
}
