//! A small linear-programming solver for relaxations that are solved thousands of times, each a few
//! changes away from the last: the bounded dual simplex method on a dense dictionary.
//!
//! `maximise c·x` over structural variables in intervals, subject to rows `constant + a·x ≥ 0`. The
//! dictionary writes the basic variables in terms of the nonbasic ones, of which there are always as
//! many as structural variables; a row whose slack is basic can therefore be dropped for nothing, and
//! adding a row or moving an interval leaves the dictionary dual feasible. A general LP library
//! (microlp, HiGHS) solves each relaxation well but cannot be warm-started this way through the
//! interfaces at hand, and set-up alone would cost more than a re-solve takes here.
//!
//! Details: bound-flipping ratio test (all variables but the row values have two bounds, so one pivot
//! does the work of many), a slight fixed perturbation of the costs against cycling. Nothing here
//! is trusted: callers take the multipliers and compute their bound from them in whole numbers, so a
//! rounding error costs a node at most, never the proof.
//!
//! Reference: Koberstein, "The dual simplex method, techniques for a fast and stable implementation",
//! dissertation, Paderborn 2005, chapters 3, 4 and 6.

/// How far a basic variable may be outside its interval. Costs and values are scaled to about 1.
const PRIMAL_TOLERANCE: f64 = 1e-9;
/// Smallest pivot element.
const PIVOT_TOLERANCE: f64 = 1e-9;
/// Among ratios this close the largest pivot element is taken, for stability.
const RATIO_TIE: f64 = 1e-12;

/// Number of a variable: structural ones first, then slacks in the order their rows came.
pub(crate) type Var = usize;

/// How a solve ended. The multipliers are dual feasible in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The relaxation's optimum.
    Optimal,
    /// The objective has fallen to the cutoff; it would only fall further.
    Cutoff,
    /// No values satisfy the rows.
    Infeasible,
    /// The limit on pivots was reached.
    Stalled,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Basic(usize),
    Nonbasic(usize),
    /// Number free for the slack of a new row.
    Unused,
}

/// The dictionary `basic = constant + table · nonbasic`, `objective = offset + cost · nonbasic`.
#[derive(Debug, Clone)]
pub(crate) struct Simplex {
    width: usize,
    lower: Vec<f64>,
    upper: Vec<f64>,
    place: Vec<Place>,
    basic: Vec<Var>,
    constant: Vec<f64>,
    table: Vec<f64>,
    /// Current values of the basic variables.
    value: Vec<f64>,
    nonbasic: Vec<Var>,
    at_upper: Vec<bool>,
    offset: f64,
    cost: Vec<f64>,
    unused: Vec<Var>,
    pivots: u64,
}

impl Simplex {
    /// Variables in the given intervals and no rows yet. Every variable with a positive cost needs
    /// a finite upper bound, with a negative one a finite lower bound.
    pub(crate) fn new(bounds: &[(f64, f64)], cost: &[f64]) -> Self {
        let width = bounds.len();
        Self {
            width,
            lower: bounds.iter().map(|b| b.0).collect(),
            upper: bounds.iter().map(|b| b.1).collect(),
            place: (0..width).map(Place::Nonbasic).collect(),
            basic: Vec::new(),
            constant: Vec::new(),
            table: Vec::new(),
            value: Vec::new(),
            nonbasic: (0..width).collect(),
            at_upper: cost.iter().map(|&c| c > 0.0).collect(),
            offset: 0.0,
            cost: cost.to_vec(),
            unused: Vec::new(),
            pivots: 0,
        }
    }

    /// Pivots made since the dictionary was new; its rounding errors grow with them.
    pub(crate) fn pivots(&self) -> u64 {
        self.pivots
    }

    /// Rows in the dictionary.
    pub(crate) fn height(&self) -> usize {
        self.basic.len()
    }

    pub(crate) fn set_bounds(&mut self, var: Var, lower: f64, upper: f64) {
        (self.lower[var], self.upper[var]) = (lower, upper);
    }

    /// Value of a variable at the current point.
    pub(crate) fn value(&self, var: Var) -> f64 {
        match self.place[var] {
            Place::Basic(row) => self.value[row],
            Place::Nonbasic(at) => self.resting(at),
            Place::Unused => 0.0,
        }
    }

