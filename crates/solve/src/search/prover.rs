//! The search as a witness: what it has to say about one box, for a proof.
//!
//! It uses the relaxation and the reduced costs only: enumeration and the cheaper bounds close boxes
//! faster, but the one leaves nothing to check and the others are special cases.

use super::node::Sides;
use super::options::BranchAndBound;
use super::relax::{Relaxed, Sources};
use super::tree::{End, Tree};
use crate::problem::Problem;
use crate::reduce::Reduced;
use crate::solution::Effort;
use crate::solver::Limits;

/// A checker's sums may be off by this much from whole ticks, relatively, with its own slack.
const CAUTION: f64 = 1.0 + 5e-9;

/// What a bound rests on, in the terms of the reduced problem.
#[derive(Debug, Clone)]
pub(crate) struct Basis {
    /// Per merged row, in value.
    pub(crate) phantoms: Vec<f64>,
    /// Linear rows with their prices, in ticks per limit.
    pub(crate) linear: Vec<(usize, f64)>,
    /// Tangents of `top_sum` rows: share by column, constraint, price.
    pub(crate) tangents: Vec<(Vec<f64>, usize, f64)>,
}

/// What is known of a box.
#[derive(Debug, Clone)]
pub(crate) enum Evidence {
    /// All that is left fits together, or nothing fits.
    Whole,
    /// No set is worth more, by this.
    Bounded(Basis),
    /// Columns whose other side holds nothing better, by this, and the box without it.
    Settled {
        basis: Basis,
        out: Vec<usize>,
        inside: Vec<usize>,
        left: Sides,
    },
    /// Nothing is known but that it can be split.
    Split {
        column: usize,
        with: Sides,
        without: Sides,
    },
}

/// A witness that knows an optimum.
pub(crate) struct Prover<'t, 'p, 'l> {
    tree: Tree<'t, 'p, 'l>,
}

impl<'t, 'p, 'l> Prover<'t, 'p, 'l> {
    /// Starts from the members of an optimal set.
    pub(crate) fn new(
        problem: &'p Problem,
        reduced: &'p Reduced,
        members: Vec<usize>,
        limits: &'t mut Limits<'l>,
    ) -> Self {
        let known = End {
            open: None,
            members,
            bound: f64::INFINITY,
            stopped: false,
            effort: Effort::default(),
        };
        let mut tree = Tree::new(
            BranchAndBound::FULL,
            problem,
            reduced,
            (limits, Some(known)),
        );
        tree.caution = CAUTION;
        Self { tree }
    }

    /// The box of everything; what uses nothing up is in.
    pub(crate) fn root(&self) -> Sides {
        let inside = super::root::free(self.tree.reduced);
        let columns = 0..self.tree.reduced.width();
        Sides {
            open: columns.filter(|c| !inside.contains(c)).collect(),
            inside,
            outside: Vec::new(),
        }
    }

    /// What is known of the box; nothing if the limits are reached.
    pub(crate) fn examine(&mut self, mut sides: Sides) -> Option<Evidence> {
        if self.tree.halted() {
            return None;
        }
        self.tree.effort.nodes += 1;
        if !self.tree.close_full(&mut sides) {
            return Some(Evidence::Whole);
        }
        let relaxed = self.tree.relax(&sides);
        let basis = self.basis(&relaxed);
        if relaxed.closed {
            return Some(Evidence::Bounded(basis));
        }
        let rows = relaxed.sources.rows(self.tree.reduced, &sides.inside);
        let side = |&column: &usize| self.tree.side(column, &rows, &relaxed.proof);
        let decided: Vec<(usize, bool)> = sides
            .open
            .iter()
            .filter_map(|c| Some((*c, side(c)?)))
            .collect();
        if !decided.is_empty() {
            let on = |wanted: bool| {
                let there = decided.iter().filter(move |d| d.1 == wanted);
                there.map(|d| d.0).collect::<Vec<_>>()
            };
            let (out, inside) = (on(false), on(true));
            sides.settle(|column| decided.iter().find(|d| d.0 == column).map(|d| d.1));
            return Some(Evidence::Settled {
                basis,
                out,
                inside,
                left: sides,
            });
        }
        let column = self.tree.choose(&sides, &relaxed.proof, Some(&relaxed.z));
        let decided = |inside: bool| {
            let mut part = sides.clone();
            part.settle(|c| (c == column).then_some(inside));
            part
        };
        Some(Evidence::Split {
            column,
            with: decided(true),
            without: decided(false),
        })
    }

    fn basis(&self, relaxed: &Relaxed) -> Basis {
        let ticks = &self.tree.reduced.ticks;
        let Sources { linear, tangents } = &relaxed.sources;
        let prices = &relaxed.proof.prices;
        let in_value = || {
            let phantoms = relaxed.proof.phantoms.iter();
            phantoms.map(|&tick| ticks.value(u64::from(tick))).collect()
        };
        Basis {
            phantoms: relaxed.exact.clone().unwrap_or_else(in_value),
            linear: linear.iter().copied().zip(prices.iter().copied()).collect(),
            tangents: tangents
                .iter()
                .zip(&prices[linear.len()..])
                .map(|(tangent, price)| (tangent.share.clone(), tangent.origin, *price))
                .collect(),
        }
    }
}
