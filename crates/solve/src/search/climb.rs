//! Good sets fast: density greedy from single starts, then exchanges of one or two members.
//!
//! One greedy run is easily trapped by a first pick that blocks a shared device; starting once from
//! every expert costs little, because marginal values only shrink as a set grows and so values from the
//! empty set serve as stale upper bounds: most experts are never evaluated again (Minoux 1978).
//! Exchanges then repair the rest. Work is capped by a count of passes, not by time, so that the
//! result is the same on every machine.

use super::room::Room;
use super::tops::Tops;
use crate::reduce::Reduced;

/// A set with everything needed to let it grow.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) members: Vec<usize>,
    pub(crate) tops: Tops,
    pub(crate) room: Room,
}

impl Draft {
    pub(crate) fn empty(reduced: &Reduced) -> Self {
        Self {
            members: Vec::new(),
            tops: Tops::new(reduced.rows, reduced.k),
            room: Room::new(reduced),
        }
    }

    pub(crate) fn of(reduced: &Reduced, members: impl IntoIterator<Item = usize>) -> Self {
        let mut draft = Self::empty(reduced);
        members
            .into_iter()
            .for_each(|column| draft.push(reduced, column));
        draft
    }

    pub(crate) fn push(&mut self, reduced: &Reduced, column: usize) {
        self.members.push(column);
        self.tops.push(reduced.column(column));
        self.room.add(reduced, column);
    }

    pub(crate) fn fits(&self, reduced: &Reduced, column: usize) -> bool {
        !self.members.contains(&column) && self.room.fits(reduced, column)
    }
}

/// The search for good sets over one reduced problem.
#[derive(Debug)]
pub(crate) struct Climb<'r> {
    reduced: &'r Reduced,
    /// By column: value alone, an upper bound on every later gain.
    alone: Vec<u64>,
    /// By column: shares of the constraints that it uses up, summed; 0 if it is free.
    price: Vec<f64>,
    /// Columns by value alone, and how many of them were starts already.
    order: Vec<usize>,
    started: usize,
    /// Passes over a column so far.
    pub(crate) evaluations: u64,
    pub(crate) best: Vec<usize>,
    /// Value of `best` in ticks.
    pub(crate) value: u64,
}

/// A column that may still join.
struct Candidate {
    column: usize,
    gain: u64,
    /// Whether `gain` is for the current set rather than for a smaller one.
    fresh: bool,
}

/// Asked before every larger step with the evaluations so far: whether to stop.
pub(crate) type Halt<'h> = &'h mut dyn FnMut(u64) -> bool;

impl<'r> Climb<'r> {
    pub(crate) fn new(reduced: &'r Reduced) -> Self {
        let empty = Tops::new(reduced.rows, reduced.k);
        let columns = 0..reduced.width();
        let linear = |c: usize| {
            reduced
                .linear
                .iter()
                .filter(|r| !r.implied())
                .map(move |r| r.share[c])
        };
        let heaviest = |c: usize| reduced.heaviest.iter().map(move |r| r.share[c]);
        let alone: Vec<u64> = columns
            .clone()
            .map(|c| empty.gain(reduced.column(c)))
            .collect();
        let mut order: Vec<usize> = columns.clone().collect();
        order.sort_by(|&a, &b| alone[b].cmp(&alone[a]).then(a.cmp(&b)));
        Self {
            alone,
            price: columns
                .map(|c| linear(c).chain(heaviest(c)).sum())
                .collect(),
            order,
            started: 0,
            reduced,
            evaluations: reduced.width() as u64,
            best: Vec::new(),
            value: 0,
        }
    }

    /// Greedy from each single column, the best alone first, until told to halt; called again it
    /// goes on where it was.
    pub(crate) fn starts(&mut self, halt: Halt<'_>) {
        while let Some(&start) = self.order.get(self.started) {
            // The first one always counts: an answer is owed.
            if self.started > 0 && halt(self.evaluations) {
                return;
            }
            self.started += 1;
            let mut draft = Draft::of(self.reduced, [start]);
            self.fill(&mut draft);
            self.consider(&draft);
        }
    }

    /// Takes `out` members out, puts another one in and refills, until nothing improves.
    pub(crate) fn exchange(&mut self, out: usize, halt: Halt<'_>) {
        while self.exchange_once(out, halt) {}
    }

    fn exchange_once(&mut self, out: usize, halt: Halt<'_>) -> bool {
        for leaving in subsets(self.best.len(), out) {
            let members = self.best.iter().enumerate();
            let kept = members
                .filter(|(at, _)| !leaving.contains(at))
                .map(|m| *m.1);
            let base = Draft::of(self.reduced, kept);
            self.evaluations += base.members.len() as u64;
            for incoming in 0..self.reduced.width() {
                if self.best.contains(&incoming) || !base.fits(self.reduced, incoming) {
                    continue;
                }
                if halt(self.evaluations) {
                    return false;
                }
                let mut draft = base.clone();
                draft.push(self.reduced, incoming);
                self.fill(&mut draft);
                if self.consider(&draft) {
                    return true;
                }
            }
        }
        false
    }

    /// Adds the column with the largest gain per price until nothing that gains still fits.
    pub(crate) fn fill(&mut self, draft: &mut Draft) {
        let reduced = self.reduced;
        let columns = (0..reduced.width()).filter(|&c| draft.fits(reduced, c));
        let mut open: Vec<Candidate> = columns
            .map(|column| Candidate {
                column,
                gain: self.alone[column],
                fresh: false,
            })
            .collect();
        while let Some(at) = self.densest(&open) {
            let column = open[at].column;
            self.evaluations += 1;
            if open[at].fresh {
                draft.push(reduced, column);
                open.swap_remove(at);
                open.retain(|c| draft.room.fits(reduced, c.column));
                open.iter_mut().for_each(|c| c.fresh = false);
            } else {
                open[at].gain = draft.tops.gain(reduced.column(column));
                open[at].fresh = true;
                if open[at].gain == 0 {
                    open.swap_remove(at);
                }
            }
        }
    }

    /// Position of the candidate with the largest density, then gain, then lowest column.
    fn densest(&self, open: &[Candidate]) -> Option<usize> {
        let density = |c: &Candidate| c.gain as f64 / self.price[c.column];
        let order = |a: &Candidate, b: &Candidate| {
            let by_density = density(a).total_cmp(&density(b));
            by_density
                .then(a.gain.cmp(&b.gain))
                .then(b.column.cmp(&a.column))
        };
        let gaining = open.iter().enumerate().filter(|(_, c)| c.gain > 0);
        gaining.max_by(|a, b| order(a.1, b.1)).map(|(at, _)| at)
    }

    /// Goes on from this set if it is the best so far.
    pub(crate) fn adopt(&mut self, columns: &[usize]) {
        let draft = Draft::of(self.reduced, columns.iter().copied());
        if !columns.is_empty() {
            self.consider(&draft);
        }
    }

    /// Keeps the draft if it is the best so far.
    pub(crate) fn consider(&mut self, draft: &Draft) -> bool {
        let value = draft.tops.value();
        let better = value > self.value || self.best.is_empty();
        if better {
            self.value = value;
            self.best.clone_from(&draft.members);
        }
        better
    }
}

/// All subsets of `0..count` with `size` 1 or 2 elements; one element a is written `[a, a]`.
fn subsets(count: usize, size: usize) -> impl Iterator<Item = [usize; 2]> {
    (0..count).flat_map(move |a| {
        let second = if size == 1 { a..a + 1 } else { a + 1..count };
        second.map(move |b| [a, b])
    })
}
