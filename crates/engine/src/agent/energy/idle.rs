//! What the device draws without work.
//!
//! Learnt from the meter while no job runs: a mean that forgets, so that it follows a fan or a warm room.
//! A minimum was not taken: one reading that came too early would hold it down for ever.

use moe2_model::Figure;

/// Time after which the mean has forgotten two thirds, in seconds.
const MEMORY: f64 = 60.0;
/// Shorter times say more about the meter's steps than about the device, in seconds.
const SHORTEST: f64 = 0.5;
/// Until something was learnt, of what the device draws no more than this share is taken for idle power:
/// an assumption that is too high must not make work free.
const ASSUMED_AT_MOST: f64 = 0.5;

#[derive(Debug)]
pub(super) struct Idle {
    assumed: f64,
    learnt: Option<Learnt>,
}

#[derive(Debug, Clone, Copy)]
struct Learnt {
    watts: f64,
    error: f64,
}

impl Idle {
    pub(super) fn assumed(watts: f64) -> Self {
        Self {
            assumed: watts.max(0.0),
            learnt: None,
        }
    }

    /// The watts of the configuration.
    pub(super) fn assumption(&self) -> f64 {
        self.assumed
    }

    /// Another meter sees another part of the machine.
    pub(super) fn forget(&mut self) {
        self.learnt = None;
    }

    /// So much was drawn in so many seconds without work.
    pub(super) fn learn(&mut self, seconds: f64, drawn: Figure) {
        if seconds < SHORTEST {
            return;
        }
        let seen = Learnt {
            watts: drawn.joules.get() / seconds,
            error: drawn.error.get() / seconds,
        };
        let before = self.learnt.unwrap_or(seen);
        let pull = (seconds / MEMORY).min(1.0);
        self.learnt = Some(Learnt {
            watts: before.watts + (seen.watts - before.watts) * pull,
            error: before.error + (seen.error - before.error) * pull,
        });
    }

    /// Idle power and what it may be off by, of a device that draws `watts` now.
    pub(super) fn within(&self, watts: f64) -> (f64, f64) {
        if let Some(learnt) = self.learnt {
            return (learnt.watts.min(watts), learnt.error);
        }
        let idle = self.assumed.min(watts * ASSUMED_AT_MOST);
        // It may be nothing, or all that was assumed.
        (idle, self.assumed.max(idle))
    }
}
