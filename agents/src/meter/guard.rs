//! How often a meter may fail before it is given up.
//!
//! Sensor buses are busy now and then, and a total makes up for one lost read at the next good
//! one, so a single failure is no reason to model the rest of the day. Failures are counted a step
//! apart: readings are asked for in bursts, and three within a millisecond are one hiccup. A dead
//! sensor keeps failing and is given up after two steps.

use std::time::Duration;

use moe2_engine::agent::MeterReading;
use moe2_model::Time;

use super::{Meter, MeterError};

/// Failures in a row after which the meter is given up.
const STRIKES: u32 = 3;

/// What a guarded read came to.
#[derive(Debug)]
pub(crate) enum Reading {
    /// The meter's running total.
    Total(MeterReading),
    /// No figure yet: the sensor has not shown life, or waits for its next attempt.
    Nothing,
    /// The read failed and will be tried again.
    Failed(MeterError),
    /// It failed too often: drop the meter.
    Lost(MeterError),
}

/// A meter and its failures in a row.
pub(crate) struct Guarded {
    meter: Box<dyn Meter>,
    failures: u32,
    again: Time,
    step: Duration,
}

impl Guarded {
    /// Guards `meter`, which is left alone for `step` after each failure.
    pub(crate) fn new(meter: Box<dyn Meter>, step: Duration) -> Self {
        Self {
            meter,
            failures: 0,
            again: Time::ZERO,
            step,
        }
    }

    /// Reads the meter, unless it failed just now.
    pub(crate) fn read(&mut self, now: Time) -> Reading {
        if now < self.again {
            return Reading::Nothing;
        }
        match self.meter.read(now) {
            Ok(total) => {
                self.failures = 0;
                let reading = |total| MeterReading {
                    at: now,
                    total,
                    lag: self.meter.lag(),
                };
                total.map_or(Reading::Nothing, |total| Reading::Total(reading(total)))
            }
            Err(error) => {
                self.failures += 1;
                self.again = now + self.step;
                if self.failures < STRIKES {
                    Reading::Failed(error)
                } else {
                    Reading::Lost(error)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{EnergySource, Figure, Joules, Seconds};
    use std::collections::VecDeque;

    /// Gives the scripted totals in turn; `Err` is a failed read.
    struct Script(VecDeque<Result<Option<f64>, ()>>);

    impl Meter for Script {
        fn source(&self) -> EnergySource {
            EnergySource::Rapl
        }

        fn lag(&self) -> Seconds {
            Seconds::ZERO
        }

        fn read(&mut self, _now: Time) -> Result<Option<Figure>, MeterError> {
            let next = self.0.pop_front().expect("the script is long enough");
            let figure = |joules| Figure {
                joules: Joules::saturating(joules),
                error: Joules::ZERO,
                source: EnergySource::Rapl,
            };
            next.map(|total| total.map(figure))
                .map_err(|()| MeterError::Dead { path: "x".into() })
        }
    }

    /// One letter per reading, asked for every `every` milliseconds.
    fn readings(script: &[Result<Option<f64>, ()>], every: u64, asked: u64) -> String {
        let script = Script(script.iter().copied().collect());
        let mut guarded = Guarded::new(Box::new(script), Duration::from_millis(100));
        (0..asked)
            .map(
                |n| match guarded.read(Time::from_micros(n * every * 1000)) {
                    Reading::Total(_) => 'T',
                    Reading::Nothing => '-',
                    Reading::Failed(_) => 'f',
                    Reading::Lost(_) => 'L',
                },
            )
            .collect()
    }

    #[test]
    fn only_the_third_failure_in_a_row_loses_the_meter() {
        let good = Ok(Some(1.0));
        let script = [good, Err(()), Err(()), good, Err(()), Err(()), Err(())];
        assert_eq!(readings(&script, 100, 7), "TffTffL");
    }

    #[test]
    fn a_burst_of_events_is_one_failure() {
        let script = [Err(()), Err(()), Ok(Some(1.0))];
        assert_eq!(readings(&script, 25, 9), "f---f---T");
    }

    #[test]
    fn a_meter_that_has_shown_no_life_yet_gives_no_figure() {
        assert_eq!(readings(&[Ok(None), Ok(Some(0.5))], 100, 2), "-T");
    }
}
