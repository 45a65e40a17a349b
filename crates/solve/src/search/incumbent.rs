//! The best set so far and what it takes to beat it.
//!
//! A search compares ticks, which may overstate a value slightly (`reduce::ticks`); a set that looks
//! better in ticks is therefore judged by its exact value before it replaces the incumbent.

use crate::objective;
use crate::problem::Problem;
use crate::reduce::{Reduced, TIE};

/// The best set so far.
#[derive(Debug)]
pub(crate) struct Incumbent<'p> {
    problem: &'p Problem,
    reduced: &'p Reduced,
    /// Experts by their index in the problem.
    members: Vec<usize>,
    value: f64,
    target: u64,
}

impl<'p> Incumbent<'p> {
    /// Starts from a set of experts.
    pub(crate) fn new(problem: &'p Problem, reduced: &'p Reduced, members: Vec<usize>) -> Self {
        let value = objective::value(problem, &members);
        Self {
            target: reduced.ticks.no_better_than(value),
            problem,
            reduced,
            members,
            value,
        }
    }

    /// Takes the set over if it is better; `ticks` is its value in ticks.
    pub(crate) fn offer(&mut self, columns: &[usize], ticks: u64) -> bool {
        if ticks <= self.target || columns.is_empty() {
            return false;
        }
        let members = self.reduced.originals(columns);
        let value = objective::value(self.problem, &members);
        let better = value > self.value;
        if better {
            (self.members, self.value) = (members, value);
            self.target = self.reduced.ticks.no_better_than(value);
        }
        better
    }

    /// A set whose bound in ticks is at most this is no better.
    pub(crate) fn target(&self) -> u64 {
        self.target
    }

    /// A set whose bound in value is at most this is no better, within what optimality claims.
    pub(crate) fn ties(&self) -> f64 {
        self.value * (1.0 + TIE)
    }

    pub(crate) fn problem(&self) -> &'p Problem {
        self.problem
    }

    pub(crate) fn value(&self) -> f64 {
        self.value
    }

    pub(crate) fn members(&self) -> &[usize] {
        &self.members
    }
}
