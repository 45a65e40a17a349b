//! One instance, several solvers, one after the other on the same machine.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Context;
use moe2_solve::{
    Bounds, BranchAndBound, Limits, Problem, ProblemParts, Progress, Solution, Solver, check,
    solver,
};
use serde::Serialize;

/// A way to solve, with what it is called in records.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// Branch and bound with everything.
    Bnb,
    /// The monotone structure alone: boxes closed by the value of everything in them. This is
    /// branch-reduce-and-bound as the literature on discrete monotonic optimisation has it.
    Monotone,
    /// The greedy with exchanges.
    Greedy,
    /// Exhaustive search.
    Brute,
    /// The facility-location MILP by HiGHS, on the instance with equal rows merged.
    Milp,
    /// A variant of the exact solver.
    Variant(&'static str, BranchAndBound),
}

/// What branch and bound is without the bounds of this project.
const MONOTONE: BranchAndBound = BranchAndBound {
    bounds: Bounds {
        everything: true,
        marginal: false,
        cuts: false,
        lagrangian: false,
    },
    fixing: false,
    dive: false,
    ..BranchAndBound::FULL
};

impl Way {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Bnb => "bnb",
            Self::Monotone => "monotone",
            Self::Greedy => "greedy",
            Self::Brute => "brute",
            Self::Milp => "milp",
            Self::Variant(name, _) => name,
        }
    }
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) solver: &'static str,
    pub(crate) seconds: f64,
    pub(crate) status: String,
    pub(crate) objective: f64,
    pub(crate) bound: f64,
    pub(crate) gap: f64,
    pub(crate) chosen: usize,
    pub(crate) nodes: u64,
    pub(crate) evaluations: u64,
    /// When the best set was found, by the solver's own reports.
    pub(crate) best_after: f64,
}

/// Solves with a time limit and judges the answer; nothing where the solver refuses the instance.
///
/// # Errors
/// An answer that does not pass its check, or a solver that fails.
pub(crate) fn run(problem: &Problem, way: Way, limit: f64) -> anyhow::Result<Option<Run>> {
    let merged = matches!(way, Way::Milp).then(|| merged(problem));
    let problem = merged.as_ref().unwrap_or(problem);
    let solver: &dyn Solver = match &way {
        Way::Bnb => &BranchAndBound::FULL,
        Way::Monotone => &MONOTONE,
        Way::Variant(_, variant) => variant,
        Way::Greedy | Way::Brute | Way::Milp => solver(way.name())?,
    };
    if solver.applies(problem).is_err() {
        return Ok(None);
    }
    let began = Instant::now();
    let (mut best, mut best_after) = (0.0, 0.0);
    let mut follow = |progress: &Progress| {
        let now = began.elapsed().as_secs_f64();
        if progress.objective > best {
            (best, best_after) = (progress.objective, now);
        }
        now >= limit
    };
    let mut limits = Limits::default().with_stop(&mut follow).with_seconds(limit);
    let solution: Solution = solver.solve(problem, &mut limits)?;
    let seconds = began.elapsed().as_secs_f64();
    check(problem, &solution).with_context(|| format!("{} gave a false answer", way.name()))?;
    if solution.objective > best {
        best_after = seconds;
    }
    Ok(Some(Run {
        solver: way.name(),
        seconds,
        status: solution.status.name().to_owned(),
        objective: solution.objective,
        bound: solution.bound,
        gap: solution.gap(),
        chosen: solution.selected.len(),
        nodes: solution.nodes,
        evaluations: solution.evaluations,
        best_after,
    }))
}

/// The same problem with equal rows merged: what a careful modeller would hand to a MILP solver.
fn merged(problem: &Problem) -> Problem {
    let mut place: HashMap<Vec<u64>, usize> = HashMap::new();
    let (mut utility, mut weights): (Vec<Vec<f64>>, Vec<f64>) = (Vec::new(), Vec::new());
    for row in 0..problem.row_count() {
        let values = problem.row(row);
        let bits = values.iter().map(|u| u.to_bits()).collect();
        let at = *place.entry(bits).or_insert(utility.len());
        if at == utility.len() {
            utility.push(values.to_vec());
            weights.push(0.0);
        }
        weights[at] += problem.weights()[row];
    }
    Problem::new(ProblemParts {
        experts: problem.experts().to_vec(),
        utility,
        weights: Some(weights),
        k: problem.k(),
        constraints: problem.constraints().to_vec(),
    })
    .expect("the same numbers are as sound as before")
}
