//! The worker proper: load, say so, then one piece of work after the other.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use moe2_model::{Seconds, Task};
use moe2_wire::FromWorker;

use crate::args::{EngineArgs, ServeArgs};
use crate::choice::choose;
use crate::engine::Engine;
use crate::failure::WorkError;
use crate::generate::{Outcome, generate};
use crate::load::{LoadError, load};
use crate::pipe::{Outlet, read_in_background};
use crate::prompt::ChatFormat;
use crate::queue::{Cancel, Queue, Work};

/// Hosts the expert until standard input ends; returns only if the model cannot be loaded.
pub(crate) fn run(engine: &EngineArgs, args: &ServeArgs) -> ExitCode {
    let queue = Arc::new(Queue::default());
    let outlet = Outlet::default();
    read_in_background(Arc::clone(&queue), outlet.clone());
    match host(engine, args, &queue, &outlet) {
        Ok(never) => match never {},
        Err(error) => {
            outlet.send(&FromWorker::LoadFailed {
                message: error.to_string(),
            });
            ExitCode::FAILURE
        }
    }
}

fn host(
    engine: &EngineArgs,
    args: &ServeArgs,
    queue: &Queue,
    outlet: &Outlet,
) -> Result<std::convert::Infallible, LoadError> {
    let start = Instant::now();
    let loaded = load(engine, args.context)?;
    let format = ChatFormat::of(&loaded.model, args.chat)?;
    let mut engine = Engine::open(&loaded, engine)?;
    outlet.send(&FromWorker::Ready {
        context_tokens: engine.context_tokens(),
        kv_per_token: loaded.kv_per_token,
        load: Seconds::from_duration(start.elapsed()),
    });
    loop {
        let (work, cancel) = queue.next();
        match answer(&mut engine, &format, &work, &cancel, outlet) {
            Ok(outcome) => outlet.finished(work.dispatch, &outcome),
            Err(error) => outlet.send(&FromWorker::Failed {
                dispatch: work.dispatch,
                kind: error.kind(),
                message: error.to_string(),
            }),
        }
    }
}

fn answer(
    engine: &mut Engine<'_>,
    format: &ChatFormat,
    work: &Work,
    cancel: &Cancel,
    outlet: &Outlet,
) -> Result<Outcome, WorkError> {
    let dispatch = work.dispatch;
    match &work.task {
        Task::Generate(sampling) => {
            let mut emit = |text| outlet.send(&FromWorker::Text { dispatch, text });
            generate(engine, format, (&work.prompt, sampling), cancel, &mut emit)
        }
        Task::Choice { options } => {
            let (logprobs, outcome) = choose(engine, format, (&work.prompt, options), cancel)?;
            if let Some(logprobs) = logprobs {
                outlet.send(&FromWorker::Options { dispatch, logprobs });
            }
            Ok(outcome)
        }
    }
}
