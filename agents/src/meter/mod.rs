//! Where the joules come from: the energy meters of this machine, and the model when there is none.
//!
//! A meter is a running total, so that any two reads bracket a piece of work and nobody has to
//! sample power at the right moment. Meters sit in a table in order of trust; the first that can
//! be read whole wins. A sum with a part missing is worse than no measurement, because it looks
//! like one: such a meter is dropped with a note, and the device is billed by `default_power`.
//! Nothing here ever turns a failed read, or a sensor that shows no life, into 0 J.

mod guard;
mod ina3221;
mod rapl;
mod sysfs;

use std::path::{Path, PathBuf};

use moe2_model::{DeviceKind, EnergySource, Joules, Time, Watts};

pub(crate) use guard::{Guarded, Reading};

/// A running total of the energy this device has drawn.
pub(crate) trait Meter: Send {
    /// What the figure is called wherever it is shown.
    fn source(&self) -> EnergySource;

    /// A running total in joules that never decreases. Only the difference between two readings
    /// is a measurement: the first one sets the zero, whatever its value, and the engine's
    /// accountant bills nothing for it. `None` while the sensor has not shown yet that it lives.
    ///
    /// # Errors
    /// [`MeterError`] when a sensor file cannot be read, holds no plausible number, or shows no
    /// power where there must be some. The total stays as it was, and the next good read covers
    /// the gap, or starts anew where the gap is too long to say what was drawn in it.
    fn read(&mut self, now: Time) -> Result<Option<Joules>, MeterError>;
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
}

/// What the operator can do about a file that cannot be read.
fn advice(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        "give the agent's user read permission on it, or energy stays modelled"
    } else {
        "energy is modelled until it can be read"
    }
}

/// What was found on this machine.
pub(crate) struct Discovery {
    /// The meter to use; `None` means every joule is modelled.
    pub(crate) meter: Option<Box<dyn Meter>>,
    /// What the operator should know: why a meter was not taken, what one leaves out.
    pub(crate) notes: Vec<String>,
}

/// How one kind of meter is found below a root directory. Notes say why it was not taken.
type Find = fn(&Path, &mut Vec<String>) -> Option<Box<dyn Meter>>;

/// All kinds, most complete first: module rails cover the whole module, packages only the CPU.
const KINDS: &[Find] = &[ina3221::find, rapl::find];

/// Looks for meters below `root` (`/` outside tests).
pub(crate) fn discover(root: &Path) -> Discovery {
    let mut notes = Vec::new();
    let meter = KINDS.iter().find_map(|find| find(root, &mut notes));
    let whole_module = meter
        .as_ref()
        .is_some_and(|meter| meter.source() == EnergySource::Ina3221);
    if root.join("dev/nvidia0").exists() && !whole_module {
        notes.push(match meter {
            Some(_) => "GPU energy is not read yet and not in the measured joules".into(),
            None => "GPU energy is not read yet: modelled".into(),
        });
    }
    Discovery { meter, notes }
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

    #[test]
    fn an_empty_machine_has_no_meter_and_nothing_to_say() {
        let root = tempfile::tempdir().unwrap();
        let found = discover(root.path());
        assert!(found.meter.is_none());
        assert_eq!(found.notes, Vec::<String>::new());
    }

    #[test]
    fn a_gpu_that_is_not_metered_is_said_out_loud() {
        let root = tempfile::tempdir().unwrap();
        sysfs::fixture(root.path(), &[("dev/nvidia0", "")]);
        let found = discover(root.path());
        assert!(found.meter.is_none());
        assert_eq!(found.notes, ["GPU energy is not read yet: modelled"]);
    }

    #[test]
    fn a_gpu_beside_a_metered_processor_is_said_to_be_left_out() {
        let root = tempfile::tempdir().unwrap();
        let rapl = "sys/class/powercap/intel-rapl:0";
        let (name, energy) = (format!("{rapl}/name"), format!("{rapl}/energy_uj"));
        let range = format!("{rapl}/max_energy_range_uj");
        sysfs::fixture(
            root.path(),
            &[
                ("dev/nvidia0", ""),
                (&name, "package-0"),
                (&energy, "5"),
                (&range, "1000"),
            ],
        );
        let found = discover(root.path());
        assert!(found.meter.is_some());
        assert!(
            found.notes[0].contains("packages only"),
            "{:?}",
            found.notes
        );
        assert!(
            found.notes[1].contains("not in the measured"),
            "{:?}",
            found.notes
        );
    }

    #[test]
    fn no_kind_panics_or_meters_a_tree_of_garbage() {
        let root = tempfile::tempdir().unwrap();
        let ina = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3";
        let rapl = "sys/class/powercap/intel-rapl:0";
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
        for find in KINDS {
            let mut notes = Vec::new();
            assert!(find(root.path(), &mut notes).is_none());
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
