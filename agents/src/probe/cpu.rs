//! The processor's ceilings: bytes per second it can read, operations per second it can do.
//!
//! Decoding is bound by reading the weights, prefill by arithmetic, so these two figures are where
//! a forecast starts before anything has been measured. Both are taken in short windows and the
//! best one counts, because a neighbour's load can only make a window worse.
//!
//! The loops are plain safe Rust that the compiler vectorises for the target it builds for. On
//! x86-64 that baseline is SSE2: an engine with kernels for AVX2 or AVX-512 reaches several times
//! this arithmetic. The figure is a floor for such machines, and says what it measured; regression
//! on real requests replaces it soon.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use moe2_model::{Bytes, Roofline};

/// Memory read by all threads together: beyond the last-level cache of all but the largest servers
/// (32 MiB per core complex on common ones).
const BUFFER: u64 = 128 << 20;
/// Never more than this share of memory: a probe must not push a small device into swapping.
const MEMORY_SHARE: u64 = 16;
/// Smallest buffer, for when memory is unknown.
const SMALLEST: u64 = 8 << 20;
/// How long one window measures. With three windows for each figure and the time to allocate, a
/// probe stays under 300 ms.
const WINDOW: Duration = Duration::from_millis(25);
const WINDOWS: usize = 3;
/// Words read between two looks at the clock: 1 MiB, some 50 us.
const BLOCK: usize = (1 << 20) / size_of::<u64>();
/// Independent multiply-add chains: 14 registers of four lanes leave two of SSE2's 16 for the
/// constants, and are enough to hide the latency of wider units.
const LANES: usize = 56;
/// Steps of every chain between two looks at the clock.
const STEPS: usize = 4096;

/// Measures with `threads` threads at once; blocks for about 200 ms.
pub(super) fn measure(threads: NonZeroU32, memory: Bytes) -> Roofline {
    let buffer = (memory.0 / MEMORY_SHARE).clamp(SMALLEST, BUFFER);
    let share = buffer / u64::from(threads.get()) / size_of::<u64>() as u64;
    let words = usize::try_from(share).unwrap_or(BLOCK).max(BLOCK);
    Roofline {
        bytes_per_s: best_rate(threads, || {
            let data = vec![1_u64; words];
            let mut at = 0;
            move || {
                at = if at + BLOCK > words { 0 } else { at };
                black_box(sum(&data[at..at + BLOCK]));
                at += BLOCK;
                BLOCK * size_of::<u64>()
            }
        }),
        flop_per_s: best_rate(threads, || {
            let mut lanes = [0.5_f32; LANES];
            move || {
                chains(&mut lanes, black_box(0.999), black_box(0.001));
                black_box(&mut lanes);
                STEPS * LANES * 2
            }
        }),
    }
}

/// Runs `work` on every thread for some windows and returns the best window's units per second over
/// all threads. `work` makes a thread's own state (so that its memory is near it) and returns the
/// step that is repeated, which tells how many units it did.
fn best_rate<Step: FnMut() -> usize>(threads: NonZeroU32, work: impl Fn() -> Step + Sync) -> f64 {
    // Set once it is known how many threads the system gave: a window starts with all of them.
    let start: OnceLock<Barrier> = OnceLock::new();
    let one = || {
        let mut step = work();
        [(); WINDOWS].map(|()| {
            start.wait().wait();
            rate_in_window(&mut step)
        })
    };
    let per_thread: Vec<[f64; WINDOWS]> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.get())
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, one).ok())
            .collect();
        start.get_or_init(|| Barrier::new(others.len() + 1));
        let mine = one();
        let rest = others.into_iter().filter_map(|thread| thread.join().ok());
        std::iter::once(mine).chain(rest).collect()
    });
    (0..WINDOWS)
        .map(|window| per_thread.iter().map(|rates| rates[window]).sum())
        .fold(0.0, f64::max)
}

fn rate_in_window(step: &mut impl FnMut() -> usize) -> f64 {
    let begin = Instant::now();
    let mut units = 0_usize;
    loop {
        units += step();
        let elapsed = begin.elapsed();
        if elapsed >= WINDOW {
            // Far below 2^53: a window is milliseconds.
            #[allow(clippy::cast_precision_loss)]
            return units as f64 / elapsed.as_secs_f64();
        }
    }
}

/// A sum reads every word once; integers, so that the compiler may reorder and vectorise it.
fn sum(words: &[u64]) -> u64 {
    words
        .iter()
        .fold(0, |total, word| total.wrapping_add(*word))
}

/// `STEPS` dependent multiply-adds in every lane. The values converge to 1, so they never become
/// subnormal or infinite, which some processors handle slowly.
fn chains(lanes: &mut [f32; LANES], scale: f32, add: f32) {
    let mut local = *lanes;
    for _ in 0..STEPS {
        for lane in &mut local {
            *lane = multiply_add(*lane, scale, add);
        }
    }
    *lanes = local;
}

/// One instruction where the target has it; without it `mul_add` would be a slow library call.
#[inline(always)]
fn multiply_add(x: f32, scale: f32, add: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        x.mul_add(scale, add)
    } else {
        x * scale + add
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ceilings_are_positive_on_one_thread_and_on_several() {
        for threads in [1, 3] {
            let threads = NonZeroU32::new(threads).unwrap();
            let found = measure(threads, Bytes(0));
            assert!(found.bytes_per_s.is_finite() && found.bytes_per_s > 0.0);
            assert!(found.flop_per_s.is_finite() && found.flop_per_s > 0.0);
        }
    }

    #[test]
    fn the_kernels_do_the_work_they_are_paid_for() {
        assert_eq!(sum(&[1; 1000]), 1000);
        let mut lanes = [0.0; LANES];
        chains(&mut lanes, 0.5, 1.0);
        assert!(
            lanes.iter().all(|lane| (lane - 2.0).abs() < 1e-6),
            "x = x/2 + 1 has fixed point 2"
        );
    }
}
