//! Where the joules come from: the energy meters of this machine, and the model when there is none.
//!
//! A meter is a running total, so that any two reads bracket a piece of work and nobody has to
//! sample power at the right moment. Meters sit in a table ([`METERS`]) in order of trust; the first that
//! can be read whole wins, and the next takes over if it fails. A sum with a part missing is worse than no measurement, because it looks
//! like one: such a meter is dropped with a note, and the next kind is looked at, at last the model with `default_power`.
//! Nothing here ever turns a failed read, or a sensor that shows no life, into 0 J.

#[cfg(test)]
mod contract;
mod guard;
mod ina3221;
mod nvml;
mod rapl;
mod sampler;
mod survey;
mod sysfs;
mod tally;

use std::ffi::OsString;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use moe2_model::{DeviceKind, EnergySource, Figure, Seconds, Time, Watts};
use nvml_wrapper::error::NvmlError;
use serde::Deserialize;

pub(crate) use sampler::{Sample, Sampler};
pub(crate) use survey::survey;

/// A running total of the energy this device has drawn.
pub(crate) trait Meter: Send {
    /// What the figure is called wherever it is shown.
    fn source(&self) -> EnergySource;

    /// By how much what it shows may be out of date.
    fn lag(&self) -> Seconds;

    /// Running totals of joules and of their error that never decrease. Only the difference between
    /// two readings is a measurement: the first one sets the zero, whatever its value, and the
    /// engine's accountant bills nothing for it. `None` while the sensor has not shown yet that it
    /// lives.
    ///
    /// # Errors
    /// [`MeterError`] when a sensor file cannot be read, holds no plausible number, or shows no
    /// power where there must be some. The total stays as it was, and the next good read covers
    /// the gap, or starts anew where the gap is too long to say what was drawn in it.
    fn read(&mut self, now: Time) -> Result<Option<Figure>, MeterError>;
}

/// Why a sensor gave no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeterError {
    /// The kernel would not let the file be read.
    #[error("cannot read {}: {source}; {}", path.display(), advice(source))]
    Unreadable {
        /// The sensor file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read but what it says cannot be true.
    #[error("{} says {text:?}, which is no reading of this sensor; energy is modelled", path.display())]
    Garbage {
        /// The sensor file.
        path: PathBuf,
        /// The start of its contents.
        text: String,
    },
    /// The sensor answers, but a machine that runs this program cannot draw nothing.
    #[error(
        "{} shows no power at all, so the sensor is dead or switched off; energy is modelled: \
         check the driver, or whether a virtual machine hides the counter",
        path.display()
    )]
    Dead {
        /// The sensor file, or the directory of a sensor with several.
        path: PathBuf,
    },
    /// NVIDIA's library would not tell.
    #[error("NVML board {board}: {source}; see what `nvidia-smi` says")]
    Nvml {
        /// Which, from 0.
        board: u32,
        /// What the library said.
        source: NvmlError,
    },
    /// A counter that never falls has fallen.
    #[error("the counter of {} began anew; what was drawn since the last reading is not known", path.display())]
    Restarted {
        /// The sensor.
        path: PathBuf,
    },
}

/// What the operator can do about a file that cannot be read.
fn advice(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        "give the agent's user read permission on it, or energy stays modelled"
    } else {
        "energy is modelled until it can be read"
    }
}

/// Where sensors are looked for.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `/` outside tests.
    pub(crate) root: PathBuf,
    /// NVIDIA's management library, by path or by a name that the loader knows.
    pub(crate) nvml: OsString,
}

impl Place {
    /// A tree of files without a library.
    #[cfg(test)]
    fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            nvml: root.join("libnvidia-ml.so.1").into(),
        }
    }
}

/// How one kind of meter is found. Notes say why it was not taken, or what it leaves out.
type Find = fn(&Place, &mut Vec<String>) -> Option<Box<dyn Meter>>;

/// One kind of meter.
pub(crate) struct Kind {
    choice: Choice,
    /// What its readings are called.
    source: EnergySource,
    /// What must be there.
    needs: &'static str,
    /// The part of the machine that is in the joules.
    covers: &'static str,
    /// Whether that includes the processors, on which the embedded engine computes.
    sees_processors: bool,
    /// How far a figure may be off, and who says so.
    error: &'static str,
    /// Nothing for the model, which is in the engine and needs no sensor.
    find: Option<Find>,
}

