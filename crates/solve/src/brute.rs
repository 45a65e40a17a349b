//! Exhaustive search: the oracle the other solvers are tested against, and the best choice for a
//! small fleet.
//!
//! Feasible sets are down-closed, so growing sets one expert at a time and cutting at the first
//! broken row still visits every feasible set once. Each level keeps its own copy of the state;
//! a Gray code would avoid the copies but must remove experts, which drifts and needs more than
//! the k best utilities per row. There is deliberately no other pruning, no presolve and none of the
//! searches' arithmetic: an oracle should be dull.
//!
//! Among sets of equal value the smallest wins, then the one that comes first by index: an expert
//! that adds nothing should not be kept powered.

use crate::infeasible;
use crate::problem::Problem;
use crate::rows::{self, Loads};
use crate::solution::{Effort, Solution};
use crate::solver::{Limits, Progress, SolveError, Solver, Unfit, require};

/// Most experts that are enumerated: 65,535 sets.
const MAX_BRUTE_EXPERTS: usize = 16;
/// Most numbers held in the saved states: 256 MiB.
const MAX_SAVED: usize = 1 << 25;

pub(crate) struct Brute;

impl Brute {
    /// Utilities read by a full enumeration, at most.
    pub(crate) fn reads(problem: &Problem) -> usize {
        let sets = 1usize
            .checked_shl(problem.expert_count() as u32)
            .unwrap_or(usize::MAX);
        sets.saturating_mul(problem.row_count())
            .saturating_mul(depth(problem))
    }
}

impl Solver for Brute {
    fn name(&self) -> &'static str {
        "brute"
    }

    fn applies(&self, problem: &Problem) -> Result<(), Unfit> {
        Unfit::unless(
            "the number of experts",
            problem.expert_count(),
            MAX_BRUTE_EXPERTS,
        )?;
        let level = problem.row_count().saturating_mul(depth(problem));
        let saved = level.saturating_mul(problem.expert_count() + 1);
        Unfit::unless("rows × k × (experts + 1)", saved, MAX_SAVED)
    }

    fn solve(&self, problem: &Problem, limits: &mut Limits<'_>) -> Result<Solution, SolveError> {
        require(self, problem)?;
        if let Some(reason) = infeasible::diagnose(problem) {
            return Ok(Solution::infeasible(self.name(), reason));
        }
        let eligible = rows::eligible(problem);
        let mut search = Search {
            columns: (0..problem.expert_count())
                .map(|n| problem.column(n).collect())
                .collect(),
            levels: vec![State::empty(problem); eligible.len() + 1],
            bound: crate::objective::value(problem, &eligible),
            problem,
            eligible,
            limits,
            best: Vec::new(),
            objective: 0.0,
            effort: Effort::default(),
            stopped: false,
        };
        search.extend(0, 0);
        let bound = if search.stopped {
            search.bound
        } else {
            search.objective
        };
        let proof = (bound, search.stopped);
        Ok(Solution::found(
            self.name(),
            problem,
            search.best,
            proof,
            search.effort,
        ))
    }
}

/// How many utilities per row can ever count.
fn depth(problem: &Problem) -> usize {
    problem.k().min(problem.expert_count())
}

/// A set with its loads and, per row, its k best utilities in descending order.
#[derive(Debug, Clone)]
struct State {
    members: Vec<usize>,
    loads: Loads,
    best: Vec<f64>,
}

impl State {
    fn empty(problem: &Problem) -> Self {
        Self {
            members: Vec::new(),
            loads: Loads::new(problem),
            best: vec![0.0; problem.row_count() * depth(problem)],
        }
    }

    /// Overwrites `self` with `from`, reusing the memory.
    fn copy_from(&mut self, from: &Self) {
        self.members.clone_from(&from.members);
        self.loads = from.loads.clone();
        self.best.copy_from_slice(&from.best);
    }

    fn push(&mut self, problem: &Problem, expert: usize, column: &[f64]) {
        self.members.push(expert);
        self.loads.add(problem, expert);
        let rows = self.best.chunks_exact_mut(depth(problem));
        for (best, &u) in rows.zip(column) {
            let mut carry = u;
            for place in best {
                if carry > *place {
                    std::mem::swap(place, &mut carry);
                }
            }
        }
    }

    fn value(&self, problem: &Problem) -> f64 {
        let rows = self.best.chunks_exact(depth(problem));
        let worth = problem.weights().iter().zip(rows);
        worth.map(|(w, best)| w * best.iter().sum::<f64>()).sum()
    }
}

struct Search<'p, 'l, 's> {
    problem: &'p Problem,
    columns: Vec<Vec<f64>>,
    eligible: Vec<usize>,
    /// `levels[i]` is the state of the current set's first `i` members.
    levels: Vec<State>,
    limits: &'s mut Limits<'l>,
    best: Vec<usize>,
    objective: f64,
    bound: f64,
    effort: Effort,
    stopped: bool,
}

impl Search<'_, '_, '_> {
    /// Visits every feasible extension of the set at `level` by experts from `from` on.
    fn extend(&mut self, level: usize, from: usize) {
        for at in from..self.eligible.len() {
            let expert = self.eligible[at];
            if !self.levels[level].loads.fits(self.problem, expert) {
                continue;
            }
            if self.stop() {
                return;
            }
            let (done, rest) = self.levels.split_at_mut(level + 1);
            rest[0].copy_from(&done[level]);
            rest[0].push(self.problem, expert, &self.columns[expert]);
            self.consider(level + 1);
            self.extend(level + 1, at + 1);
        }
    }

    fn consider(&mut self, level: usize) {
        self.effort.nodes += 1;
        self.effort.evaluations += 1;
        let members = &self.levels[level].members;
        let value = self.levels[level].value(self.problem);
        let smaller = value == self.objective && members.len() < self.best.len();
        if self.best.is_empty() || value > self.objective || smaller {
            self.best.clone_from(members);
            self.objective = value;
        }
    }

    /// The first set is always visited, so that a stopped search has an answer.
    fn stop(&mut self) -> bool {
        if !self.stopped && !self.best.is_empty() {
            let progress = Progress {
                nodes: self.effort.nodes,
                evaluations: self.effort.evaluations,
                objective: self.objective,
                bound: self.bound.max(self.objective),
            };
            self.stopped = self.limits.reached(&progress);
        }
        self.stopped
    }
}
