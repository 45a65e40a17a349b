//! The relaxation of one box by cuts, and what its multipliers prove.

use super::node::Sides;
use super::tree::Tree;
use crate::bound::exact;
use crate::bound::knapsack::Row;
use crate::bound::lagrange::{self, Proof, Region};
use crate::bound::master::{Master, Multipliers, TangentPrice};
use crate::bound::simplex::Outcome;
use crate::reduce::{ROOM, Reduced};

/// Rounds of cuts for one box, at most.
const ROUNDS: u32 = 20;
/// Rounds after which a round must close this part of the remaining gap to be followed by another.
const PATIENT: u32 = 3;
const WORTH: f64 = 0.02;
/// Relative distance at which the relaxation agrees with the concave envelope.
const CONVERGED: f64 = 1e-7;
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
    pub(super) linear: Vec<usize>,
    pub(super) tangents: Vec<TangentPrice>,
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
        let tangents = multipliers.tangents;
        let dear = tangents.iter().map(|tangent| tangent.price);
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
        linear
            .chain(self.tangents.iter().map(|t| &t.share))
            .map(row)
            .collect()
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

pub(super) fn certify(
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

/// What the relaxation of a box comes to.
pub(super) struct Relaxed {
    pub(super) sources: Sources,
    pub(super) proof: Proof,
    /// Phantoms in value, where they were needed to close the box.
    pub(super) exact: Option<Vec<f64>>,
    /// The fractional set.
    pub(super) z: Vec<f64>,
    /// Whether no set of the box is better than the incumbent.
    pub(super) closed: bool,
}

impl Tree<'_, '_, '_> {
    /// Solves the relaxation of a box by cuts.
    pub(super) fn relax(&mut self, sides: &Sides) -> Relaxed {
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
        let mut closed = self.closes(proof.bound);
        let exact = (!closed).then(|| self.closed_exactly(&master, sides, (&sources, &proof)));
        let exact = exact.flatten();
        closed |= exact.is_some();
        master.purge(pool(reduced));
        self.master = Some(master);
        if reduced.width() > WIDE || self.effort.nodes.is_multiple_of(ROUND_EVERY) {
            self.round(&z);
        }
        Relaxed {
            sources,
            proof,
            exact,
            z,
            closed,
        }
    }

    /// The phantoms in value that close a box which is open only because ticks are rounded up.
    fn closed_exactly(
        &mut self,
        master: &Master<'_>,
        sides: &Sides,
        (sources, proof): (&Sources, &Proof),
    ) -> Option<Vec<f64>> {
        let reduced = self.reduced;
        if proof.bound > (self.incumbent.target() + reduced.window()) as f64 {
            return None;
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
        let bound = exact::bound(reduced, problem, region, &phantoms, &proof.prices);
        (bound <= self.incumbent.ties()).then_some(phantoms)
    }
}