    /// Multiplier of the row with this slack, not negative up to rounding.
    pub(crate) fn multiplier(&self, slack: Var) -> f64 {
        match self.place[slack] {
            Place::Nonbasic(at) => -self.cost[at],
            _ => 0.0,
        }
    }

    pub(crate) fn is_basic(&self, var: Var) -> bool {
        matches!(self.place[var], Place::Basic(_))
    }

    pub(crate) fn objective(&self) -> f64 {
        let terms = self.cost.iter().enumerate().filter(|(_, c)| **c != 0.0);
        terms.fold(self.offset, |sum, (at, c)| sum + c * self.resting(at))
    }

    /// Adds the row `constant + Σ coefficient·x ≥ 0` and returns its slack.
    pub(crate) fn add_row(&mut self, constant: f64, coefficients: &[(Var, f64)]) -> Var {
        let mut row = vec![0.0; self.width];
        let mut constant = constant;
        for &(var, a) in coefficients {
            match self.place[var] {
                Place::Basic(at) => {
                    constant += a * self.constant[at];
                    axpy(
                        &mut row,
                        a,
                        &self.table[at * self.width..(at + 1) * self.width],
                    );
                }
                Place::Nonbasic(at) => row[at] += a,
                Place::Unused => {}
            }
        }
        let slack = self.unused.pop().unwrap_or_else(|| {
            self.lower.push(0.0);
            self.upper.push(0.0);
            self.place.push(Place::Unused);
            self.place.len() - 1
        });
        self.set_bounds(slack, 0.0, f64::INFINITY);
        self.place[slack] = Place::Basic(self.basic.len());
        self.basic.push(slack);
        self.constant.push(constant);
        self.value.push(constant);
        self.table.extend_from_slice(&row);
        slack
    }

    /// Makes `var` basic in place of a slack that is; only for setting up free variables.
    pub(crate) fn make_basic(&mut self, var: Var, slack: Var) {
        if let (Place::Nonbasic(column), Place::Basic(row)) = (self.place[var], self.place[slack]) {
            self.exchange(row, column, false);
        }
    }

    /// Drops the row with this slack; only where the slack is basic, which changes nothing.
    pub(crate) fn drop_row(&mut self, slack: Var) {
        let Place::Basic(row) = self.place[slack] else {
            return;
        };
        let last = self.basic.len() - 1;
        if row != last {
            let tail = last * self.width;
            self.table.copy_within(tail.., row * self.width);
            self.constant[row] = self.constant[last];
            self.value[row] = self.value[last];
            self.basic[row] = self.basic[last];
            self.place[self.basic[row]] = Place::Basic(row);
        }
        self.table.truncate(last * self.width);
        self.constant.pop();
        self.value.pop();
        self.basic.pop();
        self.place[slack] = Place::Unused;
        self.unused.push(slack);
    }

    /// Solves from where it stands, until the objective is at most `cutoff`.
    pub(crate) fn solve(&mut self, cutoff: f64, max_pivots: u64) -> Outcome {
        self.rest();
        let last = self.pivots + max_pivots;
        loop {
            let Some((row, below)) = self.leaving() else {
                return Outcome::Optimal;
            };
            if self.pivots >= last {
                return Outcome::Stalled;
            }
            let Some(column) = self.entering(row, below) else {
                return Outcome::Infeasible;
            };
            self.step(row, column, below);
            if self.objective() <= cutoff {
                return Outcome::Cutoff;
            }
        }
    }

    /// Puts every nonbasic variable on the side its cost wants and recomputes the basic ones.
    fn rest(&mut self) {
        for at in 0..self.width {
            let var = self.nonbasic[at];
            self.at_upper[at] = if self.cost[at] > 0.0 {
                self.upper[var].is_finite()
            } else {
                !self.lower[var].is_finite()
            };
        }
        let resting: Vec<f64> = (0..self.width).map(|at| self.resting(at)).collect();
        let rows = self.table.chunks_exact(self.width);
        for ((value, constant), row) in self.value.iter_mut().zip(&self.constant).zip(rows) {
            *value = row
                .iter()
                .zip(&resting)
                .fold(*constant, |sum, (a, x)| sum + a * x);
        }
    }

    fn resting(&self, at: usize) -> f64 {
        let var = self.nonbasic[at];
        if self.at_upper[at] {
            self.upper[var]
        } else {
            self.lower[var]
        }
    }

