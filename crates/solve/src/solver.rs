//! The table of solvers and what they have in common.
//!
//! A solver is a file and a row in [`solvers`]; command line, planner and tests iterate over the
//! table, so a new one is reachable and tested the moment it is listed. Limits come in as a node
//! budget and a callback: the crate owns no clock, and the same callback that stops a run also
//! sees how incumbent and bound move, which is all a caller needs to plot progress.

use crate::brute::Brute;
use crate::greedy::Greedy;
use crate::milp::Milp;
use crate::problem::Problem;
use crate::search::BranchAndBound;
use crate::solution::Solution;

/// A way to solve selection problems.
pub trait Solver: Sync {
    /// Name in the table, on the command line and in results.
    fn name(&self) -> &'static str;

    /// Whether this solver accepts the problem.
    ///
    /// # Errors
    /// [`Unfit`] with the property that is out of range.
    fn applies(&self, problem: &Problem) -> Result<(), Unfit>;

    /// Solves `problem` within `limits`. Deterministic, as long as the stop callback is.
    ///
    /// # Errors
    /// [`SolveError::Unfit`] where [`Solver::applies`] refuses, [`SolveError::Backend`] when an
    /// external solver fails. An infeasible problem is a [`Solution`], not an error.
    fn solve(&self, problem: &Problem, limits: &mut Limits<'_>) -> Result<Solution, SolveError>;
}

/// Why a solver does not accept a problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {actual}, this solver takes at most {max}; use another solver, e.g. auto")]
pub struct Unfit {
    /// The property out of range.
    pub what: &'static str,
    /// Its value.
    pub actual: usize,
    /// The largest value accepted.
    pub max: usize,
}

impl Unfit {
    pub(crate) fn unless(what: &'static str, actual: usize, max: usize) -> Result<(), Self> {
        if actual <= max {
            Ok(())
        } else {
            Err(Self { what, actual, max })
        }
    }
}

/// Why a solver gave no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// The solver does not accept this problem.
    #[error("solver {solver}: {reason}")]
    Unfit {
        /// Name of the solver.
        solver: &'static str,
        /// What is out of range.
        reason: Unfit,
    },
    /// An external solver failed or gave an unusable answer.
    #[error("solver {solver} failed: {message}; use another solver, e.g. auto")]
    Backend {
        /// Name of the solver.
        solver: &'static str,
        /// What it said.
        message: String,
    },
}

/// A name that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no solver is called {name:?}; choose one of {}", known())]
pub struct UnknownSolver {
    /// The name asked for.
    pub name: String,
}

/// Where a running solver stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Subproblems looked at so far.
    pub nodes: u64,
    /// Evaluations so far.
    pub evaluations: u64,
    /// Value of the best set so far.
    pub objective: f64,
    /// Upper bound proven so far; never below `objective`.
    pub bound: f64,
}

/// When to stop early. The default never stops.
#[derive(Default)]
pub struct Limits<'a> {
    nodes: Option<u64>,
    seconds: Option<f64>,
    stop: Option<&'a mut dyn FnMut(&Progress) -> bool>,
}

impl<'a> Limits<'a> {
    /// Stops after this many nodes.
    #[must_use]
    pub fn with_nodes(mut self, nodes: u64) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// Tells solvers that cannot be interrupted (`milp`) how long they may run; the others go by
    /// [`Limits::with_stop`], so a time limit sets both.
    #[must_use]
    pub fn with_seconds(mut self, seconds: f64) -> Self {
        self.seconds = Some(seconds);
        self
    }

    /// Stops when `stop` returns true. It is called at least once per box or set that is looked
    /// at, so it should be cheap; `milp` can only ask before each run of its external solver.
    #[must_use]
    pub fn with_stop(mut self, stop: &'a mut dyn FnMut(&Progress) -> bool) -> Self {
        self.stop = Some(stop);
        self
    }

    pub(crate) fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    pub(crate) fn reached(&mut self, progress: &Progress) -> bool {
        self.nodes.is_some_and(|max| progress.nodes >= max)
            || self.stop.as_mut().is_some_and(|stop| stop(progress))
    }
}

/// All solvers, `auto` first.
pub fn solvers() -> &'static [&'static dyn Solver] {
    const TABLE: &[&dyn Solver] = &[&Auto, &BranchAndBound::FULL, &Greedy, &Milp, &Brute];
    TABLE
}

/// The solver of that name.
///
/// # Errors
/// [`UnknownSolver`], which lists the names there are.
pub fn solver(name: &str) -> Result<&'static dyn Solver, UnknownSolver> {
    let found = solvers().iter().find(|solver| solver.name() == name);
    found
        .copied()
        .ok_or_else(|| UnknownSolver { name: name.into() })
}

fn known() -> String {
    let names: Vec<&str> = solvers().iter().map(|solver| solver.name()).collect();
    names.join(", ")
}

/// Most utilities `auto` lets an exhaustive search read: below this it is done before branch and bound
/// has set up its tables, and of equal sets it finds the smallest.
const AUTO_BRUTE_READS: usize = 1 << 18;

/// Exhaustive search for tiny problems, else branch and bound. The solution carries the name of
/// the one that ran.
struct Auto;

impl Solver for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn applies(&self, problem: &Problem) -> Result<(), Unfit> {
        BranchAndBound::FULL.applies(problem)
    }

    fn solve(&self, problem: &Problem, limits: &mut Limits<'_>) -> Result<Solution, SolveError> {
        let tiny = Brute.applies(problem).is_ok() && Brute::reads(problem) <= AUTO_BRUTE_READS;
        if tiny {
            Brute.solve(problem, limits)
        } else {
            BranchAndBound::FULL.solve(problem, limits)
        }
    }
}

/// The error of `solver` if it does not accept `problem`.
pub(crate) fn require(solver: &dyn Solver, problem: &Problem) -> Result<(), SolveError> {
    let unfit = |reason| SolveError::Unfit {
        solver: solver.name(),
        reason,
    };
    solver.applies(problem).map_err(unfit)
}
