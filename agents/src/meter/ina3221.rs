//! The power monitor on Jetson modules: volts times amperes per rail, integrated over time.
//!
//! The chip reports instantaneous voltage and current, not energy, so joules are the trapezoid
//! between reads ([`Tally`]), only as good as the read interval where power jumps. Which rails make up the module
//! differs by model and is a table; adding up every labelled rail would count some power twice,
//! since `VDD_IN` already contains the others. The carrier board is not measured.

use std::path::{Path, PathBuf};

use moe2_model::{EnergySource, Figure, Seconds, Time};

use super::tally::{Power, Tally};
use super::{Meter, MeterError, Place, sysfs};

/// Where the kernel puts the monitor at I²C address 0x40, below the root.
const DEVICE: &str = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon";

/// Channels looked at: three rails and their sums, with room for a driver that numbers higher.
const CHANNELS: std::ops::RangeInclusive<u32> = 1..=8;

/// The channel that holds the sum of shunt voltages, not a voltage.
const SHUNT_SUM: u32 = 7;

/// The label of a channel that is wired to nothing.
const NOT_CONNECTED: &str = "NC";

/// No Orin module draws this much on one rail; a reading above it is a broken sensor.
const IMPLAUSIBLE_WATTS: f64 = 1000.0;

/// Currents down to this (mA) are a converter's zero offset: the chip's ±80 µV over the modules'
/// 2–5 mΩ shunts is at most 40 mA. A larger negative current is a broken sensor.
const OFFSET_MILLIAMPERES: i64 = 100;

/// Gain errors of voltage and current, 0.25 % each at most (INA3221 data sheet, SBOS576), and 1 % for
/// the shunts, which no data sheet of the modules states: the usual grade of current shunts is assumed.
const RELATIVE_ERROR: f64 = 0.0151;
/// Offset of a current: 80 µV (the same data sheet) and half a step of 40 µV over the modules' smallest
/// shunt of 2 mΩ, in amperes.
const CURRENT_ERROR: f64 = 0.05;
/// Offset of a voltage: 16 mV and half a step of 8 mV, in volts.
const VOLTAGE_ERROR: f64 = 0.02;
/// Age of a reading, where the kernel does not say how often it is renewed: three channels of two values,
/// 1.21 ms each at most without averaging (the same data sheet).
const USUAL_LAG: f64 = 0.008;

/// What no rail on the module sees.
const CARRIER_NOTE: &str = "ina3221: the joules are the module's; the carrier board (fan, disks, \
                            regulators) is not measured";

/// Rails that together are one module, and what the operator should know about the sum.
struct RailSet {
    rails: &'static [&'static str],
    note: Option<&'static str>,
}

