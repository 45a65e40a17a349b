//! Loads of the constraint rows while a set grows.
//!
//! `sum` rows keep a running total, `top_sum` rows their `top` largest costs; all loads only ever
//! grow, so a search that backs up restores a saved copy instead of subtracting (subtraction
//! drifts, and one huge cost would wipe out the small ones).
//!
//! A row holds when `load ≤ limit · (1 + 1e-9)`. The tolerance is relative so that scaling a row
//! and its limit together changes nothing, and it is far above the rounding of 4096 additions; a
//! zero limit is therefore exact: only zero cost fits.

use crate::problem::{Constraint, Kind, Problem};

/// Relative slack within which a row still holds, and within which it counts as binding.
pub const FEASIBILITY_TOLERANCE: f64 = 1e-9;

/// Largest load a row accepts, tolerance included.
pub(crate) fn capacity(row: &Constraint) -> f64 {
    row.limit * (1.0 + FEASIBILITY_TOLERANCE)
}

/// Whether `{expert}` keeps every row on its own. Only such experts can be in any feasible set.
pub(crate) fn fits_alone(problem: &Problem, expert: usize) -> bool {
    problem
        .constraints()
        .iter()
        .all(|row| row.cost(expert) <= capacity(row))
}

/// The experts that keep every row on their own, in index order.
pub(crate) fn eligible(problem: &Problem) -> Vec<usize> {
    (0..problem.expert_count())
        .filter(|&n| fits_alone(problem, n))
        .collect()
}

/// Load of `row` under the set `members` (indices without repeats), in the row's own unit.
pub fn load(row: &Constraint, members: &[usize]) -> f64 {
    let mut load = Load::default();
    for &n in members {
        load.add(row, n);
    }
    load.total
}

/// Experts outside the set that still fit beside it, taken in index order: with them it is maximal. Time
/// O(experts · rows).
#[must_use]
pub fn spares(problem: &Problem, members: &[usize]) -> Vec<usize> {
    let mut loads = Loads::new(problem);
    let mut inside = vec![false; problem.expert_count()];
    for &n in members {
        loads.add(problem, n);
        inside[n] = true;
    }
    let mut spares = Vec::new();
    for extra in (0..inside.len()).filter(|n| !inside[*n]) {
        if loads.fits(problem, extra) {
            loads.add(problem, extra);
            spares.push(extra);
        }
    }
    spares
}

/// Rows that leave no room: load equal to the limit within the tolerance, and for `count` rows no
/// room for one more member.
pub(crate) fn binding(problem: &Problem, members: &[usize]) -> Vec<usize> {
    let tight = |row: &Constraint| {
        let load = load(row, members);
        match row.kind {
            Kind::Count => load + 1.0 > capacity(row),
            _ => load >= row.limit * (1.0 - FEASIBILITY_TOLERANCE),
        }
    };
    let rows = problem.constraints().iter().enumerate();
    rows.filter(|(_, row)| tight(row)).map(|(r, _)| r).collect()
}

#[derive(Debug, Clone, Default)]
struct Load {
    total: f64,
    /// Largest costs, descending; only for `top_sum` rows.
    largest: Vec<f64>,
}

impl Load {
    /// The load after `expert` joins.
    fn with(&self, row: &Constraint, expert: usize) -> f64 {
        let cost = row.cost(expert);
        match row.kind {
            Kind::Sum { .. } | Kind::Count => self.total + cost,
            Kind::Max { .. } => self.total.max(cost),
            Kind::TopSum { top, .. } => {
                let at = self.largest.partition_point(|&c| c >= cost);
                let after = self.largest[at..].iter();
                let all = self.largest[..at].iter().chain([&cost]).chain(after);
                all.take(top).sum()
            }
        }
    }

    fn add(&mut self, row: &Constraint, expert: usize) {
        self.total = self.with(row, expert);
        if let Kind::TopSum { top, .. } = row.kind {
            let cost = row.cost(expert);
            let at = self.largest.partition_point(|&c| c >= cost);
            self.largest.insert(at, cost);
            self.largest.truncate(top);
        }
    }
}

/// The loads of all rows of a problem.
#[derive(Debug, Clone)]
pub(crate) struct Loads(Vec<Load>);

impl Loads {
    pub(crate) fn new(problem: &Problem) -> Self {
        Self(vec![Load::default(); problem.constraints().len()])
    }

    /// Whether every row still holds after `expert` joins.
    pub(crate) fn fits(&self, problem: &Problem, expert: usize) -> bool {
        let mut rows = self.0.iter().zip(problem.constraints());
        rows.all(|(load, row)| load.with(row, expert) <= capacity(row))
    }

    pub(crate) fn add(&mut self, problem: &Problem, expert: usize) {
        for (load, row) in self.0.iter_mut().zip(problem.constraints()) {
            load.add(row, expert);
        }
    }
}
