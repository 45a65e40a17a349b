//! Who does an expert's work: one row for each kind.
//!
//! | backend | `backend =` | work is done by | probabilities of options | at once |
//! |---|---|---|---|---|
//! | [`worker`] | `embedded` | llama.cpp in a process of its own | of every option, exact | `parallel`, in one batch |
//! | [`upstream`] | `openai` | a server of the operator | where each is one token and the server gives them | `parallel` |
//! | [`stub`] | `stub` | nobody: canned words | invented | any number |
//!
//! All speak [`moe2_wire::ToWorker`] and [`moe2_wire::FromWorker`], and all keep what `contract` runs over
//! every row: text in order, exactly one terminal message, a cancel that still has one, an end that is
//! told.

#[cfg(test)]
mod contract;

use std::path::PathBuf;
use std::time::Duration;

use moe2_engine::agent::Input;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::experts::Hosted;
use crate::worker::{self, Launch, WorkerLine};
use crate::{stub, upstream};

/// How an expert is run.
#[derive(Debug, Clone)]
pub(crate) enum Run {
    /// A worker process on this file.
    Worker {
        file: PathBuf,
        plain: bool,
        /// As in [`Launch::prefixes`].
        prefixes: u32,
    },
    /// A server.
    Upstream(Box<upstream::Settings>),
    /// Canned words, with so much time for each.
    Stub { pace: Duration },
}

/// Starts the backend of an expert. What it says, and its end, arrive as inputs; dropping the line ends it.
///
/// # Errors
/// If a process cannot be started; `launch` says which, but for the model.
pub(crate) fn start(
    Hosted { offer, run }: &Hosted,
    launch: &Launch,
    inputs: mpsc::Sender<Input>,
) -> std::io::Result<(WorkerLine, JoinHandle<()>)> {
    let expert = offer.name.clone();
    let context = offer.context_tokens;
    match run {
        Run::Stub { pace } => Ok(stub::start(expert, (context, *pace), inputs)),
        Run::Upstream(settings) => Ok(upstream::start(expert, (**settings).clone(), inputs)),
        Run::Worker {
            file,
            plain,
            prefixes,
        } => {
            let launch = Launch {
                model: file.clone(),
                context,
                parallel: offer.slots,
                plain: *plain,
                prefixes: *prefixes,
                ..launch.clone()
            };
            worker::start(expert, &launch, inputs)
        }
    }
}
