//! Density greedy from every single start, then exchanges: a good set fast, at any size.
//!
//! The answer carries a bound (the value of everything, marginal values, subgradient steps), so it
//! says how far off it can be, and is called optimal where value and bound meet. Work is capped by a
//! count, not by time, so that the result is the same on every machine.

use crate::bound::lagrange::{self, Region};
use crate::infeasible;
use crate::problem::Problem;
use crate::reduce::{Reduced, Steps};
use crate::search::{Climb, Draft, Incumbent, Sources};
use crate::solution::{Effort, Solution};
use crate::solver::{Limits, Progress, SolveError, Solver, Unfit};

/// Ticks read before the search is content with what it has: about a second.
const MAX_READS: u64 = 1 << 32;
/// Subgradient steps for the bound.
const STEPS: u32 = 60;

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
        let steps = Steps {
            dominance: true,
            merge: true,
            unit: true,
        };
        let reduced = Reduced::of(problem, &steps);
        let mut climb = Climb::new(&reduced);
        climb.starts(&mut |_| true);
        let mut incumbent = Incumbent::new(problem, &reduced, reduced.originals(&climb.best));
        let bound = reduced
            .ticks
            .value(bound(&reduced, incumbent.target(), &climb.best));
        let most = MAX_READS / reduced.rows.max(1) as u64;
        let objective = incumbent.value();
        let mut stopped = false;
        let mut nodes = 0;
        let mut halt = |evaluations: u64| {
            nodes += 1;
            let progress = Progress {
                nodes,
                evaluations,
                objective,
                bound: bound.max(objective),
            };
            stopped = stopped || limits.reached(&progress);
            stopped || evaluations > most
        };
        climb.starts(&mut halt);
        climb.exchange(1, &mut halt);
        climb.exchange(2, &mut halt);
        climb.exchange(1, &mut halt);
        incumbent.offer(&climb.best, climb.value);
        let effort = Effort {
            nodes,
            evaluations: climb.evaluations + u64::from(STEPS),
        };
        let members = crate::trim::without_idle(problem, incumbent.members().to_vec());
        let proof = (bound, stopped);
        Ok(Solution::found(
            self.name(),
            problem,
            members,
            proof,
            effort,
        ))
    }
}

/// Upper bound in ticks on every set, from the empty set, from a good one and from multipliers.
fn bound(reduced: &Reduced, target: u64, good: &[usize]) -> u64 {
    let open: Vec<usize> = (0..reduced.width()).collect();
    let everyone = Draft::of(reduced, open.iter().copied()).tops.value();
    let sources = Sources::linear(reduced);
    let rows = sources.rows(reduced, &[]);
    let region = Region {
        inside: &[],
        open: &open,
        rows: &rows,
    };
    let from =
        |phantoms: Vec<u32>| lagrange::prove(reduced, region, phantoms, vec![0.0; rows.len()]);
    let good = from(
        Draft::of(reduced, good.iter().copied())
            .tops
            .last()
            .to_vec(),
    );
    let none = from(vec![0; reduced.rows]);
    let start = if good.bound < none.bound { good } else { none };
    let proof = lagrange::improve(reduced, region, start, target, STEPS);
    reduced.ticks.floor(proof.bound).min(everyone)
}
