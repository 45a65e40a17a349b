//! Before the first split: good sets, then the best bound that multipliers can give for everything.
//!
//! Cuts at the vertices that a simplex method returns converge slowly at first, because they are far
//! from the optimum and jump about. They are taken instead at points between the vertex and the best
//! point so far (in-out separation, Ben-Ameur and Neto 2007), which needs a third of the rounds here.

use super::node::Node;
use super::polynomial;
use super::relax::{self, Sources};
use super::tree::Tree;
use super::{Draft, room::Room};
use crate::bound::lagrange::{self, Region};
use crate::bound::master::Master;
use crate::bound::simplex::Outcome;
use crate::reduce::Reduced;

/// Ticks read by greedy starts and by exchanges before the bounds are looked at, some milliseconds each,
/// and once more when the bounds leave more open than [`NARROW`] of a problem so wide that its tree
/// is slow, half a second. The first starts are the promising ones.
const CLIMB_READS: (u64, u64) = (1 << 25, 1 << 28);
/// Relative gap, and number of columns, up to which better sets are left to the tree.
const NARROW: (f64, usize) = (3e-4, 128);
/// Subgradient steps at the root.
const STEPS: u32 = 60;
/// Rounds of cuts at the root, at most.
const ROUNDS: u32 = 400;
/// How far a cut's point goes from the best point towards the vertex.
const TOWARDS_VERTEX: f64 = 0.4;
/// Relative distance between the relaxation and its best point at which it has converged.
const CONVERGED: f64 = 2e-6;
/// Rounds between attempts to round the relaxation to a set and to prove a bound.
const EVERY: u32 = 10;

/// Share of columns that must be settled for a fresh start with the rest, and how many that is at least.
const WORTH_RESTARTING: f64 = 0.2;
const LEAST_SETTLED: usize = 16;

/// How things stand before the first split.
pub(super) enum Start {
    /// Nothing can be better than the incumbent.
    Closed,
    /// Only these columns can be in something better, far fewer than all.
    Narrowed(Vec<usize>),
    /// The box of everything with the best bound.
    Open(Node),
}

/// Looks for good sets and the best bound on everything.
pub(super) fn start(tree: &mut Tree<'_, '_, '_>) -> Start {
    let reduced = tree.reduced;
    let closed = |tree: &Tree<'_, '_, '_>, ticks: u64| ticks <= tree.incumbent.target();
    let everyone = Draft::of(reduced, 0..reduced.width());
    if everyone.room.holds(reduced) {
        tree.incumbent
            .offer(&everyone.members, everyone.tops.value());
        return Start::Closed;
    }
    if let Some((sets, evaluations)) = polynomial::solve(reduced) {
        tree.effort.evaluations += evaluations;
        for (members, ticks) in sets {
            tree.incumbent.offer(&members, ticks);
        }
        return Start::Closed;
    }
    if !tree.resumed {
        tree.climb(CLIMB_READS.0);
    }
    let free = free(reduced);
    let mut node = Node::root(reduced, &free, everyone.tops.value());
    if closed(tree, node.bound) {
        return Start::Closed;
    }
    if tree.halted() {
        return Start::Open(node);
    }
    if tree.options.bounds.lagrangian {
        node.bound = node.bound.min(multipliers(tree, &free));
        tree.lower(node.bound);
    }
    if tree.options.bounds.cuts && !closed(tree, node.bound) {
        node.bound = node.bound.min(cuts(tree, &free, node.bound));
        tree.lower(node.bound);
        let gap = node.bound as f64 / tree.incumbent.target().max(1) as f64 - 1.0;
        if !tree.resumed && gap > NARROW.0 && reduced.width() > NARROW.1 {
            tree.climb(CLIMB_READS.1);
        }
        let settled = tree.settled_out(&free);
        let worth = (WORTH_RESTARTING * reduced.width() as f64).max(LEAST_SETTLED as f64);
        let allowed = tree.options.fixing && tree.may_narrow;
        if allowed && settled.len() as f64 >= worth && !tree.halted() {
            let left: Vec<usize> = (0..reduced.width())
                .filter(|c| !settled.contains(c))
                .collect();
            return if left.is_empty() {
                Start::Closed
            } else {
                Start::Narrowed(left)
            };
        }
    }
    if closed(tree, node.bound) {
        Start::Closed
    } else {
        Start::Open(node)
    }
}

