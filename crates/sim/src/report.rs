//! What a run comes to.

use std::collections::BTreeMap;
use std::fmt;

use moe2_model::Time;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Seed of the run.
    pub seed: u64,
    /// Virtual time.
    pub time: Time,
    /// Which promise, and what happened instead.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.seconds_since(Time::ZERO);
        write!(f, "seed {} at {seconds:.6}: {}", self.seed, self.what)
    }
}

/// What happened in one run; equal for equal scenarios and seeds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Queries submitted.
    pub queries: u64,
    /// Queries answered.
    pub answered: u64,
    /// Queries refused, by kind.
    pub refused: BTreeMap<&'static str, u64>,
    /// Queries whose client left first.
    pub abandoned: u64,
    /// Dispatches.
    pub dispatches: u64,
    /// Dispatches beyond a query's first that losses made necessary, of answered queries.
    pub redispatches: u64,
    /// Promises not kept; a run stops soon after the first.
    pub violations: Vec<Violation>,
    /// Things that happened: messages, timers, faults.
    pub events: u64,
    /// Length of the run in virtual seconds.
    pub virtual_seconds: f64,
}
