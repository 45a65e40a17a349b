//! How long an expert's answer will be: a straight line on the logarithm of tokens.
//!
//! Lengths vary by factors, not by amounts, so their logarithms are what a least-squares fit is right
//! for; the mean of what it forecasts is above the exponential of the mean by half the variance.

use serde::{Deserialize, Serialize};

use super::cholesky;

/// Ridge penalty: a handful of answers.
const PENALTY: f64 = 5.0;
/// Answers below which a mean is all that can be learnt.
const ENOUGH: usize = 50;

/// Weights of the features, and the spread of what they do not explain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Length {
    /// One per feature.
    pub(crate) weights: Vec<f64>,
    /// Variance of the logarithm around the line.
    pub(crate) variance: f64,
}

impl Length {
    /// From rows of features and tokens; the first feature is 1. `None` without any answer.
    pub(crate) fn fit(rows: &[(&[f64], f64)]) -> Option<Self> {
        let width = rows.first()?.0.len();
        let logs: Vec<f64> = rows.iter().map(|r| r.1.max(1.0).ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let mut weights = vec![0.0; width];
        weights[0] = mean;
        if rows.len() >= ENOUGH {
            let mut matrix = vec![0.0; width * width];
            let mut right = vec![0.0; width];
            for ((row, _), log) in rows.iter().zip(&logs) {
                for i in 0..width {
                    right[i] += row[i] * (log - mean);
                    for j in 0..width {
                        matrix[i * width + j] += row[i] * row[j];
                    }
                }
            }
            (0..width).for_each(|i| matrix[i * width + i] += PENALTY);
            if let Some(factor) = cholesky::factor(&matrix, width) {
                let fitted = cholesky::solve(&factor, &right);
                weights.iter_mut().zip(fitted).for_each(|(w, f)| *w += f);
            }
        }
        let off = |row: &[f64], log: f64| {
            let line: f64 = row.iter().zip(&weights).map(|(x, w)| x * w).sum();
            (log - line).powi(2)
        };
        let squares: f64 = rows.iter().zip(&logs).map(|(r, log)| off(r.0, *log)).sum();
        let variance = squares / (rows.len().saturating_sub(1)).max(1) as f64;
        Some(Self { weights, variance })
    }

    /// Expected tokens.
    pub(crate) fn tokens(&self, features: &[f64]) -> f64 {
        let line: f64 = features.iter().zip(&self.weights).map(|(x, w)| x * w).sum();
        (line + 0.5 * self.variance).exp().clamp(1.0, 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Rng;

    #[test]
    fn the_mean_of_lognormal_lengths_is_found() {
        let mut rng = Rng::new(1);
        let rows: Vec<([f64; 2], f64)> = (0..20_000)
            .map(|n| {
                let long = f64::from(n % 2);
                ([1.0, long], (3.0 + long + 0.8 * rng.normal()).exp())
            })
            .collect();
        let given: Vec<(&[f64], f64)> = rows.iter().map(|r| (r.0.as_slice(), r.1)).collect();
        let length = Length::fit(&given).expect("there are answers");
        for long in [0.0, 1.0] {
            let of = rows.iter().filter(|r| r.0[1] == long).map(|r| r.1);
            let (sum, count) = of.fold((0.0, 0.0), |(s, c), x| (s + x, c + 1.0));
            let mean = sum / count;
            let forecast = length.tokens(&[1.0, long]);
            assert!((forecast / mean - 1.0).abs() < 0.05, "{forecast} {mean}");
        }
        assert_eq!(Length::fit(&[]), None);
    }
}
