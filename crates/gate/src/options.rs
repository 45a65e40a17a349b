//! From an expert's log-probabilities of options to probabilities that can be mixed (MATH 5).
//!
//! The log-probability of a long option is low because it is long, so the raw sums prefer whatever is
//! short. They are divided by `(bytes + 4)^length`, the length penalty of neural machine translation (Wu
//! et al. 2016, eq. 14) in bytes, and sharpened or softened by a factor; both are fitted per expert on
//! outcomes, by cross-entropy of the right option.

use serde::{Deserialize, Serialize};

/// Added to every length, so that "yes" and "no" count about the same.
const OFFSET_BYTES: f64 = 4.0;
/// Exponents tried.
const LENGTHS: [f64; 7] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5];
/// Range of `ln sharpness` searched.
const SHARPNESS: (f64, f64) = (-4.0, 6.0);
/// Outcomes of the default rule that a fit is weighed against.
const PRIOR_OUTCOMES: f64 = 20.0;
/// Halvings of the search interval by golden sections: six digits.
const SECTIONS: usize = 40;

/// How an expert's option scores are read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionRule {
    /// Exponent of the length that a log-probability is divided by; 0 takes sums as they are.
    pub length: f64,
    /// What the result is multiplied with, at least 0; one over a temperature.
    pub sharpness: f64,
}

impl Default for OptionRule {
    /// For an expert nobody measured: by length, as sure as small models deserve.
    fn default() -> Self {
        Self {
            length: 1.0,
            sharpness: 5.0,
        }
    }
}

/// One question with its right answer, as one expert scored it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Log-probability of each option.
    pub logprobs: Vec<f64>,
    /// Length of each option in bytes.
    pub bytes: Vec<usize>,
    /// Index of the right one.
    pub answer: usize,
}

impl OptionRule {
    /// Whether the numbers are ones that a rule can have.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (0.0..=4.0).contains(&self.length) && (0.0..=1e6).contains(&self.sharpness)
    }

    /// Probability of each option, in order; they sum to 1. Options without a finite log-probability
    /// have none; if that is all of them, they are equally likely.
    #[must_use]
    pub fn probabilities(&self, logprobs: &[f64], bytes: impl Iterator<Item = usize>) -> Vec<f64> {
        softmax(&self.scores(logprobs, bytes))
    }

    /// The likeliest option, the first of equals; 0 if there is none.
    #[must_use]
    pub fn choose(&self, logprobs: &[f64], bytes: impl Iterator<Item = usize>) -> usize {
        let all = self.probabilities(logprobs, bytes);
        let order = (0..all.len()).rev();
        order
            .max_by(|a, b| all[*a].total_cmp(&all[*b]))
            .unwrap_or(0)
    }

    fn scores(&self, logprobs: &[f64], bytes: impl Iterator<Item = usize>) -> Vec<f64> {
        let each = logprobs.iter().zip(bytes);
        each.map(|(logprob, bytes)| {
            if *logprob == f64::NEG_INFINITY {
                return *logprob;
            }
            let length = (bytes as f64 + OFFSET_BYTES).powf(self.length);
            self.sharpness * logprob / length
        })
        .collect()
    }

    /// The rule under which the right options were least surprising; near the default where there is
    /// little to go by.
    #[must_use]
    pub fn fit(scored: &[Scored]) -> Self {
        let default = Self::default();
        let usable = scored
            .iter()
            .filter(|s| s.logprobs.get(s.answer).is_some_and(|l| l.is_finite()));
        let usable: Vec<&Scored> = usable.collect();
        if usable.is_empty() {
            return default;
        }
        let loss = |rule: Self| -> f64 {
            let of = |s: &&Scored| {
                surprise(&rule.scores(&s.logprobs, s.bytes.iter().copied()), s.answer)
            };
            let pull = (rule.sharpness / default_sharpness(rule.length))
                .ln()
                .powi(2)
                + (rule.length - default.length).powi(2);
            usable.iter().map(of).sum::<f64>() + 0.05 * PRIOR_OUTCOMES * pull
        };
        let best = LENGTHS.map(|length| {
            let scale = default_sharpness(length).ln();
            let at = |ln: f64| Self {
                length,
                sharpness: (ln + scale).exp(),
            };
            let ln = golden(SHARPNESS, |ln| loss(at(ln)));
            (loss(at(ln)), at(ln))
        });
        let best = best.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(default, |(_, rule)| rule)
    }
}

