//! A harness for whole systems: the real binaries, real sockets, real signals, real weights.
//!
//! A test starts a [`Coordinator`] and [`Agent`]s, each in a process of its own with its state in a
//! temporary directory, asks over HTTP, and breaks things from outside: `kill -9`, closed
//! connections, bad files. Nothing here links the code under test, so a test sees what an operator
//! sees: statuses, exit codes, log lines. Everything a test started is gone when it ends, and every
//! wait has a deadline, so a hang is a failure with a sentence rather than a silent job.

mod api;
mod fleet;
mod process;

pub use api::{Api, Event, Reply, Stream};
pub use fleet::{Agent, Coordinator, MODELS, Spec, System, free_port, slow_stub, stub};
pub use process::{Ended, Process, binary, children, descendants, is_alive, run, signal};

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Held by a test while its processes run: fleets share few cores, and two at once would measure
/// each other's load instead of the deadlines they check.
pub fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails the test.
#[allow(clippy::panic)] // what a test harness is for
fn fail(why: &str) -> ! {
    panic!("{why}")
}

/// Looks until `look` finds something; fails the test after `limit` with what was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        let found = look();
        if let Some(found) = found {
            return found;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// [`eventually`] for a condition.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    eventually(what, limit, || holds().then_some(()));
}
