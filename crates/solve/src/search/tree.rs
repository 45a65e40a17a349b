//! The open boxes and the loop over them.

use std::collections::BinaryHeap;

use super::incumbent::Incumbent;
use super::node::Node;
use super::options::BranchAndBound;
use super::{Climb, dive, root};
use crate::bound::master::Master;
use crate::problem::Problem;
use crate::reduce::Reduced;
use crate::solution::Effort;
use crate::solver::{Limits, Progress};

/// Open boxes beyond which the search goes depth first until there are fewer: it then needs no more
/// memory, and its bound stays where it is.
const MAX_OPEN: usize = 1 << 16;
/// Nodes that the first dive may take, and the range in which success and failure move that.
const DIVE: (u64, u64, u64) = (125, 1000, 30_000);

/// One run of the search.
pub(super) struct Tree<'t, 'p, 'l> {
    pub(super) options: BranchAndBound,
    pub(super) reduced: &'p Reduced,
    pub(super) incumbent: Incumbent<'p>,
    pub(super) climb: Climb<'p>,
    pub(super) master: Option<Master<'p>>,
    /// Phantoms of the Lagrangian bound for everything: a first guess for every box.
    pub(super) first: Option<Vec<u32>>,
    pub(super) effort: Effort,
    /// Whether an earlier search has climbed already.
    pub(super) resumed: bool,
    /// Whether it may end early for a fresh start with fewer columns.
    pub(super) may_narrow: bool,
    /// Factor on bounds before they are rounded down: more than 1 leaves room for whoever computes
    /// them again in another way.
    pub(super) caution: f64,
    limits: &'t mut Limits<'l>,
    /// Upper bound on everything, in value.
    bound: f64,
    heap: BinaryHeap<Node>,
    stack: Vec<Node>,
    stopped: bool,
    dive_budget: u64,
}

/// What a run ends with.
pub(super) struct End {
    /// The experts that the rest of the search is about, if it is worth starting afresh with them.
    pub(super) open: Option<Vec<usize>>,
    pub(super) members: Vec<usize>,
    pub(super) bound: f64,
    pub(super) stopped: bool,
    pub(super) effort: Effort,
}

impl<'t, 'p, 'l> Tree<'t, 'p, 'l> {
    /// A search that goes on from what an earlier one ended with, if there was one.
    pub(super) fn new(
        options: BranchAndBound,
        problem: &'p Problem,
        reduced: &'p Reduced,
        (limits, earlier): (&'t mut Limits<'l>, Option<End>),
    ) -> Self {
        let mut climb = Climb::new(reduced);
        climb.starts(&mut |_| true);
        let everyone = super::Draft::of(reduced, 0..reduced.width());
        let everything = reduced.ticks.value(everyone.tops.value());
        let afresh = || End {
            open: None,
            members: reduced.originals(&climb.best),
            bound: everything,
            stopped: false,
            effort: Effort::default(),
        };
        let resumed = earlier.is_some();
        let earlier = earlier.unwrap_or_else(afresh);
        let mut incumbent = Incumbent::new(problem, reduced, earlier.members);
        incumbent.offer(&climb.best, climb.value);
        climb.adopt(&reduced.columns_of(incumbent.members()));
        Self {
            options,
            reduced,
            bound: earlier.bound.min(everything.max(incumbent.value())),
            incumbent,
            master: None,
            first: None,
            effort: earlier.effort,
            limits,
            climb,
            resumed,
            may_narrow: true,
            caution: 1.0,
            heap: BinaryHeap::new(),
            stack: Vec::new(),
            stopped: false,
            dive_budget: DIVE.1,
        }
    }

