//! One box: close it, settle columns, enumerate it, or split it.

use super::Draft;
use super::dive::{self, MAX_OPEN};
use super::node::{Node, Sides};
use super::relax::{Sources, certify};
use super::room::Room;
use super::tree::Tree;
use crate::bound::knapsack::{self, Row};
use crate::bound::lagrange::{self, Proof, Region};

/// A column this far from 0 and 1 is fractional.
const FRACTIONAL: f64 = 1e-6;
/// Subgradient steps for one box when there are no cuts.
const STEPS: u32 = 30;
/// Pivots for trying out one side of a split.
const PROBE_PIVOTS: u64 = 30;

impl Tree<'_, '_, '_> {
    /// Columns that no better set holds, by the bounds on everything.
    pub(super) fn settled_out(&self, free: &[usize]) -> Vec<usize> {
        let reduced = self.reduced;
        let Some(master) = &self.master else {
            return Vec::new();
        };
        let open: Vec<usize> = (0..reduced.width()).filter(|c| !free.contains(c)).collect();
        let (sources, proof) = certify(reduced, master, free, &open);
        let rows = sources.rows(reduced, free);
        let sides = open.into_iter().map(|c| (c, self.side(c, &rows, &proof)));
        sides
            .filter(|(_, side)| *side == Some(false))
            .map(|(c, _)| c)
            .collect()
    }

    /// The side of a column that must be taken by anything better, if the proof settles one.
    pub(super) fn side(&self, column: usize, rows: &[Row<'_>], proof: &Proof) -> Option<bool> {
        let gain = proof.majorant.slope[column] as f64;
        let net = gain - knapsack::cost(rows, &proof.prices, column);
        if net < 0.0 && self.closes(proof.bound + net) {
            Some(false)
        } else if net > 0.0 && self.closes(proof.bound - net) {
            Some(true)
        } else {
            None
        }
    }

    /// The boxes that remain of this one.
    pub(super) fn process(&mut self, node: &Node) -> Vec<Node> {
        let reduced = self.reduced;
        let mut sides = node.sides(reduced);
        if !self.close_full(&mut sides) {
            return Vec::new();
        }
        let Some((sources, proof, z)) = self.bound(&sides) else {
            return Vec::new();
        };
        let bound = node.bound.min(reduced.ticks.floor(proof.bound));
        if bound <= self.incumbent.target() {
            return Vec::new();
        }
        if self.options.fixing && !self.settle(&mut sides, &sources, &proof) {
            return Vec::new();
        }
        if self.options.dive && sides.open.len() <= MAX_OPEN {
            let rows = sources.rows(reduced, &sides.inside);
            let region = dive::Region {
                inside: &sides.inside,
                open: &sides.open,
                proof: &proof,
                rows: &rows,
            };
            if self.dive(region) {
                return Vec::new();
            }
        }
        let column = self.choose(&sides, &proof, z.as_deref());
        [true, false]
            .into_iter()
            .map(|inside| node.child(&sides, bound, column, inside))
            .collect()
    }

    /// Closes columns that no longer fit and boxes whose sets are all inside one that fits;
    /// whether anything is left.
    pub(super) fn close_full(&mut self, sides: &mut Sides) -> bool {
        let room = Room::of(self.reduced, &sides.inside);
        if !room.holds(self.reduced) {
            return false;
        }
        sides.settle(|column| (!room.fits(self.reduced, column)).then_some(false));
        let everyone = sides.inside.iter().chain(&sides.open).copied();
        let everyone = Room::of(self.reduced, &everyone.collect::<Vec<_>>());
        if sides.open.is_empty() || everyone.holds(self.reduced) {
            let all = sides.inside.iter().chain(&sides.open).copied();
            let draft = Draft::of(self.reduced, all);
            self.effort.evaluations += draft.members.len() as u64;
            self.incumbent.offer(&draft.members, draft.tops.value());
            return false;
        }
        true
    }

    /// The best proof for the box, with the rows that its prices belong to and the fractional set
    /// of the relaxation; `None` if the box is closed.
    fn bound(&mut self, sides: &Sides) -> Option<(Sources, Proof, Option<Vec<f64>>)> {
        let reduced = self.reduced;
        let inside = Draft::of(reduced, sides.inside.iter().copied());
        self.effort.evaluations += sides.inside.len() as u64;
        self.incumbent.offer(&inside.members, inside.tops.value());
        if self.options.bounds.everything {
            let mut all = inside.tops.clone();
            sides.open.iter().for_each(|&c| all.push(reduced.column(c)));
            self.effort.evaluations += sides.open.len() as u64;
            if self.closes(all.value() as f64) {
                return None;
            }
        }
        let sources = Sources::linear(reduced);
        let rows = sources.rows(reduced, &sides.inside);
        let region = Region {
            inside: &sides.inside,
            open: &sides.open,
            rows: &rows,
        };
        let mut guesses = Vec::new();
        if self.options.bounds.marginal {
            guesses.push(inside.tops.last().to_vec());
        }
        if self.options.bounds.lagrangian {
            guesses.extend(self.first.clone());
        }
        let mut best: Option<Proof> = None;
        for phantoms in guesses {
            self.effort.evaluations += 1;
            let proof = lagrange::prove(reduced, region, phantoms, vec![0.0; rows.len()]);
            if self.closes(proof.bound) {
                return None;
            }
            best = best.filter(|b| b.bound <= proof.bound).or(Some(proof));
        }
        if self.options.bounds.cuts {
            drop(rows);
            let relaxed = self.relax(sides);
            return (!relaxed.closed).then_some((relaxed.sources, relaxed.proof, Some(relaxed.z)));
        }
        let fallback = || {
            lagrange::prove(
                reduced,
                region,
                vec![0; reduced.rows],
                vec![0.0; rows.len()],
            )
        };
        let mut proof = best.unwrap_or_else(fallback);
        if self.options.bounds.lagrangian {
            self.effort.evaluations += u64::from(STEPS);
            proof = lagrange::improve(reduced, region, proof, self.incumbent.target(), STEPS);
        }
        drop(rows);
        (!self.closes(proof.bound)).then_some((sources, proof, None))
    }

    /// Settles the columns of which one side is proven to hold nothing better; whether anything is
    /// left.
    fn settle(&mut self, sides: &mut Sides, sources: &Sources, proof: &Proof) -> bool {
        let rows = sources.rows(self.reduced, &sides.inside);
        let before = sides.open.len();
        sides.settle(|column| self.side(column, &rows, proof));
        sides.open.len() == before || self.close_full(sides)
    }

    /// The column to split on.
    pub(super) fn choose(&self, sides: &Sides, proof: &Proof, z: Option<&[f64]>) -> usize {
        let slope = |c: usize| proof.majorant.slope[c] as f64;
        let by_slope = || {
            let open = sides.open.iter().copied();
            open.max_by(|&a, &b| slope(a).total_cmp(&slope(b)).then(b.cmp(&a)))
        };
        let halves = |z: &[f64], c: usize| z[c].min(1.0 - z[c]);
        let fractional = z.map_or(Vec::new(), |z| {
            let open = sides.open.iter().copied();
            let mut found: Vec<usize> = open.filter(|&c| halves(z, c) > FRACTIONAL).collect();
            let score = |c: usize| halves(z, c) * slope(c);
            found.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
            found.truncate(self.options.probes.max(1));
            found
        });
        let (Some(master), [_, _, ..]) = (&self.master, &fractional[..]) else {
            let only = fractional.first().copied();
            return only
                .or_else(by_slope)
                .expect("a box that is split has an open column");
        };
        let target = self.incumbent.target();
        let objective = master.objective();
        // A side that would be closed counts as closing the whole gap.
        let least = 1e-3 * (objective - target as f64);
        let falls = |c: usize, inside: bool| {
            (objective - master.probe(c, inside, target, PROBE_PIVOTS)).max(least)
        };
        let scored = fractional
            .iter()
            .map(|&c| (falls(c, true) * falls(c, false), c));
        let best = scored.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        best.expect("there are fractional columns").1
    }
}
