//! Physical quantities as newtypes over `f64` (bytes: `u64`).
//!
//! Budgets are stated in joules and seconds, devices in watts, memory in bytes; mixing them up is
//! the easiest way to be wrong by three orders of magnitude. The constructor refuses NaN, infinite
//! and negative values once, at the boundary, so that no code past it has to check again.
//! `uom` was not taken: four units and five products do not pay for dimension generics in every
//! signature and on the wire.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub};

use serde::{Deserialize, Serialize};

/// A number that is not a finite quantity of at least zero.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{value:?} is not a quantity: use a finite number of at least 0")]
pub struct NotAQuantity {
    /// The number that was refused.
    pub value: f64,
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $unit:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0.0);

            /// A finite, non-negative amount; anything else is refused.
            ///
            /// # Errors
            /// [`NotAQuantity`] when `value` is NaN, infinite or negative.
            pub fn new(value: f64) -> Result<Self, NotAQuantity> {
                if value.is_finite() && value >= 0.0 { Ok(Self(value)) } else { Err(NotAQuantity { value }) }
            }

            /// The amount clamped into `[0, f64::MAX]`; NaN becomes zero. For results of arithmetic
            /// on quantities that were checked before, where rounding may leave the range by a hair.
            #[must_use]
            pub const fn saturating(value: f64) -> Self {
                if value > 0.0 { Self(value.min(f64::MAX)) } else { Self(0.0) }
            }

            #[doc = concat!("The amount in ", $unit, ".")]
            #[must_use]
            pub const fn get(self) -> f64 {
                self.0
            }

            /// The larger of two amounts.
            #[must_use]
            pub fn max(self, other: Self) -> Self {
                if self.0 >= other.0 { self } else { other }
            }

            /// The smaller of two amounts.
            #[must_use]
            pub fn min(self, other: Self) -> Self {
                if self.0 <= other.0 { self } else { other }
            }
        }

        impl TryFrom<f64> for $name {
            type Error = NotAQuantity;
            fn try_from(value: f64) -> Result<Self, NotAQuantity> {
                Self::new(value)
            }
        }
        impl From<$name> for f64 {
            fn from(quantity: $name) -> f64 {
                quantity.0
            }
        }
        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self::saturating(self.0 + other.0)
            }
        }
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }
        impl Sub for $name {
            type Output = Self;
            /// Difference, but never below zero.
            fn sub(self, other: Self) -> Self {
                Self::saturating(self.0 - other.0)
            }
        }
        impl Mul<f64> for $name {
            type Output = Self;
            fn mul(self, factor: f64) -> Self {
                Self::saturating(self.0 * factor)
            }
        }
        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, Add::add)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match f.precision() {
                    Some(digits) => write!(f, "{:.digits$} {}", self.0, $unit),
                    None => write!(f, "{} {}", self.0, $unit),
                }
            }
        }
    };
}

quantity!(
    /// A length of time in seconds.
    Seconds,
    "s"
);
quantity!(
    /// Energy in joules.
    Joules,
    "J"
);
quantity!(
    /// Power in watts.
    Watts,
    "W"
);

impl Seconds {
    /// From a standard duration.
    #[must_use]
    pub fn from_duration(duration: std::time::Duration) -> Self {
        Self::saturating(duration.as_secs_f64())
    }
}

impl Mul<Seconds> for Watts {
    type Output = Joules;
    fn mul(self, time: Seconds) -> Joules {
        Joules::saturating(self.get() * time.get())
    }
}

/// A number of bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1024.0 * 1024.0;
        // Precision loss starts at 2^53 bytes, beyond any memory shown here.
        #[allow(clippy::cast_precision_loss)]
        let mib = self.0 as f64 / MIB;
        write!(f, "{mib:.0} MiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_refuses_what_is_not_one() {
        for bad in [f64::NAN, f64::INFINITY, -0.1] {
            assert!(Joules::new(bad).is_err(), "{bad} must be refused");
        }
        assert_eq!(Joules::new(2.5).map(Joules::get), Ok(2.5));
    }

    #[test]
    fn a_refusal_is_short_however_long_the_number() {
        let text = |bad| Joules::new(bad).expect_err("refused").to_string();
        assert!(text(-0.1).starts_with("-0.1 is not a quantity"));
        assert!(text(-1e300).starts_with("-1e300 is not a quantity"));
    }

    #[test]
    fn power_times_time_is_energy_and_differences_stop_at_zero() {
        assert_eq!(
            Watts::saturating(15.0) * Seconds::saturating(2.0),
            Joules::saturating(30.0)
        );
        assert_eq!(
            Joules::saturating(1.0) - Joules::saturating(3.0),
            Joules::ZERO
        );
    }
}
