//! The conversation about one dispatch, on a stream of its own.
//!
//! The coordinator opens the stream with [`ToExpert::Work`]; the agent answers any number of
//! [`FromExpert::Text`] or one [`FromExpert::Options`], and exactly one terminal frame
//! ([`FromExpert::Done`] or [`FromExpert::Failed`]). Cancelling is a frame rather than a stream
//! reset, so that the joules spent until then still come back in `Done`.

use moe2_model::{DispatchId, ExpertName, FinishReason, Prompt, Task, Usage};
use serde::{Deserialize, Serialize};

/// From the coordinator about one dispatch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToExpert {
    /// Do this.
    Work {
        /// Names this attempt in logs on both sides.
        dispatch: DispatchId,
        /// Which of the agent's experts.
        expert: ExpertName,
        /// What to answer.
        prompt: Prompt,
        /// What kind of answer.
        task: Task,
        /// The answer is useless after this many milliseconds; 0 for no deadline.
        deadline_ms: u32,
    },
    /// Stop now; still say what was used.
    Cancel,
}

/// From the agent about one dispatch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromExpert {
    /// More answer.
    Text(String),
    /// Log-probability (natural log) of every option, in the order asked; or what was [`picked`].
    Options(Vec<f64>),
    /// Terminal: finished.
    Done {
        /// Why it stopped.
        finish: FinishReason,
        /// What it used.
        usage: Usage,
    },
    /// Terminal: no answer.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// Why, for people.
        message: String,
        /// What it used until then, if known.
        usage: Option<Usage>,
    },
}

impl FromExpert {
    /// Nothing may follow a terminal frame.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Failed { .. })
    }
}

/// Stands for the log-probability of an option that was not picked by who gives none. Finite, since JSON
/// has no infinity, and below that of any text that is worth scoring.
const NOT_PICKED: f64 = -1e9;

/// What an expert says in [`FromExpert::Options`] that picks one of `count` options and cannot say how
/// likely they are: 0 for that one, and for all others a number that no text has.
#[must_use]
pub fn picked(index: usize, count: usize) -> Vec<f64> {
    let of = |n| if n == index { 0.0 } else { NOT_PICKED };
    (0..count).map(of).collect()
}

/// The option that was picked, if these are no log-probabilities but what [`picked`] makes.
#[must_use]
pub fn picked_of(logprobs: &[f64]) -> Option<usize> {
    let index = logprobs.iter().position(|l| *l == 0.0)?;
    let others = logprobs.iter().enumerate().filter(|(n, _)| *n != index);
    let all_not = others.clone().all(|(_, l)| *l <= NOT_PICKED);
    (all_not && others.count() > 0).then_some(index)
}

/// What the coordinator does differently about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The prompt plus one token exceeds the context: another expert with a longer one may do.
    ContextTooLong {
        /// Tokens the prompt has.
        prompt_tokens: u32,
        /// Tokens the expert's context holds.
        context_tokens: u32,
    },
    /// The queue is full: try another expert.
    Busy,
    /// Not hosted here, loading or given up: try another expert.
    Unavailable,
    /// The worker died at it: try another expert.
    WorkerLost,
    /// The deadline passed before or during the work.
    Deadline,
    /// The request itself cannot be worked on by this engine.
    Rejected,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_picked_is_told_from_scores() {
        assert_eq!(picked_of(&picked(1, 3)), Some(1));
        assert_eq!(picked_of(&[0.0, -1e4]), None, "a very sure scorer");
        assert_eq!(picked_of(&[-0.1, -1e9]), None);
        assert_eq!(picked_of(&[0.0]), None, "one option is no choice");
        assert_eq!(picked_of(&[0.0, 0.0]), None);
        assert_eq!(picked_of(&[]), None);
    }
}