/// First match wins, so the total comes before the parts.
const RAIL_SETS: &[RailSet] = &[
    // Orin NX and Orin Nano: the module's input, everything included.
    RailSet {
        rails: &["VDD_IN"],
        note: None,
    },
    // AGX Orin has no total.
    RailSet {
        rails: &["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
        note: Some(
            "AGX Orin: VDDQ_VDD2_1V8AO is left out, because it is not established whether \
             VIN_SYS_5V0 contains it; energy may be understated",
        ),
    },
];

/// A labelled channel of one monitor.
struct Channel {
    label: String,
    millivolts: PathBuf,
    milliamperes: PathBuf,
}

impl Channel {
    fn power(&self) -> Result<Power, MeterError> {
        let millivolts = sysfs::number(&self.millivolts)?;
        let milliamperes = sysfs::signed(&self.milliamperes)?;
        if milliamperes < -OFFSET_MILLIAMPERES {
            let text = milliamperes.to_string();
            return Err(sysfs::garbage(&self.milliamperes, &text));
        }
        // A rail that carries no voltage while the module runs is not being measured.
        if millivolts == 0 {
            return Err(MeterError::Dead {
                path: self.millivolts.clone(),
            });
        }
        let volts = millivolts as f64 / 1e3;
        let amperes = milliamperes.max(0) as f64 / 1e3;
        let watts = volts * amperes;
        if watts > IMPLAUSIBLE_WATTS {
            let text = format!("{volts} V and {amperes} A");
            return Err(sysfs::garbage(&self.millivolts, &text));
        }
        let offsets = volts * CURRENT_ERROR + amperes * VOLTAGE_ERROR;
        Ok(Power {
            watts,
            error: watts * RELATIVE_ERROR + offsets,
        })
    }
}

/// The rails of one module and the energy integrated so far.
struct Ina3221 {
    channels: Vec<Channel>,
    lag: Seconds,
    tally: Tally,
}

impl Ina3221 {
    /// The module's draw. One rail may be idle, but all of them together never are.
    fn power(&self) -> Result<Power, MeterError> {
        let mut sum = Power {
            watts: 0.0,
            error: 0.0,
        };
        for channel in &self.channels {
            let power = channel.power()?;
            sum.watts += power.watts;
            sum.error += power.error;
        }
        match self.channels.first() {
            Some(channel) if sum.watts == 0.0 => Err(MeterError::Dead {
                path: channel.milliamperes.clone(),
            }),
            _ => Ok(sum),
        }
    }
}

impl Meter for Ina3221 {
    fn source(&self) -> EnergySource {
        EnergySource::Ina3221
    }

    fn lag(&self) -> Seconds {
        self.lag
    }

    fn read(&mut self, now: Time) -> Result<Option<Figure>, MeterError> {
        let power = self.power()?;
        self.tally.integrate(now, power);
        Ok(Some(self.tally.total()))
    }
}

/// The labelled channels below every `hwmonN`; N changes from boot to boot.
fn channels(root: &Path) -> Vec<Channel> {
    let mut found = Vec::new();
    for monitor in sysfs::entries(&root.join(DEVICE), "hwmon") {
        for n in CHANNELS.filter(|n| *n != SHUNT_SUM) {
            let Ok(label) = sysfs::text(&monitor.join(format!("in{n}_label"))) else {
                continue;
            };
            if label != NOT_CONNECTED {
                found.push(Channel {
                    label,
                    millivolts: monitor.join(format!("in{n}_input")),
                    milliamperes: monitor.join(format!("curr{n}_input")),
                });
            }
        }
    }
    found
}

/// How long a monitor takes to renew all its values, where the kernel says so.
fn lag(channel: &Channel) -> Seconds {
    let interval = channel.millivolts.with_file_name("update_interval");
    let renewed = sysfs::number(&interval).map_or(0.0, |millis| millis as f64 / 1e3);
    Seconds::saturating(renewed.max(USUAL_LAG))
}

/// Looks for the monitor of a known module.
pub(super) fn find(place: &Place, notes: &mut Vec<String>) -> Option<Box<dyn Meter>> {
    let mut found = channels(&place.root);
    if found.is_empty() {
        return None;
    }
    let has = |rail: &str| found.iter().any(|channel| channel.label == rail);
    let Some(set) = RAIL_SETS
        .iter()
        .find(|set| set.rails.iter().all(|rail| has(rail)))
    else {
        let seen: Vec<&str> = found.iter().map(|c| c.label.as_str()).collect();
        notes.push(format!(
            "ina3221: the rails {} are not those of a known module: energy is modelled",
            seen.join(", ")
        ));
        return None;
    };
    let mut channels = Vec::new();
    for rail in set.rails {
        let at = found.iter().position(|channel| channel.label == *rail)?;
        channels.push(found.swap_remove(at));
    }
    let meter = Ina3221 {
        lag: channels.first().map_or(Seconds::ZERO, lag),
        channels,
        tally: Tally::new(EnergySource::Ina3221),
    };
    if let Err(error) = meter.power() {
        notes.push(format!("ina3221: {error}"));
        return None;
    }
    notes.push(CARRIER_NOTE.to_owned());
    notes.extend(set.note.map(str::to_owned));
    Some(Box::new(meter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A monitor as `hwmon{number}` with (channel, label, mV, mA) rows.
    fn monitor(root: &Path, number: u32, rows: &[(u32, &str, &str, &str)]) {
        for (n, label, mv, ma) in rows {
            let base = format!("{DEVICE}/hwmon{number}");
            let (label_at, mv_at) = (format!("{base}/in{n}_label"), format!("{base}/in{n}_input"));
            let ma_at = format!("{base}/curr{n}_input");
            sysfs::fixture(root, &[(&label_at, label), (&mv_at, mv), (&ma_at, ma)]);
        }
    }

    const ORIN_NX: &[(u32, &str, &str, &str)] = &[
        (1, "VDD_IN\n", "5000\n", "2000\n"),
        (2, "VDD_CPU_GPU_CV\n", "5000\n", "900\n"),
        (3, "VDD_SOC\n", "5000\n", "400\n"),
        (7, "sum of shunt voltages\n", "7\n", "7\n"),
    ];

    const AGX: &[(u32, &str, &str, &str)] = &[
        (1, "VDD_GPU_SOC\n", "20000\n", "500\n"),
        (2, "VDD_CPU_CV\n", "20000\n", "250\n"),
        (3, "VIN_SYS_5V0\n", "5000\n", "1000\n"),
        (4, "NC\n", "5000\n", "90000\n"),
    ];

    fn at(seconds: f64) -> Time {
        Time::from_micros((seconds * 1e6) as u64)
    }

    fn joules(meter: &mut Box<dyn Meter>, seconds: f64) -> f64 {
        meter.read(at(seconds)).unwrap().unwrap().joules.get()
    }

    #[test]
    fn orin_nx_counts_its_input_rail_alone_whatever_the_hwmon_number() {
        for number in [0, 3, 17] {
            let root = tempfile::tempdir().unwrap();
            monitor(root.path(), number, ORIN_NX);
            let mut notes = Vec::new();
            let mut meter = find(&Place::below(root.path()), &mut notes).unwrap();
            assert_eq!(meter.source(), EnergySource::Ina3221);
            assert_eq!(notes, [CARRIER_NOTE]);
            assert_eq!(joules(&mut meter, 1.0), 0.0);
            let total = joules(&mut meter, 3.0);
            assert!((total - 20.0).abs() < 1e-9, "10 W for 2 s: {total}");
        }
    }

    #[test]
    fn agx_orin_adds_three_rails_and_says_what_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 5, AGX);
        let mut notes = Vec::new();
        let mut meter = find(&Place::below(root.path()), &mut notes).unwrap();
        assert_eq!(notes[0], CARRIER_NOTE);
        assert!(notes[1].contains("VDDQ_VDD2_1V8AO"), "{notes:?}");
        meter.read(at(0.0)).unwrap();
        let total = joules(&mut meter, 1.0);
        assert!((total - 20.0).abs() < 1e-9, "10 + 5 + 5 W for 1 s: {total}");
    }

    #[test]
    fn changing_power_is_integrated_by_the_trapezoid() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, ORIN_NX);
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        meter.read(at(0.0)).unwrap();
        monitor(root.path(), 1, &[(1, "VDD_IN", "5000", "6000")]);
        let total = joules(&mut meter, 2.0);
        assert!(
            (total - 40.0).abs() < 1e-9,
            "10 W rising to 30 W over 2 s: {total}"
        );
    }

    #[test]
    fn a_failed_read_is_an_error_and_the_next_one_covers_the_gap() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, ORIN_NX);
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        meter.read(at(0.0)).unwrap();
        let current = root.path().join(DEVICE).join("hwmon1/curr1_input");
        fs::remove_file(&current).unwrap();
        let error = meter.read(at(1.0)).unwrap_err();
        assert!(matches!(error, MeterError::Unreadable { .. }), "{error}");
        fs::write(&current, "2000").unwrap();
        let total = joules(&mut meter, 2.0);
        assert!(
            (total - 20.0).abs() < 1e-9,
            "10 W for the whole 2 s: {total}"
        );
    }

    #[test]
    fn a_clock_that_steps_back_neither_adds_nor_counts_twice() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, ORIN_NX);
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        meter.read(at(5.0)).unwrap();
        assert_eq!(joules(&mut meter, 1.0), 0.0);
        let total = joules(&mut meter, 6.0);
        assert!(
            (total - 10.0).abs() < 1e-9,
            "only the second after 5 s: {total}"
        );
    }

    #[test]
    fn a_module_with_a_rail_missing_is_not_measured_in_part() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, &AGX[..2]);
        let mut notes = Vec::new();
        assert!(find(&Place::below(root.path()), &mut notes).is_none());
        assert!(notes[0].contains("VDD_GPU_SOC, VDD_CPU_CV"), "{notes:?}");
    }

    #[test]
    fn the_sum_of_shunt_voltages_is_no_rail_whatever_its_label() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, &[(7, "VDD_IN", "5000", "2000")]);
        assert!(find(&Place::below(root.path()), &mut Vec::new()).is_none());
    }

    #[test]
    fn an_implausible_current_is_refused() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, &[(1, "VDD_IN", "5000", "4294967295")]);
        let mut notes = Vec::new();
        assert!(find(&Place::below(root.path()), &mut notes).is_none());
        assert!(notes[0].contains("no reading"), "{notes:?}");
    }

    #[test]
    fn the_first_read_only_sets_the_zero_however_late_it_comes() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, ORIN_NX);
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        let zero = joules(&mut meter, 9.0);
        let drawn = joules(&mut meter, 10.0) - zero;
        assert!((drawn - 10.0).abs() < 1e-9, "10 W for 1 s: {drawn}");
    }

    #[test]
    fn a_long_silence_is_not_drawn_as_a_straight_line() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, ORIN_NX);
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        joules(&mut meter, 0.0);
        let before = joules(&mut meter, 5.0);
        assert!((before - 50.0).abs() < 1e-9, "5 s still count: {before}");
        assert_eq!(joules(&mut meter, 10.1), before);
        let after = joules(&mut meter, 11.1);
        assert!((after - 60.0).abs() < 1e-9, "and on from there: {after}");
    }

    #[test]
    fn a_dead_module_rail_is_no_meter_and_no_reading() {
        for (mv, ma) in [("0", "0"), ("5000", "0"), ("0", "2000"), ("5000", "-8")] {
            let dead = [(1, "VDD_IN", mv, ma)];
            let root = tempfile::tempdir().unwrap();
            monitor(root.path(), 1, &dead);
            let mut notes = Vec::new();
            assert!(
                find(&Place::below(root.path()), &mut notes).is_none(),
                "{mv} mV {ma} mA"
            );
            assert!(notes[0].contains("dead"), "{notes:?}");

            monitor(root.path(), 1, ORIN_NX);
            let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
            joules(&mut meter, 0.0);
            monitor(root.path(), 1, &dead);
            let error = meter.read(at(1.0)).unwrap_err();
            assert!(matches!(error, MeterError::Dead { .. }), "{error}");
        }
    }

    #[test]
    fn an_idle_rail_s_negative_noise_counts_as_nothing_and_more_is_refused() {
        let root = tempfile::tempdir().unwrap();
        monitor(root.path(), 1, AGX);
        monitor(root.path(), 1, &[(2, "VDD_CPU_CV", "20000", "-8\n")]);
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        joules(&mut meter, 0.0);
        let total = joules(&mut meter, 1.0);
        assert!((total - 15.0).abs() < 1e-9, "10 + 0 + 5 W: {total}");
        monitor(root.path(), 1, &[(2, "VDD_CPU_CV", "20000", "-5000")]);
        let error = meter.read(at(2.0)).unwrap_err();
        assert!(matches!(error, MeterError::Garbage { .. }), "{error}");
    }
}
