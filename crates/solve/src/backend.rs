//! The general solver behind `good_lp`: HiGHS with the feature `highs`, else microlp.
//!
//! It serves as an independent answer to compare with, never as part of a decision. Whatever it
//! returns is checked by its caller from the problem itself.

use good_lp::solvers::{ResolutionError, SolutionStatus, WithTimeLimit};
use good_lp::{Constraint, Expression, ProblemVariables, Solution, SolverModel, Variable};

/// Most entries of a constraint matrix that are handed over: beyond this HiGHS runs for hours and
/// microlp, which keeps them densely at times, for minutes.
pub(crate) const MAX_ENTRIES: usize = if cfg!(feature = "highs") {
    1 << 23
} else {
    1 << 13
};

/// A programme to maximise.
pub(crate) struct Programme {
    pub(crate) variables: ProblemVariables,
    pub(crate) objective: Expression,
    pub(crate) rows: Vec<Constraint>,
}

/// What came of it.
pub(crate) enum Answer {
    /// Values by variable, with whether they are proven optimal.
    Found(Box<dyn Solution>, bool),
    /// The time was over before there was any solution.
    Nothing,
    /// The rows exclude each other.
    Infeasible,
}

/// Value of a variable.
pub(crate) fn value(solved: &dyn Solution, variable: Variable) -> f64 {
    solved.value(variable)
}

/// Solves within `seconds`, if given.
///
/// # Errors
/// The backend's own message.
pub(crate) fn maximise(programme: Programme, seconds: Option<f64>) -> Result<Answer, String> {
    let model = programme.variables.maximise(programme.objective);
    let mut backend = backend(model)?;
    if let Some(seconds) = seconds {
        backend = backend.with_time_limit(seconds);
    }
    for row in programme.rows {
        backend.add_constraint(row);
    }
    match backend.solve() {
        Ok(solved) => {
            // Within the gap that was asked for counts as optimal.
            let proven = !matches!(solved.status(), SolutionStatus::TimeLimit);
            Ok(Answer::Found(Box::new(solved), proven))
        }
        Err(ResolutionError::Infeasible) => Ok(Answer::Infeasible),
        Err(ResolutionError::Other("NoSolutionFound")) => Ok(Answer::Nothing),
        Err(error) => Err(error.to_string()),
    }
}

/// Gap at which the backend may stop, absolute; objectives are scaled so that their largest
/// coefficient is 1.
#[cfg(feature = "highs")]
const GAP: f32 = 1e-9;

#[cfg(feature = "highs")]
fn backend(
    model: good_lp::variable::UnsolvedProblem,
) -> Result<good_lp::solvers::highs::HighsProblem, String> {
    let problem = model.using(good_lp::highs);
    let problem = problem.set_mip_rel_gap(0.0).map_err(|e| e.to_string())?;
    problem.set_mip_abs_gap(GAP).map_err(|e| e.to_string())
}

#[cfg(not(feature = "highs"))]
fn backend(
    model: good_lp::variable::UnsolvedProblem,
) -> Result<good_lp::solvers::microlp::MicroLpProblem, String> {
    Ok(model.using(good_lp::microlp))
}
