//! Presolve: the same problem, smaller, in the form that searches stream over.
//!
//! What is done, each step exact: experts that do not fit alone are dropped (this settles every `max`
//! row); so are dominated ones (`dominance`); constraints that can no longer be broken are dropped and
//! the rest divided by their limits; calibration rows with the same utilities are merged, all-zero ones
//! dropped; weighted utilities become whole ticks (`ticks`). An expert that uses up nothing can
//! always be in: more is never worth less.
//!
//! The table is kept twice. By expert, to ask for marginal values in one stream. By row, sorted
//! downwards and without zeros, because a Benders cut walks each row from the best expert until
//! enough of them are counted, which is a few steps.

mod dominance;
mod ticks;

use crate::problem::{Constraint, Kind, Problem};
use crate::rows::{self, FEASIBILITY_TOLERANCE};
pub(crate) use dominance::{Costs, dominators};
pub(crate) use ticks::{TIE, Ticks};

/// A linear constraint in shares of its limit: `Σ share[n] ≤ 1 + tolerance` over the chosen columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    pub(crate) share: Vec<f64>,
    /// Index of the constraint it comes from; several may come from one.
    pub(crate) origin: usize,
    pub(crate) nature: Nature,
}

/// How a linear row follows from its constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// It is the constraint.
    Whole,
    /// So few columns are left that `top_sum` counts them all.
    AllOfTop,
    /// Fewer than so many members cost more than that part of a `top_sum` limit.
    Tier(usize),
}

impl Linear {
    /// Implied by another row: it tightens relaxations but need not be watched.
    pub(crate) fn implied(&self) -> bool {
        matches!(self.nature, Nature::Tier(_))
    }
}

/// A `top_sum` constraint in shares of its limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heaviest {
    pub(crate) share: Vec<f64>,
    pub(crate) top: usize,
    pub(crate) origin: usize,
}

/// Room in a constraint that was divided by its limit.
pub(crate) const ROOM: f64 = 1.0 + FEASIBILITY_TOLERANCE;

/// A reduced problem; columns and rows have their own numbering.
#[derive(Debug, Clone)]
pub(crate) struct Reduced {
    /// Index in the problem of each column.
    pub(crate) experts: Vec<usize>,
    /// Number of merged rows.
    pub(crate) rows: usize,
    /// How many utilities count per row.
    pub(crate) k: usize,
    pub(crate) ticks: Ticks,
    pub(crate) linear: Vec<Linear>,
    pub(crate) heaviest: Vec<Heaviest>,
    /// Whether every row has one positive value only, whoever reaches it.
    pub(crate) binary: bool,
    /// The problem's row that stands for each merged row, and their common weight.
    merged: Vec<(usize, f64)>,
    columns: Vec<u32>,
    starts: Vec<usize>,
    order: Vec<u16>,
    sorted: Vec<u32>,
}

impl Reduced {
    /// Reduces a problem in which some expert fits alone.
    pub(crate) fn of(problem: &Problem, steps: &Steps) -> Self {
        Self::among(problem, rows::eligible(problem), steps)
    }

    /// The same with only some of the experts that fit alone, at least one.
    pub(crate) fn among(problem: &Problem, mut experts: Vec<usize>, steps: &Steps) -> Self {
        if steps.dominance {
            experts = dominance::undominated(problem, &experts);
        }
        let k = problem.k().min(experts.len());
        let merged = merge(problem, &experts, steps.merge);
        let worth = |&(row, weight): &(usize, f64)| {
            let utilities = problem.row(row);
            experts.iter().map(move |&n| weight * utilities[n])
        };
        let total = merged
            .iter()
            .map(|row| worth(row).fold(0.0, f64::max))
            .sum();
        let worths = steps.unit.then(|| merged.iter().flat_map(worth));
        let ticks = Ticks::of(worths, total, merged.len());
        let mut reduced = Self {
            rows: merged.len(),
            merged: Vec::new(),
            k,
            ticks,
            linear: Vec::new(),
            heaviest: Vec::new(),
            binary: true,
            columns: vec![0; merged.len() * experts.len()],
            starts: vec![0],
            order: Vec::new(),
            sorted: Vec::new(),
            experts,
        };
        reduced.fill(problem, &merged);
        reduced.merged = merged;
        for (origin, row) in problem.constraints().iter().enumerate() {
            reduced.constrain(row, origin);
        }
        reduced
    }

    fn fill(&mut self, problem: &Problem, merged: &[(usize, f64)]) {
        let mut line: Vec<(u32, u16)> = Vec::new();
        for (x, &(row, weight)) in merged.iter().enumerate() {
            line.clear();
            for (column, &n) in self.experts.iter().enumerate() {
                let value = self.ticks.count(weight * problem.row(row)[n]);
                self.columns[column * self.rows + x] = value;
                if value > 0 {
                    line.push((value, column as u16));
                }
            }
            // The best first; among equals the lower column, so that nothing depends on the sort.
            line.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            self.binary &= line.first().map(|l| l.0) == line.last().map(|l| l.0);
            self.sorted.extend(line.iter().map(|l| l.0));
            self.order.extend(line.iter().map(|l| l.1));
            self.starts.push(self.order.len());
        }
    }

