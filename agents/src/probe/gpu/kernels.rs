//! What the two shaders of `kernels.wgsl` say about an adapter.
//!
//! Time is taken by the wall around submission and completion: timestamp queries are an optional
//! feature that small drivers lack. To keep the constant cost of a submission out of the figure,
//! one submission repeats a shader until it takes long enough to be judged, and the best of a few
//! counts. Whatever the shaders wrote is compared with the processor's results before any figure is
//! believed: a driver that skips work would otherwise be the fastest one.

use std::time::Duration;

use moe2_model::Roofline;

use super::GpuError;
use super::bench::Bench;

/// Invocations in a workgroup, as in the shader.
const GROUP: u32 = 256;
/// Bytes of one invocation's element of a buffer.
const ELEMENT: u32 = 16;
/// Floating-point operations of one invocation of `chains`: 256 steps of four chains of four lanes,
/// a multiply and an add each.
const CHAIN_FLOP: f64 = 256.0 * 4.0 * 4.0 * 2.0;
/// Bytes one invocation of `triad` moves: two elements read, one written.
const TRIAD_BYTES: f64 = 3.0 * ELEMENT as f64;
/// A submission this long drowns its own overhead (some 100 us).
const LONG_ENOUGH: Duration = Duration::from_millis(10);
/// Most repeats of a shader in one submission.
const MAX_REPEATS: u32 = 4096;
/// Submissions at the final length, of which the best counts.
const TRIES: usize = 3;
/// Elements read back and compared, at both ends of the buffer.
const CHECKED: u32 = 256;
/// Relative difference allowed: a driver may round each of 256 multiply-adds twice.
const TOLERANCE: f32 = 1e-3;

/// How much an adapter is given to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Workgroups that cover one buffer.
    triad_groups: u32,
    /// Workgroups of the arithmetic shader, at most as many.
    chain_groups: u32,
}

impl Size {
    /// Three buffers of 128 MiB, the largest any driver has to bind: beyond the 72 MB cache of an
    /// RTX 4090. A million invocations fill any GPU.
    pub(super) const HARDWARE: Self = Self {
        triad_groups: (128 << 20) / ELEMENT / GROUP,
        chain_groups: 4096,
    };
    /// Three buffers of 4 MiB and 33 million operations: milliseconds on a processor.
    pub(super) const SOFTWARE: Self = Self {
        triad_groups: (4 << 20) / ELEMENT / GROUP,
        chain_groups: 16,
    };
}

/// Measures an opened adapter.
pub(super) fn measure(
    device: wgpu::Device,
    queue: wgpu::Queue,
    size: Size,
) -> Result<Roofline, GpuError> {
    let buffer = u64::from(size.triad_groups * GROUP) * u64::from(ELEMENT);
    let bench = Bench::new(device, queue, (buffer, CHECKED * ELEMENT))?;
    bench.run(&bench.pipeline("fill"), size.triad_groups, 1)?;
    let triad = best(&bench, "triad", size.triad_groups)?;
    check(&bench, size.triad_groups, triad_on_cpu)?;
    let chains = best(&bench, "chains", size.chain_groups)?;
    check(&bench, size.chain_groups, chains_on_cpu)?;
    let invocations = |groups: u32| f64::from(groups) * f64::from(GROUP);
    Ok(Roofline {
        bytes_per_s: invocations(size.triad_groups) * TRIAD_BYTES / triad,
        flop_per_s: invocations(size.chain_groups) * CHAIN_FLOP / chains,
    })
}

/// Seconds of one pass of a shader over `groups` workgroups, the best of some.
fn best(bench: &Bench, shader: &str, groups: u32) -> Result<f64, GpuError> {
    let pipeline = &bench.pipeline(shader);
    // The first run also pays for compilation and for touching memory.
    bench.run(pipeline, groups, 1)?;
    let mut repeats = 1;
    let mut took = bench.run(pipeline, groups, repeats)?;
    while took < LONG_ENOUGH && repeats < MAX_REPEATS {
        repeats *= 4;
        took = bench.run(pipeline, groups, repeats)?;
    }
    for _ in 0..TRIES {
        took = took.min(bench.run(pipeline, groups, repeats)?);
    }
    Ok(took.as_secs_f64().max(f64::MIN_POSITIVE) / f64::from(repeats))
}

/// Compares both ends of what a shader wrote over `groups` workgroups with `expected`, which
/// takes the index of a number.
fn check(bench: &Bench, groups: u32, expected: impl Fn(u32) -> f32) -> Result<(), GpuError> {
    for first in [0, groups * GROUP - CHECKED] {
        let words = bench.read(u64::from(first * ELEMENT))?;
        for (k, got) in (first * 4..).zip(words) {
            let want = expected(k);
            let close = (got - want).abs() <= TOLERANCE * want.abs().max(1.0);
            if !close {
                return Err(GpuError::Wrong { got, want });
            }
        }
    }
    Ok(())
}

/// The inputs that `fill` writes at number `k`; exact, because numbers below 1024 are.
#[allow(clippy::cast_precision_loss)]
fn inputs(k: u32) -> (f32, f32) {
    (
        (k & 1023) as f32 / 1024.0,
        ((k >> 3) & 1023) as f32 / 1024.0,
    )
}

fn triad_on_cpu(k: u32) -> f32 {
    let (a, b) = inputs(k);
    a * 3.0 + b
}

fn chains_on_cpu(k: u32) -> f32 {
    let (a, b) = inputs(k);
    let chain = |start: f32| (0..256).fold(start, |x, _| x * 0.999_023_44 + b / 1024.0);
    chain(a) + chain(a + 0.25) + chain(a + 0.5) + chain(a + 0.75)
}
