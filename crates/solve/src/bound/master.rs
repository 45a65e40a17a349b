//! The linear-programming bound by cuts: `maximise Σ_b θ_b` with `θ_b ≤` every majorant found so far
//! of block b's rows, over fractional sets inside the constraints.
//!
//! The full relaxation has a variable per expert and calibration row; cuts replace all of those by
//! one θ per block, because the best majorant at a point has a closed form (`majorant`). One θ for all
//! rows needs many rounds to converge (each cut is an average of what thousands of rows would
//! say); one per row would be the full relaxation again. A handful of blocks took a tenth of the nodes
//! of one θ at the same cost per node (`docs/solver.md`).
//!
//! Constraints enter when a point breaks them, `top_sum` rows as the sum over their j largest
//! products at that point. Cuts are valid for every box, so the pool and the basis are kept from node
//! to node, and only bounds of variables change.

use std::ops::Range;

use super::majorant::{self, Majorant};
use super::simplex::{Outcome, Simplex, Var};
use crate::reduce::{ROOM, Reduced};

/// Blocks of rows with a θ of their own, at most.
const BLOCKS: usize = 8;
/// Rows per block, at least.
const BLOCK_ROWS: usize = 32;
/// Perturbation of costs against cycling, relative to the value of everything. It costs the bound as
/// much at most per member. Where values are multiples of a step, ties are many and the bound is
/// rounded down anyway; where they are not, ties are rare and the bound must be sharp.
const PERTURBATION: (f64, f64) = (1e-7, 2e-11);
/// Violation, relative, that makes a cut or a constraint worth adding.
const VIOLATED: f64 = 1e-8;
/// Pivots for one solve, at most; a stalled solve still has valid multipliers.
const MAX_PIVOTS: u64 = 20_000;
/// Pivots after which the dictionary is set up afresh against rounding errors.
const FRESH_AFTER: u64 = 50_000;

#[derive(Debug)]
struct Cut {
    slack: Var,
    block: usize,
    phantoms: Vec<u32>,
}

/// The j heaviest shares of a `top_sum` row at some point: their sum is a constraint on every set.
#[derive(Debug)]
struct Tangent {
    slack: Var,
    origin: usize,
    shares: Vec<(usize, f64)>,
}

/// What the multipliers of a solved relaxation amount to.
#[derive(Debug, Clone)]
pub(crate) struct Multipliers {
    /// Per merged row, in ticks.
    pub(crate) phantoms: Vec<u32>,
    /// Linear rows with a positive price in ticks per limit, by index.
    pub(crate) linear: Vec<(usize, f64)>,
    /// Tangents of `top_sum` rows with a positive price.
    pub(crate) tangents: Vec<TangentPrice>,
}

/// A tangent of a `top_sum` row with its price.
#[derive(Debug, Clone)]
pub(crate) struct TangentPrice {
    /// Index of the constraint.
    pub(crate) origin: usize,
    /// Share of the limit by column, 0 where it does not count.
    pub(crate) share: Vec<f64>,
    /// In ticks per limit.
    pub(crate) price: f64,
}

/// The relaxation with its pool of cuts.
#[derive(Debug)]
pub(crate) struct Master<'r> {
    reduced: &'r Reduced,
    simplex: Simplex,
    blocks: usize,
    cuts: Vec<Cut>,
    /// Slack of each linear row that has been broken so far.
    entered: Vec<Option<Var>>,
    tangents: Vec<Tangent>,
    /// Ticks to the unit of the simplex method, in which the value of everything is 1.
    scale: f64,
    made: u64,
    pivots_before: u64,
}

impl<'r> Master<'r> {
    pub(crate) fn new(reduced: &'r Reduced, blocks: Option<usize>) -> Self {
        let most = reduced.rows.div_ceil(BLOCK_ROWS).max(1);
        let blocks = blocks.unwrap_or(BLOCKS).clamp(1, most);
        let everyone = vec![1.0; reduced.width()];
        let first: Vec<_> = (0..blocks)
            .map(|b| majorant::tightest(reduced, &everyone, range(reduced, blocks, b)))
            .collect();
        let value: f64 = first.iter().map(|(_, m)| m.at(&everyone)).sum();
        let mut master = Self {
            reduced,
            simplex: Simplex::new(&[], &[]),
            blocks,
            cuts: Vec::new(),
            entered: Vec::new(),
            tangents: Vec::new(),
            scale: 1.0 / value.max(1.0),
            made: 0,
            pivots_before: 0,
        };
        master.set_up(first);
        master
    }

    /// A fresh dictionary with these cuts, one per block.
    fn set_up(&mut self, first: Vec<(Vec<u32>, Majorant)>) {
        let width = self.reduced.width();
        self.pivots_before += self.simplex.pivots();
        let exact = self.reduced.window() == 0;
        let by = if exact {
            PERTURBATION.0
        } else {
            PERTURBATION.1
        };
        let boxed = (0..width).map(|column| ((0.0, 1.0), by * jitter(column)));
        let free = (0..self.blocks).map(|_| ((f64::NEG_INFINITY, f64::INFINITY), 1.0));
        let (bounds, cost): (Vec<_>, Vec<_>) = boxed.chain(free).unzip();
        self.simplex = Simplex::new(&bounds, &cost);
        self.cuts.clear();
        self.entered = vec![None; self.reduced.linear.len()];
        self.tangents.clear();
        for (block, (phantoms, majorant)) in first.into_iter().enumerate() {
            let slack = self.add(block, phantoms, &majorant);
            self.simplex.make_basic(width + block, slack);
        }
    }

