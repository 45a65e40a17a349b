//! What is asked for and not done yet, between the thread that reads and the thread that computes.
//!
//! A channel would carry the work but not a change of mind: a cancel has to reach work that is
//! running, or take out work that still waits. Cancels of what is unknown are forgotten rather than
//! kept, since a cancel that crosses its answer on the way is normal.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use moe2_model::{DispatchId, Prompt, Task};

/// Set by the reader, looked at by the engine between two steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the work to stop.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work should stop.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One piece of work.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) dispatch: DispatchId,
    pub(crate) prompt: Prompt,
    pub(crate) task: Task,
}

/// What a cancel met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// Running: the engine stops and reports.
    Running,
    /// Waiting: taken out, nobody else will report it.
    Waiting,
    /// Neither: done already.
    Unknown,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Work>,
    running: Option<(DispatchId, Cancel)>,
}

/// Work in the order asked.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Queue {
    /// Adds work at the end.
    pub(crate) fn push(&self, work: Work) {
        self.locked().waiting.push_back(work);
        self.arrived.notify_one();
    }

    /// Stops or drops the work called `dispatch`.
    pub(crate) fn cancel(&self, dispatch: DispatchId) -> Cancelled {
        let mut state = self.locked();
        if let Some((_, cancel)) = state.running.as_ref().filter(|(id, _)| *id == dispatch) {
            cancel.set();
            return Cancelled::Running;
        }
        let at = state
            .waiting
            .iter()
            .position(|work| work.dispatch == dispatch);
        match at.and_then(|at| state.waiting.remove(at)) {
            Some(_) => Cancelled::Waiting,
            None => Cancelled::Unknown,
        }
    }

    /// Waits for the next work; it counts as running until the next call.
    pub(crate) fn next(&self) -> (Work, Cancel) {
        let mut state = self.locked();
        state.running = None;
        loop {
            if let Some(work) = state.waiting.pop_front() {
                let cancel = Cancel::default();
                state.running = Some((work.dispatch, cancel.clone()));
                return (work, cancel);
            }
            let woken = self.arrived.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    // No code that holds the lock can leave the state half changed, so a poisoned one is sound.
    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(id: u64) -> Work {
        Work {
            dispatch: DispatchId(id),
            prompt: Prompt::Raw("x".to_owned()),
            task: Task::Choice {
                options: vec!["y".to_owned()],
            },
        }
    }

    #[test]
    fn a_cancel_finds_its_work_wherever_it_is() {
        let queue = Queue::default();
        for id in 1..=3 {
            queue.push(work(id));
        }
        let (first, cancel) = queue.next();
        assert_eq!(first.dispatch, DispatchId(1));
        assert_eq!(queue.cancel(DispatchId(2)), Cancelled::Waiting);
        assert_eq!(queue.cancel(DispatchId(2)), Cancelled::Unknown);
        assert!(!cancel.is_set());
        assert_eq!(queue.cancel(DispatchId(1)), Cancelled::Running);
        assert!(cancel.is_set());
        let (third, cancel) = queue.next();
        assert_eq!(third.dispatch, DispatchId(3));
        assert!(!cancel.is_set());
        assert_eq!(queue.cancel(DispatchId(1)), Cancelled::Unknown);
    }
}
