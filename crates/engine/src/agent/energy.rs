//! Which job used which joules.
//!
//! Between two moments the jobs that were busy share what the device used then, in equal parts: one
//! job per worker, all workers alike. Without a meter that is the dynamic power of the device (busy
//! minus idle) times the time; with one it is the meter's difference. Idle power belongs to no job;
//! the coordinator books it as standing energy.

use std::collections::BTreeMap;

use moe2_model::{DispatchId, Joules, Time};

/// Keeps the account of every busy job.
#[derive(Debug)]
pub(crate) struct Accountant {
    at: Time,
    dynamic_watts: f64,
    meter: Option<f64>,
    busy: BTreeMap<DispatchId, f64>,
}

impl Accountant {
    pub(crate) fn new(now: Time, dynamic_watts: f64) -> Self {
        Self {
            at: now,
            dynamic_watts: dynamic_watts.max(0.0),
            meter: None,
            busy: BTreeMap::new(),
        }
    }

    /// Time passed. Without a meter, the model says what was used.
    pub(crate) fn advance(&mut self, now: Time) {
        let seconds = now.seconds_since(self.at).get();
        self.at = now.max(self.at);
        if self.meter.is_none() && !self.busy.is_empty() {
            self.share(seconds * self.dynamic_watts);
        }
    }

    /// The meter's total at `now`. The first reading only sets the zero.
    pub(crate) fn measured(&mut self, now: Time, total: Joules) {
        let total = total.get();
        if let Some(before) = self.meter {
            self.share((total - before).max(0.0));
        }
        self.meter = Some(total);
        self.at = now.max(self.at);
    }

    /// Whether joules come from readings by now.
    pub(crate) fn is_measuring(&self) -> bool {
        self.meter.is_some()
    }

    /// No more readings: the model takes over from here.
    pub(crate) fn meter_lost(&mut self) {
        self.meter = None;
    }

    pub(crate) fn begin(&mut self, job: DispatchId) {
        self.busy.insert(job, 0.0);
    }

    /// The job is not busy any more; what it used.
    pub(crate) fn end(&mut self, job: DispatchId) -> Joules {
        Joules::saturating(self.busy.remove(&job).unwrap_or(0.0))
    }

    #[allow(clippy::cast_precision_loss)] // a handful of jobs
    fn share(&mut self, joules: f64) {
        let each = joules / self.busy.len().max(1) as f64;
        for account in self.busy.values_mut() {
            *account += each;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: DispatchId = DispatchId(1);
    const B: DispatchId = DispatchId(2);

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn jobs_that_overlap_share_the_power_while_they_do() {
        let mut accountant = Accountant::new(at(0), 10.0);
        accountant.begin(A);
        accountant.advance(at(2));
        accountant.begin(B);
        accountant.advance(at(4));
        assert_eq!(accountant.end(A), Joules::saturating(30.0));
        accountant.advance(at(5));
        assert_eq!(accountant.end(B), Joules::saturating(20.0));
    }

    #[test]
    fn a_meter_replaces_the_model_from_its_second_reading_on() {
        let mut accountant = Accountant::new(at(0), 10.0);
        accountant.measured(at(0), Joules::saturating(1000.0));
        accountant.begin(A);
        accountant.measured(at(3), Joules::saturating(1042.0));
        accountant.advance(at(3));
        assert_eq!(accountant.end(A), Joules::saturating(42.0));
    }

    proptest! {
        #[test]
        fn no_joule_is_lost_or_invented(
            steps in prop::collection::vec((0u64..3, 0u64..4), 1..40),
        ) {
            let mut accountant = Accountant::new(at(0), 7.0);
            let (mut now, mut expected, mut given) = (0, 0.0, 0.0);
            let mut busy = std::collections::BTreeSet::new();
            for (job, wait) in steps {
                if !busy.is_empty() {
                    expected += 7.0 * f64::from(u32::try_from(wait).expect("small"));
                }
                now += wait;
                accountant.advance(at(now));
                if busy.remove(&job) {
                    given += accountant.end(DispatchId(job)).get();
                } else {
                    busy.insert(job);
                    accountant.begin(DispatchId(job));
                }
            }
            for job in busy {
                given += accountant.end(DispatchId(job)).get();
            }
            prop_assert!((expected - given).abs() < 1e-6);
        }
    }
}