    /// Searches to the end, or until a fresh start is the better way on if `may_narrow`.
    pub(super) fn run(mut self, may_narrow: bool) -> End {
        self.may_narrow = may_narrow;
        let mut open = None;
        match root::start(&mut self) {
            root::Start::Closed => {}
            root::Start::Narrowed(columns) => open = Some(self.reduced.originals(&columns)),
            root::Start::Open(node) => {
                self.heap.push(node);
                self.search();
            }
        }
        let value = self.incumbent.value();
        let proven = if self.stopped || open.is_some() {
            self.bound.max(value)
        } else {
            value
        };
        End {
            open,
            members: self.incumbent.members().to_vec(),
            bound: proven,
            stopped: self.stopped,
            effort: self.total_effort(),
        }
    }

    fn search(&mut self) {
        while let Some(node) = self.next() {
            if node.bound <= self.incumbent.target() {
                continue;
            }
            self.lower(self.best_open().max(node.bound));
            if self.halted() {
                self.heap.push(node);
                return;
            }
            self.effort.nodes += 1;
            for child in self.process(&node) {
                if self.heap.len() >= MAX_OPEN {
                    self.stack.push(child);
                } else {
                    self.heap.push(child);
                }
            }
        }
    }

    fn next(&mut self) -> Option<Node> {
        self.stack.pop().or_else(|| self.heap.pop())
    }

    fn best_open(&self) -> u64 {
        let stacked = self.stack.iter().map(|node| node.bound).max();
        let heaped = self.heap.peek().map(|node| node.bound);
        stacked.max(heaped).unwrap_or(0)
    }

    /// Whether sets with this bound, in ticks, are no better than the incumbent.
    pub(super) fn closes(&self, bound: f64) -> bool {
        self.reduced.ticks.floor(bound * self.caution) <= self.incumbent.target()
    }

    /// Notes that nothing is worth more than this many ticks.
    pub(super) fn lower(&mut self, ticks: u64) {
        let ticks = ticks.max(self.incumbent.target());
        let value = self.reduced.ticks.value(ticks).max(self.incumbent.value());
        self.bound = self.bound.min(value);
    }

    /// Asks the limits, at least once per node.
    pub(super) fn halted(&mut self) -> bool {
        if !self.stopped {
            let progress = self.progress();
            self.stopped = self.limits.reached(&progress);
        }
        self.stopped
    }

    fn progress(&self) -> Progress {
        let effort = self.total_effort();
        Progress {
            nodes: effort.nodes,
            evaluations: effort.evaluations,
            objective: self.incumbent.value(),
            bound: self.bound.max(self.incumbent.value()),
        }
    }

    /// Greedy starts and single exchanges, with a limit on the work.
    pub(super) fn climb(&mut self, reads: u64) {
        let most = reads / self.reduced.rows.max(1) as u64;
        let progress = self.progress();
        let others = progress.evaluations - self.climb.evaluations;
        let (limits, stopped) = (&mut *self.limits, &mut self.stopped);
        let mut ended = |began: u64, evaluations: u64| {
            let now = Progress {
                evaluations: others + evaluations,
                ..progress
            };
            *stopped = *stopped || limits.reached(&now);
            *stopped || evaluations > began + most
        };
        let began = self.climb.evaluations;
        self.climb.starts(&mut |now| ended(began, now));
        if self.options.exchanges {
            let began = self.climb.evaluations;
            self.climb.exchange(1, &mut |now| ended(began, now));
        }
        self.incumbent.offer(&self.climb.best, self.climb.value);
    }

    fn total_effort(&self) -> Effort {
        let cuts = self.master.as_ref().map_or(0, |master| master.effort().0);
        Effort {
            nodes: self.effort.nodes,
            evaluations: self.effort.evaluations + self.climb.evaluations + cuts,
        }
    }

    /// Enumerates a small box; whether that closed it.
    pub(super) fn dive(&mut self, region: dive::Region<'_>) -> bool {
        let report = dive::dive(self.reduced, region, &mut self.incumbent, self.dive_budget);
        self.effort.evaluations += report.evaluations;
        self.effort.nodes += report.nodes;
        let next = if report.finished {
            self.dive_budget * 2
        } else {
            self.dive_budget / 2
        };
        self.dive_budget = next.clamp(DIVE.0, DIVE.2);
        report.finished
    }
}
