//! The whole fleet in one thread: real engines, virtual time, a bad network, and a judge.
//!
//! One coordinator engine and several agent engines, unchanged, exchange messages over simulated
//! connections that delay, hold and break, while processes crash, stand still and lie, clocks differ and
//! clients leave. All randomness comes from one seed, so a failure is a line of text that anyone can replay
//! ([`Case`]), and [`shrink`] finds a shorter one. The judge ([`Violation`]) knows the promises the engines
//! make, not how they keep them: it follows inputs and outputs with books of its own. Scripted tests were not
//! enough: the bugs that matter sit in orders of events nobody thought of.
//!
//! ```
//! let report = moe2_sim::run(&moe2_sim::Scenario::calm(), 1);
//! assert!(report.violations.is_empty());
//! assert_eq!(report, moe2_sim::run(&moe2_sim::Scenario::calm(), 1));
//! ```

mod books;
mod case;
mod chaos;
mod clients;
mod clock;
mod coordinator;
mod disk;
mod fault;
mod host;
mod judge;
mod liar;
mod mutant;
mod network;
mod report;
mod scenario;
mod script;
mod shrink;
pub mod traffic;
mod worker;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use moe2_model::Time;

pub use case::{Ambient, Case, NoCase};
pub use fault::Kind;
pub use mutant::Mutant;
pub use report::{Report, Violation};
pub use scenario::Scenario;
pub use shrink::{Shrunk, shrink};

/// Plays one case. An engine that panics breaks a promise, too.
#[must_use]
pub fn play(case: &Case) -> Report {
    // Nothing of the world is looked at after a panic.
    let played = catch_unwind(AssertUnwindSafe(|| world::World::new(case).run()));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Report {
            violations: vec![Violation {
                seed: case.seed,
                time: Time::ZERO,
                promise: "an engine does not panic",
                what: text.unwrap_or_default(),
            }],
            ..Report::default()
        }
    })
}

/// Plays the whole of one scenario from one seed.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    play(&Case::new(scenario.clone(), seed))
}

/// Plays one scenario from one seed with a fault planted beside the engines, to show that the judge
/// sees it.
#[must_use]
pub fn run_with(scenario: &Scenario, seed: u64, mutant: Mutant) -> Report {
    play(&Case::new(scenario.clone(), seed).with(mutant))
}
