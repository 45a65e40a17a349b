//! Intervals by resampling: what the figure would be on other questions of the same kind.
//!
//! Groups are drawn, not questions, because questions about one passage fall or rise together. A percentile
//! interval (Efron 1979) is plain and right for means of bounded numbers at these sizes.

use moe2_model::Rng;

/// Resamples: enough for two digits of a 95 % interval.
const RESAMPLES: usize = 1_000;
/// Ends of the interval.
const ENDS: [f64; 2] = [0.025, 0.975];

/// How often each question is drawn in each resample.
#[derive(Debug, Clone)]
pub(crate) struct Resamples {
    weights: Vec<Vec<u16>>,
}

impl Resamples {
    /// Draws groups with replacement; the seed decides which.
    pub(crate) fn new(groups: &[usize], seed: u64) -> Self {
        let count = groups.iter().max().map_or(0, |last| last + 1);
        let mut rng = Rng::new(seed);
        let one = |_| {
            let mut drawn = vec![0u16; count];
            for _ in 0..count {
                drawn[rng.below(count)] += 1;
            }
            groups.iter().map(|&group| drawn[group]).collect()
        };
        Self {
            weights: (0..RESAMPLES).map(one).collect(),
        }
    }

    /// The interval of a figure that is computed from how often each question counts.
    pub(crate) fn interval(&self, figure: impl Fn(&[u16]) -> Option<f64>) -> Option<[f64; 2]> {
        let mut all: Vec<f64> = self.weights.iter().filter_map(|w| figure(w)).collect();
        if all.is_empty() {
            return None;
        }
        all.sort_by(f64::total_cmp);
        let at = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize];
        Some(ENDS.map(at))
    }
}

/// Weighted mean of what there is; `None` if nothing counts.
pub(crate) fn mean(values: &[Option<f64>], weights: &[u16]) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for (value, &weight) in values.iter().zip(weights) {
        if let Some(value) = value {
            sum += value * f64::from(weight);
            count += f64::from(weight);
        }
    }
    (count > 0.0).then(|| sum / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors_wide_on_either_side() {
        let groups: Vec<usize> = (0..1_000).collect();
        let values: Vec<Option<f64>> = (0..1_000)
            .map(|n| Some(f64::from(u8::from(n % 4 == 0))))
            .collect();
        let resamples = Resamples::new(&groups, 1);
        let [low, high] = resamples
            .interval(|w| mean(&values, w))
            .expect("there are values");
        let error = (0.25 * 0.75 / 1_000.0_f64).sqrt();
        assert!(
            ((high - low) / (2.0 * 1.96 * error) - 1.0).abs() < 0.15,
            "{low} {high}"
        );
        assert!(low < 0.25 && high > 0.25);
    }

    #[test]
    fn questions_of_one_group_are_no_more_evidence_than_one() {
        let values: Vec<Option<f64>> = (0..1_000)
            .map(|n| Some(f64::from(u8::from(n / 100 % 2 == 0))))
            .collect();
        let width = |groups: Vec<usize>| {
            let ends = Resamples::new(&groups, 1).interval(|w| mean(&values, w));
            ends.map(|[low, high]| high - low)
                .expect("there are values")
        };
        assert!(width((0..1_000).map(|n| n / 100).collect()) > 5.0 * width((0..1_000).collect()));
    }
}