    fn constrain(&mut self, row: &Constraint, origin: usize) {
        if row.limit == 0.0 {
            // Who fits alone uses up nothing.
            return;
        }
        let shares = |limit: f64| -> Vec<f64> {
            self.experts.iter().map(|&n| row.cost(n) / limit).collect()
        };
        let everyone: Vec<usize> = self.experts.clone();
        if rows::load(row, &everyone) <= rows::capacity(row) {
            return;
        }
        match row.kind {
            Kind::Max { .. } => {}
            Kind::Count => {
                self.push_linear(shares(rows::capacity(row).floor()), origin, Nature::Whole)
            }
            Kind::Sum { .. } => self.push_linear(shares(row.limit), origin, Nature::Whole),
            Kind::TopSum { top, .. } => {
                let share = shares(row.limit);
                if top >= self.experts.len() {
                    self.push_linear(share, origin, Nature::AllOfTop);
                    return;
                }
                // Fewer than `tier` members cost more than a `tier`-th of the limit.
                for tier in 2..=top.min(MAX_TIER) {
                    let heavy = |s: &f64| *s * tier as f64 > ROOM;
                    let counted = share.iter().map(|s| f64::from(u8::from(heavy(s))));
                    let row: Vec<f64> = counted.map(|c| c / (tier - 1) as f64).collect();
                    if row.iter().filter(|s| **s > 0.0).count() >= tier {
                        self.push_linear(row, origin, Nature::Tier(tier));
                    }
                }
                self.heaviest.push(Heaviest { share, top, origin });
            }
        }
    }

    fn push_linear(&mut self, share: Vec<f64>, origin: usize, nature: Nature) {
        self.linear.push(Linear {
            share,
            origin,
            nature,
        });
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.experts.len()
    }

    /// Ticks of one expert over all rows.
    pub(crate) fn column(&self, column: usize) -> &[u32] {
        &self.columns[column * self.rows..(column + 1) * self.rows]
    }

    /// The positive ticks of a row, largest first, with their columns.
    pub(crate) fn row(&self, row: usize) -> (&[u16], &[u32]) {
        let range = self.starts[row]..self.starts[row + 1];
        (&self.order[range.clone()], &self.sorted[range])
    }

    /// Weighted utility of one column on one row.
    pub(crate) fn worth(&self, problem: &Problem, row: usize, column: usize) -> f64 {
        let (original, weight) = self.merged[row];
        weight * problem.row(original)[self.experts[column]]
    }

    /// The problem's rows behind each merged row, with their parts of its weight.
    pub(crate) fn groups(&self, problem: &Problem) -> Vec<Vec<(usize, f64)>> {
        let utilities = |row: usize| -> Vec<u64> {
            self.experts
                .iter()
                .map(|&n| problem.row(row)[n].to_bits())
                .collect()
        };
        let place: std::collections::HashMap<Vec<u64>, usize> = (0..self.rows)
            .map(|x| (utilities(self.merged[x].0), x))
            .collect();
        let mut groups = vec![Vec::new(); self.rows];
        for row in 0..problem.row_count() {
            let weight = problem.weights()[row];
            if let (Some(&x), true) = (place.get(&utilities(row)), weight > 0.0) {
                groups[x].push((row, weight / self.merged[x].1));
            }
        }
        groups
    }

    /// By how many ticks a set's value may be overstated.
    pub(crate) fn window(&self) -> u64 {
        self.ticks.window() * (self.rows * self.k) as u64
    }

    /// The columns of these experts, where they have one.
    pub(crate) fn columns_of(&self, experts: &[usize]) -> Vec<usize> {
        let column = |n: &usize| self.experts.binary_search(n).ok();
        experts.iter().filter_map(column).collect()
    }

    /// The problem's indices of these columns.
    pub(crate) fn originals(&self, columns: &[usize]) -> Vec<usize> {
        columns.iter().map(|&c| self.experts[c]).collect()
    }
}

/// Tiers of a `top_sum` row for which an implied row is made; deeper ones almost never bind first.
const MAX_TIER: usize = 8;

/// Which optional steps to take; for ablation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) dominance: bool,
    pub(crate) merge: bool,
    /// Look for a unit that all values are multiples of.
    pub(crate) unit: bool,
}

/// Rows that count, each with its weight; equal ones are merged into the first.
fn merge(problem: &Problem, experts: &[usize], wanted: bool) -> Vec<(usize, f64)> {
    let utilities = |row: usize| experts.iter().map(move |&n| problem.row(row)[n]);
    // The product, since it may be 0 although neither factor is.
    let counts = |&row: &usize| utilities(row).any(|u| problem.weights()[row] * u > 0.0);
    let rows = (0..problem.row_count()).filter(counts);
    if !wanted {
        return rows.map(|row| (row, problem.weights()[row])).collect();
    }
    let mut hashed: Vec<(u64, usize)> =
        rows.map(|row| (fingerprint(utilities(row)), row)).collect();
    hashed.sort_unstable();
    let mut merged: Vec<(usize, f64)> = Vec::new();
    for bucket in hashed.chunk_by(|a, b| a.0 == b.0) {
        let began = merged.len();
        for &(_, row) in bucket {
            let weight = problem.weights()[row];
            let twin = merged[began..]
                .iter_mut()
                .find(|(first, _)| utilities(*first).eq(utilities(row)));
            match twin {
                Some((_, total)) => *total += weight,
                None => merged.push((row, weight)),
            }
        }
    }
    merged.sort_unstable_by_key(|m| m.0);
    merged
}

/// FNV-1a over the bits of the numbers.
fn fingerprint(values: impl Iterator<Item = f64>) -> u64 {
    values.fold(0xcbf2_9ce4_8422_2325, |hash, value| {
        (hash ^ value.to_bits().rotate_left(17)).wrapping_mul(0x0100_0000_01b3)
    })
}