/// The default's sharpness on the scale of another exponent, for options of usual length.
fn default_sharpness(length: f64) -> f64 {
    const USUAL_BYTES: f64 = 30.0;
    let default = OptionRule::default();
    default.sharpness * (USUAL_BYTES + OFFSET_BYTES).powf(length - default.length)
}

/// Probabilities of scores; all equal if none is finite.
fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return vec![1.0 / scores.len().max(1) as f64; scores.len()];
    }
    let exps: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// −ln of the softmax at the answer.
fn surprise(scores: &[f64], answer: usize) -> f64 {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    top + sum.ln() - scores[answer]
}

/// Minimum of a function with one valley.
fn golden((mut low, mut high): (f64, f64), value: impl Fn(f64) -> f64) -> f64 {
    let part = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut left, mut right) = (high - part * (high - low), low + part * (high - low));
    let (mut at_left, mut at_right) = (value(left), value(right));
    for _ in 0..SECTIONS {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - part * (high - low);
            at_left = value(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + part * (high - low);
            at_right = value(right);
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Rng;
    use proptest::prelude::*;

    /// Experts whose log-probability is −(0.1 + noise) per byte, less for the right option.
    fn by_length(count: usize, gain: f64) -> Vec<Scored> {
        let mut rng = Rng::new(11);
        let one = |_| {
            let bytes: Vec<usize> = (0..4).map(|_| 5 + rng.below(60)).collect();
            let answer = rng.below(4);
            let logprob = |(at, bytes): (usize, &usize)| {
                let per_byte = 0.5 + 0.1 * rng.normal() - if at == answer { gain } else { 0.0 };
                -per_byte * (*bytes as f64 + OFFSET_BYTES)
            };
            let logprobs = bytes.iter().enumerate().map(logprob).collect();
            Scored {
                logprobs,
                bytes,
                answer,
            }
        };
        (0..count).map(one).collect()
    }

    fn accuracy(rule: OptionRule, scored: &[Scored]) -> f64 {
        let right = |s: &&Scored| {
            let p = rule.probabilities(&s.logprobs, s.bytes.iter().copied());
            p.iter().all(|other| *other <= p[s.answer])
        };
        scored.iter().filter(right).count() as f64 / scored.len() as f64
    }

    #[test]
    fn the_length_is_taken_out_and_the_fit_is_calibrated() {
        let (train, test) = (by_length(2_000, 0.1), by_length(3_000, 0.1));
        let test = &test[2_000..];
        let fitted = OptionRule::fit(&train);
        let sums = OptionRule {
            length: 0.0,
            sharpness: 1.0,
        };
        assert_eq!(fitted.length, 1.0);
        assert!(accuracy(fitted, test) > accuracy(sums, test) + 0.1);
        let sure: f64 = test
            .iter()
            .map(|s| {
                let p = fitted.probabilities(&s.logprobs, s.bytes.iter().copied());
                p.into_iter().fold(0.0, f64::max)
            })
            .sum();
        let sure = sure / test.len() as f64;
        assert!(
            (sure - accuracy(fitted, test)).abs() < 0.04,
            "{sure} {}",
            accuracy(fitted, test)
        );
    }

    #[test]
    fn without_outcomes_there_is_the_default() {
        assert_eq!(OptionRule::fit(&[]), OptionRule::default());
        let blind = Scored {
            logprobs: vec![f64::NEG_INFINITY; 2],
            bytes: vec![1; 2],
            answer: 0,
        };
        assert_eq!(OptionRule::fit(&[blind]), OptionRule::default());
        let p = OptionRule::default().probabilities(&[f64::NEG_INFINITY; 2], [1, 2].into_iter());
        assert_eq!(p, [0.5, 0.5]);
    }

    proptest! {
        #[test]
        fn options_have_probabilities_and_the_likelier_of_equal_length_has_the_larger(
            logprobs in prop::collection::vec(-200.0..0.0f64, 1..12),
            length in 0.0..1.5f64, sharpness in 0.0..50.0f64, bytes in 1usize..100,
        ) {
            let rule = OptionRule { length, sharpness };
            let p = rule.probabilities(&logprobs, std::iter::repeat(bytes));
            prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for (a, x) in logprobs.iter().enumerate() {
                for (b, y) in logprobs.iter().enumerate() {
                    prop_assert!(x < y || p[a] >= p[b]);
                }
            }
        }
    }
}
