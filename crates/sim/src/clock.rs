//! A process's own clock: an offset and a drift against the world's time.
//!
//! Engines see their own `now` only, so a promise that leans on two clocks agreeing is found out. A clock
//! never goes backwards, and never drifts by more than half, so that every time of it has one of the world.

use moe2_model::Time;

/// Parts in a million by which a clock may drift at most.
const MOST_PPM: i64 = 500_000;

/// What a process reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clock {
    /// When it was started, in the world's time.
    started: Time,
    /// What it said then.
    offset: u64,
    ppm: i64,
}

impl Clock {
    pub(crate) fn new(started: Time, offset: u64, ppm: i64) -> Self {
        Self {
            started,
            offset,
            ppm: ppm.clamp(-MOST_PPM, MOST_PPM),
        }
    }

    /// The same, counted from its start.
    pub(crate) const fn since_start(self) -> Self {
        Self { offset: 0, ..self }
    }

    /// What it says at a moment of the world.
    pub(crate) fn read(&self, at: Time) -> Time {
        let passed = at.as_micros().saturating_sub(self.started.as_micros());
        let passed_i = i128::from(passed);
        let drifted = passed_i + passed_i * i128::from(self.ppm) / 1_000_000;
        Time::from_micros(self.offset + u64::try_from(drifted).unwrap_or(u64::MAX / 2))
    }

    /// The first moment of the world at which it says `local` or more.
    pub(crate) fn when(&self, local: Time) -> Time {
        let wanted = i128::from(local.as_micros().saturating_sub(self.offset));
        let passed = wanted * 1_000_000 / i128::from(1_000_000 + self.ppm);
        let passed = u64::try_from(passed).unwrap_or(u64::MAX / 2);
        // Divisions round down: the first moment is here or a little off.
        let mut at = (self.started.as_micros() + passed).saturating_sub(2);
        at = at.max(self.started.as_micros());
        while self.read(Time::from_micros(at)) < local {
            at += 1;
        }
        Time::from_micros(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Rng;

    #[test]
    fn a_deadline_is_due_at_the_first_moment_that_the_clock_says_so() {
        let mut rng = Rng::new(3);
        for _ in 0..20_000 {
            let started = Time::from_micros(rng.below(50_000_000) as u64);
            let ppm = i64::from(rng.between(0, 1_000_000)) - 500_000;
            let clock = Clock::new(started, rng.below(1_000_000) as u64, ppm);
            let offset = clock.read(started).as_micros();
            let local = Time::from_micros(offset + rng.below(100_000_000) as u64);
            let at = clock.when(local);
            assert!(clock.read(at) >= local, "{clock:?} {local:?} {at:?}");
            if at > started {
                let before = Time::from_micros(at.as_micros() - 1);
                assert!(clock.read(before) < local, "{clock:?} {local:?} {at:?}");
            }
        }
    }
}
