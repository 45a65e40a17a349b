//! Density greedy from every single start, then 1-swaps and 2-swaps: a good set fast, at any size.
//!
//! One greedy run is easily trapped by a first pick that blocks a shared device; starting once from
//! every expert costs little because marginal values only shrink as a set grows, so values from
//! the empty set serve as stale upper bounds and most experts are never evaluated again. Swaps
//! then repair the rest. The answer carries the bounds of `bound`, so it says how far off it
//! can be, and is called optimal where they meet.
//!
//! Work is capped by a count, not by time, so that the result is the same on every machine.

use crate::bound;
use crate::infeasible;
use crate::problem::{Kind, Problem};
use crate::rows;
use crate::solution::{Effort, OPTIMALITY_TOLERANCE, Solution};
use crate::solver::{Limits, Progress, SolveError, Solver, Unfit};
use crate::state::State;

/// Utilities read before the search is content with what it has: about ten seconds unoptimised on
/// a slow core, far less in a release build. 60 experts × 3,000 rows finish well below it.
const MAX_READS: u64 = 1 << 28;

pub(crate) struct Greedy;

impl Solver for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn applies(&self, _: &Problem) -> Result<(), Unfit> {
        Ok(())
    }

    fn solve(&self, problem: &Problem, limits: &mut Limits<'_>) -> Result<Solution, SolveError> {
        if let Some(reason) = infeasible::diagnose(problem) {
            return Ok(Solution::infeasible(self.name(), reason));
        }
        let mut search = Search::new(problem, limits);
        search.starts();
        while search.swap(1) || search.swap(2) {}
        let incumbent = State::of(problem, search.best.iter().copied());
        let bound = search
            .bound
            .min(bound::upper(problem, &search.eligible, &incumbent));
        let proof = (bound, search.halt == Some(Halt::Limits));
        Ok(Solution::found(
            self.name(),
            problem,
            search.best,
            proof,
            search.effort,
        ))
    }
}

#[derive(PartialEq)]
enum Halt {
    /// The caller's limits.
    Limits,
    /// [`MAX_READS`], or nothing left to gain.
    Content,
}

struct Search<'s, 'p, 'l> {
    problem: &'p Problem,
    limits: &'s mut Limits<'l>,
    /// Experts that fit alone, best alone first.
    eligible: Vec<usize>,
    /// By expert: value from the empty set, an upper bound on every later gain.
    alone: Vec<f64>,
    /// By expert: share of the rows it uses up, summed; 0 if it is free.
    price: Vec<f64>,
    best: Vec<usize>,
    objective: f64,
    bound: f64,
    effort: Effort,
    halt: Option<Halt>,
}

/// An expert that may still join.
struct Candidate {
    expert: usize,
    gain: f64,
    /// Whether `gain` is for the current set rather than for a smaller one.
    fresh: bool,
}

impl<'s, 'p, 'l> Search<'s, 'p, 'l> {
    fn new(problem: &'p Problem, limits: &'s mut Limits<'l>) -> Self {
        let mut eligible = rows::eligible(problem);
        let empty = State::new(problem);
        let alone: Vec<f64> = (0..problem.expert_count()).map(|n| empty.gain(n)).collect();
        eligible.sort_by(|&a, &b| alone[b].total_cmp(&alone[a]));
        let all = State::of(problem, eligible.iter().copied());
        let from_all = bound::upper(problem, &eligible, &all);
        let bound = from_all.min(bound::upper(problem, &eligible, &empty));
        let best = vec![eligible[0]];
        Self {
            price: (0..problem.expert_count())
                .map(|n| price(problem, n))
                .collect(),
            objective: State::of(problem, best.iter().copied()).value(),
            effort: Effort {
                nodes: 0,
                evaluations: 2 * eligible.len() as u64,
            },
            problem,
            limits,
            eligible,
            alone,
            best,
            bound,
            halt: None,
        }
    }

    fn starts(&mut self) {
        for start in self.eligible.clone() {
            if self.halted() {
                return;
            }
            self.effort.nodes += 1;
            self.effort.evaluations += 1;
            let mut state = State::of(self.problem, [start]);
            self.fill(&mut state);
            self.consider(&state);
        }
    }

