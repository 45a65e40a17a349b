//! What a solver hands back: a set, its value, a true upper bound and how far the proof got.
//!
//! Infeasible is a status with a reason, not an error: the caller shows the limits to raise. The
//! fields are plain and public because nothing is trusted on construction anyway; [`crate::check`]
//! judges a solution from the raw problem.

use crate::infeasible::Infeasible;
use crate::problem::Problem;
use crate::rows;

/// Relative gap within which a solution counts as optimal: above the rounding of sums over the
/// largest table, far below any utility difference that could be measured.
pub const OPTIMALITY_TOLERANCE: f64 = 1e-9;

/// How far a solver got.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// No set is better (within [`OPTIMALITY_TOLERANCE`]).
    Optimal,
    /// The solver finished; the bound tells how much better a set could be.
    Feasible,
    /// A limit ended the search early; set and bound are still true.
    Stopped,
    /// No non-empty set keeps every row.
    Infeasible(Infeasible),
}

impl Status {
    /// The status as written in result files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Optimal => "optimal",
            Self::Feasible => "feasible",
            Self::Stopped => "stopped",
            Self::Infeasible(_) => "infeasible",
        }
    }
}

/// An answer to a selection problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// Name of the solver that produced it.
    pub solver: &'static str,
    /// How far the proof got.
    pub status: Status,
    /// Chosen experts, ascending; empty only if infeasible.
    pub selected: Vec<usize>,
    /// Value of the chosen set.
    pub objective: f64,
    /// No feasible set is worth more than this.
    pub bound: f64,
    /// Subproblems looked at; what one is depends on the solver.
    pub nodes: u64,
    /// Evaluations of a set or of a marginal value, each one pass over a utility column or more.
    pub evaluations: u64,
    /// Constraints without room left, ascending.
    pub binding: Vec<usize>,
}

/// How much work a solver did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Effort {
    pub(crate) nodes: u64,
    pub(crate) evaluations: u64,
}

impl Solution {
    /// Relative gap `(bound − objective) / bound`, in `[0, 1]`; 0 when the bound is 0.
    pub fn gap(&self) -> f64 {
        if self.bound > 0.0 {
            ((self.bound - self.objective) / self.bound).max(0.0)
        } else {
            0.0
        }
    }

    /// Why nothing fits, in words; `None` unless it is infeasible.
    pub fn infeasibility(&self, problem: &Problem) -> Option<String> {
        match &self.status {
            Status::Infeasible(reason) => Some(reason.describe(problem)),
            _ => None,
        }
    }

    /// A solution for `selected` whose status follows from the gap and from `stopped`.
    pub(crate) fn found(
        solver: &'static str,
        problem: &Problem,
        mut selected: Vec<usize>,
        (bound, stopped): (f64, bool),
        effort: Effort,
    ) -> Self {
        selected.sort_unstable();
        let objective = crate::objective::value(problem, &selected);
        let mut solution = Self {
            solver,
            status: if stopped {
                Status::Stopped
            } else {
                Status::Feasible
            },
            binding: rows::binding(problem, &selected),
            selected,
            objective,
            bound: bound.max(objective),
            nodes: effort.nodes,
            evaluations: effort.evaluations,
        };
        if solution.gap() <= OPTIMALITY_TOLERANCE {
            solution.status = Status::Optimal;
        }
        solution
    }

    pub(crate) fn infeasible(solver: &'static str, reason: Infeasible) -> Self {
        Self {
            solver,
            status: Status::Infeasible(reason),
            selected: Vec::new(),
            objective: 0.0,
            bound: 0.0,
            nodes: 0,
            evaluations: 0,
            binding: Vec::new(),
        }
    }
}