    /// Sets up afresh with all cuts; bounds of variables must be set again.
    fn refresh(&mut self) {
        let old = std::mem::take(&mut self.cuts);
        let mut first: Vec<Option<(Vec<u32>, Majorant)>> = (0..self.blocks).map(|_| None).collect();
        let mut rest = Vec::new();
        for cut in old {
            let rows = range(self.reduced, self.blocks, cut.block);
            let majorant = majorant::of_rows(self.reduced, &cut.phantoms, rows);
            match &mut first[cut.block] {
                place @ None => *place = Some((cut.phantoms, majorant)),
                Some(_) => rest.push((cut.block, cut.phantoms, majorant)),
            }
        }
        self.set_up(first.into_iter().flatten().collect());
        for (block, phantoms, majorant) in rest {
            self.add(block, phantoms, &majorant);
        }
    }

    fn add(&mut self, block: usize, phantoms: Vec<u32>, majorant: &Majorant) -> Var {
        let slopes = majorant.slope.iter().enumerate().filter(|(_, s)| **s > 0);
        let scaled = slopes.map(|(column, &s)| (column, s as f64 * self.scale));
        let row: Vec<(Var, f64)> = scaled
            .chain([(self.reduced.width() + block, -1.0)])
            .collect();
        let slack = self
            .simplex
            .add_row(majorant.constant as f64 * self.scale, &row);
        self.cuts.push(Cut {
            slack,
            block,
            phantoms,
        });
        self.made += 1;
        slack
    }

    /// Adds the cuts of these phantoms, one per merged row.
    pub(crate) fn add_phantoms(&mut self, phantoms: &[u32]) {
        for block in 0..self.blocks {
            let rows = range(self.reduced, self.blocks, block);
            let own = phantoms[rows.clone()].to_vec();
            let majorant = majorant::of_rows(self.reduced, &own, rows);
            self.add(block, own, &majorant);
        }
    }

    /// Confines the relaxation to a box: per column whether it may be 0 and whether it may be 1.
    pub(crate) fn confine(&mut self, allowed: impl Iterator<Item = (bool, bool)>) {
        if self.simplex.pivots() > FRESH_AFTER {
            self.refresh();
        }
        for (column, (zero, one)) in allowed.enumerate() {
            let bound = |yes: bool| f64::from(u8::from(yes));
            self.simplex.set_bounds(column, bound(!zero), bound(one));
        }
    }

    /// Solves to optimality over the current cuts and all constraints, or until the bound is at most
    /// `target` ticks.
    pub(crate) fn solve(&mut self, target: u64) -> Outcome {
        let cutoff = target as f64 * self.scale;
        loop {
            let outcome = self.simplex.solve(cutoff, MAX_PIVOTS);
            if outcome != Outcome::Optimal || !self.add_violated() {
                return outcome;
            }
        }
    }

    /// Objective after a few pivots with one column forced, in ticks; the pool stays as it is.
    pub(crate) fn probe(&self, column: usize, inside: bool, target: u64, pivots: u64) -> f64 {
        let mut simplex = self.simplex.clone();
        let value = f64::from(u8::from(inside));
        simplex.set_bounds(column, value, value);
        let outcome = simplex.solve(target as f64 * self.scale, pivots);
        if matches!(outcome, Outcome::Infeasible | Outcome::Cutoff) {
            return target as f64;
        }
        simplex.objective() / self.scale
    }

    /// Adds the constraints that the current point breaks; whether there were any.
    fn add_violated(&mut self) -> bool {
        let z = self.point();
        let mut found = false;
        for (at, row) in self.reduced.linear.iter().enumerate() {
            let load: f64 = row.share.iter().zip(&z).map(|(s, z)| s * z).sum();
            if self.entered[at].is_none() && load > ROOM + VIOLATED {
                let shares = row.share.iter().enumerate().filter(|s| *s.1 > 0.0);
                let negated: Vec<(Var, f64)> = shares.map(|(c, s)| (c, -s)).collect();
                self.entered[at] = Some(self.simplex.add_row(ROOM, &negated));
                found = true;
            }
        }
        for row in &self.reduced.heaviest {
            let loads = row.share.iter().zip(&z).map(|(s, z)| s * z).enumerate();
            let mut loads: Vec<(usize, f64)> = loads.filter(|l| l.1 > 0.0).collect();
            loads.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            loads.truncate(row.top);
            if loads.iter().map(|l| l.1).sum::<f64>() > ROOM + VIOLATED {
                let shares: Vec<_> = loads.iter().map(|l| (l.0, row.share[l.0])).collect();
                let negated: Vec<(Var, f64)> = shares.iter().map(|&(c, s)| (c, -s)).collect();
                let slack = self.simplex.add_row(ROOM, &negated);
                let origin = row.origin;
                self.tangents.push(Tangent {
                    slack,
                    origin,
                    shares,
                });
                found = true;
            }
        }
        found
    }

