//! Frames on standard input and output.
//!
//! Reading has a thread of its own, for cancels and for the end: when the agent is gone, however it
//! went, its end of the pipe closes, and this process exits from that thread at once, in the middle
//! of a token if need be. It exits without clean-up (`_exit`): the usual way would free the global
//! state of the engine under the feet of the threads that compute, and end in a crash instead of a
//! status. Standard output carries frames and nothing else.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use moe2_wire::{FrameDecoder, FrameError, FromWorker, ToWorker, encode_frame};
use signal_hook::low_level::exit;

use crate::queue::{Cancelled, Queue, Work};
use crate::running::Outcome;

/// Exit status after frames that make no sense: the agent and the worker are of different versions.
const BAD_FRAME: i32 = 2;

/// Where messages to the agent go; shared by both threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outlet(Arc<Mutex<()>>);

impl Outlet {
    /// Sends one message. Nobody listens any more: the process ends.
    pub(crate) fn send(&self, message: &FromWorker) {
        let frame = encode_frame(message).expect("text of one token and a few numbers fit a frame");
        let _order = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = std::io::stdout().lock();
        if out.write_all(&frame).and_then(|()| out.flush()).is_err() {
            exit(0);
        }
    }
}

/// Starts the thread that reads; it ends only with the process.
pub(crate) fn read_in_background(queue: Arc<Queue>, outlet: Outlet) {
    thread::spawn(move || {
        let status = match read(&mut std::io::stdin().lock(), &queue, &outlet) {
            Ok(()) => 0,
            Err(error) => {
                let note = format!("moe2-worker: {error}; use agent and worker of one version\n");
                // Best effort: the status says the same.
                std::io::stderr().write_all(note.as_bytes()).ok();
                BAD_FRAME
            }
        };
        exit(status);
    });
}

fn read(input: &mut dyn Read, queue: &Queue, outlet: &Outlet) -> Result<(), FrameError> {
    let mut decoder = FrameDecoder::default();
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(()),
        };
        decoder.push(&buffer[..count]);
        while let Some(message) = decoder.next_message()? {
            take(message, queue, outlet);
        }
    }
}

fn take(message: ToWorker, queue: &Queue, outlet: &Outlet) {
    match message {
        ToWorker::Start {
            dispatch,
            prompt,
            task,
        } => queue.push(Work {
            dispatch,
            prompt,
            task,
        }),
        ToWorker::Cancel { dispatch } => match queue.cancel(dispatch) {
            Cancelled::Waiting => outlet.send(&Outcome::NOTHING.of(dispatch)),
            Cancelled::Running | Cancelled::Unknown => {}
        },
    }
}
