//! NVIDIA boards: the driver's own management library, loaded when the agent starts.
//!
//! It is not linked, because an agent must run where there is no NVIDIA driver, and `nvml-wrapper` does
//! the loading, so that nothing here is unsafe. Boards count millijoules themselves from Volta on; older
//! ones only tell their power, which is then integrated. A board that supports neither (Jetson modules
//! say so of themselves) or cannot be reached leaves a sum with a part missing, so it is a note or an
//! error, never 0 J. Boards are all the machine's: which one an expert computes on is not known here.

use std::time::Duration;

use moe2_model::{EnergySource, Figure, Seconds, Time};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::tally::{Power, Tally};
use super::{Meter, MeterError, Place};

/// The sensor, whichever is larger: 5 % of the draw (the NVML reference on `nvmlDeviceGetPowerUsage`,
/// which states it for Fermi and Kepler only) or 5 W (`nvidia-smi` documentation, power draw). A100 and
/// H100 boards sample a quarter of the time only and may be off by more (arXiv:2312.02741).
const RELATIVE_ERROR: f64 = 0.05;
const ABSOLUTE_ERROR: f64 = 5.0;

/// The counter moves every 20 to 100 ms.
const COUNTER_LAG: f64 = 0.1;
/// From Ampere on power is a mean over a second (the NVML reference).
const POWER_LAG: f64 = 1.0;

/// A counter that stands still for this long is dead: no board with a driver draws nothing.
const STILL: Duration = Duration::from_secs(10);

const COVERS_NOTE: &str = "nvml: the joules are the GPU boards' only; processors, memory, disks and losses of \
                           the power supply are not measured";

/// What a board tells of its energy.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    /// Millijoules since the driver was loaded.
    Counter(u64),
    /// Milliwatts.
    Power(u32),
}

/// One board's counter, as far as it has one.
#[derive(Debug, Default)]
struct Board {
    last: Option<u64>,
    moved: Option<Time>,
    alive: bool,
}

struct Boards {
    nvml: Nvml,
    boards: Vec<Board>,
    tally: Tally,
    lag: f64,
    last: Option<Time>,
}

impl Boards {
    /// What every board tells now, or the first one that does not.
    fn told(&self) -> Result<Vec<Told>, MeterError> {
        let boards = u32::try_from(self.boards.len()).unwrap_or(u32::MAX);
        (0..boards).map(|board| ask(&self.nvml, board)).collect()
    }

    /// Takes over what the counters say; the joules since the last time, or an error if one began anew.
    fn counted(&mut self, now: Time, told: &[Told]) -> Result<f64, MeterError> {
        let mut millijoules = 0;
        let mut anew = None;
        for (index, (board, told)) in self.boards.iter_mut().zip(told).enumerate() {
            let Told::Counter(value) = *told else {
                board.alive = true;
                continue;
            };
            match board.last.replace(value) {
                Some(last) if value > last => {
                    millijoules += value - last;
                    board.alive = true;
                    board.moved = Some(now);
                }
                Some(last) if value < last => anew = Some(index),
                _ => {}
            }
            if now.since(*board.moved.get_or_insert(now)) >= STILL {
                return Err(MeterError::Dead { path: name(index) });
            }
        }
        match anew {
            Some(index) => Err(MeterError::Restarted { path: name(index) }),
            None => Ok(millijoules as f64 / 1e3),
        }
    }
}

impl Meter for Boards {
    fn source(&self) -> EnergySource {
        EnergySource::Nvml
    }

    fn lag(&self) -> Seconds {
        Seconds::saturating(self.lag)
    }

    fn read(&mut self, now: Time) -> Result<Option<Figure>, MeterError> {
        // All or nothing, as with packages.
        let told = self.told()?;
        let seconds = self.last.map_or(0.0, |then| now.seconds_since(then).get());
        let counters = told
            .iter()
            .filter(|t| matches!(t, Told::Counter(_)))
            .count();
        let joules = self.counted(now, &told)?;
        let absolute = ABSOLUTE_ERROR * seconds * counters as f64;
        self.tally
            .count(joules, (joules * RELATIVE_ERROR).max(absolute));
        if let Some(power) = power(&told)? {
            self.tally.integrate(now, power);
        }
        self.last = Some(self.last.map_or(now, |then| then.max(now)));
        let alive = self.boards.iter().all(|board| board.alive);
        Ok(alive.then_some(self.tally.total()))
    }
}

/// The power of the boards that have no counter, if there are any.
fn power(told: &[Told]) -> Result<Option<Power>, MeterError> {
    let mut sum: Option<Power> = None;
    for (index, told) in told.iter().enumerate() {
        let Told::Power(milliwatts) = *told else {
            continue;
        };
        if milliwatts == 0 {
            return Err(MeterError::Dead { path: name(index) });
        }
        let watts = f64::from(milliwatts) / 1e3;
        let before = sum.unwrap_or(Power {
            watts: 0.0,
            error: 0.0,
        });
        sum = Some(Power {
            watts: before.watts + watts,
            error: before.error + (watts * RELATIVE_ERROR).max(ABSOLUTE_ERROR),
        });
    }
    Ok(sum)
}

fn name(board: usize) -> std::path::PathBuf {
    format!("NVML board {board}").into()
}

/// The counter of a board, or its power if it has none.
fn ask(nvml: &Nvml, board: u32) -> Result<Told, MeterError> {
    let failed = |source| MeterError::Nvml { board, source };
    let device = nvml.device_by_index(board).map_err(failed)?;
    match device.total_energy_consumption() {
        Ok(millijoules) => Ok(Told::Counter(millijoules)),
        // An old board, or an old driver.
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {
            device.power_usage().map(Told::Power).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Looks for the library and for boards that tell their energy.
pub(super) fn find(place: &Place, notes: &mut Vec<String>) -> Option<Box<dyn Meter>> {
    let library = &place.nvml;
    let nvml = match Nvml::builder().lib_path(library.as_os_str()).init() {
        Ok(nvml) => nvml,
        Err(error) => {
            // Most machines have no NVIDIA driver, and nobody has to be told.
            if place.root.join("dev/nvidia0").exists() {
                let library = library.display();
                notes.push(format!("nvml: {library} cannot be used: {error}"));
            }
            return None;
        }
    };
    let boards = match nvml.device_count() {
        Ok(0) => return None,
        Ok(boards) => boards,
        Err(error) => {
            notes.push(format!("nvml: the boards cannot be counted: {error}"));
            return None;
        }
    };
    let mut meter = Boards {
        nvml,
        boards: (0..boards).map(|_| Board::default()).collect(),
        tally: Tally::new(EnergySource::Nvml),
        lag: COUNTER_LAG,
        last: None,
    };
    let told = match meter.told().and_then(|told| power(&told).map(|_| told)) {
        Ok(told) => told,
        Err(error) => {
            notes.push(format!("nvml: {error}"));
            return None;
        }
    };
    notes.push(COVERS_NOTE.to_owned());
    if told.iter().any(|t| matches!(t, Told::Power(_))) {
        meter.lag = POWER_LAG;
        notes.push("nvml: a board counts no joules; its power is integrated".to_owned());
    }
    Some(Box::new(meter))
}

#[cfg(test)]
pub(super) mod tests;
