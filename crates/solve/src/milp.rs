//! The facility-location MILP, solved by a general solver: an independent exact answer.
//!
//! `z_n` says whether expert n is active, `y_xn ∈ [0, 1]` whether it answers row x:
//! maximise `Σ w_x u_xn y_xn` with `y_xn ≤ z_n` and `Σ_n y_xn ≤ k`. For fixed z the best y takes
//! the k largest utilities, so only z must be integer. `top_sum` enters through the dual of "sum
//! of the j largest": `j·t + Σ s_n ≤ limit`, `s_n ≥ cost_n z_n − t`, `s, t ≥ 0`.
//! It shares no code with the searches beyond the final value of the set, which is the point; the
//! model is therefore written plainly, without merging rows or dropping dominated experts.
//!
//! Rows and objective are scaled to 1, so the backend's absolute tolerances become relative. Should
//! its answer still break a row, that set and all its supersets are cut off and it is asked again.

use good_lp::{Expression, ProblemVariables, Variable, constraint, variable};

use crate::backend::{self, Answer, Programme};
use crate::infeasible;
use crate::problem::{Constraint, Kind, Problem};
use crate::rows::{self, FEASIBILITY_TOLERANCE};
use crate::solution::{Effort, Solution};
use crate::solver::{Limits, Progress, SolveError, Solver, Unfit, require};

/// Times the backend is asked again after an answer that breaks a row.
const MAX_CUTS: usize = 64;

pub(crate) struct Milp;

impl Solver for Milp {
    fn name(&self) -> &'static str {
        "milp"
    }

    fn applies(&self, problem: &Problem) -> Result<(), Unfit> {
        let per_row = problem.row_count() + problem.constraints().len();
        let entries = per_row.saturating_mul(problem.expert_count());
        let most = backend::MAX_ENTRIES;
        Unfit::unless("(rows + constraints) × experts", entries, most)
    }

    fn solve(&self, problem: &Problem, limits: &mut Limits<'_>) -> Result<Solution, SolveError> {
        require(self, problem)?;
        if let Some(reason) = infeasible::diagnose(problem) {
            return Ok(Solution::infeasible(self.name(), reason));
        }
        let eligible = rows::eligible(problem);
        let everything = crate::objective::value(problem, &eligible);
        let mut best = vec![eligible[0]];
        let mut effort = Effort::default();
        let mut cuts: Vec<Vec<usize>> = Vec::new();
        let found = |best: Vec<usize>, proof, effort| {
            Ok(Solution::found(self.name(), problem, best, proof, effort))
        };
        while cuts.len() <= MAX_CUTS {
            let progress = Progress {
                nodes: effort.nodes,
                evaluations: effort.evaluations,
                objective: crate::objective::value(problem, &best),
                bound: everything,
            };
            if limits.reached(&progress) {
                return found(best, (everything, true), effort);
            }
            effort.nodes += 1;
            effort.evaluations += 1;
            let asked = ask(problem, &eligible, &cuts, limits.seconds());
            let Some((selected, proven)) = asked.map_err(|message| self.failed(message))? else {
                return found(best, (everything, true), effort);
            };
            if !feasible(problem, &selected) {
                cuts.push(selected);
                continue;
            }
            best = selected;
            // The backend's proof is its value; its bound is not handed on when time is over.
            let bound = if proven {
                crate::objective::value(problem, &best)
            } else {
                everything
            };
            return found(best, (bound, !proven), effort);
        }
        Err(self.failed("its answers keep breaking a constraint by rounding".into()))
    }
}

impl Milp {
    fn failed(&self, message: String) -> SolveError {
        SolveError::Backend {
            solver: self.name(),
            message,
        }
    }
}

fn feasible(problem: &Problem, members: &[usize]) -> bool {
    let holds = |row: &Constraint| rows::load(row, members) <= rows::capacity(row);
    !members.is_empty() && problem.constraints().iter().all(holds)
}

