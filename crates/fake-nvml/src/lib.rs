//! A stand-in for NVIDIA's management library, for tests of the agent's meter.
//!
//! A test copies the built library into a folder of its own and writes a file `state` beside the copy; every
//! call reads that file anew, so the test moves the counters while the meter runs. An environment variable
//! would be shared by all tests of a process. The file has a line for each thing, `what value`:
//!
//! ```text
//! boards 2
//! energy 0 123456      millijoules of board 0
//! power 1 250000       milliwatts of board 1
//! power 0 error 15     the call fails with NVML's code 15
//! ```
//!
//! What has no line is not supported (code 3). Only the calls that the meter makes are here.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::PathBuf;

/// NVML's code for success.
const SUCCESS: c_int = 0;
/// NVML's code for what a board does not support.
const NOT_SUPPORTED: c_int = 3;
/// NVML's code for a board that is not there.
const NOT_FOUND: c_int = 6;

/// The file beside this library, wherever it was loaded from: the mapping that holds this function names it.
fn state_file() -> Option<PathBuf> {
    let here = nvmlInit_v2 as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let address = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        range.is_some_and(|(from, to)| (address(from)..address(to)).contains(&here))
    })?;
    let library = PathBuf::from(line.get(line.find('/')?..)?);
    Some(library.with_file_name("state"))
}

/// What the file says of `what`: a number, or the code to fail with.
fn state(what: &str) -> Result<u64, c_int> {
    let text = state_file().and_then(|file| std::fs::read_to_string(file).ok());
    let text = text.unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
    let value = line.ok_or(NOT_SUPPORTED)?.trim();
    match value.strip_prefix("error ") {
        Some(code) => Err(code.trim().parse().unwrap_or(NOT_SUPPORTED)),
        None => value.parse().map_err(|_| NOT_SUPPORTED),
    }
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `out` is valid for a write, as NVML's callers promise.
unsafe fn give<T: TryFrom<u64>>(value: Result<u64, c_int>, out: *mut T) -> c_int {
    match value.map(T::try_from) {
        Ok(Ok(value)) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(value) };
            SUCCESS
        }
        Ok(Err(_)) => NOT_SUPPORTED,
        Err(code) => code,
    }
}

/// The number of a board; handles are one more, as they must not be null.
fn board(device: *mut c_void) -> usize {
    (device as usize).wrapping_sub(1)
}

/// Begins.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_int {
    state("init")
        .err()
        .filter(|code| *code != NOT_SUPPORTED)
        .unwrap_or(SUCCESS)
}

/// Ends.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_int {
    SUCCESS
}

/// Not told.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(_text: *mut c_char, _length: c_uint) -> c_int {
    NOT_SUPPORTED
}

/// How many boards there are.
///
/// # Safety
/// As in NVML: `out` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(out: *mut c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { give(state("boards"), out) }
}

/// A board's handle.
///
/// # Safety
/// As in NVML: `out` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    out: *mut *mut c_void,
) -> c_int {
    if u64::from(index) >= state("boards").unwrap_or(0) {
        return NOT_FOUND;
    }
    // SAFETY: the caller's promise.
    unsafe { out.write((index as usize + 1) as *mut c_void) };
    SUCCESS
}

/// Millijoules.
///
/// # Safety
/// As in NVML: `out` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: *mut c_void,
    out: *mut c_ulonglong,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { give(state(&format!("energy {}", board(device))), out) }
}

/// Milliwatts.
///
/// # Safety
/// As in NVML: `out` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: *mut c_void, out: *mut c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { give(state(&format!("power {}", board(device))), out) }
}
