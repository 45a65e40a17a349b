//! What a person reads of a solved instance.

use moe2_solve::{AdmissionRecord, Dropped, Problem, Solution, dropped, load, number};

use crate::plot::{Moment, plot};
use crate::table::{Table, shorten};

/// Dropped experts that are listed one by one; more are counted.
const LISTED: usize = 40;
/// Widest name and reason shown.
const NAME: usize = 40;
const WHY: usize = 100;

/// The answer, the rows, who was dropped and why, and how the proof went.
pub(super) fn render(
    problem: &Problem,
    solution: &Solution,
    seconds: f64,
    moments: &[Moment],
) -> String {
    let mut parts = vec![summary(problem, solution, seconds)];
    parts.push(chosen(problem, solution));
    if !problem.constraints().is_empty() {
        parts.push(rows(problem, solution));
    }
    if solution.selected.len() < problem.expert_count() {
        parts.push(out(problem, solution));
    }
    parts.extend(plot(moments));
    parts.join("\n\n")
}

fn summary(problem: &Problem, solution: &Solution, seconds: f64) -> String {
    format!(
        "{}: value {:.6}, bound {:.6}, gap {:.4} %\n{} of {} experts, {} rows, k = {}; {} in {:.4} s, {} nodes, {} evaluations; checked",
        solution.status.name(),
        solution.objective,
        solution.bound,
        100.0 * solution.gap(),
        solution.selected.len(),
        problem.expert_count(),
        problem.row_count(),
        problem.k(),
        solution.solver,
        seconds,
        solution.nodes,
        solution.evaluations,
    )
}

fn chosen(problem: &Problem, solution: &Solution) -> String {
    let mut table = Table::new(&["CHOSEN", "ALONE", "ONLY HERE"]);
    for &n in &solution.selected {
        let rest: Vec<usize> = solution
            .selected
            .iter()
            .copied()
            .filter(|m| *m != n)
            .collect();
        let alone = moe2_solve::value(problem, &[n]);
        let only = solution.objective - moe2_solve::value(problem, &rest);
        table.row([
            shorten(&problem.experts()[n], NAME),
            format!("{alone:.4}"),
            format!("{only:.4}"),
        ]);
    }
    table.to_string()
}

fn rows(problem: &Problem, solution: &Solution) -> String {
    let mut table = Table::new(&["CONSTRAINT", "KIND", "USED", "LIMIT", "SHARE", ""]);
    for (row, constraint) in problem.constraints().iter().enumerate() {
        let used = load(constraint, &solution.selected);
        let share = if constraint.limit > 0.0 {
            100.0 * used / constraint.limit
        } else {
            0.0
        };
        let binding = if solution.binding.contains(&row) {
            "binding"
        } else {
            ""
        };
        table.row([
            shorten(&constraint.name, NAME),
            constraint.kind_name().to_owned(),
            number(used),
            number(constraint.limit),
            format!("{share:.1} %"),
            binding.to_owned(),
        ]);
    }
    table.to_string()
}

fn out(problem: &Problem, solution: &Solution) -> String {
    let mut reasons = dropped(problem, solution);
    let rank = |why: &Dropped| match why {
        Dropped::Overlooked { .. } => 0,
        Dropped::Outweighed { .. } => 1,
        Dropped::TooLarge { .. } => 2,
        Dropped::Dominated { .. } => 3,
        Dropped::Idle => 4,
    };
    reasons.sort_by_key(|(n, why)| (rank(why), *n));
    let mut table = Table::new(&["DROPPED", "WHY"]);
    for (n, why) in reasons.iter().take(LISTED) {
        table.row([
            shorten(&problem.experts()[*n], NAME),
            shorten(&why.describe(problem), WHY),
        ]);
    }
    let more = reasons.len().saturating_sub(LISTED);
    if more > 0 {
        format!("{table}\nand {more} more")
    } else {
        table.to_string()
    }
}

/// What would bring each outweighed or too large expert in.
pub(crate) fn admissions(admissions: &[AdmissionRecord]) -> String {
    let mut table = Table::new(&["TO ADMIT", "HAVING IT COSTS", "OR RAISE", "TO", "FROM"]);
    for admission in admissions {
        let costs = match admission.cost {
            Some(cost) => format!("{cost:.4}"),
            None if admission.unfinished => "time ran out".to_owned(),
            None => "does not fit".to_owned(),
        };
        let (row, to, from) = match &admission.raise {
            Some(raise) => {
                let name = shorten(&raise.constraint, NAME);
                (name, number(raise.to), number(raise.from))
            }
            None if admission.unfinished => {
                ("time ran out".to_owned(), String::new(), String::new())
            }
            None => (
                "no single limit found".to_owned(),
                String::new(),
                String::new(),
            ),
        };
        table.row([shorten(&admission.expert, NAME), costs, row, to, from]);
    }
    table.to_string()
}