/// All kinds in the order in which they are tried: the whole module, the board, the packages, nothing.
pub(crate) const METERS: &[Kind] = &[
    Kind {
        choice: Choice::Ina3221,
        source: EnergySource::Ina3221,
        needs: "a Jetson Orin module and its ina3221 driver",
        covers: "the module, without its carrier board",
        sees_processors: true,
        error: "1.5 % and the offsets of 50 mA and 20 mV a rail (data sheet SBOS576; 1 % of it, for the \
                shunts, is assumed), and half of every step of power between two readings",
        find: Some(ina3221::find),
    },
    Kind {
        choice: Choice::Nvml,
        source: EnergySource::Nvml,
        needs: "an NVIDIA board and its driver's libnvidia-ml.so.1",
        covers: "GPU boards, without the machine around them",
        sees_processors: false,
        error: "5 % or 5 W a board, whichever is more (NVML reference, nvidia-smi documentation), and 0.1 s \
                of power at either end of a job, 1 s where the board has no counter",
        find: Some(nvml::find),
    },
    Kind {
        choice: Choice::Rapl,
        source: EnergySource::Rapl,
        needs: "an x86 processor and the right to read its energy_uj, usually root's",
        covers: "processor packages only",
        sees_processors: true,
        error: "10 %, assumed: no maker states one; and 1 ms of power at either end of a job",
        find: Some(rapl::find),
    },
    Kind {
        choice: Choice::Modelled,
        source: EnergySource::Modelled,
        needs: "nothing",
        covers: "what the idle and busy watts were taken from",
        sees_processors: true,
        error: "100 %, assumed",
        find: None,
    },
];

/// Which kinds may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Choice {
    /// The first that works and sees what the experts compute on.
    #[default]
    Auto,
    /// Jetson rails or the model.
    Ina3221,
    /// NVIDIA boards or the model.
    Nvml,
    /// Processor packages or the model.
    Rapl,
    /// The model.
    Modelled,
}

impl Choice {
    /// Whether a kind may be used, or why not.
    fn allows(self, kind: &Kind) -> Result<(), Option<&'static str>> {
        match self {
            Self::Auto if kind.sees_processors => Ok(()),
            Self::Auto => Err(Some(
                "it does not see the processors, on which the embedded engine computes; where experts \
                 compute on what it sees, choose it by `meter`",
            )),
            chosen if chosen == kind.choice => Ok(()),
            _ => Err(None),
        }
    }
}

/// The kinds of meter that have not been tried yet.
pub(crate) struct Chain {
    place: Place,
    choice: Choice,
    left: std::slice::Iter<'static, Kind>,
}

impl Chain {
    /// All that may be used.
    pub(crate) fn new(place: Place, choice: Choice) -> Self {
        Self {
            place,
            choice,
            left: METERS.iter(),
        }
    }

    /// The next one that works; none if only the model is left. Says why others do not.
    pub(crate) fn next_meter(&mut self) -> Option<Box<dyn Meter>> {
        for kind in self.left.by_ref() {
            let Some(find) = kind.find else { continue };
            let mut notes = Vec::new();
            let allowed = self.choice.allows(kind);
            let found = match allowed {
                Err(None) => continue,
                // Looked for all the same: only what is there is worth a word.
                _ => find(&self.place, &mut notes),
            };
            let source = kind.source;
            match (found, allowed) {
                (Some(meter), Ok(())) => {
                    for note in notes {
                        tracing::warn!("{note}");
                    }
                    tracing::info!(%source, covers = kind.covers, error = kind.error, "energy meter");
                    return Some(meter);
                }
                (Some(_), Err(why)) => tracing::warn!(%source, "not used: {}", why.unwrap_or("")),
                (None, _) => {
                    for note in notes {
                        tracing::warn!(%source, "not used: {note}");
                    }
                }
            }
        }
        None
    }
}

/// Idle draw of a PC processor per hardware thread: a quiet 8-thread package takes 5–10 W.
const CPU_IDLE_PER_THREAD: f64 = 1.0;
/// Draw of a PC processor per busy hardware thread: a 65 W, 12–16 thread package at full vector load.
const CPU_BUSY_PER_THREAD: f64 = 5.0;
/// Orin-class module with its fan on and nothing running.
const JETSON_IDLE: f64 = 5.0;
/// Orin NX at its 25 W power mode, the common one for inference.
const JETSON_BUSY: f64 = 25.0;
/// A discrete board that holds weights in its memory but computes nothing.
const GPU_IDLE: f64 = 20.0;
/// A board near its limit while decoding: between the 170 W and 450 W of current desktop boards.
const GPU_BUSY: f64 = 300.0;

