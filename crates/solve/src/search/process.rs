//! One box: close it, settle columns, enumerate it, or split it.

use super::Draft;
use super::dive::{self, MAX_OPEN};
use super::node::{Node, Sides};
use super::room::Room;
use super::tree::Tree;
use crate::bound::exact;
use crate::bound::knapsack::{self, Row};
use crate::bound::lagrange::{self, Proof, Region};
use crate::bound::master::{Master, Multipliers};
use crate::bound::simplex::Outcome;
use crate::reduce::{ROOM, Reduced};

/// Rounds of cuts for one box, at most.
const ROUNDS: u32 = 20;
/// Rounds after which a round must close this part of the remaining gap to be followed by another.
const PATIENT: u32 = 3;
const WORTH: f64 = 0.02;
/// Relative distance at which the relaxation agrees with the concave envelope.
const CONVERGED: f64 = 1e-7;
/// A column this far from 0 and 1 is fractional.
const FRACTIONAL: f64 = 1e-6;
/// Subgradient steps for one box when there are no cuts.
const STEPS: u32 = 30;
/// Pivots for trying out one side of a split.
const PROBE_PIVOTS: u64 = 30;
/// Boxes between attempts to round the relaxation to a set, where boxes are quick; with more columns
/// than this every box is slow and worth the attempt.
const ROUND_EVERY: u64 = 8;
const WIDE: usize = 128;
/// Linear rows that a knapsack considers; with more, only those that the cuts price.
const MANY_ROWS: usize = 16;

/// Rows in the pool of cuts, at most: enough that no useful cut is lost, few enough that a pivot
/// stays cheap.
pub(super) fn pool(reduced: &Reduced) -> usize {
    const PER_COLUMN: usize = 4;
    const LEAST: usize = 200;
    const MOST: usize = 400;
    (PER_COLUMN * reduced.width()).clamp(LEAST, MOST)
}

/// The linear constraints that a bound prices.
pub(crate) struct Sources {
    linear: Vec<usize>,
    tangents: Vec<Vec<f64>>,
}

impl Sources {
    /// All linear rows.
    pub(crate) fn linear(reduced: &Reduced) -> Self {
        Self {
            linear: (0..reduced.linear.len()).collect(),
            tangents: Vec::new(),
        }
    }

    /// Those with a price, and all linear ones if they are few; with the prices.
    fn of(reduced: &Reduced, multipliers: Multipliers) -> (Self, Vec<f64>) {
        let mut prices = vec![0.0; reduced.linear.len()];
        multipliers
            .linear
            .iter()
            .for_each(|&(row, price)| prices[row] = price);
        let all = prices.len() <= MANY_ROWS;
        let linear: Vec<usize> = (0..prices.len())
            .filter(|&r| all || prices[r] > 0.0)
            .collect();
        let (tangents, dear): (Vec<_>, Vec<_>) = multipliers.tangents.into_iter().unzip();
        let prices = linear.iter().map(|&row| prices[row]).chain(dear).collect();
        (Self { linear, tangents }, prices)
    }

    /// The rows with what the members leave of them.
    pub(crate) fn rows<'r>(&'r self, reduced: &'r Reduced, inside: &[usize]) -> Vec<Row<'r>> {
        let linear = self.linear.iter().map(|&row| &reduced.linear[row].share);
        let row = |share: &'r Vec<f64>| Row {
            share,
            left: (ROOM - inside.iter().map(|&c| share[c]).sum::<f64>()).max(0.0),
        };
        linear.chain(&self.tangents).map(row).collect()
    }
}

/// The bound in ticks that the relaxation's multipliers prove for all sets that hold `inside`.
pub(super) fn proven(tree: &Tree<'_, '_, '_>, master: &Master<'_>, inside: &[usize]) -> u64 {
    let reduced = tree.reduced;
    let open: Vec<usize> = (0..reduced.width())
        .filter(|c| !inside.contains(c))
        .collect();
    let (_, proof) = certify(reduced, master, inside, &open);
    reduced.ticks.floor(proof.bound)
}