    /// The basic variable furthest outside its interval, and whether it is below.
    fn leaving(&self) -> Option<(usize, bool)> {
        let mut worst = PRIMAL_TOLERANCE;
        let mut found = None;
        for (row, (&var, &value)) in self.basic.iter().zip(&self.value).enumerate() {
            let (short, over) = (self.lower[var] - value, value - self.upper[var]);
            if short.max(over) > worst {
                worst = short.max(over);
                found = Some((row, short > over));
            }
        }
        found
    }

    /// The column to enter for this row, after flipping those that would otherwise block.
    fn entering(&mut self, row: usize, below: bool) -> Option<usize> {
        let var = self.basic[row];
        let mut missing = if below {
            self.lower[var] - self.value[row]
        } else {
            self.value[row] - self.upper[var]
        };
        let sign = if below { 1.0 } else { -1.0 };
        let line = &self.table[row * self.width..(row + 1) * self.width];
        let mut candidates: Vec<(f64, usize)> = Vec::new();
        for (at, &element) in line.iter().enumerate() {
            let var = self.nonbasic[at];
            let (a, fixed) = (sign * element, self.lower[var] == self.upper[var]);
            // Only moves into its interval count.
            let helps = if self.at_upper[at] { a < 0.0 } else { a > 0.0 };
            if helps && !fixed && a.abs() > PIVOT_TOLERANCE {
                candidates.push((self.cost[at].abs() / a.abs(), at));
            }
        }
        candidates.sort_unstable_by(|p, q| p.0.total_cmp(&q.0).then(p.1.cmp(&q.1)));
        let mut blocking = None;
        for (position, &(_, at)) in candidates.iter().enumerate() {
            let var = self.nonbasic[at];
            let reach = line[at].abs() * (self.upper[var] - self.lower[var]);
            if reach >= missing - RATIO_TIE {
                blocking = Some(position);
                break;
            }
            missing -= reach;
        }
        let first = blocking?;
        let ratio = candidates[first].0;
        let ties = candidates[first..]
            .iter()
            .take_while(|c| c.0 <= ratio + RATIO_TIE);
        let best = ties.max_by(|p, q| {
            line[p.1]
                .abs()
                .total_cmp(&line[q.1].abs())
                .then(q.1.cmp(&p.1))
        });
        let column = best.map(|c| c.1);
        for &(_, at) in &candidates[..first] {
            self.flip(at);
        }
        column
    }

    /// Moves a nonbasic variable to its other bound.
    fn flip(&mut self, at: usize) {
        let var = self.nonbasic[at];
        let span = self.upper[var] - self.lower[var];
        let by = if self.at_upper[at] { -span } else { span };
        self.at_upper[at] = !self.at_upper[at];
        let column = self.table[at..].iter().step_by(self.width);
        for (value, a) in self.value.iter_mut().zip(column) {
            *value += a * by;
        }
    }

    /// Brings the basic variable of `row` to the bound it violates.
    fn step(&mut self, row: usize, column: usize, below: bool) {
        let var = self.basic[row];
        let target = if below {
            self.lower[var]
        } else {
            self.upper[var]
        };
        let by = (target - self.value[row]) / self.table[row * self.width + column];
        let entered = self.resting(column) + by;
        let moved = self.table[column..].iter().step_by(self.width);
        for (value, a) in self.value.iter_mut().zip(moved) {
            *value += a * by;
        }
        self.exchange(row, column, !below);
        self.value[row] = entered;
    }

    /// Exchanges a basic and a nonbasic variable in the dictionary.
    fn exchange(&mut self, row: usize, column: usize, at_upper: bool) {
        self.pivots += 1;
        let width = self.width;
        let inverse = 1.0 / self.table[row * width + column];
        let mut line: Vec<f64> = self.table[row * width..(row + 1) * width].to_vec();
        line.iter_mut().for_each(|a| *a *= -inverse);
        line[column] = inverse;
        let constant = -self.constant[row] * inverse;
        for (at, other) in self.table.chunks_exact_mut(width).enumerate() {
            let a = other[column];
            if at == row || a == 0.0 {
                continue;
            }
            other[column] = 0.0;
            axpy(other, a, &line);
            self.constant[at] += a * constant;
        }
        let a = self.cost[column];
        self.cost[column] = 0.0;
        axpy(&mut self.cost, a, &line);
        self.offset += a * constant;
        self.table[row * width..(row + 1) * width].copy_from_slice(&line);
        self.constant[row] = constant;
        let (leaves, enters) = (self.basic[row], self.nonbasic[column]);
        (self.basic[row], self.nonbasic[column]) = (enters, leaves);
        self.place[enters] = Place::Basic(row);
        self.place[leaves] = Place::Nonbasic(column);
        self.at_upper[column] = at_upper;
    }
}

