//! Independent jobs on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use moe2_gate::Runner;

/// So many threads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Threads(pub(crate) usize);

impl Runner for Threads {
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0.clamp(1, count.max(1)) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= count {
                            return;
                        }
                        job(at);
                    }
                });
            }
        });
    }
}
