//! Enumerating a small box: depth first, on rows compacted to those that can still change.
//!
//! Splitting a box and solving two relaxations costs milliseconds. A box with few open columns left is
//! often cheaper to enumerate: only rows that some open column can improve are kept, 0/1 rows with
//! equal patterns are merged and packed into bits, and a marginal value is then a handful of words.
//! Two bounds cut the enumeration, both marginal values with a fractional knapsack: over the values
//! as they are, and with the box's phantoms added (`bound`), which take out most of the overlap
//! that makes the first one weak. Effort is limited in nodes; a box that turns out to be too large is
//! handed back and split.

mod bits;
mod levels;

use super::incumbent::Incumbent;
use super::room::Room;
use crate::bound::lagrange::Proof;
use crate::reduce::Reduced;

/// Most open columns of a box that is enumerated: a row's pattern is one word.
pub(crate) const MAX_OPEN: usize = 64;

/// Marginal values on compacted rows, of the open columns `0..` of a box.
trait Kernel {
    /// What members so far have done to the rows.
    type Level: Clone;

    /// The level of the box itself, its value in ticks and that with phantoms.
    fn root(&self) -> (Self::Level, u64, u64);
    /// What a column adds, without and with phantoms.
    fn gains(&self, level: &Self::Level, column: usize) -> (u64, u64);
    /// Makes `to` the level of `from` with one more column.
    fn push(&self, from: &Self::Level, to: &mut Self::Level, column: usize);
}

/// A box to be enumerated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region<'b> {
    pub(crate) inside: &'b [usize],
    pub(crate) open: &'b [usize],
    pub(crate) proof: &'b Proof,
    /// Rows of the knapsack by which the open columns are priced: shares by column, room left.
    pub(crate) rows: &'b [crate::bound::knapsack::Row<'b>],
}

/// How an enumeration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// Whether every set of the box was covered.
    pub(crate) finished: bool,
    pub(crate) nodes: u64,
    pub(crate) evaluations: u64,
}

/// Enumerates the box within `budget` nodes; better sets go to the incumbent.
pub(crate) fn dive(
    reduced: &Reduced,
    region: Region<'_>,
    incumbent: &mut Incumbent<'_>,
    budget: u64,
) -> Report {
    if reduced.binary {
        Dive::run(
            &bits::Bits::new(reduced, region),
            reduced,
            region,
            incumbent,
            budget,
        )
    } else {
        Dive::run(
            &levels::Levels::new(reduced, region),
            reduced,
            region,
            incumbent,
            budget,
        )
    }
}

struct Dive<'d, 'p, K: Kernel> {
    kernel: &'d K,
    reduced: &'d Reduced,
    open: &'d [usize],
    incumbent: &'d mut Incumbent<'p>,
    /// Cost of each open column in the one row that stands for all.
    cost: Vec<f64>,
    /// Columns taken so far, the box's own first.
    members: Vec<usize>,
    levels: Vec<K::Level>,
    rooms: Vec<Room>,
    report: Report,
    budget: u64,
}

/// Where a branch of the enumeration stands.
#[derive(Debug, Clone, Copy)]
struct At {
    depth: usize,
    value: u64,
    with_phantoms: u64,
    left: f64,
}

/// An open column at some point of the enumeration.
#[derive(Debug, Clone, Copy)]
struct Item {
    column: usize,
    gain: u64,
    /// What it adds when phantoms are there too.
    beyond: u64,
}

impl<K: Kernel> Dive<'_, '_, K> {
    fn run(
        kernel: &K,
        reduced: &Reduced,
        region: Region<'_>,
        incumbent: &mut Incumbent<'_>,
        budget: u64,
    ) -> Report {
        let (level, value, with_phantoms) = kernel.root();
        let (cost, left) = surrogate(region);
        let room = Room::of(reduced, region.inside);
        let mut dive = Dive {
            kernel,
            reduced,
            open: region.open,
            incumbent,
            cost,
            members: region.inside.to_vec(),
            levels: vec![level],
            rooms: vec![room],
            report: Report {
                finished: true,
                nodes: 0,
                evaluations: 0,
            },
            budget,
        };
        dive.incumbent.offer(region.inside, value);
        let everyone: Vec<usize> = (0..region.open.len()).collect();
        let at = At {
            depth: 0,
            value,
            with_phantoms,
            left,
        };
        dive.report.finished = dive.explore(at, &everyone);
        dive.report
    }

