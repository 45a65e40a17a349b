//! The same routing problem as one linear programme, solved by a general solver: an independent
//! answer to compare with.

use good_lp::{Expression, ProblemVariables, constraint, variable};

use super::problem::Routing;
use crate::backend::{self, Answer, Programme};

/// The optimal value, or `None` if the limits exclude each other.
///
/// # Errors
/// The solver's own message, or that the problem is too large for it.
pub fn optimum(problem: &Routing) -> Result<Option<f64>, String> {
    let entries = problem
        .prompt_count()
        .saturating_mul(problem.experts().len());
    if entries > backend::MAX_ENTRIES {
        return Err(format!(
            "{entries} shares, at most {} are accepted",
            backend::MAX_ENTRIES
        ));
    }
    let scale = (0..problem.prompt_count()).map(|x| {
        let best = problem.utility(x).iter().copied().fold(0.0, f64::max);
        problem.weights()[x] * best
    });
    let scale = scale.fold(f64::MIN_POSITIVE, f64::max);
    let mut variables = ProblemVariables::new();
    let mut rows = Vec::new();
    let mut worth = Vec::new();
    let mut energy = Expression::from(0.0);
    let mut late = vec![Expression::from(0.0); problem.categories().len()];
    for x in 0..problem.prompt_count() {
        let weight = problem.weights()[x];
        let mut whole = Expression::from(0.0);
        for n in 0..problem.experts().len() {
            let y = variables.add(variable().bounds(0.0..=1.0));
            whole.add_mul(1.0, y);
            worth.push((y, weight * problem.utility(x)[n] / scale));
            energy.add_mul(weight * problem.energy(x)[n], y);
            if let Some(c) = problem.category(x) {
                let above = problem.latency(x)[n] - problem.categories()[c].1;
                late[c].add_mul(weight * above, y);
            }
        }
        rows.push(constraint!(whole == 1.0));
    }
    if let Some(limit) = problem.energy_limit() {
        rows.push(constraint!(energy <= limit));
    }
    rows.extend(late.into_iter().map(|late| constraint!(late <= 0.0)));
    let programme = Programme {
        variables,
        objective: worth.iter().map(|&(y, worth)| worth * y).sum(),
        rows,
    };
    match backend::maximise(programme, None)? {
        Answer::Found(solved, _) => {
            let terms = worth
                .iter()
                .map(|&(y, worth)| worth * backend::value(&*solved, y));
            let value: f64 = terms.sum();
            Ok(Some(value * scale))
        }
        Answer::Infeasible => Ok(None),
        Answer::Nothing => Err("no solution was found".into()),
    }
}
