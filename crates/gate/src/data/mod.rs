//! Outcomes of experts on questions: what gates are trained on and judged by.

mod outcomes;
mod reread;
mod split;
mod text;

pub use outcomes::{Item, Outcome, OutcomeError, read_outcomes, read_questions};
pub use reread::{reread, scored};
pub use split::{Split, groups};
