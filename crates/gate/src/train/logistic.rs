//! Logistic regression with a Gaussian prior: one expert's head.
//!
//! Newton's method, because a head has a few dozen weights and the exact optimum is what makes a head
//! trained beside others the same as one trained alone. The curvature at the optimum is kept: it says
//! how sure the head is of a question unlike those it was trained on (Laplace's approximation).

use serde::{Deserialize, Serialize};

use super::cholesky;

/// Newton steps; six are usual.
const STEPS: usize = 50;
/// Largest change of a weight that ends them.
const CONVERGED: f64 = 1e-10;

/// What is believed of the weights before any outcome was seen: independent, normal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prior {
    pub(crate) mean: Vec<f64>,
    /// One over the variance of each.
    pub(crate) precision: Vec<f64>,
}

/// Weights, the most likely ones, with the Cholesky factor of their precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logistic {
    pub(crate) weights: Vec<f64>,
    /// Lower triangle, row by row, `n × n`.
    pub(crate) factor: Vec<f64>,
}

impl Logistic {
    /// Fits scores in [0, 1] by their cross-entropy, a proper loss for any of them.
    pub(crate) fn fit<'r>(
        rows: impl Iterator<Item = (&'r [f64], f64)> + Clone,
        prior: &Prior,
    ) -> Self {
        let n = prior.mean.len();
        let mut weights = prior.mean.clone();
        let mut value = objective(rows.clone(), prior, &weights);
        for _ in 0..STEPS {
            let (gradient, curvature) = derivatives(rows.clone(), prior, &weights);
            let Some(factor) = cholesky::factor(&curvature, n) else {
                break;
            };
            let step = cholesky::solve(&factor, &gradient);
            let mut length = 1.0;
            let mut next = weights.clone();
            // Far from the optimum a whole step may overshoot.
            let better = loop {
                let moved = weights.iter().zip(&step).map(|(w, s)| w - length * s);
                next.iter_mut().zip(moved).for_each(|(n, m)| *n = m);
                let reached = objective(rows.clone(), prior, &next);
                if reached <= value || length < 1e-6 {
                    value = reached.min(value);
                    break reached <= value;
                }
                length *= 0.5;
            };
            let change = step.iter().fold(0.0, |most: f64, s| most.max(s.abs()));
            if better {
                weights = next;
            }
            if change <= CONVERGED || !better {
                break;
            }
        }
        let (_, curvature) = derivatives(rows, prior, &weights);
        let factor = cholesky::factor(&curvature, n).unwrap_or_else(|| identity(n));
        Self { weights, factor }
    }

    /// The logit of a row, and its standard deviation.
    pub(crate) fn logit(&self, row: &[f64]) -> (f64, f64) {
        let mean = dot(&self.weights, row);
        let spread = cholesky::forward(&self.factor, row);
        (mean, dot(&spread, &spread).sqrt())
    }
}

/// Negative log posterior, up to a constant.
fn objective<'r>(
    rows: impl Iterator<Item = (&'r [f64], f64)>,
    prior: &Prior,
    weights: &[f64],
) -> f64 {
    let loss: f64 = rows
        .map(|(row, score)| cross_entropy(dot(weights, row), score))
        .sum();
    let terms = weights.iter().zip(&prior.mean).zip(&prior.precision);
    loss + terms
        .map(|((w, m), p)| 0.5 * p * (w - m) * (w - m))
        .sum::<f64>()
}

fn derivatives<'r>(
    rows: impl Iterator<Item = (&'r [f64], f64)>,
    prior: &Prior,
    weights: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let n = weights.len();
    let terms = weights.iter().zip(&prior.mean).zip(&prior.precision);
    let mut gradient: Vec<f64> = terms.map(|((w, m), p)| p * (w - m)).collect();
    let mut curvature = vec![0.0; n * n];
    for (i, p) in prior.precision.iter().enumerate() {
        curvature[i * n + i] = *p;
    }
    for (row, score) in rows {
        let p = sigmoid(dot(weights, row));
        let (off, bend) = (p - score, p * (1.0 - p));
        for i in 0..n {
            gradient[i] += off * row[i];
            let scaled = bend * row[i];
            for j in 0..=i {
                curvature[i * n + j] += scaled * row[j];
            }
        }
    }
    for i in 0..n {
        for j in i + 1..n {
            curvature[i * n + j] = curvature[j * n + i];
        }
    }
    (gradient, curvature)
}

/// −s·ln σ(z) − (1 − s)·ln(1 − σ(z)), without overflow.
pub(crate) fn cross_entropy(logit: f64, score: f64) -> f64 {
    logit.max(0.0) - logit * score + (-logit.abs()).exp().ln_1p()
}

pub(crate) fn sigmoid(logit: f64) -> f64 {
    if logit >= 0.0 {
        1.0 / (1.0 + (-logit).exp())
    } else {
        let e = logit.exp();
        e / (1.0 + e)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn identity(n: usize) -> Vec<f64> {
    let mut matrix = vec![0.0; n * n];
    (0..n).for_each(|i| matrix[i * n + i] = 1.0);
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Rng;

    fn prior(n: usize, precision: f64) -> Prior {
        Prior {
            mean: vec![0.0; n],
            precision: vec![precision; n],
        }
    }

    fn sample(truth: &[f64], count: usize) -> Vec<(Vec<f64>, f64)> {
        let mut rng = Rng::new(7);
        (0..count)
            .map(|_| {
                let mut row: Vec<f64> = truth.iter().map(|_| rng.normal()).collect();
                row[0] = 1.0;
                let right = rng.chance(sigmoid(dot(truth, &row)));
                (row, f64::from(u8::from(right)))
            })
            .collect()
    }

    #[test]
    fn weights_are_found_again_and_are_surer_the_more_was_seen() {
        let truth = [0.5, -1.0, 2.0];
        let few = sample(&truth, 50);
        let many = sample(&truth, 20_000);
        let fit = |rows: &[(Vec<f64>, f64)]| {
            Logistic::fit(
                rows.iter().map(|(r, s)| (r.as_slice(), *s)),
                &prior(3, 1e-3),
            )
        };
        let (unsure, sure) = (fit(&few), fit(&many));
        for (found, truth) in sure.weights.iter().zip(truth) {
            assert!((found - truth).abs() < 0.1, "{sure:?}");
        }
        let row = [1.0, 0.3, -0.2];
        assert!(unsure.logit(&row).1 > 5.0 * sure.logit(&row).1);
    }

    #[test]
    fn without_outcomes_there_is_the_prior() {
        let prior = Prior {
            mean: vec![0.3, -2.0],
            precision: vec![4.0, 1.0],
        };
        let head = Logistic::fit(std::iter::empty(), &prior);
        assert_eq!(head.weights, prior.mean);
        let (mean, spread) = head.logit(&[1.0, 0.0]);
        assert_eq!((mean, spread), (0.3, 0.5));
    }

    #[test]
    fn rows_that_a_line_separates_have_finite_weights() {
        let rows: Vec<([f64; 2], f64)> = (0..20)
            .map(|n| ([1.0, f64::from(n) - 9.5], f64::from(u8::from(n >= 10))))
            .collect();
        let each = rows.iter().map(|(r, s)| (r.as_slice(), *s));
        let head = Logistic::fit(each, &prior(2, 0.01));
        assert!(
            head.weights
                .iter()
                .all(|w| w.is_finite() && w.abs() < 100.0),
            "{head:?}"
        );
    }
}
