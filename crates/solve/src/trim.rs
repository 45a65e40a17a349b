//! Members that add nothing.
//!
//! An optimum may hold experts that change no row: a search has no reason to leave them out, an
//! operator has every reason not to keep them powered. Dropping them keeps every constraint.

use crate::problem::Problem;

/// The set without members whose absence changes nothing; at least one member stays. Later members
/// go first, so that of equals the first one stays.
pub(crate) fn without_idle(problem: &Problem, mut members: Vec<usize>) -> Vec<usize> {
    members.sort_unstable();
    while members.len() > 1 {
        let needed = needed(problem, &members);
        let Some(idle) = needed.iter().rposition(|needed| !needed) else {
            break;
        };
        members.remove(idle);
    }
    members
}

/// Per member whether some row would be worth less without it.
fn needed(problem: &Problem, members: &[usize]) -> Vec<bool> {
    let mut needed = vec![false; members.len()];
    let mut best: Vec<f64> = Vec::new();
    for row in (0..problem.row_count()).filter(|&row| problem.weights()[row] > 0.0) {
        let utilities = problem.row(row);
        best.clear();
        best.extend(members.iter().map(|&n| utilities[n]));
        best.sort_unstable_by(|a, b| b.total_cmp(a));
        let replacement = best.get(problem.k()).copied().unwrap_or(0.0);
        for (needed, &n) in needed.iter_mut().zip(members) {
            *needed |= utilities[n] > replacement;
        }
    }
    needed
}
