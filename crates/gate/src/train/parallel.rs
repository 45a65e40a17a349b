//! Independent jobs on several threads, results in order: the same whatever the number of threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `job` for 0..count.
pub(crate) fn map<T: Send>(
    count: usize,
    threads: usize,
    job: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count.max(1)) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = done.get(at) else { return };
                    let result = job(at);
                    *slot
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let take = |slot: Mutex<Option<T>>| {
        slot.into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .expect("the scope ends when every job has")
    };
    done.into_iter().map(take).collect()
}
