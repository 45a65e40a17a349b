//! The worker proper: load, say so, then work, as many pieces at once as there are slots.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use moe2_model::Seconds;
use moe2_wire::FromWorker;

use crate::args::{EngineArgs, ServeArgs};
use crate::engine::Engine;
use crate::load::{LoadError, load};
use crate::pipe::{Outlet, read_in_background};
use crate::prompt::ChatFormat;
use crate::queue::Queue;
use crate::running::Running;

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
    let loaded = load(engine, (args.context, args.parallel))?;
    let format = ChatFormat::of(&loaded.model, args.chat)?;
    let engine = Engine::open(&loaded, engine)?;
    outlet.send(&FromWorker::Ready {
        context_tokens: engine.context_tokens(),
        kv_per_token: loaded.kv_per_token,
        load: Seconds::from_duration(start.elapsed()),
    });
    let mut running = Running::new(engine, format);
    loop {
        admit(&mut running, usize::from(loaded.slots), queue, outlet);
        running.step(&mut |message| {
            outlet.send(&message);
            if let FromWorker::Finished { dispatch, .. } | FromWorker::Failed { dispatch, .. } =
                message
            {
                queue.done(dispatch);
            }
        });
    }
}

/// Fills the free slots with what waits; waits for it itself if there is nothing else to do.
fn admit(running: &mut Running<'_>, slots: usize, queue: &Queue, outlet: &Outlet) {
    while running.len() < slots {
        let next = if running.len() == 0 {
            Some(queue.next())
        } else {
            queue.try_next()
        };
        let Some((work, cancel)) = next else { return };
        if let Err(error) = running.begin(&work, cancel) {
            outlet.send(&error.of(work.dispatch));
            queue.done(work.dispatch);
        }
    }
}