/// Modelled power as (idle, busy) for a device without a meter. Rough on purpose: set the real
/// figures in the agent's configuration where they matter.
pub(crate) fn default_power(kind: DeviceKind, threads: u32) -> (Watts, Watts) {
    let (idle, busy) = match kind {
        DeviceKind::Jetson => (JETSON_IDLE, JETSON_BUSY),
        DeviceKind::Gpu => (GPU_IDLE, GPU_BUSY),
        DeviceKind::Cpu => {
            let threads = f64::from(threads.max(1));
            (CPU_IDLE_PER_THREAD * threads, CPU_BUSY_PER_THREAD * threads)
        }
    };
    (Watts::saturating(idle), Watts::saturating(busy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    const RAPL: &str = "sys/class/powercap/intel-rapl:0";

    fn package(root: &Path) {
        let file = |name: &str| format!("{RAPL}/{name}");
        let (name, energy, range) = (file("name"), file("energy_uj"), file("max_energy_range_uj"));
        let files = [
            (name.as_str(), "package-0"),
            (energy.as_str(), "5"),
            (range.as_str(), "1000"),
        ];
        sysfs::fixture(root, &files);
    }

    #[test]
    fn an_empty_machine_has_only_the_model() {
        let root = tempfile::tempdir().unwrap();
        let mut chain = Chain::new(Place::below(root.path()), Choice::Auto);
        assert!(chain.next_meter().is_none());
    }

    #[test]
    fn the_model_is_last_and_every_row_says_what_it_needs_covers_and_how_wrong_it_is() {
        let ranks: Vec<u8> = METERS.iter().map(|kind| kind.source.rank()).collect();
        assert_eq!(
            ranks,
            [0, 1, 2, 3],
            "in the order of trust, each source once"
        );
        for kind in METERS {
            assert!(!kind.needs.is_empty() && !kind.covers.is_empty() && !kind.error.is_empty());
            assert_eq!(kind.find.is_none(), kind.choice == Choice::Modelled);
        }
    }

    #[test]
    fn a_kind_is_tried_once_and_only_if_it_may_be() {
        let root = tempfile::tempdir().unwrap();
        package(root.path());
        for (choice, sources) in [
            (Choice::Auto, vec![EnergySource::Rapl]),
            (Choice::Rapl, vec![EnergySource::Rapl]),
            (Choice::Ina3221, vec![]),
            (Choice::Modelled, vec![]),
        ] {
            let mut chain = Chain::new(Place::below(root.path()), choice);
            let found: Vec<EnergySource> = std::iter::from_fn(|| chain.next_meter())
                .map(|meter| meter.source())
                .collect();
            assert_eq!(found, sources, "{choice:?}");
        }
    }

    #[test]
    fn no_kind_panics_or_meters_a_tree_of_garbage() {
        let root = tempfile::tempdir().unwrap();
        let ina = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3";
        let rapl = RAPL;
        let files: Vec<(String, &str)> = vec![
            (format!("{ina}/in1_label"), "VDD_IN\n"),
            (format!("{ina}/in1_input"), "\u{0}\u{1}ÿ"),
            (format!("{ina}/curr1_input"), "-99999999999999999999"),
            (format!("{rapl}/name"), "package-0\n"),
            (format!("{rapl}/energy_uj"), "NotSupported"),
            (format!("{rapl}/max_energy_range_uj"), "0"),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), *t)).collect();
        sysfs::fixture(root.path(), &files);
        for find in [ina3221::find, rapl::find] {
            let mut notes = Vec::new();
            assert!(find(&Place::below(root.path()), &mut notes).is_none());
            assert_eq!(notes.len(), 1, "one note each: {notes:?}");
        }
    }

    #[test]
    fn a_refused_permission_says_what_to_do() {
        let refused = MeterError::Unreadable {
            path: "/sys/energy_uj".into(),
            source: Error::from(ErrorKind::PermissionDenied),
        };
        assert!(refused.to_string().contains("read permission"), "{refused}");
    }

    #[test]
    fn the_power_model_draws_more_when_busy_and_never_nothing() {
        for kind in [DeviceKind::Cpu, DeviceKind::Jetson, DeviceKind::Gpu] {
            for threads in [0, 1, 16] {
                let (idle, busy) = default_power(kind, threads);
                assert!(Watts::ZERO < idle && idle < busy, "{kind:?} {threads}");
            }
        }
        let (idle, busy) = default_power(DeviceKind::Cpu, 4);
        assert_eq!((idle.get(), busy.get()), (4.0, 20.0));
    }
}
