//! Exponential back-off with jitter.
//!
//! Delays double from a floor to a ceiling, and each is drawn from its upper half, so that agents
//! that lost the same coordinator do not come back in the same instant. The generator is a seeded
//! xorshift: the simulator must replay every delay.

use std::time::Duration;

/// Delays between attempts at the same thing.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    floor: Duration,
    ceiling: Duration,
    failures: u32,
    state: u64,
}

impl Backoff {
    pub(crate) fn new(floor: Duration, ceiling: Duration, seed: u64) -> Self {
        Self {
            floor,
            ceiling,
            failures: 0,
            state: seed | 1,
        }
    }

    /// The delay before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self
            .floor
            .saturating_mul(1 << self.failures.min(20))
            .min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let half = whole / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(self.state % micros)
    }

    /// It worked: the next failure starts from the floor again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_stay_between_half_the_floor_and_the_ceiling(seed: u64, attempts in 1usize..80) {
            let (floor, ceiling) = (Duration::from_millis(100), Duration::from_secs(3));
            let mut backoff = Backoff::new(floor, ceiling, seed);
            for _ in 0..attempts {
                let delay = backoff.next();
                prop_assert!(delay >= floor / 2 && delay <= ceiling);
            }
            backoff.reset();
            prop_assert!(backoff.next() <= floor);
        }
    }
}
