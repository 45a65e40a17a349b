//! What every kind of meter keeps, run over trees of sensor files laid out as devices have them.
//!
//! The trees are written by hand after the kernel's and NVIDIA's documentation, not recorded from
//! devices. Releases of JetPack differ in them by the number of the monitor and by the files beside the
//! ones that are read.

use std::path::Path;

use moe2_model::{EnergySource, Figure, Time};

use super::nvml::tests::stand_in;
use super::{METERS, Meter, Place, sysfs};

type File = (&'static str, &'static str);

/// A device's files, and what is to be counted between two moments a second apart.
struct Machine {
    name: &'static str,
    source: EnergySource,
    before: &'static [File],
    /// Files that have changed a second later; the others stay.
    after: &'static [File],
    joules: f64,
    /// The most by which that may be off.
    error: f64,
    /// A file that must be readable.
    vital: &'static str,
}

macro_rules! ina {
    ($monitor:literal, $file:literal) => {
        concat!(
            "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/",
            $monitor,
            "/",
            $file
        )
    };
}

macro_rules! rapl {
    ($domain:literal, $file:literal) => {
        concat!("sys/class/powercap/intel-rapl:", $domain, "/", $file)
    };
}

const MACHINES: &[Machine] = &[
    Machine {
        name: "Orin NX, JetPack 5: the module's total alone",
        source: EnergySource::Ina3221,
        before: &[
            (ina!("hwmon3", "in1_label"), "VDD_IN\n"),
            (ina!("hwmon3", "in1_input"), "5000\n"),
            (ina!("hwmon3", "curr1_input"), "2000\n"),
            (ina!("hwmon3", "in2_label"), "VDD_CPU_GPU_CV\n"),
            (ina!("hwmon3", "in2_input"), "5000\n"),
            (ina!("hwmon3", "curr2_input"), "900\n"),
            (ina!("hwmon3", "in3_label"), "VDD_SOC\n"),
            (ina!("hwmon3", "in3_input"), "5000\n"),
            (ina!("hwmon3", "curr3_input"), "400\n"),
        ],
        after: &[(ina!("hwmon3", "curr1_input"), "4000\n")],
        joules: 15.0,
        // 1.51 % of 15 W, 50 mA at 5 V, 20 mV at 3 A, and half of the step of 10 W.
        error: 0.2265 + 0.25 + 0.06 + 5.0,
        vital: ina!("hwmon3", "curr1_input"),
    },
    Machine {
        name: "Orin NX, JetPack 6: a sum of shunts beside the rails",
        source: EnergySource::Ina3221,
        before: &[
            (ina!("hwmon1", "name"), "ina3221\n"),
            (ina!("hwmon1", "update_interval"), "35\n"),
            (ina!("hwmon1", "in1_label"), "VDD_IN\n"),
            (ina!("hwmon1", "in1_input"), "19000\n"),
            (ina!("hwmon1", "curr1_input"), "1000\n"),
            (ina!("hwmon1", "in2_label"), "VDD_CPU_GPU_CV\n"),
            (ina!("hwmon1", "in2_input"), "19000\n"),
            (ina!("hwmon1", "curr2_input"), "400\n"),
            (ina!("hwmon1", "in3_label"), "VDD_SOC\n"),
            (ina!("hwmon1", "in3_input"), "19000\n"),
            (ina!("hwmon1", "curr3_input"), "200\n"),
            (ina!("hwmon1", "in4_input"), "5\n"),
            (ina!("hwmon1", "in7_label"), "sum of shunt voltages\n"),
            (ina!("hwmon1", "in7_input"), "7\n"),
            (ina!("hwmon1", "curr4_input"), "1600\n"),
        ],
        after: &[],
        joules: 19.0,
        error: 19.0 * 0.0151 + 19.0 * 0.05 + 0.02,
        vital: ina!("hwmon1", "in1_input"),
    },
    Machine {
        name: "AGX Orin, JetPack 5: three rails and no total",
        source: EnergySource::Ina3221,
        before: &[
            (ina!("hwmon5", "in1_label"), "VDD_GPU_SOC\n"),
            (ina!("hwmon5", "in1_input"), "20000\n"),
            (ina!("hwmon5", "curr1_input"), "500\n"),
            (ina!("hwmon5", "in2_label"), "VDD_CPU_CV\n"),
            (ina!("hwmon5", "in2_input"), "20000\n"),
            (ina!("hwmon5", "curr2_input"), "250\n"),
            (ina!("hwmon5", "in3_label"), "VIN_SYS_5V0\n"),
            (ina!("hwmon5", "in3_input"), "5000\n"),
            (ina!("hwmon5", "curr3_input"), "1000\n"),
        ],
        after: &[],
        joules: 20.0,
        error: 20.0 * 0.0151 + 45.0 * 0.05 + 1.75 * 0.02,
        vital: ina!("hwmon5", "in3_input"),
    },
    Machine {
        name: "AGX Orin, JetPack 6: the second monitor is left out",
        source: EnergySource::Ina3221,
        before: &[
            (ina!("hwmon2", "update_interval"), "7\n"),
            (ina!("hwmon2", "in1_label"), "VDD_GPU_SOC\n"),
            (ina!("hwmon2", "in1_input"), "20000\n"),
            (ina!("hwmon2", "curr1_input"), "500\n"),
            (ina!("hwmon2", "in2_label"), "VDD_CPU_CV\n"),
            (ina!("hwmon2", "in2_input"), "20000\n"),
            // A converter's offset, not a negative draw.
            (ina!("hwmon2", "curr2_input"), "-8\n"),
            (ina!("hwmon2", "in3_label"), "VIN_SYS_5V0\n"),
            (ina!("hwmon2", "in3_input"), "5000\n"),
            (ina!("hwmon2", "curr3_input"), "1000\n"),
            (
                "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon3/in2_label",
                "VDDQ_VDD2_1V8AO\n",
            ),
            (
                "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon3/in2_input",
                "5000\n",
            ),
            (
                "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon3/curr2_input",
                "300\n",
            ),
        ],
        after: &[],
        joules: 15.0,
        error: 15.0 * 0.0151 + 45.0 * 0.05 + 1.5 * 0.02,
        vital: ina!("hwmon2", "curr2_input"),
    },
    Machine {
        name: "x86, two packages, one counter wraps",
        source: EnergySource::Rapl,
        before: &[
            (rapl!("0", "name"), "package-0\n"),
            (rapl!("0", "energy_uj"), "262143000000\n"),
            (rapl!("0", "max_energy_range_uj"), "262143328850\n"),
            (rapl!("0:0", "name"), "core\n"),
            (rapl!("0:0", "energy_uj"), "5\n"),
            (rapl!("0:0", "max_energy_range_uj"), "262143328850\n"),
            (rapl!("1", "name"), "package-1\n"),
            (rapl!("1", "energy_uj"), "7000000\n"),
            (rapl!("1", "max_energy_range_uj"), "262143328850\n"),
        ],
        after: &[
            (rapl!("0", "energy_uj"), "671150\n"),
            (rapl!("0:0", "energy_uj"), "900005\n"),
            (rapl!("1", "energy_uj"), "9000000\n"),
        ],
        joules: 3.0,
        error: 0.3,
        vital: rapl!("0", "energy_uj"),
    },
    Machine {
        name: "a board with a counter",
        source: EnergySource::Nvml,
        before: &[("state", "boards 1\nenergy 0 123456789\n")],
        after: &[("state", "boards 1\nenergy 0 123656789\n")],
        joules: 200.0,
        error: 10.0,
        vital: "state",
    },
    Machine {
        name: "an older board",
        source: EnergySource::Nvml,
        before: &[("state", "boards 1\npower 0 50000\n")],
        after: &[("state", "boards 1\npower 0 52000\n")],
        joules: 51.0,
        // Five percent would be less than 5 W; and half of the step of 2 W.
        error: 6.0,
        vital: "state",
    },
];

