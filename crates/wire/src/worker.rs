//! The conversation between an agent and one of its worker processes, over the worker's standard
//! input and output.
//!
//! The same frames as on the network, so one decoder is fuzzed for both. End of input tells the
//! worker to exit: a worker never outlives its agent, however the agent died.

use moe2_model::{Bytes, DispatchId, FinishReason, Prompt, Seconds, Task};
use serde::{Deserialize, Serialize};

/// From the agent to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Start on this; at most the worker's slots at once.
    Start {
        /// Names it.
        dispatch: DispatchId,
        /// What to answer.
        prompt: Prompt,
        /// What kind of answer.
        task: Task,
    },
    /// Stop within one token; `Finished` follows all the same.
    Cancel {
        /// Which.
        dispatch: DispatchId,
    },
}

/// From a worker to its agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The model is loaded.
    Ready {
        /// Tokens of context it was opened with.
        context_tokens: u32,
        /// Key-value cache per token.
        kv_per_token: Bytes,
        /// How long loading took.
        load: Seconds,
    },
    /// The model cannot be loaded; the worker exits after this.
    LoadFailed {
        /// Why and what to do.
        message: String,
    },
    /// More answer.
    Text {
        /// Of which dispatch.
        dispatch: DispatchId,
        /// Whole characters.
        text: String,
    },
    /// Log-probability (natural log) of every option, or what was [`crate::picked`].
    Options {
        /// Of which dispatch.
        dispatch: DispatchId,
        /// In the order asked.
        logprobs: Vec<f64>,
    },
    /// Terminal: finished or cancelled.
    Finished {
        /// Which dispatch.
        dispatch: DispatchId,
        /// Why it stopped.
        finish: FinishReason,
        /// Tokens of prompt.
        prompt_tokens: u32,
        /// How many of them the worker had in its cache, and did not process.
        cached_tokens: u32,
        /// Tokens of answer (for a choice: tokens scored).
        output_tokens: u32,
        /// Processing the prompt.
        prefill: Seconds,
        /// Producing the answer.
        decode: Seconds,
    },
    /// Terminal: no answer.
    Failed {
        /// Which dispatch.
        dispatch: DispatchId,
        /// What kind.
        kind: crate::FailureKind,
        /// Why, for people.
        message: String,
    },
}
