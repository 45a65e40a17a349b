//! What every kind of meter comes to on this machine, for `moe2-agent probe`.
//!
//! Unlike discovery this does not stop at the first meter that works: whoever sets a machine up
//! wants to see them all, and why the others cannot be used. A meter that shows nothing while it is
//! watched says so, and gets no figure.

use std::fmt;
use std::time::{Duration, Instant};

use moe2_model::{EnergySource, Time};
use serde::Serialize;

use super::{METERS, Meter, MeterError, Place};

/// Reads this far apart, as the agent's own while work runs.
const STEP: Duration = Duration::from_millis(100);

/// One kind of meter on this machine.
#[derive(Debug, Serialize)]
pub(crate) struct Surveyed {
    source: EnergySource,
    needs: &'static str,
    covers: &'static str,
    error: &'static str,
    /// Whether discovery would take it.
    found: bool,
    /// What it counted while it was watched; none without a reading at both ends.
    joules: Option<f64>,
    /// The most by which that may be off.
    error_j: Option<f64>,
    /// Seconds from the first to the last reading behind `joules`.
    seconds: Option<f64>,
    notes: Vec<String>,
}

impl fmt::Display for Surveyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        match (self.found, self.joules, self.error_j, self.seconds) {
            (true, Some(joules), Some(error), Some(seconds)) => {
                write!(f, "{joules:.2} J ±{error:.2} J in {seconds:.2} s")?;
            }
            (true, ..) => f.write_str("here, no figure")?,
            (false, ..) => {
                return write!(f, "not here, needs {}{}", self.needs, Notes(&self.notes));
            }
        }
        write!(f, "; covers {}; error: {}", self.covers, self.error)?;
        write!(f, "{}", Notes(&self.notes))
    }
}

struct Notes<'a>(&'a [String]);

impl fmt::Display for Notes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|note| write!(f, " ({note})"))
    }
}

/// Every kind, each watched for `watched`.
pub(crate) fn survey(place: &Place, watched: Option<Duration>) -> Vec<Surveyed> {
    let mut all = Vec::new();
    for kind in METERS {
        let mut notes = Vec::new();
        let meter = kind.find.and_then(|find| find(place, &mut notes));
        let found = meter.is_some() || kind.find.is_none();
        let counted = match (meter, watched) {
            (Some(mut meter), Some(watched)) => {
                watch(meter.as_mut(), watched).unwrap_or_else(|e| {
                    notes.push(e.to_string());
                    None
                })
            }
            _ => None,
        };
        all.push(Surveyed {
            source: kind.source,
            needs: kind.needs,
            covers: kind.covers,
            error: kind.error,
            found,
            joules: counted.map(|counted| counted.joules),
            error_j: counted.map(|counted| counted.error),
            seconds: counted.map(|counted| counted.seconds),
            notes,
        });
    }
    all
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    joules: f64,
    error: f64,
    seconds: f64,
}

/// What was counted between the first and the last reading.
fn watch(meter: &mut dyn Meter, watched: Duration) -> Result<Option<Counted>, MeterError> {
    let zero = Instant::now();
    let mut ends = None;
    while zero.elapsed() < watched {
        let micros = u64::try_from(zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        let now = Time::from_micros(micros);
        if let Some(total) = meter.read(now)? {
            let (first, _) = ends.unwrap_or(((now, total), (now, total)));
            ends = Some((first, (now, total)));
        }
        std::thread::sleep(STEP);
    }
    Ok(ends.and_then(|((began, first), (ended, last))| {
        let counted = Counted {
            joules: (last.joules - first.joules).get(),
            error: (last.error - first.error).get(),
            seconds: ended.seconds_since(began).get(),
        };
        // Nothing that runs this program draws nothing: no figure rather than 0 J.
        (counted.joules > 0.0).then_some(counted)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_and_what_is_not_there_has_no_figure() {
        let root = tempfile::tempdir().unwrap();
        let all = survey(&Place::below(root.path()), Some(Duration::ZERO));
        assert_eq!(all.len(), METERS.len());
        for (one, kind) in all.iter().zip(METERS) {
            assert!(one.joules.is_none(), "{one:?}");
            assert_eq!(
                one.found,
                kind.find.is_none(),
                "only the model is everywhere"
            );
        }
        let (first, needs) = (all[0].to_string(), METERS[0].needs);
        assert_eq!(first, format!("measured:ina3221: not here, needs {needs}"));
    }
}