/// One run of the backend: the chosen experts and whether they are proven optimal, or nothing if time
/// was over first.
fn ask(
    problem: &Problem,
    eligible: &[usize],
    cuts: &[Vec<usize>],
    seconds: Option<f64>,
) -> Result<Option<(Vec<usize>, bool)>, String> {
    let mut model = Model::new(eligible);
    let objective = model.objective(problem);
    for row in problem.constraints() {
        model.constrain(row);
    }
    for cut in cuts {
        let inside = model.active.iter().filter(|(n, _)| cut.contains(n));
        let total: Expression = inside.map(|&(_, z)| Expression::from(z)).sum();
        model
            .rows
            .push(constraint!(total <= cut.len() as f64 - 1.0));
    }
    let any: Expression = model.active.iter().map(|&(_, z)| Expression::from(z)).sum();
    model.rows.push(constraint!(any >= 1.0));
    let programme = Programme {
        variables: model.variables,
        objective,
        rows: model.rows,
    };
    match backend::maximise(programme, seconds)? {
        Answer::Found(solved, proven) => {
            let chosen = model
                .active
                .iter()
                .filter(|(_, z)| backend::value(&*solved, *z) > 0.5);
            Ok(Some((chosen.map(|&(n, _)| n).collect(), proven)))
        }
        Answer::Nothing => Ok(None),
        Answer::Infeasible => Err("it finds the problem infeasible, which it is not".into()),
    }
}

struct Model {
    variables: ProblemVariables,
    /// Eligible experts and their `z`.
    active: Vec<(usize, Variable)>,
    rows: Vec<good_lp::Constraint>,
}

impl Model {
    fn new(eligible: &[usize]) -> Self {
        let mut variables = ProblemVariables::new();
        let active = eligible
            .iter()
            .map(|&n| (n, variables.add(variable().binary())))
            .collect();
        Self {
            variables,
            active,
            rows: Vec::new(),
        }
    }

    /// Adds `y` with its rows; returns the objective, its largest coefficient scaled to 1.
    fn objective(&mut self, problem: &Problem) -> Expression {
        let worth = |x: usize, n: usize| problem.weights()[x] * problem.row(x)[n];
        let cells =
            (0..problem.row_count()).flat_map(|x| self.active.iter().map(move |a| (x, a.0)));
        let scale = cells.map(|(x, n)| worth(x, n)).fold(0.0, f64::max);
        let mut objective = Expression::from(0.0);
        if scale == 0.0 {
            return objective;
        }
        for x in 0..problem.row_count() {
            let mut answers = Expression::from(0.0);
            for &(n, z) in self.active.iter().filter(|(n, _)| worth(x, *n) > 0.0) {
                let y = self.variables.add(variable().bounds(0.0..=1.0));
                objective.add_mul(worth(x, n) / scale, y);
                answers.add_mul(1.0, y);
                self.rows.push(constraint!(y <= z));
            }
            self.rows.push(constraint!(
                answers <= problem.k().min(self.active.len()) as f64
            ));
        }
        objective
    }

    fn constrain(&mut self, row: &Constraint) {
        // Eligible experts cost nothing on a row with limit 0, so it cannot be broken.
        if row.limit == 0.0 {
            return;
        }
        let room = 1.0 + FEASIBILITY_TOLERANCE;
        let share = |n: usize| row.cost(n) / row.limit;
        match row.kind {
            // Eligibility is all a `max` row asks.
            Kind::Max { .. } => {}
            Kind::Sum { .. } | Kind::Count => {
                let total: Expression = self.active.iter().map(|&(n, z)| share(n) * z).sum();
                self.rows.push(constraint!(total <= room));
            }
            Kind::TopSum { top, .. } => {
                let t = self.variables.add(variable().min(0.0));
                let mut total = top.min(self.active.len()) as f64 * t;
                for &(n, z) in &self.active {
                    let s = self.variables.add(variable().min(0.0));
                    self.rows.push(constraint!(share(n) * z - t - s <= 0.0));
                    total.add_mul(1.0, s);
                }
                self.rows.push(constraint!(total <= room));
            }
        }
    }
}