    /// Adds the cuts that are violated when the blocks' majorants are taken at `z`; returns the value
    /// of the concave envelope there, in ticks.
    pub(crate) fn separate(&mut self, z: &[f64]) -> f64 {
        let point = self.point();
        let mut value = 0.0;
        for block in 0..self.blocks {
            let rows = range(self.reduced, self.blocks, block);
            let (phantoms, majorant) = majorant::tightest(self.reduced, z, rows);
            value += majorant.at(z);
            let theta = self.simplex.value(self.reduced.width() + block);
            if majorant.at(&point) * self.scale < theta - VIOLATED {
                self.add(block, phantoms, &majorant);
            }
        }
        value
    }

    /// Keeps the pool below `most` rows by dropping the loosest.
    pub(crate) fn purge(&mut self, most: usize) {
        if self.simplex.height() <= most {
            return;
        }
        let loose = |cut: &Cut| self.simplex.is_basic(cut.slack);
        let slack = |cut: &Cut| self.simplex.value(cut.slack);
        let cuts = self.cuts.iter().filter(|c| loose(c));
        let mut loosest: Vec<(f64, Var)> = cuts.map(|c| (slack(c), c.slack)).collect();
        loosest.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        loosest.truncate(self.simplex.height() - most / 2);
        let dropped: Vec<Var> = loosest.into_iter().map(|l| l.1).collect();
        for &slack in &dropped {
            self.simplex.drop_row(slack);
        }
        self.cuts.retain(|cut| !dropped.contains(&cut.slack));
        // A constraint that is not tight comes back when it is broken.
        let simplex = &mut self.simplex;
        let mut idle = |slack: Var| {
            let idle = simplex.is_basic(slack);
            if idle {
                simplex.drop_row(slack);
            }
            idle
        };
        for entered in &mut self.entered {
            *entered = entered.filter(|&slack| !idle(slack));
        }
        self.tangents.retain(|tangent| !idle(tangent.slack));
    }

    /// The current fractional set.
    pub(crate) fn point(&self) -> Vec<f64> {
        let columns = 0..self.reduced.width();
        columns
            .map(|c| self.simplex.value(c).clamp(0.0, 1.0))
            .collect()
    }

    /// The current bound in ticks, perturbed and unproven.
    pub(crate) fn objective(&self) -> f64 {
        self.simplex.objective() / self.scale
    }

    /// What the multipliers amount to, phantoms in ticks.
    pub(crate) fn multipliers(&self) -> Multipliers {
        let mixed = self.mixed(|_, tick| f64::from(tick));
        self.priced(mixed.iter().map(|v| v.round() as u32).collect())
    }

    /// Of each block's phantoms the mix that its cuts' weights give, each first translated.
    pub(crate) fn mixed(&self, translate: impl Fn(usize, u32) -> f64) -> Vec<f64> {
        let weight = |cut: &Cut| self.simplex.multiplier(cut.slack).max(0.0);
        let mut total = vec![0.0; self.blocks];
        for cut in &self.cuts {
            total[cut.block] += weight(cut);
        }
        let mut mixed = vec![0.0; self.reduced.rows];
        for cut in self.cuts.iter().filter(|cut| weight(cut) > 0.0) {
            let part = weight(cut) / total[cut.block];
            for (row, &phantom) in range(self.reduced, self.blocks, cut.block).zip(&cut.phantoms) {
                mixed[row] += part * translate(row, phantom);
            }
        }
        mixed
    }

    fn priced(&self, phantoms: Vec<u32>) -> Multipliers {
        let weight = |slack: Var| self.simplex.multiplier(slack).max(0.0);
        let price = |slack: Var| Some(weight(slack) / self.scale).filter(|price| *price > 0.0);
        let entered = self.entered.iter().enumerate();
        let linear = entered.filter_map(|(at, slack)| Some((at, price((*slack)?)?)));
        let dense = |tangent: &Tangent| {
            let mut share = vec![0.0; self.reduced.width()];
            tangent.shares.iter().for_each(|&(c, s)| share[c] = s);
            Some(TangentPrice {
                origin: tangent.origin,
                share,
                price: price(tangent.slack)?,
            })
        };
        Multipliers {
            phantoms,
            linear: linear.collect(),
            tangents: self.tangents.iter().filter_map(dense).collect(),
        }
    }

    /// Cuts made and pivots taken so far.
    pub(crate) fn effort(&self) -> (u64, u64) {
        (self.made, self.pivots_before + self.simplex.pivots())
    }
}

/// Rows of a block.
fn range(reduced: &Reduced, blocks: usize, block: usize) -> Range<usize> {
    block * reduced.rows / blocks..(block + 1) * reduced.rows / blocks
}

/// A fixed number in (0.5, 1] that differs from column to column.
fn jitter(column: usize) -> f64 {
    let mixed = (column as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1.0 - 0.5 * (mixed >> 11) as f64 / (1u64 << 53) as f64
}