fn at(seconds: u64) -> Time {
    Time::from_micros(seconds * 1_000_000)
}

fn set_up(machine: &Machine) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    sysfs::fixture(root.path(), machine.before);
    if machine.source == EnergySource::Nvml {
        std::fs::copy(stand_in(), Place::below(root.path()).nvml).unwrap();
    }
    root
}

/// What the row of the machine's source finds.
fn find(machine: &Machine, root: &Path) -> (Option<Box<dyn Meter>>, Vec<String>) {
    let kind = METERS.iter().find(|k| k.source == machine.source).unwrap();
    let mut notes = Vec::new();
    let meter = kind.find.unwrap()(&Place::below(root), &mut notes);
    (meter, notes)
}

#[test]
fn every_row_that_looks_for_a_sensor_has_a_machine() {
    for kind in METERS.iter().filter(|kind| kind.find.is_some()) {
        assert!(MACHINES.iter().any(|m| m.source == kind.source));
    }
}

#[test]
fn every_machine_is_counted_in_joules_with_its_error_and_totals_never_fall() {
    for machine in MACHINES {
        let root = set_up(machine);
        let (meter, notes) = find(machine, root.path());
        let mut meter = meter.unwrap_or_else(|| panic!("{}: {notes:?}", machine.name));
        assert_eq!(meter.source(), machine.source, "{}", machine.name);
        assert!(meter.lag().get() > 0.0, "{}", machine.name);
        let zero = meter.read(at(0)).unwrap().unwrap_or(Figure::NONE);
        sysfs::fixture(root.path(), machine.after);
        let total = meter.read(at(1)).unwrap().unwrap();
        assert_eq!(total.source, machine.source);
        let counted = total.joules.get() - zero.joules.get();
        let error = total.error.get() - zero.error.get();
        assert!(
            (counted - machine.joules).abs() < 1e-9 && (error - machine.error).abs() < 1e-9,
            "{}: {counted} ± {error}",
            machine.name
        );
        let again = meter.read(at(1)).unwrap().unwrap();
        assert!(again.joules >= total.joules && again.error >= total.error);
    }
}

#[test]
fn a_sensor_that_says_no_number_is_a_note_at_first_and_an_error_later() {
    for machine in MACHINES {
        for bad in ["", "NotSupported\n", "-99999999999999999999"] {
            let root = set_up(machine);
            let (meter, _) = find(machine, root.path());
            let mut meter = meter.unwrap();
            meter.read(at(0)).unwrap();
            sysfs::fixture(root.path(), &[(machine.vital, bad)]);
            meter.read(at(1)).unwrap_err();
            let (meter, notes) = find(machine, root.path());
            assert!(meter.is_none(), "{} {bad:?}", machine.name);
            assert!(!notes.is_empty(), "{} {bad:?}", machine.name);
        }
    }
}

#[test]
fn a_sensor_that_is_gone_is_never_a_figure() {
    for machine in MACHINES {
        let root = set_up(machine);
        let (meter, _) = find(machine, root.path());
        let mut meter = meter.unwrap();
        std::fs::remove_file(root.path().join(machine.vital)).unwrap();
        meter.read(at(0)).unwrap_err();
        assert!(find(machine, root.path()).0.is_none(), "{}", machine.name);
    }
}
