//! Independent jobs, run by whoever may start threads; results in order, the same however they are run.

use std::sync::OnceLock;

/// Runs jobs that do not depend on each other.
pub trait Runner {
    /// Calls `job` once with each number below `count`, in any order, on any thread, and returns when all
    /// have ended.
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync));
}

/// A function that runs jobs.
impl<F: Fn(usize, &(dyn Fn(usize) + Sync))> Runner for F {
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        self(count, job);
    }
}

/// One after the other.
#[derive(Debug, Clone, Copy, Default)]
pub struct InTurn;

impl Runner for InTurn {
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(job);
    }
}

/// What `job` makes of each number below `count`.
pub(crate) fn map<T: Send + Sync>(
    runner: &dyn Runner,
    count: usize,
    job: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let done: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    runner.run(count, &|at| {
        // A runner that calls twice gets the first result.
        let _ = done[at].set(job(at));
    });
    done.into_iter()
        .map(|slot| slot.into_inner().expect("a runner runs every job"))
        .collect()
}
