//! Against a stand-in for the library, loaded as the real one is.

use super::*;
use std::fs;
use std::path::PathBuf;

use crate::meter::{Chain, Choice, sysfs};

/// NVML's codes.
const NOT_SUPPORTED: &str = "error 3";
const GPU_IS_LOST: &str = "error 15";

/// A folder with the stand-in and the file that moves it.
struct Driver(tempfile::TempDir);

impl Driver {
    fn new(state: &str) -> Self {
        let driver = Self(tempfile::tempdir().unwrap());
        fs::copy(stand_in(), driver.library()).unwrap();
        driver.says(state);
        driver
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("libnvidia-ml.so.1")
    }

    fn says(&self, state: &str) {
        fs::write(self.0.path().join("state"), state).unwrap();
    }

    fn place(&self) -> Place {
        Place::below(self.0.path())
    }

    fn find(&self) -> (Option<Box<dyn Meter>>, Vec<String>) {
        let mut notes = Vec::new();
        let meter = find(&self.place(), &mut notes);
        (meter, notes)
    }
}

/// Cargo builds the stand-in beside this test, because it is a dependency of it.
pub(crate) fn stand_in() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.with_file_name("libmoe2_fake_nvml.so")
}

fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1_000)
}

fn read(meter: &mut Box<dyn Meter>, millis: u64) -> (f64, f64) {
    let total = meter.read(at(millis)).unwrap().unwrap();
    assert_eq!(total.source, EnergySource::Nvml);
    (total.joules.get(), total.error.get())
}

fn near((joules, error): (f64, f64), (j, e): (f64, f64)) -> bool {
    (joules - j).abs() < 1e-9 && (error - e).abs() < 1e-9
}

#[test]
fn a_counter_in_millijoules_becomes_joules_and_five_percent_of_them() {
    let driver = Driver::new("boards 1\nenergy 0 9000000\npower 0 1\n");
    let mut meter = driver.find().0.unwrap();
    assert_eq!(meter.lag(), Seconds::saturating(COUNTER_LAG));
    assert_eq!(meter.read(at(0)).unwrap(), None, "it may be dead");
    driver.says("boards 1\nenergy 0 9300000\n");
    assert!(near(read(&mut meter, 1_000), (300.0, 15.0)));
    // At 20 W five percent would be one watt; five are stated.
    driver.says("boards 1\nenergy 0 9320000\n");
    assert!(near(read(&mut meter, 2_000), (320.0, 20.0)));
}

#[test]
fn boards_add_up_and_one_without_a_counter_has_its_power_integrated() {
    let driver = Driver::new("boards 2\nenergy 0 1000\npower 1 200000\n");
    let (meter, notes) = driver.find();
    let mut meter = meter.unwrap();
    assert_eq!(meter.lag(), Seconds::saturating(POWER_LAG));
    assert!(notes[1].contains("its power is integrated"), "{notes:?}");
    meter.read(at(0)).unwrap();
    driver.says("boards 2\nenergy 0 101000\npower 1 200000\n");
    // 100 J counted, and 200 W for a second.
    assert!(near(read(&mut meter, 1_000), (300.0, 5.0 + 10.0)));
}

#[test]
fn a_module_that_supports_neither_is_a_note_and_the_next_kind_is_taken() {
    let driver = Driver::new("boards 1\n");
    let (meter, notes) = driver.find();
    assert!(meter.is_none());
    assert!(notes[0].contains("NVML board 0"), "{notes:?}");
    let explicit = format!("boards 1\nenergy 0 {NOT_SUPPORTED}\npower 0 {NOT_SUPPORTED}\n");
    driver.says(&explicit);
    assert!(driver.find().0.is_none());
    let ina = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1";
    let file = |name: &str| format!("{ina}/{name}");
    let (label, volts, amperes) = (file("in1_label"), file("in1_input"), file("curr1_input"));
    let files = [
        (label.as_str(), "VDD_IN"),
        (&volts, "5000"),
        (&amperes, "900"),
    ];
    sysfs::fixture(driver.0.path(), &files);
    let mut chain = Chain::new(driver.place(), Choice::Auto);
    let meter = chain.next_meter().unwrap();
    assert_eq!(meter.source(), EnergySource::Ina3221);
    assert!(chain.next_meter().is_none());
}

