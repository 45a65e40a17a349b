//! A running total of joules and of the most by which it may be off.
//!
//! Both only ever grow, so the difference of two totals is a measurement with its own error, whatever
//! was before. Errors add up as they are: those of one sensor have one cause and do not cancel.

use std::time::Duration;

use moe2_model::{EnergySource, Figure, Joules, Time};

/// Between reads further apart than this nobody knows what was drawn; a straight line would invent
/// energy, for instance over a nap of the process. The engine bridges such a gap with its model.
const LONGEST_GAP: Duration = Duration::from_secs(5);

/// Power at a moment, in watts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Power {
    pub(super) watts: f64,
    /// The most by which it may be off.
    pub(super) error: f64,
}

/// The totals, and where the next trapezoid starts.
#[derive(Debug)]
pub(super) struct Tally {
    total: Figure,
    last: Option<(Time, Power)>,
}

impl Tally {
    pub(super) fn new(source: EnergySource) -> Self {
        Self {
            total: Figure {
                source,
                ..Figure::NONE
            },
            last: None,
        }
    }

    pub(super) fn total(&self) -> Figure {
        self.total
    }

    /// Joules that a counter has counted.
    pub(super) fn count(&mut self, joules: f64, error: f64) {
        self.total.joules += Joules::saturating(joules);
        self.total.error += Joules::saturating(error);
    }

    /// Power as it was read: a trapezoid since the last read, exact while power is constant or changes
    /// steadily. A step between the two is off by at most half of it.
    pub(super) fn integrate(&mut self, now: Time, power: Power) {
        if let Some((then, before)) = self.last
            && now.since(then) <= LONGEST_GAP
        {
            let seconds = now.seconds_since(then).get();
            let step = (power.watts - before.watts).abs();
            self.count(
                (before.watts + power.watts) / 2.0 * seconds,
                (before.error + power.error + step) / 2.0 * seconds,
            );
        }
        // A clock that stands still or steps back must not make an interval count twice.
        let time = self.last.map_or(now, |(then, _)| then.max(now));
        self.last = Some((time, power));
    }
}
