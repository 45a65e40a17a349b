//! The processor's own energy counters, one per package, in microjoules.
//!
//! Only top-level package domains count: cores and memory controllers below them are parts of the
//! same joules, the `psys` domain contains the packages again, and the `mmio` interface shows the
//! same counter twice. Counters wrap within minutes to hours at a range the kernel states; one
//! wrap between reads is recovered, two cannot be seen, so read at least every half minute. Often
//! only root may read them, and virtual machines show counters that stand still: that is a note
//! or an error, never a zero.

use std::path::{Path, PathBuf};
use std::time::Duration;

use moe2_model::{EnergySource, Figure, Seconds, Time};

use super::tally::Tally;
use super::{Meter, MeterError, Place, sysfs};

/// Where the kernel lists power-capping domains, below the root.
const POWERCAP: &str = "sys/class/powercap";

/// Name of a top-level domain, before its number. AMD processors appear under it too.
const PREFIX: &str = "intel-rapl:";

/// Microjoules in a joule.
const MICRO: f64 = 1e6;

/// No maker states an error. Studies that compared the packages with meters at the plug call them accurate
/// from Haswell on (Khan et al., "RAPL in Action", 2018); a tenth is assumed.
const RELATIVE_ERROR: f64 = 0.1;

/// How often the counters move on hardware, in seconds.
const STEP: f64 = 0.001;

/// Counters move every millisecond on hardware and every second or so where a hypervisor fills
/// them in; one that stands still for this long is dead.
const STILL: Duration = Duration::from_secs(10);

/// What the packages leave out.
const COVERS_NOTE: &str = "rapl: the joules are the CPU packages only; GPUs, disks, fans and losses \
                           of the power supply are not measured";

/// Why a platform domain alone is not taken.
const PSYS_NOTE: &str = "rapl: only the psys domain is here, and what it covers differs from board \
                         to board: energy is modelled";

/// One package's counter.
struct Package {
    counter: PathBuf,
    /// The largest value the counter takes before it starts again at zero, in microjoules.
    range: u64,
    last: u64,
    /// Moved at least once since discovery, which a dead counter never does.
    alive: bool,
    /// When it last moved, or was first read.
    moved: Option<Time>,
}

impl Package {
    fn open(domain: &Path) -> Result<Self, MeterError> {
        let range_at = domain.join("max_energy_range_uj");
        let range = sysfs::number(&range_at)?;
        if range == 0 {
            return Err(sysfs::garbage(&range_at, "0"));
        }
        let mut package = Self {
            counter: domain.join("energy_uj"),
            range,
            last: 0,
            alive: false,
            moved: None,
        };
        package.last = package.now()?;
        Ok(package)
    }

    fn now(&self) -> Result<u64, MeterError> {
        let value = sysfs::number(&self.counter)?;
        if value > self.range {
            return Err(sysfs::garbage(&self.counter, &value.to_string()));
        }
        Ok(value)
    }

    /// Microjoules from the last value to `now`, across at most one wrap.
    fn since_last(&self, now: u64) -> u64 {
        if now >= self.last {
            now - self.last
        } else {
            self.range - self.last + now
        }
    }

    /// Takes over the value read at `now`; the joules since the one before.
    fn take(&mut self, now: Time, value: u64) -> f64 {
        let used = self.since_last(value);
        self.last = value;
        if used > 0 {
            self.alive = true;
            self.moved = Some(now);
        }
        used as f64 / MICRO
    }

    /// Fails when the counter has stood still for too long.
    fn check_alive(&mut self, now: Time) -> Result<(), MeterError> {
        if now.since(*self.moved.get_or_insert(now)) < STILL {
            return Ok(());
        }
        Err(MeterError::Dead {
            path: self.counter.clone(),
        })
    }
}

/// All packages of the machine.
struct Rapl {
    packages: Vec<Package>,
    tally: Tally,
}

impl Meter for Rapl {
    fn source(&self) -> EnergySource {
        EnergySource::Rapl
    }

    fn lag(&self) -> Seconds {
        Seconds::saturating(STEP)
    }

    fn read(&mut self, now: Time) -> Result<Option<Figure>, MeterError> {
        // All or nothing: a package that fails must not let the others' energy count now and
        // again at the next read.
        let values: Vec<u64> = self
            .packages
            .iter()
            .map(Package::now)
            .collect::<Result<_, _>>()?;
        for (package, value) in self.packages.iter_mut().zip(values) {
            let joules = package.take(now, value);
            self.tally.count(joules, joules * RELATIVE_ERROR);
        }
        for package in &mut self.packages {
            package.check_alive(now)?;
        }
        let alive = self.packages.iter().all(|package| package.alive);
        Ok(alive.then_some(self.tally.total()))
    }
}

/// True for `intel-rapl:0` but not `intel-rapl:0:1`, when the kernel's name for it starts so.
fn is_called(domain: &Path, kind: &str) -> bool {
    let number = domain
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix(PREFIX));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
        && sysfs::text(&domain.join("name")).is_ok_and(|name| name.starts_with(kind))
}

