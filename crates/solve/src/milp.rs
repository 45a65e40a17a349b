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

use good_lp::{
    Expression, ProblemVariables, Solution as _, SolverModel, Variable, constraint, microlp,
    variable,
};

use crate::infeasible;
use crate::problem::{Constraint, Kind, Problem};
use crate::rows::{self, FEASIBILITY_TOLERANCE};
use crate::solution::{Effort, Solution};
use crate::solver::{Limits, Progress, SolveError, Solver, Unfit, require};
use crate::state::State;

/// Most utilities: beyond this the backend takes minutes.
const MAX_MILP_TABLE: usize = 2048;
/// Most experts (integer variables).
const MAX_MILP_EXPERTS: usize = 64;
/// Most constraint rows.
const MAX_MILP_CONSTRAINTS: usize = 64;
/// Times the backend is asked again after an answer that breaks a row.
const MAX_CUTS: usize = 64;

pub(crate) struct Milp;

impl Solver for Milp {
    fn name(&self) -> &'static str {
        "milp"
    }

    fn applies(&self, problem: &Problem) -> Result<(), Unfit> {
        let table = problem.expert_count().saturating_mul(problem.row_count());
        Unfit::unless("experts × rows", table, MAX_MILP_TABLE)?;
        Unfit::unless(
            "the number of experts",
            problem.expert_count(),
            MAX_MILP_EXPERTS,
        )?;
        let constraints = problem.constraints().len();
        Unfit::unless(
            "the number of constraints",
            constraints,
            MAX_MILP_CONSTRAINTS,
        )
    }

    fn solve(&self, problem: &Problem, limits: &mut Limits<'_>) -> Result<Solution, SolveError> {
        require(self, problem)?;
        if let Some(reason) = infeasible::diagnose(problem) {
            return Ok(Solution::infeasible(self.name(), reason));
        }
        let eligible = rows::eligible(problem);
        let everything = State::of(problem, eligible.iter().copied()).value();
        let fallback = vec![eligible[0]];
        let mut effort = Effort::default();
        let mut cuts: Vec<Vec<usize>> = Vec::new();
        while cuts.len() <= MAX_CUTS {
            let progress = Progress {
                nodes: effort.nodes,
                evaluations: effort.evaluations,
                objective: crate::objective::value(problem, &fallback),
                bound: everything,
            };
            if limits.reached(&progress) {
                let proof = (everything, true);
                return Ok(Solution::found(
                    self.name(),
                    problem,
                    fallback,
                    proof,
                    effort,
                ));
            }
            effort.nodes += 1;
            effort.evaluations += 1;
            let selected =
                ask(problem, &eligible, &cuts).map_err(|message| self.failed(message))?;
            if feasible(problem, &selected) {
                // The backend proved its answer optimal; that value is the bound.
                let proof = (crate::objective::value(problem, &selected), false);
                return Ok(Solution::found(
                    self.name(),
                    problem,
                    selected,
                    proof,
                    effort,
                ));
            }
            cuts.push(selected);
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

/// One run of the backend: the chosen experts, or its error message.
fn ask(problem: &Problem, eligible: &[usize], cuts: &[Vec<usize>]) -> Result<Vec<usize>, String> {
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
    let mut backend = model.variables.maximise(objective).using(microlp);
    for row in model.rows {
        backend.add_constraint(row);
    }
    let solved = backend.solve().map_err(|error| error.to_string())?;
    let chosen = model.active.iter().filter(|&&(_, z)| solved.value(z) > 0.5);
    Ok(chosen.map(|&(n, _)| n).collect())
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
        let worth = |x: usize, n: usize| problem.weights()[x] * problem.column(n)[x];
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
