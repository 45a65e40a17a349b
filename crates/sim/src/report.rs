//! What a run comes to.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

use moe2_model::Time;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Seed of the run.
    pub seed: u64,
    /// Virtual time.
    pub time: Time,
    /// Which promise.
    pub promise: &'static str,
    /// What happened instead.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.seconds_since(Time::ZERO);
        let Self {
            seed,
            promise,
            what,
            ..
        } = self;
        write!(f, "seed {seed} at {seconds:.6}: {promise}: {what}")
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
    /// Queries whose coordinator died first.
    pub cut_off: u64,
    /// Queries that found no coordinator, and were not submitted.
    pub unheard: u64,
    /// Faults.
    pub faults: u64,
    /// Times that a coordinator was started again.
    pub restarts: u64,
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

impl AddAssign for Report {
    /// What several runs come to together.
    fn add_assign(&mut self, other: Self) {
        self.queries += other.queries;
        self.answered += other.answered;
        for (kind, count) in other.refused {
            *self.refused.entry(kind).or_default() += count;
        }
        self.abandoned += other.abandoned;
        self.cut_off += other.cut_off;
        self.unheard += other.unheard;
        self.faults += other.faults;
        self.restarts += other.restarts;
        self.dispatches += other.dispatches;
        self.redispatches += other.redispatches;
        self.violations.extend(other.violations);
        self.events += other.events;
        self.virtual_seconds += other.virtual_seconds;
    }
}
