//! Percentiles, in one place, so that a p95 means the same in forecasts, benchmarks and figures.
//!
//! Two definitions are needed and they are not interchangeable. [`percentile`] describes a sample:
//! it interpolates between order statistics (Hyndman and Fan's type 7, what spreadsheets and NumPy
//! print). [`conformal_quantile`] promises something about the *next* value: it takes the order
//! statistic ⌈(n + 1)·level⌉, which covers an exchangeable next value with probability of at least
//! `level` (Vovk et al. 2005); interpolation would fall short of that for small samples.

/// The `level` quantile (0 to 1, clamped) of the finite numbers in `values`, with linear
/// interpolation, in the unit of the values; `None` when there are none.
#[must_use]
pub fn percentile(values: &[f64], level: f64) -> Option<f64> {
    let sorted = sorted(values);
    let last = sorted.len().checked_sub(1)?;
    let position = clamp_level(level) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    let share = position - below as f64;
    // A weighted sum rather than a difference: two huge values of either sign must not overflow.
    Some(sorted[below] * (1.0 - share) + sorted[above] * share)
}

/// A bound that the next value stays under with probability of at least `level`, if it is
/// exchangeable with the finite numbers in `values`; `None` when there are too few of them
/// (fewer than `level / (1 - level)`, i.e. 19 for 0.95).
#[must_use]
pub fn conformal_quantile(values: &[f64], level: f64) -> Option<f64> {
    let sorted = sorted(values);
    let exact = (sorted.len() as f64 + 1.0) * clamp_level(level);
    // Rounded first: 20 · 0.95 is a hair above 19 in binary and must not ask for a 20th value.
    let rank = (exact - 1e-9).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

fn clamp_level(level: f64) -> f64 {
    if level.is_nan() {
        0.5
    } else {
        level.clamp(0.0, 1.0)
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    finite.sort_by(f64::total_cmp);
    finite
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_interpolate_as_type_7() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&values, 0.5), Some(2.5));
        assert_eq!(percentile(&values, 1.0), Some(4.0));
        assert_eq!(percentile(&[7.0], 0.95), Some(7.0));
    }

    #[test]
    fn nothing_has_no_percentile_and_nan_is_no_value() {
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(percentile(&[f64::NAN, f64::INFINITY], 0.5), None);
        assert_eq!(percentile(&[f64::NAN, 2.0], 0.5), Some(2.0));
    }

    #[test]
    fn nineteen_values_are_just_enough_for_a_conformal_p95() {
        let values: Vec<f64> = (1..=19).map(f64::from).collect();
        assert_eq!(conformal_quantile(&values, 0.95), Some(19.0));
        assert_eq!(conformal_quantile(&values[..18], 0.95), None);
        let values: Vec<f64> = (1..=99).map(f64::from).collect();
        assert_eq!(conformal_quantile(&values, 0.95), Some(95.0));
    }

    proptest! {
        #[test]
        fn a_percentile_is_monotone_in_its_level_and_inside_the_sample(
            values in prop::collection::vec(-1e9..1e9_f64, 1..50), a in 0.0..1.0_f64, b in 0.0..1.0_f64
        ) {
            let (low, high) = if a <= b { (a, b) } else { (b, a) };
            let p = |level| percentile(&values, level).expect("the sample is not empty");
            prop_assert!(p(low) <= p(high) + 1e-6);
            let most = values.iter().copied().fold(f64::MIN, f64::max);
            prop_assert!(p(1.0) == most && p(high) <= most + 1e-6);
        }

        #[test]
        fn a_conformal_bound_covers_each_value_left_out_often_enough(
            values in prop::collection::vec(0.0..1e6_f64, 20..80)
        ) {
            // Leave-one-out coverage of a sample by its own rule is at least the level, exactly.
            let covered = (0..values.len()).filter(|&i| {
                let mut rest = values.clone();
                let left_out = rest.remove(i);
                conformal_quantile(&rest, 0.9).is_some_and(|bound| left_out <= bound)
            }).count();
            prop_assert!(covered as f64 >= 0.9 * values.len() as f64 - 1e-9);
        }
    }
}
