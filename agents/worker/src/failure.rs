//! Why a piece of work got no answer, and what the coordinator should make of it.

use llama_cpp_2::DecodeError;
use moe2_model::DispatchId;
use moe2_wire::{FailureKind, FromWorker};

use crate::prompt::PromptError;

/// No answer to one piece of work; the worker goes on with the next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// More tokens than the context holds.
    #[error(
        "{prompt_tokens} tokens of prompt leave no room for an answer in a context of \
         {context_tokens}; shorten the prompt or ask an expert with a longer context"
    )]
    ContextTooLong {
        prompt_tokens: u32,
        context_tokens: u32,
    },
    /// The request makes no prompt, or no options.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The engine gave up.
    #[error("the engine failed ({0}); try again, or restart the worker if it happens again")]
    Engine(#[from] DecodeError),
}

impl WorkError {
    /// How the agent is told.
    pub(crate) fn of(&self, dispatch: DispatchId) -> FromWorker {
        FromWorker::Failed {
            dispatch,
            kind: self.kind(),
            message: self.to_string(),
        }
    }

    /// What it is to the coordinator.
    fn kind(&self) -> FailureKind {
        match *self {
            Self::ContextTooLong {
                prompt_tokens,
                context_tokens,
            } => FailureKind::ContextTooLong {
                prompt_tokens,
                context_tokens,
            },
            Self::Prompt(_) => FailureKind::Rejected,
            Self::Engine(_) => FailureKind::WorkerLost,
        }
    }
}