/// Looks for readable package counters.
pub(super) fn find(place: &Place, notes: &mut Vec<String>) -> Option<Box<dyn Meter>> {
    let domains = sysfs::entries(&place.root.join(POWERCAP), PREFIX);
    let packages: Result<Vec<Package>, MeterError> = domains
        .iter()
        .filter(|domain| is_called(domain, "package"))
        .map(|domain| Package::open(domain))
        .collect();
    match packages {
        Ok(packages) if packages.is_empty() => {
            if domains.iter().any(|domain| is_called(domain, "psys")) {
                notes.push(PSYS_NOTE.to_owned());
            }
            None
        }
        Ok(packages) => {
            notes.push(COVERS_NOTE.to_owned());
            Some(Box::new(Rapl {
                packages,
                tally: Tally::new(EnergySource::Rapl),
            }))
        }
        Err(error) => {
            notes.push(format!("rapl: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn domain(root: &Path, which: &str, name: &str, energy: &str) {
        let base = format!("{POWERCAP}/{which}");
        let name_at = format!("{base}/name");
        let energy_at = format!("{base}/energy_uj");
        let range_at = format!("{base}/max_energy_range_uj");
        sysfs::fixture(
            root,
            &[
                (&name_at, name),
                (&energy_at, energy),
                (&range_at, "10000000\n"),
            ],
        );
    }

    fn joules(meter: &mut Box<dyn Meter>) -> f64 {
        meter.read(Time::ZERO).unwrap().unwrap().joules.get()
    }

    #[test]
    fn packages_add_up_and_their_parts_do_not() {
        let root = tempfile::tempdir().unwrap();
        for (which, name) in [
            ("intel-rapl:0", "package-0\n"),
            ("intel-rapl:1", "package-1\n"),
            ("intel-rapl:2", "psys\n"),
            ("intel-rapl:0:0", "core\n"),
            ("intel-rapl-mmio:0", "package-0\n"),
        ] {
            domain(root.path(), which, name, "1000000\n");
        }
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        assert_eq!(meter.source(), EnergySource::Rapl);
        assert_eq!(meter.read(Time::ZERO).unwrap(), None);
        for which in [
            "intel-rapl:0",
            "intel-rapl:2",
            "intel-rapl:0:0",
            "intel-rapl-mmio:0",
        ] {
            domain(root.path(), which, "package-0", "3000000\n");
        }
        domain(root.path(), "intel-rapl:1", "package-1", "1500000\n");
        assert!((joules(&mut meter) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_counter_that_wraps_keeps_counting() {
        let root = tempfile::tempdir().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "9000000\n");
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "500000\n");
        assert!((joules(&mut meter) - 1.5).abs() < 1e-9);
        assert!(
            (joules(&mut meter) - 1.5).abs() < 1e-9,
            "read again: no more energy"
        );
    }

    #[test]
    fn a_counter_that_cannot_be_read_is_a_note_and_no_meter() {
        let root = tempfile::tempdir().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "1");
        domain(root.path(), "intel-rapl:1", "package-1", "1");
        let counter = root.path().join(POWERCAP).join("intel-rapl:1/energy_uj");
        fs::remove_file(&counter).unwrap();
        fs::create_dir(&counter).unwrap();
        let mut notes = Vec::new();
        assert!(find(&Place::below(root.path()), &mut notes).is_none());
        assert!(notes[0].contains("cannot read"), "{notes:?}");
    }

    #[test]
    fn a_package_that_fails_later_loses_nothing_of_the_others() {
        let root = tempfile::tempdir().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "0");
        domain(root.path(), "intel-rapl:1", "package-1", "0");
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "2000000");
        domain(root.path(), "intel-rapl:1", "package-1", "what");
        assert!(meter.read(Time::ZERO).is_err());
        domain(root.path(), "intel-rapl:1", "package-1", "1000000");
        assert!((joules(&mut meter) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_value_beyond_the_stated_range_is_refused() {
        let root = tempfile::tempdir().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "10000001");
        let mut notes = Vec::new();
        assert!(find(&Place::below(root.path()), &mut notes).is_none());
        assert!(notes[0].contains("no reading"), "{notes:?}");
    }

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn joules_at(meter: &mut Box<dyn Meter>, seconds: u64) -> f64 {
        meter.read(at(seconds)).unwrap().unwrap().joules.get()
    }

    #[test]
    fn a_counter_that_never_moved_measures_nothing_and_then_is_dead() {
        let root = tempfile::tempdir().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "0");
        domain(root.path(), "intel-rapl:1", "package-1", "0");
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        for (second, moving) in [(40, "10"), (45, "20"), (49, "30")] {
            domain(root.path(), "intel-rapl:0", "package-0", moving);
            assert_eq!(meter.read(at(second)).unwrap(), None);
        }
        let error = meter.read(at(50)).unwrap_err();
        assert!(
            matches!(&error, MeterError::Dead { path } if path.ends_with("intel-rapl:1/energy_uj"))
        );
    }

    #[test]
    fn a_counter_that_stops_is_dead_until_it_moves_again() {
        let root = tempfile::tempdir().unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "0");
        let mut meter = find(&Place::below(root.path()), &mut Vec::new()).unwrap();
        domain(root.path(), "intel-rapl:0", "package-0", "1000000");
        assert_eq!(joules_at(&mut meter, 1), 1.0);
        assert_eq!(joules_at(&mut meter, 10), 1.0);
        let error = meter.read(at(11)).unwrap_err();
        assert!(matches!(error, MeterError::Dead { .. }), "{error}");
        domain(root.path(), "intel-rapl:0", "package-0", "3000000");
        assert_eq!(joules_at(&mut meter, 12), 3.0);
    }

    #[test]
    fn what_packages_leave_out_and_a_lone_platform_domain_are_said() {
        let root = tempfile::tempdir().unwrap();
        let mut notes = Vec::new();
        domain(root.path(), "intel-rapl:0", "psys", "1");
        assert!(find(&Place::below(root.path()), &mut notes).is_none());
        domain(root.path(), "intel-rapl:1", "package-0", "1");
        assert!(find(&Place::below(root.path()), &mut notes).is_some());
        assert_eq!(notes, [PSYS_NOTE, COVERS_NOTE]);
    }
}
