//! Multinomial logistic regression on sparse rows: the topic layer of an encoder.
//!
//! Minimised is the mean cross-entropy plus a ridge penalty; it is convex, so the result is the same
//! whatever the order of the rows.

use super::descent::{Stop, minimise};
use crate::encode::Sparse;

/// Weights by feature and class, then a bias per class.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Softmax {
    pub(crate) classes: usize,
    /// `weights[feature * classes + class]`.
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl Softmax {
    /// Fits it to rows with the share of each class in them.
    pub(crate) fn fit(
        rows: &[&Sparse],
        targets: &[Vec<f64>],
        (width, classes): (usize, usize),
        penalty: f64,
    ) -> Self {
        let count = width * classes;
        let mut x = vec![0.0; count + classes];
        let each = 1.0 / rows.len().max(1) as f64;
        let mut scores = vec![0.0; classes];
        minimise(&mut x, STOP, |x, gradient| {
            let mut value = 0.0;
            for (g, w) in gradient[..count].iter_mut().zip(x) {
                *g = penalty * w;
                value += 0.5 * penalty * w * w;
            }
            gradient[count..].fill(0.0);
            for (row, target) in rows.iter().zip(targets) {
                scores.copy_from_slice(&x[count..]);
                for (feature, v) in row.entries() {
                    let weights = &x[feature * classes..(feature + 1) * classes];
                    scores
                        .iter_mut()
                        .zip(weights)
                        .for_each(|(s, w)| *s += f64::from(v) * w);
                }
                value += each * surprise(&mut scores, target);
                // `scores` are probabilities now; less the target they are the gradient.
                scores
                    .iter_mut()
                    .zip(target)
                    .for_each(|(s, t)| *s = each * (*s - t));
                for (feature, v) in row.entries() {
                    let gradient = &mut gradient[feature * classes..(feature + 1) * classes];
                    gradient
                        .iter_mut()
                        .zip(&scores)
                        .for_each(|(g, s)| *g += f64::from(v) * s);
                }
                gradient[count..]
                    .iter_mut()
                    .zip(&scores)
                    .for_each(|(g, s)| *g += s);
            }
            value
        });
        let bias = x.split_off(count);
        let single = |all: Vec<f64>| all.into_iter().map(|v| v as f32).collect();
        Self {
            classes,
            weights: single(x),
            bias: single(bias),
        }
    }

    /// Rounds every weight to one of 255 steps of its class, as a file keeps them: what is trained on top
    /// sees what will be served.
    pub(crate) fn rounded(mut self) -> Self {
        for (class, step) in self.steps().into_iter().enumerate() {
            let own = self.weights.iter_mut().skip(class).step_by(self.classes);
            // A file knows no negative zero.
            own.for_each(|w| *w = (*w / step).round().clamp(-127.0, 127.0) * step + 0.0);
        }
        self
    }

    /// Step of each class: its largest weight is about 127 of them. Rounded up to 16 binary digits, so that
    /// 127 steps are exact and rounded weights give the same steps again.
    pub(crate) fn steps(&self) -> Vec<f32> {
        let largest = |class: usize| {
            let own = self.weights.iter().skip(class).step_by(self.classes);
            own.fold(0.0f32, |most, w| most.max(w.abs()))
        };
        let round_up = |step: f32| f32::from_bits((step.to_bits() + 0xff) & !0xff);
        (0..self.classes)
            .map(|class| round_up((largest(class) / 127.0).max(f32::MIN_POSITIVE)))
            .collect()
    }

    /// Probability of each class.
    pub(crate) fn predict(&self, row: &Sparse) -> Vec<f64> {
        let mut scores: Vec<f64> = self.bias.iter().map(|&b| f64::from(b)).collect();
        for (feature, v) in row.entries() {
            let weights = &self.weights[feature * self.classes..(feature + 1) * self.classes];
            let terms = scores.iter_mut().zip(weights);
            terms.for_each(|(s, &w)| *s += f64::from(v * w));
        }
        surprise(&mut scores, &[]);
        scores
    }
}

/// Enough for a topic layer: later steps change third digits.
const STOP: Stop = Stop {
    gradient: 1e-6,
    steps: 80,
};

/// Turns scores into probabilities; returns their cross-entropy with the target.
fn surprise(scores: &mut [f64], target: &[f64]) -> f64 {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    let whole = top + sum.ln();
    let surprise = scores
        .iter()
        .zip(target)
        .map(|(s, t)| t * (whole - s))
        .sum();
    scores.iter_mut().for_each(|s| *s = (*s - whole).exp());
    surprise
}
