//! Why nothing fits, in terms an operator can act on.
//!
//! Constraints are monotone with non-negative costs, so a non-empty feasible set exists exactly
//! when some single expert fits alone. If none does, the useful answer is the expert that is
//! closest to fitting and the smallest limits that would let it in; listing every broken row of
//! every expert would bury that.

use std::cmp::Ordering;

use crate::problem::Problem;
use crate::rows;

/// One limit that has to be raised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortfall {
    /// Index of the constraint.
    pub row: usize,
    /// The limit as it stands, in the row's unit.
    pub limit: f64,
    /// The smallest limit that would admit the expert, in the row's unit.
    pub needed: f64,
}

/// No non-empty set keeps every row; the nearest way out.
#[derive(Debug, Clone, PartialEq)]
pub struct Infeasible {
    /// The expert closest to fitting: smallest worst ratio `needed / limit`, then fewest limits
    /// to raise, then largest value alone, then lowest index.
    pub expert: usize,
    /// Every limit that has to be raised for that expert to fit alone; never empty.
    pub short: Vec<Shortfall>,
}

impl Infeasible {
    /// The reason in words, e.g. `no expert fits; the closest is "a": energy_j needs a limit of
    /// at least 3 (is 2)`.
    pub fn describe(&self, problem: &Problem) -> String {
        let limits: Vec<String> = self
            .short
            .iter()
            .map(|s| {
                let name = &problem.constraints()[s.row].name;
                format!(
                    "{name} needs a limit of at least {} (is {})",
                    s.needed, s.limit
                )
            })
            .collect();
        let expert = &problem.experts()[self.expert];
        format!(
            "no expert fits; the closest is {expert:?}: {}",
            limits.join(", ")
        )
    }
}

/// The reason, or `None` when some expert fits alone.
pub(crate) fn diagnose(problem: &Problem) -> Option<Infeasible> {
    let experts = 0..problem.expert_count();
    if experts.clone().any(|n| rows::fits_alone(problem, n)) {
        return None;
    }
    experts
        .map(|expert| distance(problem, expert))
        .min_by(Distance::nearer)
        .map(|d| d.reason)
}

struct Distance {
    reason: Infeasible,
    /// Worst `needed / limit`; infinite where a limit is 0, which sorts last, as it should.
    ratio: f64,
    /// Value of the expert alone.
    alone: f64,
}

impl Distance {
    fn nearer(&self, other: &Self) -> Ordering {
        let limits = |d: &Self| d.reason.short.len();
        let by_ratio = self.ratio.total_cmp(&other.ratio);
        let by_limits = by_ratio.then(limits(self).cmp(&limits(other)));
        by_limits.then(other.alone.total_cmp(&self.alone))
    }
}

fn distance(problem: &Problem, expert: usize) -> Distance {
    let short = shortfalls(problem, expert);
    let worth = problem.weights().iter().zip(problem.column(expert));
    Distance {
        ratio: short.iter().map(|s| s.needed / s.limit).fold(0.0, f64::max),
        alone: worth.map(|(w, u)| w * u).sum(),
        reason: Infeasible { expert, short },
    }
}

fn shortfalls(problem: &Problem, expert: usize) -> Vec<Shortfall> {
    let rows = problem.constraints().iter().enumerate();
    rows.filter(|(_, row)| row.cost(expert) > rows::capacity(row))
        .map(|(r, row)| Shortfall {
            row: r,
            limit: row.limit,
            needed: row.cost(expert),
        })
        .collect()
}
