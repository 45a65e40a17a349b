//! The judge: every claim of a [`Solution`] tested against the raw problem.
//!
//! It shares no arithmetic with the solvers: sums are compensated, the k best come from a full sort,
//! loads are taken from sorted costs of the finished set. It would be cheaper to reuse the solvers'
//! helpers, but then a bug in one of them would vouch for itself.
//!
//! A judge cannot prove an arbitrary bound. It refutes: a bound below the value of any set it can
//! easily build (single experts, the answer plus one) is false, and so is a claim of optimality if
//! one more expert fits and adds value.

use crate::problem::{Constraint, Kind, Problem};
use crate::solution::{Solution, Status};

/// Relative slack on a limit: that of the solvers plus the rounding of another order of addition.
const LIMIT_SLACK: f64 = 1.001e-9;
/// Relative agreement asked of values that are computed in two ways.
const VALUE_SLACK: f64 = 1e-9;

/// The first claim found to be false.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CheckError {
    /// The selection is not an ascending list of expert indices.
    #[error("selected: position {at} is not an ascending expert index")]
    Selection {
        /// Position in the list.
        at: usize,
    },
    /// Empty selection without a claim of infeasibility, or the reverse.
    #[error("selected: must be empty if and only if the status is infeasible")]
    Emptiness,
    /// A constraint is broken.
    #[error("constraint {row}: load {load} exceeds the limit {limit}")]
    Broken {
        /// Index of the constraint.
        row: usize,
        /// Load of the set.
        load: f64,
        /// The limit.
        limit: f64,
    },
    /// The objective is not the value of the set.
    #[error("objective: {claimed} is claimed, the set is worth {actual}")]
    Objective {
        /// What the solution says.
        claimed: f64,
        /// What the set is worth.
        actual: f64,
    },
    /// The bound is below the value of a feasible set.
    #[error("bound: {bound} is below {value}, the value of a feasible set")]
    Bound {
        /// What the solution says.
        bound: f64,
        /// Value of a feasible set.
        value: f64,
    },
    /// Optimality is claimed although the bound is above the objective.
    #[error("status: optimal is claimed with objective {objective} and bound {bound}")]
    Gap {
        /// Claimed objective.
        objective: f64,
        /// Claimed bound.
        bound: f64,
    },
    /// Optimality is claimed although one more expert fits and adds value.
    #[error("status: optimal is claimed, but expert {expert} fits and adds {gain}")]
    NotMaximal {
        /// Index of the expert.
        expert: usize,
        /// What it adds.
        gain: f64,
    },
    /// The list of binding rows is wrong.
    #[error("binding: constraint {row} is wrongly listed or missing")]
    Binding {
        /// Index of the constraint.
        row: usize,
    },
    /// Infeasibility is claimed although an expert fits.
    #[error("status: infeasible is claimed, but expert {expert} fits alone")]
    NotInfeasible {
        /// Index of the expert.
        expert: usize,
    },
    /// The limits named as the way out are not exactly those that have to be raised.
    #[error("status: the limits named do not admit expert {expert}, or are not the smallest")]
    Reason {
        /// Index of the expert named.
        expert: usize,
    },
}

/// Tests every claim of `solution`.
///
/// # Errors
/// The first [`CheckError`] found.
pub fn check(problem: &Problem, solution: &Solution) -> Result<(), CheckError> {
    selection(problem, solution)?;
    if let Status::Infeasible(reason) = &solution.status {
        let short: Vec<_> = reason
            .short
            .iter()
            .map(|s| (s.row, s.limit, s.needed))
            .collect();
        return infeasible(problem, reason.expert, &short);
    }
    limits(problem, &solution.selected)?;
    binding(problem, solution)?;
    let actual = worth(problem, &solution.selected);
    if !close(solution.objective, actual) {
        return Err(CheckError::Objective {
            claimed: solution.objective,
            actual,
        });
    }
    let (objective, bound) = (solution.objective, solution.bound);
    not_below(bound, objective)?;
    if solution.status == Status::Optimal && !close(bound, objective) {
        return Err(CheckError::Gap { objective, bound });
    }
    neighbours(problem, solution, actual)
}

fn selection(problem: &Problem, solution: &Solution) -> Result<(), CheckError> {
    let chosen = &solution.selected;
    for (at, &n) in chosen.iter().enumerate() {
        if n >= problem.expert_count() || (at > 0 && chosen[at - 1] >= n) {
            return Err(CheckError::Selection { at });
        }
    }
    let infeasible = matches!(solution.status, Status::Infeasible(_));
    if chosen.is_empty() == infeasible {
        Ok(())
    } else {
        Err(CheckError::Emptiness)
    }
}

pub(crate) fn limits(problem: &Problem, set: &[usize]) -> Result<(), CheckError> {
    for (row, constraint) in problem.constraints().iter().enumerate() {
        let load = burden(constraint, set);
        if !holds(constraint, load) {
            return Err(CheckError::Broken {
                row,
                load,
                limit: constraint.limit,
            });
        }
    }
    Ok(())
}

