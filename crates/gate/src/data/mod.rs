//! Outcomes of experts on questions: what gates are trained on and judged by.

mod outcomes;
mod split;
mod text;

pub use outcomes::{
    Item, MAX_EXPERTS, MAX_ITEMS, MAX_LINE_BYTES, Outcome, OutcomeError, Reader, read_outcomes,
    read_questions,
};
pub use split::{Split, groups};
pub use text::{fingerprint, normalise};
