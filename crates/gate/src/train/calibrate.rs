//! Making a forecast of 70 % come true 70 times in 100, measured on outcomes the head was not
//! trained on.
//!
//! Platt's method, a line through the logits, has two parameters and cannot do much harm; isotonic
//! regression follows any rising curve but needs a thousand outcomes to be better than noise
//! (Niculescu-Mizil and Caruana 2005). Which one serves is decided by cross-entropy on folds.

use serde::{Deserialize, Serialize};

use super::logistic::{Logistic, Prior, cross_entropy, sigmoid};

/// Outcomes from which isotonic regression is tried.
const ENOUGH: usize = 1_000;
/// Prior precision of slope and shift around "as they are": a handful of outcomes.
const PRECISION: [f64; 2] = [4.0, 4.0];
/// Outcomes of a step, at least, so that none is a single lucky one.
const LEAST_STEP: f64 = 50.0;
/// Relative gain in cross-entropy that a step function must bring.
const WORTH: f64 = 1e-3;

/// A rising curve from logits to probabilities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Calibration {
    /// σ(slope · logit + shift).
    Platt {
        /// At least 0: a head that is wrong about the order says nothing.
        slope: f64,
        /// On logits.
        shift: f64,
    },
    /// Linear between knots, level beyond them.
    Isotonic {
        /// Rising logits.
        logits: Vec<f64>,
        /// Rising probabilities there.
        probabilities: Vec<f64>,
    },
}

impl Calibration {
    /// The probability for a logit.
    #[must_use]
    pub fn apply(&self, logit: f64) -> f64 {
        match self {
            Self::Platt { slope, shift } => sigmoid(slope * logit + shift),
            Self::Isotonic {
                logits,
                probabilities,
            } => {
                let above = logits.partition_point(|l| *l < logit);
                match (above.checked_sub(1), logits.get(above)) {
                    (None, _) => probabilities[0],
                    (Some(last), None) => probabilities[last],
                    (Some(below), Some(high)) => {
                        let (low, from) = (logits[below], probabilities[below]);
                        let part = (logit - low) / (high - low).max(f64::MIN_POSITIVE);
                        from + part * (probabilities[above] - from)
                    }
                }
            }
        }
    }

    /// Chooses and fits a curve for logits of outcomes that were held out, with the fold of each.
    pub(crate) fn fit(held_out: &[(f64, f64, usize)]) -> Self {
        let pairs: Vec<(f64, f64)> = held_out.iter().map(|h| (h.0, h.1)).collect();
        let platt = platt(&pairs);
        if pairs.len() < ENOUGH {
            return platt;
        }
        let folds = held_out
            .iter()
            .map(|h| h.2)
            .max()
            .map_or(0, |last| last + 1);
        let loss = |fit: fn(&[(f64, f64)]) -> Self| -> f64 {
            let of = |fold: usize| {
                let others = held_out.iter().filter(|h| h.2 != fold).map(|h| (h.0, h.1));
                let curve = fit(&others.collect::<Vec<_>>());
                let own = held_out.iter().filter(|h| h.2 == fold);
                own.map(|h| surprise(curve.apply(h.0), h.1)).sum::<f64>()
            };
            (0..folds).map(of).sum()
        };
        if folds > 1 && loss(isotonic) < loss(self::platt) * (1.0 - WORTH) {
            isotonic(&pairs)
        } else {
            platt
        }
    }
}

fn platt(pairs: &[(f64, f64)]) -> Calibration {
    let rows: Vec<([f64; 2], f64)> = pairs.iter().map(|p| ([p.0, 1.0], p.1)).collect();
    let prior = Prior {
        mean: vec![1.0, 0.0],
        precision: PRECISION.to_vec(),
    };
    let line = Logistic::fit(rows.iter().map(|(r, s)| (r.as_slice(), *s)), &prior);
    if line.weights[0] >= 0.0 {
        return Calibration::Platt {
            slope: line.weights[0],
            shift: line.weights[1],
        };
    }
    let right: f64 = pairs.iter().map(|p| p.1).sum();
    let share = (right + 1.0) / (pairs.len() as f64 + 2.0);
    Calibration::Platt {
        slope: 0.0,
        shift: (share / (1.0 - share)).ln(),
    }
}