/// Columns that use up nothing.
pub(super) fn free(reduced: &Reduced) -> Vec<usize> {
    let costs = |c: usize| {
        let linear = reduced.linear.iter().map(move |row| row.share[c]);
        linear.chain(reduced.heaviest.iter().map(move |row| row.share[c]))
    };
    (0..reduced.width())
        .filter(|&c| costs(c).all(|share| share == 0.0))
        .collect()
}

/// The Lagrangian bound for everything; its multipliers are kept.
fn multipliers(tree: &mut Tree<'_, '_, '_>, free: &[usize]) -> u64 {
    let reduced = tree.reduced;
    let sources = Sources::linear(reduced);
    let rows = sources.rows(reduced, free);
    let open: Vec<usize> = (0..reduced.width()).filter(|c| !free.contains(c)).collect();
    let region = Region {
        inside: free,
        open: &open,
        rows: &rows,
    };
    let none = vec![0; reduced.rows];
    let plain = lagrange::prove(reduced, region, none, vec![0.0; rows.len()]);
    let proof = lagrange::improve(reduced, region, plain, tree.incumbent.target(), STEPS);
    tree.effort.evaluations += u64::from(STEPS);
    let bound = reduced.ticks.floor(proof.bound);
    tree.first = Some(proof.phantoms);
    bound
}

/// The bound by cuts for everything, in ticks; the pool of cuts is kept.
fn cuts(tree: &mut Tree<'_, '_, '_>, free: &[usize], bound: u64) -> u64 {
    let reduced = tree.reduced;
    let mut master = Master::new(reduced, tree.options.blocks);
    if let Some(phantoms) = &tree.first {
        master.add_phantoms(phantoms);
    }
    master.confine((0..reduced.width()).map(|c| (!free.contains(&c), true)));
    let mut inner = vec![0.0; reduced.width()];
    tree.climb
        .best
        .iter()
        .for_each(|&column| inner[column] = 1.0);
    let (mut bound, mut low) = (bound, 0.0f64);
    for round in 0..ROUNDS {
        let outcome = master.solve(tree.incumbent.target());
        let vertex = master.point();
        let objective = master.objective();
        let between = vertex.iter().zip(&inner);
        let point: Vec<f64> = between
            .map(|(v, i)| TOWARDS_VERTEX * v + (1.0 - TOWARDS_VERTEX) * i)
            .collect();
        let done = outcome != Outcome::Optimal || objective - low < CONVERGED * objective;
        if round % EVERY == EVERY - 1 || done {
            bound = bound.min(relax::proven(tree, &master, free));
            tree.lower(bound);
            tree.round(&vertex);
        }
        if done || bound <= tree.incumbent.target() || tree.halted() {
            break;
        }
        let value = master.separate(&point);
        if value > low {
            (low, inner) = (value, point);
        }
        master.purge(relax::pool(reduced));
    }
    tree.master = Some(master);
    bound
}

impl Tree<'_, '_, '_> {
    /// Offers the set that a fractional one rounds to.
    pub(super) fn round(&mut self, z: &[f64]) {
        let mut order: Vec<usize> = (0..z.len()).filter(|&c| z[c] > LIKELY).collect();
        order.sort_by(|&a, &b| z[b].total_cmp(&z[a]).then(a.cmp(&b)));
        let mut room = Room::new(self.reduced);
        order.retain(|&column| {
            let fits = room.fits(self.reduced, column);
            if fits {
                room.add(self.reduced, column);
            }
            fits
        });
        let mut draft = Draft::of(self.reduced, order);
        self.climb.fill(&mut draft);
        self.climb.consider(&draft);
        self.incumbent.offer(&draft.members, draft.tops.value());
    }
}

/// Least share of a column in a fractional set for it to be tried when rounding.
const LIKELY: f64 = 0.3;
