//! Branch, reduce and bound: the exact solver.
//!
//! Sets are searched as boxes [inside, inside + open]. A box is closed when an upper bound on all of
//! its sets is no better than the incumbent; before that, columns whose reduced cost proves that one
//! side holds nothing better are settled, and a small box is enumerated (`dive`). What remains is
//! split on one column. The box with the best bound is taken first, so the bound of the whole falls as
//! fast as it can and is true at any moment.
//!
//! Boxes are closed only by bounds in whole ticks from explicit multipliers (`bound`), never by what
//! the simplex method says. Everything is deterministic.
//!
//! References: Tuy, Minoux and Hoai-Phuong, "Discrete monotonic optimization with application to a
//! discrete location problem", SIAM J. Optim. 2006 (branch-reduce-and-bound); Cordeau, Furini and
//! Ljubić, "Benders decomposition for very large scale partial set covering and maximal covering
//! location problems", EJOR 2019 (cuts).

mod climb;
mod dive;
mod incumbent;
mod node;
mod options;
mod polynomial;
mod process;
mod prover;
mod relax;
mod room;
mod root;
mod tops;
mod tree;

pub use options::{Bounds, BranchAndBound};

use crate::infeasible;
use crate::problem::Problem;
use crate::reduce::{Reduced, Steps};
use crate::solution::Solution;
use crate::solver::{Limits, SolveError, Solver, Unfit};
pub(crate) use climb::{Climb, Draft};
pub(crate) use incumbent::Incumbent;
pub(crate) use node::Sides;
pub(crate) use prover::{Basis, Evidence, Prover};
pub(crate) use relax::Sources;

/// Fresh starts after experts were settled, at most.
const MAX_RESTARTS: u32 = 3;

impl Solver for BranchAndBound {
    fn name(&self) -> &'static str {
        "bnb"
    }

    fn applies(&self, _: &Problem) -> Result<(), Unfit> {
        Ok(())
    }

    fn solve(&self, problem: &Problem, limits: &mut Limits<'_>) -> Result<Solution, SolveError> {
        if let Some(reason) = infeasible::diagnose(problem) {
            return Ok(Solution::infeasible(self.name(), reason));
        }
        let steps = Steps {
            dominance: self.dominance,
            merge: self.merge,
            unit: true,
        };
        let mut reduced = Reduced::of(problem, &steps);
        let mut end = tree::Tree::new(*self, problem, &reduced, (limits, None)).run(true);
        // What the first bounds leave open may be a much smaller problem, with more to merge and
        // smaller programmes: it is worth starting afresh.
        let mut restarts = 0;
        while let Some(open) = end.open.take() {
            restarts += 1;
            reduced = Reduced::among(problem, open, &steps);
            let tree = tree::Tree::new(*self, problem, &reduced, (limits, Some(end)));
            end = tree.run(restarts < MAX_RESTARTS);
        }
        let proof = (end.bound, end.stopped);
        let members = crate::trim::without_idle(problem, end.members);
        Ok(Solution::found(
            self.name(),
            problem,
            members,
            proof,
            end.effort,
        ))
    }
}