#[test]
fn a_board_that_is_lost_is_an_error_and_never_a_figure() {
    let driver = Driver::new("boards 2\nenergy 0 1000\nenergy 1 1000\n");
    let mut meter = driver.find().0.unwrap();
    meter.read(at(0)).unwrap();
    driver.says("boards 2\nenergy 0 2000\nenergy 1 2000\n");
    read(&mut meter, 100);
    driver.says(&format!(
        "boards 2\nenergy 0 9000\nenergy 1 {GPU_IS_LOST}\n"
    ));
    let error = meter.read(at(200)).unwrap_err();
    assert!(
        matches!(error, MeterError::Nvml { board: 1, .. }),
        "{error}"
    );
    assert!(driver.find().0.is_none(), "a sum with a part missing");
    // Nothing of the other was taken twice or lost meanwhile.
    driver.says("boards 2\nenergy 0 9000\nenergy 1 3000\n");
    assert!((read(&mut meter, 300).0 - 10.0).abs() < 1e-9);
}

#[test]
fn a_counter_that_begins_anew_is_an_error_once_and_counts_from_there() {
    let driver = Driver::new("boards 1\nenergy 0 5000\n");
    let mut meter = driver.find().0.unwrap();
    meter.read(at(0)).unwrap();
    driver.says("boards 1\nenergy 0 6000\n");
    read(&mut meter, 100);
    driver.says("boards 1\nenergy 0 10\n");
    let error = meter.read(at(200)).unwrap_err();
    assert!(matches!(error, MeterError::Restarted { .. }), "{error}");
    driver.says("boards 1\nenergy 0 1010\n");
    assert!((read(&mut meter, 300).0 - 2.0).abs() < 1e-9);
}

#[test]
fn a_counter_that_stands_still_or_power_of_nothing_is_dead() {
    let driver = Driver::new("boards 1\nenergy 0 5000\n");
    let mut meter = driver.find().0.unwrap();
    assert_eq!(meter.read(at(0)).unwrap(), None);
    let error = meter.read(at(10_000)).unwrap_err();
    assert!(matches!(error, MeterError::Dead { .. }), "{error}");
    driver.says("boards 1\npower 0 0\n");
    let (meter, notes) = driver.find();
    assert!(
        meter.is_none() && notes[0].contains("no power"),
        "{notes:?}"
    );
}

#[test]
fn without_a_library_or_boards_there_is_nothing_to_say_unless_there_is_a_driver() {
    let driver = Driver::new("boards 0\n");
    let (meter, notes) = driver.find();
    assert!(meter.is_none() && notes.is_empty(), "{notes:?}");
    fs::remove_file(driver.library()).unwrap();
    let (meter, notes) = driver.find();
    assert!(meter.is_none() && notes.is_empty(), "{notes:?}");
    sysfs::fixture(driver.0.path(), &[("dev/nvidia0", "")]);
    let (meter, notes) = driver.find();
    assert!(meter.is_none());
    assert!(notes[0].contains("cannot be used"), "{notes:?}");
    // A library that is none.
    fs::write(driver.library(), "no library").unwrap();
    assert!(driver.find().0.is_none());
}

#[test]
fn boards_are_used_for_work_on_processors_only_if_they_are_chosen() {
    let driver = Driver::new("boards 1\nenergy 0 5000\n");
    let found = |choice| Chain::new(driver.place(), choice).next_meter();
    assert!(found(Choice::Auto).is_none());
    assert!(found(Choice::Rapl).is_none());
    let meter = found(Choice::Nvml).expect("it was chosen");
    assert_eq!(meter.source(), EnergySource::Nvml);
}
