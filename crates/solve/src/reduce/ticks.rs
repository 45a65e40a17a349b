//! Values as whole numbers of ticks, so that every bound of a search is exact arithmetic.
//!
//! A weighted utility `w·u` becomes an unsigned 32-bit count of ticks. Floating point would do for
//! values, but a proof needs bounds that are never below the truth, and sums of rounded numbers give
//! that only with slack everywhere; whole numbers add up the same in any order and on any machine.
//!
//! Two cases. *Exact*: all weighted utilities are small multiples of one number (0/1 tables, grades
//! in tenths, merged rows), which then becomes `step` ticks; values of sets are multiples of `step`
//! and so are bounds, rounded down. *Rounded up*: otherwise each is rounded up to a tick, with the
//! table's total at 2³²; a set's ticks exceed its true value by less than one tick per row and rank,
//! under 10⁻⁶ of the total, and sets inside that window are compared by their exact values.

/// Distinct weighted utilities beyond which no common unit is looked for.
const MAX_DISTINCT: usize = 4096;
/// The smallest weighted utility is tried as 1 to this many units: grades come in tenths or so.
const MAX_DIVISOR: u32 = 64;
/// Relative error within which a weighted utility is a multiple of the unit: products of decimal
/// fractions are off by a few roundings.
const EXACT: f64 = 1e-11;
/// Relative error of a sum over the largest table, and of the unit.
const ROUNDING: f64 = 1e-11;
/// Units in the table's total, at most, so that the roundings above stay below half a unit.
const MAX_UNITS: f64 = 1e8;
/// Relative distance within which two values count as equal: half of what optimality claims, the
/// other half is for the roundings of exact values.
pub(crate) const TIE: f64 = crate::solution::OPTIMALITY_TOLERANCE / 2.0;

/// How values are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ticks {
    /// Value of one tick.
    unit: f64,
    /// Every set's value is a multiple of this many ticks.
    step: u64,
    /// Whether ticks are exact rather than rounded up.
    exact: bool,
}

impl Ticks {
    /// The scale for a table whose rows' largest weighted utilities sum to `total`, over `rows` rows;
    /// `worths` are all its weighted utilities, if a common unit is wanted.
    pub(crate) fn of(worths: Option<impl Iterator<Item = f64>>, total: f64, rows: usize) -> Self {
        // One tick per row is kept free for rounding up.
        let range = f64::from(u32::MAX) - rows as f64;
        if let Some(unit) = worths.and_then(|worths| common_unit(worths, total)) {
            let step = (range / (total / unit + 1.0)).floor();
            return Self {
                unit: unit / step,
                step: step as u64,
                exact: true,
            };
        }
        Self {
            unit: (total / range).max(f64::MIN_POSITIVE),
            step: 1,
            exact: false,
        }
    }

    /// Ticks of one weighted utility.
    pub(crate) fn count(&self, worth: f64) -> u32 {
        if self.exact {
            ((worth / self.unit / self.step as f64).round() as u64 * self.step) as u32
        } else {
            (worth / self.unit).ceil() as u32
        }
    }

    /// The most that a set can be worth, in ticks, if its value is at most `ticks`.
    pub(crate) fn floor(&self, ticks: f64) -> u64 {
        if ticks.is_nan() {
            return u64::MAX / self.step * self.step;
        }
        // What floating-point sums of whole numbers below 2⁴⁵ or so can be off by.
        let safe = ticks.max(0.0) * (1.0 + 1e-12) + 1e-3;
        safe as u64 / self.step * self.step
    }

    /// The most that this many ticks can be worth, whichever way a value is added up.
    pub(crate) fn value(&self, ticks: u64) -> f64 {
        ticks as f64 * self.unit * (1.0 + ROUNDING)
    }

    /// A set with this many ticks or fewer is no better than one that is worth `value`.
    pub(crate) fn no_better_than(&self, value: f64) -> u64 {
        let slack = if self.exact { 1e-9 } else { TIE };
        let ticks = (value / self.unit * (1.0 + slack)) as u64;
        ticks / self.step * self.step
    }

    /// By how many ticks one weighted utility may be overstated.
    pub(crate) fn window(&self) -> u64 {
        u64::from(!self.exact)
    }

    /// The number of which all values are multiples, if there is one.
    pub(crate) fn common_unit(&self) -> Option<f64> {
        self.exact.then_some(self.unit * self.step as f64)
    }

    pub(crate) fn step(&self) -> u64 {
        self.step
    }
}

/// A number of which every positive weighted utility is a multiple, if there is a simple one.
fn common_unit(worths: impl Iterator<Item = f64>, total: f64) -> Option<f64> {
    let mut distinct: Vec<f64> = Vec::new();
    for worth in worths.filter(|&w| w > 0.0) {
        if let Err(at) = distinct.binary_search_by(|d| d.total_cmp(&worth)) {
            if distinct.len() == MAX_DISTINCT {
                return None;
            }
            distinct.insert(at, worth);
        }
    }
    let smallest = distinct.first()?;
    (1..=MAX_DIVISOR)
        .map(|divisor| smallest / f64::from(divisor))
        .take_while(|unit| total / unit <= MAX_UNITS)
        .find(|unit| distinct.iter().all(|worth| multiple(*worth, *unit)))
}

fn multiple(worth: f64, unit: f64) -> bool {
    let times = worth / unit;
    (times - times.round()).abs() <= EXACT * times
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(worths: &[f64]) -> Ticks {
        let all = Some(worths.iter().copied());
        Ticks::of(all, worths.iter().sum(), worths.len())
    }

    #[test]
    fn grades_in_tenths_are_exact() {
        let ticks = of(&[0.3, 0.7, 0.1, 1.0]);
        assert!(ticks.exact);
        assert_eq!(ticks.count(0.1) * 7, ticks.count(0.7));
        assert_eq!(u64::from(ticks.count(0.1)), ticks.step());
        assert_eq!(ticks.floor(ticks.step() as f64 * 2.9), 2 * ticks.step());
        // A tie is not better, one unit more is.
        let two = 2 * ticks.step();
        assert_eq!(ticks.no_better_than(ticks.value(two)), two);
    }

    #[test]
    fn unrelated_numbers_are_rounded_up() {
        let ticks = of(&[0.123_456_7, 0.5_f64.sqrt(), 0.3]);
        assert!(!ticks.exact);
        assert!(ticks.value(u64::from(ticks.count(0.3))) >= 0.3);
    }

    #[test]
    fn a_table_of_zeros_has_a_scale() {
        assert_eq!(of(&[0.0, 0.0]).count(0.0), 0);
    }

    proptest! {
        #[test]
        fn ticks_never_understate_and_fit(worths in prop::collection::vec(0.0..1e9f64, 1..50)) {
            let ticks = of(&worths);
            let sum: u64 = worths.iter().map(|&w| u64::from(ticks.count(w))).sum();
            prop_assert!(sum <= u64::from(u32::MAX));
            let total: f64 = worths.iter().sum();
            prop_assert!(ticks.value(ticks.floor(sum as f64)) >= total * (1.0 - 1e-9));
        }
    }
}
