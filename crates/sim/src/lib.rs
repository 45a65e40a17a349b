//! The whole fleet in one thread: real engines, virtual time, a bad network, and a judge.
//!
//! One coordinator engine and several agent engines, unchanged, exchange messages over simulated
//! connections that delay, hold and break, while workers crash and get stuck and clients leave. All
//! randomness comes from one seed, so a failure is a number that anyone can replay. The judge
//! ([`Violation`]) knows the promises the engines make, not how they keep them: it follows inputs
//! and outputs with books of its own. Scripted tests were not enough: the bugs that matter sit in
//! orders of events nobody thought of.
//!
//! ```
//! let report = moe2_sim::run(&moe2_sim::Scenario::calm(), 1);
//! assert!(report.violations.is_empty());
//! assert_eq!(report, moe2_sim::run(&moe2_sim::Scenario::calm(), 1));
//! ```

mod chaos;
mod clients;
mod host;
mod judge;
mod mutant;
mod network;
mod report;
mod scenario;
pub mod traffic;
mod worker;
mod world;

pub use mutant::Mutant;
pub use report::{Report, Violation};
pub use scenario::Scenario;

/// Plays one scenario from one seed.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    world::World::new(scenario, seed, None).run()
}

/// Plays one scenario from one seed with a fault planted beside the engines, to show that the judge
/// sees it.
#[must_use]
pub fn run_with(scenario: &Scenario, seed: u64, mutant: Mutant) -> Report {
    world::World::new(scenario, seed, Some(mutant)).run()
}