    /// Takes `out` members out, puts one other in, refills; stops at the first improvement and
    /// returns whether there was one.
    fn swap(&mut self, out: usize) -> bool {
        for leaving in subsets(self.best.len(), out) {
            let kept = self
                .best
                .iter()
                .enumerate()
                .filter(|(at, _)| !leaving.contains(at));
            let base = State::of(self.problem, kept.map(|(_, &n)| n));
            self.effort.evaluations += base.members().len() as u64;
            for incoming in self.eligible.clone() {
                if self.best.contains(&incoming) || !base.fits(incoming) {
                    continue;
                }
                if self.halted() {
                    return false;
                }
                self.effort.nodes += 1;
                self.effort.evaluations += 1;
                let mut state = base.clone();
                state.push(incoming);
                self.fill(&mut state);
                if self.consider(&state) {
                    return true;
                }
            }
        }
        false
    }

    /// Adds the expert with the largest gain per price until nothing that gains still fits.
    fn fill(&mut self, state: &mut State<'p>) {
        let stale = |&expert: &usize| Candidate {
            expert,
            gain: self.alone[expert],
            fresh: false,
        };
        let mut open: Vec<Candidate> = self.eligible.iter().map(stale).collect();
        open.retain(|c| state.fits(c.expert));
        while let Some(top) = self.densest(&open) {
            if self.halted() {
                return;
            }
            self.effort.evaluations += 1;
            if open[top].fresh {
                state.push(open.swap_remove(top).expert);
                open.retain(|c| state.fits(c.expert));
                open.iter_mut().for_each(|c| c.fresh = false);
            } else {
                open[top].gain = state.gain(open[top].expert);
                open[top].fresh = true;
                open.retain(|c| c.gain > 0.0);
            }
        }
    }

    /// Position of the candidate with the largest density, then gain, then lowest index.
    fn densest(&self, open: &[Candidate]) -> Option<usize> {
        let order = |a: &Candidate, b: &Candidate| {
            let density = |c: &Candidate| c.gain / self.price[c.expert];
            let by_density = density(a).total_cmp(&density(b));
            by_density
                .then(a.gain.total_cmp(&b.gain))
                .then(b.expert.cmp(&a.expert))
        };
        let gaining = open.iter().enumerate().filter(|(_, c)| c.gain > 0.0);
        gaining
            .max_by(|(_, a), (_, b)| order(a, b))
            .map(|(at, _)| at)
    }

    fn consider(&mut self, state: &State<'p>) -> bool {
        let mut members = state.members().to_vec();
        members.sort_unstable();
        let value = state.value();
        let better = value > self.objective;
        if better {
            self.best = members;
            self.objective = value;
        }
        better
    }

    fn halted(&mut self) -> bool {
        if self.halt.is_none() {
            let reads = self
                .effort
                .evaluations
                .saturating_mul(self.problem.row_count() as u64);
            let progress = Progress {
                nodes: self.effort.nodes,
                evaluations: self.effort.evaluations,
                objective: self.objective,
                bound: self.bound.max(self.objective),
            };
            let closed = self.bound * (1.0 - OPTIMALITY_TOLERANCE);
            if self.limits.reached(&progress) {
                self.halt = Some(Halt::Limits);
            } else if reads >= MAX_READS || self.objective >= closed {
                self.halt = Some(Halt::Content);
            }
        }
        self.halt.is_some()
    }
}

/// Share of the rows' limits that an expert uses up; `max` rows are filters and cost nothing.
fn price(problem: &Problem, expert: usize) -> f64 {
    let share = |cost: f64, limit: f64| if cost > 0.0 { cost / limit } else { 0.0 };
    let rows = problem.constraints().iter();
    rows.map(|row| match row.kind {
        Kind::Max { .. } => 0.0,
        _ => share(row.cost(expert), row.limit),
    })
    .sum()
}

/// All subsets of `0..count` with `size` 1 or 2 elements; one element a is written `[a, a]`.
fn subsets(count: usize, size: usize) -> impl Iterator<Item = [usize; 2]> {
    (0..count).flat_map(move |a| {
        let second = if size == 1 { a..a + 1 } else { a + 1..count };
        second.map(move |b| [a, b])
    })
}