fn certify(
    reduced: &Reduced,
    master: &Master<'_>,
    inside: &[usize],
    open: &[usize],
) -> (Sources, Proof) {
    let multipliers = master.multipliers();
    let phantoms = multipliers.phantoms.clone();
    let (sources, prices) = Sources::of(reduced, multipliers);
    let rows = sources.rows(reduced, inside);
    let region = Region {
        inside,
        open,
        rows: &rows,
    };
    let proof = lagrange::prove(reduced, region, phantoms, prices);
    drop(rows);
    (sources, proof)
}

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
    fn side(&self, column: usize, rows: &[Row<'_>], proof: &Proof) -> Option<bool> {
        let target = self.incumbent.target();
        let worse = |ticks: f64| self.reduced.ticks.floor(ticks) <= target;
        let gain = proof.majorant.slope[column] as f64;
        let net = gain - knapsack::cost(rows, &proof.prices, column);
        if net < 0.0 && worse(proof.bound + net) {
            Some(false)
        } else if net > 0.0 && worse(proof.bound - net) {
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
    fn close_full(&mut self, sides: &mut Sides) -> bool {
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
        let closed = |tree: &Self, p: f64| reduced.ticks.floor(p) <= tree.incumbent.target();
        let inside = Draft::of(reduced, sides.inside.iter().copied());
        self.effort.evaluations += sides.inside.len() as u64;
        self.incumbent.offer(&inside.members, inside.tops.value());
        if self.options.bounds.everything {
            let mut all = inside.tops.clone();
            sides.open.iter().for_each(|&c| all.push(reduced.column(c)));
            self.effort.evaluations += sides.open.len() as u64;
            if closed(self, all.value() as f64) {
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
            if closed(self, proof.bound) {
                return None;
            }
            best = best.filter(|b| b.bound <= proof.bound).or(Some(proof));
        }
        if self.options.bounds.cuts {
            return self.cut(sides);
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
        (!closed(self, proof.bound)).then_some((sources, proof, None))
    }

    /// The same by cuts.
    fn cut(&mut self, sides: &Sides) -> Option<(Sources, Proof, Option<Vec<f64>>)> {
        let reduced = self.reduced;
        let mut master = self
            .master
            .take()
            .unwrap_or_else(|| Master::new(reduced, self.options.blocks));
        let mut allowed = vec![(true, false); reduced.width()];
        sides
            .inside
            .iter()
            .for_each(|&c| allowed[c] = (false, true));
        sides.open.iter().for_each(|&c| allowed[c] = (true, true));
        master.confine(allowed.into_iter());
        let target = self.incumbent.target();
        let mut before = f64::INFINITY;
        for round in 0..=ROUNDS {
            let outcome = master.solve(target);
            let objective = master.objective();
            let slow = before - objective < WORTH * (objective - target as f64);
            if outcome != Outcome::Optimal || round == ROUNDS || (slow && round > PATIENT) {
                break;
            }
            let z = master.point();
            if master.separate(&z) >= objective * (1.0 - CONVERGED) {
                break;
            }
            before = objective;
        }
        let z = master.point();
        let (sources, proof) = certify(reduced, &master, &sides.inside, &sides.open);
        self.effort.evaluations += 1;
        let bound = reduced.ticks.floor(proof.bound);
        let open = bound > target && !self.closed_exactly(&master, sides, (&sources, &proof));
        master.purge(pool(reduced));
        self.master = Some(master);
        if reduced.width() > WIDE || self.effort.nodes.is_multiple_of(ROUND_EVERY) {
            self.round(&z);
        }
        open.then_some((sources, proof, Some(z)))
    }

    /// Whether a box that is open only because ticks are rounded up is closed by exact values.
    fn closed_exactly(
        &mut self,
        master: &Master<'_>,
        sides: &Sides,
        (sources, proof): (&Sources, &Proof),
    ) -> bool {
        let reduced = self.reduced;
        if proof.bound > (self.incumbent.target() + reduced.window()) as f64 {
            return false;
        }
        self.effort.evaluations += 1;
        let problem = self.incumbent.problem();
        let phantoms = master.mixed(|row, ticks| exact::phantom(reduced, problem, row, ticks));
        let rows = sources.rows(reduced, &sides.inside);
        let region = Region {
            inside: &sides.inside,
            open: &sides.open,
            rows: &rows,
        };
        exact::bound(reduced, problem, region, &phantoms, &proof.prices) <= self.incumbent.ties()
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
    fn choose(&self, sides: &Sides, proof: &Proof, z: Option<&[f64]>) -> usize {
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