/// `to += factor · from`.
fn axpy(to: &mut [f64], factor: f64, from: &[f64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{self, Answer, Programme};
    use good_lp::{Expression, ProblemVariables, constraint, variable};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const WIDTH: usize = 5;
    type Row = (f64, Vec<f64>);

    /// The optimum by a general solver; `None` if there is no point.
    fn reference(bounds: &[(f64, f64)], cost: &[f64], rows: &[Row]) -> Option<f64> {
        let mut variables = ProblemVariables::new();
        let x: Vec<_> = bounds
            .iter()
            .map(|b| variables.add(variable().bounds(b.0..=b.1)))
            .collect();
        let dot = |a: &[f64]| -> Expression { a.iter().zip(&x).map(|(a, x)| *a * *x).sum() };
        let programme = Programme {
            objective: dot(cost),
            rows: rows
                .iter()
                .map(|(c, a)| constraint!(dot(a) >= -*c))
                .collect(),
            variables,
        };
        match backend::maximise(programme, None).expect("it solves") {
            Answer::Found(solved, _) => {
                let terms = cost.iter().zip(&x);
                Some(terms.map(|(c, x)| c * backend::value(&*solved, *x)).sum())
            }
            _ => None,
        }
    }

    fn agrees(simplex: &mut Simplex, bounds: &[(f64, f64)], cost: &[f64], rows: &[Row]) -> bool {
        let outcome = simplex.solve(f64::NEG_INFINITY, 10_000);
        let sound = |optimum: f64| {
            let value: f64 = (0..WIDTH).map(|v| cost[v] * simplex.value(v)).sum();
            let inside = (0..WIDTH)
                .all(|v| (bounds[v].0 - 1e-7..=bounds[v].1 + 1e-7).contains(&simplex.value(v)));
            let kept = rows.iter().all(|(c, a)| {
                c + (0..WIDTH).map(|v| a[v] * simplex.value(v)).sum::<f64>() >= -1e-6
            });
            let close = |a: f64| (a - optimum).abs() <= 1e-6 * optimum.abs().max(1.0);
            inside && kept && close(value) && close(simplex.objective())
        };
        match reference(bounds, cost, rows) {
            Some(optimum) => outcome == Outcome::Optimal && sound(optimum),
            None => outcome == Outcome::Infeasible,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Solved from scratch, after rows were added, intervals moved and loose rows dropped.
        #[test]
        fn it_agrees_with_a_general_solver_however_it_got_there(
            cost in vec(-3.0..3.0f64, WIDTH),
            rows in vec((-1.0..4.0f64, vec(prop_oneof![Just(0.0), -2.0..2.0f64], WIDTH)), 0..9),
            moves in vec((0..WIDTH, 0.0..1.0f64, 0.0..1.0f64), 0..4),
        ) {
            let mut bounds = vec![(0.0, 1.0); WIDTH];
            let mut simplex = Simplex::new(&bounds, &cost);
            let mut slacks = Vec::new();
            let mut known: Vec<Row> = Vec::new();
            for row in &rows {
                let sparse: Vec<(Var, f64)> = row.1.iter().copied().enumerate().collect();
                slacks.push(simplex.add_row(row.0, &sparse));
                known.push(row.clone());
                prop_assert!(agrees(&mut simplex, &bounds, &cost, &known));
            }
            for (var, a, b) in moves {
                bounds[var] = (a.min(b), a.max(b));
                simplex.set_bounds(var, bounds[var].0, bounds[var].1);
                prop_assert!(agrees(&mut simplex, &bounds, &cost, &known));
            }
            // A row whose slack is basic is not needed where the programme stands.
            if reference(&bounds, &cost, &known).is_some() {
                let before = simplex.objective();
                let loose: Vec<Var> = slacks.into_iter().filter(|s| simplex.is_basic(*s)).collect();
                loose.iter().for_each(|&slack| simplex.drop_row(slack));
                prop_assert_eq!(simplex.solve(f64::NEG_INFINITY, 10_000), Outcome::Optimal);
                prop_assert!((simplex.objective() - before).abs() <= 1e-9);
            }
        }
    }
}
