//! A point on the driver's monotonic clock.
//!
//! Pure crates never read a clock: whoever drives them passes `Time` in. The simulator passes
//! virtual microseconds, the real drivers microseconds since they started. `std::time::Instant`
//! was not taken because it cannot be constructed, so a simulator could not speak it.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Seconds;

/// Microseconds since the driver's own zero; never goes backwards.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Time(u64);

impl Time {
    /// The driver's zero.
    pub const ZERO: Self = Self(0);

    /// A point `micros` microseconds after the driver's zero.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the driver's zero.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Seconds passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> Seconds {
        Seconds::from_duration(self.since(earlier))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}