    /// Covers every set that adds some of `candidates`; whether it got to the end.
    fn explore(&mut self, at: At, candidates: &[usize]) -> bool {
        self.report.nodes += 1;
        if self.report.nodes > self.budget {
            return false;
        }
        let mut items = self.items(at.depth, candidates);
        for item in &items {
            if at.value + item.gain > self.incumbent.target() {
                self.members.push(self.open[item.column]);
                self.incumbent.offer(&self.members, at.value + item.gain);
                self.members.pop();
            }
        }
        self.sort(&mut items, |item| item.gain);
        let mut by_beyond = items.clone();
        self.sort(&mut by_beyond, |item| item.beyond);
        let mut skipped = 0u64;
        for first in 0..items.len() {
            // From here on, sets with none of the columns before `first`.
            let plain = items[first..].iter().map(|item| (item.column, item.gain));
            if self.closed(at.value, self.knapsack(plain, at.left)) {
                return true;
            }
            let rest = by_beyond
                .iter()
                .filter(|item| skipped >> item.column & 1 == 0);
            let rest = rest.map(|item| (item.column, item.beyond));
            if self.closed(at.with_phantoms, self.knapsack(rest, at.left)) {
                return true;
            }
            if !self.descend(at, items[first], &items[first + 1..]) {
                return false;
            }
            skipped |= 1 << items[first].column;
        }
        true
    }

    /// Covers the sets with `item` and some of the `later` columns.
    fn descend(&mut self, at: At, item: Item, later: &[Item]) -> bool {
        if self.levels.len() == at.depth + 1 {
            self.levels.push(self.levels[at.depth].clone());
            self.rooms.push(self.rooms[at.depth].clone());
        }
        let (done, rest) = self.levels.split_at_mut(at.depth + 1);
        self.kernel.push(&done[at.depth], &mut rest[0], item.column);
        let (done, rest) = self.rooms.split_at_mut(at.depth + 1);
        rest[0].copy_from(&done[at.depth]);
        rest[0].add(self.reduced, self.open[item.column]);
        self.members.push(self.open[item.column]);
        let next = At {
            depth: at.depth + 1,
            value: at.value + item.gain,
            with_phantoms: at.with_phantoms + item.beyond,
            left: at.left - self.cost[item.column],
        };
        let later: Vec<usize> = later.iter().map(|item| item.column).collect();
        let finished = self.explore(next, &later);
        self.members.pop();
        finished
    }

    /// The candidates that fit and add something.
    fn items(&mut self, depth: usize, candidates: &[usize]) -> Vec<Item> {
        let mut items = Vec::with_capacity(candidates.len());
        for &column in candidates {
            if !self.rooms[depth].fits(self.reduced, self.open[column]) {
                continue;
            }
            self.report.evaluations += 1;
            let (gain, beyond) = self.kernel.gains(&self.levels[depth], column);
            if gain > 0 {
                items.push(Item {
                    column,
                    gain,
                    beyond,
                });
            }
        }
        items
    }

    /// Densest first by the given gain.
    fn sort(&self, items: &mut [Item], gain: impl Fn(&Item) -> u64) {
        let density = |item: &Item| gain(item) as f64 / self.cost[item.column];
        items.sort_unstable_by(|a, b| {
            let by_density = density(b).total_cmp(&density(a));
            by_density.then(a.column.cmp(&b.column))
        });
    }

    /// Fractional knapsack over items that come densest first.
    fn knapsack(&self, items: impl Iterator<Item = (usize, u64)>, mut left: f64) -> f64 {
        let mut total = 0.0;
        for (column, gain) in items {
            let cost = self.cost[column];
            if cost > left {
                total += gain as f64 * (left.max(0.0) / cost);
                break;
            }
            left -= cost;
            total += gain as f64;
        }
        total
    }

    fn closed(&self, value: u64, added: f64) -> bool {
        self.reduced.ticks.floor(value as f64 + added) <= self.incumbent.target()
    }
}

/// One row that stands for all: the rows weighted by their prices, or equally without any.
fn surrogate(region: Region<'_>) -> (Vec<f64>, f64) {
    let prices = &region.proof.prices;
    let flat = vec![1.0; region.rows.len()];
    let prices = if prices.iter().any(|&p| p > 0.0) {
        prices
    } else {
        &flat
    };
    let cost = |&column: &usize| crate::bound::knapsack::cost(region.rows, prices, column);
    let left = region
        .rows
        .iter()
        .zip(prices)
        .map(|(row, price)| row.left * price);
    (region.open.iter().map(cost).collect(), left.sum())
}
