//! What is asked for and not done yet, between the thread that reads and the thread that computes.
//!
//! A channel would carry the work but not a change of mind: a cancel has to reach work that is
//! running, or take out work that still waits. Cancels of what is unknown are forgotten rather than
//! kept, since a cancel that crosses its answer on the way is normal.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use moe2_model::{DispatchId, Prompt, Task};

/// Set by the reader, looked at between two steps of the engine.
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
    running: Vec<(DispatchId, Cancel)>,
}

impl State {
    /// The oldest work that waits; it counts as running from now on.
    fn start(&mut self) -> Option<(Work, Cancel)> {
        let work = self.waiting.pop_front()?;
        let cancel = Cancel::default();
        self.running.push((work.dispatch, cancel.clone()));
        Some((work, cancel))
    }
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
        if let Some((_, cancel)) = state.running.iter().find(|(id, _)| *id == dispatch) {
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

    /// Waits for the next work; it counts as running until it is [done](Self::done).
    pub(crate) fn next(&self) -> (Work, Cancel) {
        let mut state = self.locked();
        loop {
            if let Some(started) = state.start() {
                return started;
            }
            let woken = self.arrived.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next work, if any waits.
    pub(crate) fn try_next(&self) -> Option<(Work, Cancel)> {
        self.locked().start()
    }

    /// The work called `dispatch` is over; a cancel does not reach it any more.
    pub(crate) fn done(&self, dispatch: DispatchId) {
        self.locked().running.retain(|(id, _)| *id != dispatch);
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
        let (first, one) = queue.next();
        assert_eq!(first.dispatch, DispatchId(1));
        assert_eq!(queue.cancel(DispatchId(2)), Cancelled::Waiting);
        assert_eq!(queue.cancel(DispatchId(2)), Cancelled::Unknown);
        let (third, three) = queue.try_next().expect("it waits");
        assert_eq!(third.dispatch, DispatchId(3));
        assert!(queue.try_next().is_none());
        assert_eq!(queue.cancel(DispatchId(1)), Cancelled::Running);
        assert!(one.is_set() && !three.is_set());
        queue.done(DispatchId(1));
        assert_eq!(queue.cancel(DispatchId(1)), Cancelled::Unknown);
        assert_eq!(queue.cancel(DispatchId(3)), Cancelled::Running);
        assert!(three.is_set());
    }
}