pub(crate) fn holds(constraint: &Constraint, load: f64) -> bool {
    load - constraint.limit <= LIMIT_SLACK * constraint.limit
}

/// Load of the finished set, from its sorted costs.
pub(crate) fn burden(constraint: &Constraint, set: &[usize]) -> f64 {
    let (cost, counted) = match &constraint.kind {
        Kind::Count => return set.len() as f64,
        Kind::Sum { cost } => (cost, set.len()),
        Kind::Max { cost } => (cost, 1),
        Kind::TopSum { top, cost } => (cost, *top),
    };
    let mut costs: Vec<f64> = set.iter().map(|&n| cost[n]).collect();
    costs.sort_by(f64::total_cmp);
    exact_sum(costs.into_iter().rev().take(counted))
}

/// A row may be listed as binding if it is tight within the slack, and must be if it is tight
/// without any.
fn binding(problem: &Problem, solution: &Solution) -> Result<(), CheckError> {
    let listed = &solution.binding;
    if let Some(pair) = listed.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(CheckError::Binding { row: pair[1] });
    }
    if let Some(&row) = listed
        .iter()
        .find(|&&row| row >= problem.constraints().len())
    {
        return Err(CheckError::Binding { row });
    }
    for (row, constraint) in problem.constraints().iter().enumerate() {
        let load = burden(constraint, &solution.selected);
        let limit = constraint.limit;
        let (must, may) = match constraint.kind {
            Kind::Count => (!holds(constraint, load + 1.0), load + 1.0 > limit),
            _ => (load >= limit, limit - load <= LIMIT_SLACK * limit),
        };
        let is_listed = listed.contains(&row);
        if (must && !is_listed) || (is_listed && !may) {
            return Err(CheckError::Binding { row });
        }
    }
    Ok(())
}

/// Value of the set: per row all utilities sorted, the k largest added.
pub(crate) fn worth(problem: &Problem, set: &[usize]) -> f64 {
    let mut row = Vec::with_capacity(set.len());
    let rows = (0..problem.row_count()).map(|x| {
        row.clear();
        row.extend(set.iter().map(|&n| problem.row(x)[n]));
        row.sort_by(|a, b| b.total_cmp(a));
        problem.weights()[x] * exact_sum(row.iter().copied().take(problem.k()))
    });
    exact_sum(rows)
}

/// Sets within reach of the judge: they may not beat the bound, nor the objective of an optimum.
fn neighbours(problem: &Problem, solution: &Solution, actual: f64) -> Result<(), CheckError> {
    let mut with = Vec::new();
    for expert in (0..problem.expert_count()).filter(|n| !solution.selected.contains(n)) {
        if limits(problem, &[expert]).is_ok() {
            not_below(solution.bound, worth(problem, &[expert]))?;
        }
        with.clone_from(&solution.selected);
        with.push(expert);
        if limits(problem, &with).is_err() {
            continue;
        }
        let value = worth(problem, &with);
        let gain = value - actual;
        if solution.status == Status::Optimal && !close(value, actual) && gain > 0.0 {
            return Err(CheckError::NotMaximal { expert, gain });
        }
        not_below(solution.bound, value)?;
    }
    Ok(())
}

fn infeasible(
    problem: &Problem,
    nearest: usize,
    short: &[(usize, f64, f64)],
) -> Result<(), CheckError> {
    if let Some(expert) = (0..problem.expert_count()).find(|&n| limits(problem, &[n]).is_ok()) {
        return Err(CheckError::NotInfeasible { expert });
    }
    if nearest >= problem.expert_count() {
        return Err(CheckError::Reason { expert: nearest });
    }
    let rows = problem.constraints().iter().enumerate();
    let loads = rows.map(|(row, c)| (row, c.limit, burden(c, &[nearest])));
    let broken = loads.filter(|&(row, _, load)| !holds(&problem.constraints()[row], load));
    if broken.eq(short.iter().copied()) {
        Ok(())
    } else {
        Err(CheckError::Reason { expert: nearest })
    }
}

/// NaN is below everything.
fn not_below(bound: f64, value: f64) -> Result<(), CheckError> {
    if bound >= value * (1.0 - VALUE_SLACK) && bound.is_finite() {
        Ok(())
    } else {
        Err(CheckError::Bound { bound, value })
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= VALUE_SLACK * a.abs().max(b.abs())
}

/// Neumaier's compensated sum, which also knows how large its terms were.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    sum: f64,
    lost: f64,
    /// Sum of absolute terms.
    pub(crate) size: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, term: f64) {
        let next = self.sum + term;
        self.lost += if self.sum.abs() >= term.abs() {
            (self.sum - next) + term
        } else {
            (term - next) + self.sum
        };
        self.sum = next;
        self.size += term.abs();
    }

    pub(crate) fn value(&self) -> f64 {
        self.sum + self.lost
    }
}

fn exact_sum(values: impl Iterator<Item = f64>) -> f64 {
    let mut sum = Sum::default();
    values.for_each(|value| sum.add(value));
    sum.value()
}
