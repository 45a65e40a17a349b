//! What the coordinator's engine says back about a query.
//!
//! For each admitted query: at most one `Started`, any number of `Delta`s, and exactly one terminal
//! (`Finished` or `Refused`). Nothing is said before the first piece of answer exists, so the HTTP
//! layer can still choose a status code and losses before that point are invisible to the client.

use std::time::Duration;

use moe2_model::{Budgets, Explanation, FinishReason, RefusalKind};

/// One thing said about a query.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The first piece of answer exists; sent for streamed queries only.
    Started {
        /// The expert whose answer is streamed, `model@node`.
        model: String,
    },
    /// More answer; sent for streamed queries only.
    Delta(String),
    /// Terminal: answered.
    Finished(Box<Answer>),
    /// Terminal: no answer, or none after the deltas so far.
    Refused(Box<Refusal>),
}

impl Reply {
    /// Nothing follows a terminal reply.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Refused(_))
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The expert that answered, `model@node`, or all of them joined by `+` when fused.
    pub model: String,
    /// All of the answer, also when it was streamed.
    pub text: String,
    /// Why it ends.
    pub finish: FinishReason,
    /// Tokens of prompt, as the answering expert counts.
    pub prompt_tokens: u32,
    /// How many of them that expert had in its cache.
    pub cached_tokens: u32,
    /// Tokens of answer, as the answering expert counts.
    pub output_tokens: u32,
    /// How it came about.
    pub explanation: Explanation,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// What kind.
    pub kind: RefusalKind,
    /// Why and what to do, for people.
    pub message: String,
    /// The smallest budgets that would be feasible now, where budgets are the reason.
    pub smallest: Budgets,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
}