/// Pools adjacent violators, then steps that are too small with their neighbours.
fn isotonic(pairs: &[(f64, f64)]) -> Calibration {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut steps: Vec<Step> = Vec::new();
    for (logit, score) in sorted {
        steps.push(Step {
            from: logit,
            to: logit,
            right: score,
            count: 1.0,
        });
        while let [.., a, b] = steps.as_slice()
            && (a.right / a.count >= b.right / b.count || a.to == b.from)
        {
            let merged = a.and(*b);
            steps.truncate(steps.len() - 2);
            steps.push(merged);
        }
    }
    let mut wide: Vec<Step> = Vec::new();
    for step in steps {
        match wide.last_mut().filter(|last| last.count < LEAST_STEP) {
            Some(last) => *last = last.and(step),
            None => wide.push(step),
        }
    }
    if let [.., before, last] = wide.as_slice()
        && last.count < LEAST_STEP
    {
        let merged = before.and(*last);
        wide.truncate(wide.len() - 2);
        wide.push(merged);
    }
    let (mut logits, mut probabilities) = (Vec::new(), Vec::new());
    for step in wide {
        let ends = if step.from < step.to { 2 } else { 1 };
        logits.extend([step.from, step.to].into_iter().take(ends));
        probabilities.extend(std::iter::repeat_n(step.right / step.count, ends));
    }
    Calibration::Isotonic {
        logits,
        probabilities,
    }
}

/// Outcomes with neighbouring logits that get one probability.
#[derive(Debug, Clone, Copy)]
struct Step {
    from: f64,
    to: f64,
    right: f64,
    count: f64,
}

impl Step {
    fn and(&self, next: Self) -> Self {
        Self {
            from: self.from,
            to: next.to,
            right: self.right + next.right,
            count: self.count + next.count,
        }
    }
}

/// Cross-entropy of a probability.
pub(crate) fn surprise(probability: f64, score: f64) -> f64 {
    let p = probability.clamp(1e-9, 1.0 - 1e-9);
    cross_entropy((p / (1.0 - p)).ln(), score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Rng;
    use proptest::prelude::*;

    /// Logits that are too sure of themselves by `factor`.
    fn boastful(count: usize, factor: f64) -> Vec<(f64, f64, usize)> {
        let mut rng = Rng::new(3);
        (0..count)
            .map(|n| {
                let truth = rng.normal();
                let right = rng.chance(sigmoid(truth));
                (factor * truth, f64::from(u8::from(right)), n % 5)
            })
            .collect()
    }

    #[test]
    fn overconfidence_is_taken_back() {
        let Calibration::Platt { slope, shift } = Calibration::fit(&boastful(900, 3.0)) else {
            panic!("too few for anything else")
        };
        assert!(
            (slope - 1.0 / 3.0).abs() < 0.08 && shift.abs() < 0.2,
            "{slope} {shift}"
        );
    }

    #[test]
    fn a_head_that_is_wrong_about_the_order_becomes_a_constant() {
        let wrong: Vec<_> = boastful(900, 1.0)
            .iter()
            .map(|h| (-h.0, h.1, h.2))
            .collect();
        let curve = Calibration::fit(&wrong);
        assert_eq!(curve.apply(-2.0), curve.apply(2.0));
    }

    #[test]
    fn a_curve_that_no_line_follows_becomes_steps() {
        let mut rng = Rng::new(5);
        let odd: Vec<_> = (0..5_000)
            .map(|n| {
                let logit = 4.0 * rng.unit() - 2.0;
                let p = if logit < 0.0 { 0.1 } else { 0.6 };
                (logit, f64::from(u8::from(rng.chance(p))), n % 5)
            })
            .collect();
        let curve = Calibration::fit(&odd);
        assert!(matches!(curve, Calibration::Isotonic { .. }), "{curve:?}");
        assert!((curve.apply(-1.0) - 0.1).abs() < 0.05 && (curve.apply(1.0) - 0.6).abs() < 0.05);
    }

    proptest! {
        #[test]
        fn every_curve_rises_and_stays_a_probability(
            pairs in prop::collection::vec((-5.0..5.0f64, 0.0..=1.0f64, 0..5usize), 1..1500),
            a in -9.0..9.0f64, b in -9.0..9.0f64,
        ) {
            for curve in [Calibration::fit(&pairs), isotonic(&pairs.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>())] {
                let (low, high) = (curve.apply(a.min(b)), curve.apply(a.max(b)));
                prop_assert!((0.0..=1.0).contains(&low) && low <= high + 1e-12, "{curve:?}");
            }
        }
    }
}
