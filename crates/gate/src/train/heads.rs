//! A head per expert: penalty, calibration and length chosen on questions it was not trained on.

use super::calibrate::Calibration;
use super::length::Length;
use super::logistic::{Logistic, Prior, cross_entropy, sigmoid};
use crate::options::{OptionRule, Scored};

use serde::{Deserialize, Serialize};

/// Penalties of a head that are tried: precision of the prior on each weight, in outcomes.
const PENALTIES: [f64; 7] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
/// Precision of a head's constant: hardly any.
const FREE: f64 = 1e-3;
/// Outcomes below which an expert's head starts from what the others have in common.
pub(super) const FEW: usize = 200;
/// Variance added to that between experts: they are a sample of those to come.
const SPREAD: f64 = 0.05;

/// One expert's head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedHead {
    pub(crate) logistic: Logistic,
    /// From logits to probabilities.
    pub calibration: Calibration,
    pub(crate) length: Option<Length>,
    /// How its option scores are read.
    pub options: OptionRule,
    /// Outcomes it was trained on.
    pub outcomes: usize,
    /// Their mean score.
    pub mean: f64,
    /// Penalty chosen; nothing if it started from the other experts' heads.
    pub penalty: Option<f64>,
    /// Cross-entropy per outcome on held-out folds.
    pub held_out: f64,
    /// The same of a constant forecast, the mean.
    pub held_out_constant: f64,
}

/// One outcome of the expert a head is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'f> {
    pub(super) at: usize,
    pub(super) features: &'f [f64],
    pub(super) score: f64,
    pub(super) fold: usize,
    pub(super) tokens: Option<f64>,
}

/// What experts' heads have in common, from which that of an expert with few outcomes starts: the mean of
/// each weight and one over its variance (a normal prior, as in a hierarchical model).
pub(super) fn pool<'h>(heads: impl Iterator<Item = &'h TrainedHead>) -> Option<Prior> {
    let known: Vec<&[f64]> = heads
        .filter(|head| head.outcomes >= FEW)
        .map(|head| head.logistic.weights.as_slice())
        .collect();
    let width = known.first()?.len();
    let count = known.len() as f64;
    let mean = |i: usize| known.iter().map(|w| w[i]).sum::<f64>() / count;
    let variance = |i: usize, mean: f64| {
        known.iter().map(|w| (w[i] - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0)
    };
    let means: Vec<f64> = (0..width).map(mean).collect();
    let spread = if known.len() == 1 { 1.0 } else { SPREAD };
    let precision = means
        .iter()
        .enumerate()
        .map(|(i, &m)| 1.0 / (variance(i, m) + spread));
    Some(Prior {
        precision: precision.collect(),
        mean: means,
    })
}

/// A head, and its forecasts of items that it was not trained on.
pub(super) type HeldOut = (TrainedHead, Vec<(usize, f64)>);

/// Trains one, and says what it forecast of each outcome without having seen its fold.
pub(super) fn head(
    seen: &[Seen<'_>],
    folds: usize,
    scored: &[Scored],
    pool: Option<&Prior>,
) -> HeldOut {
    let width = seen.first().map_or(1, |s| s.features.len());
    let count = seen.len();
    let mean = seen.iter().map(|s| s.score).sum::<f64>() / count.max(1) as f64;
    let share = (mean * count as f64 + 1.0) / (count as f64 + 2.0);
    let prior = |penalty: f64| {
        let mut prior = Prior {
            mean: vec![0.0; width],
            // Rare outcomes say less each, so the prior on what they say is weaker in proportion.
            precision: vec![penalty * 4.0 * share * (1.0 - share); width],
        };
        prior.mean[0] = (share / (1.0 - share)).ln();
        prior.precision[0] = FREE;
        prior
    };
    let rows = |fold: usize| {
        let others = seen.iter().filter(move |s| s.fold != fold);
        others.map(|s| (s.features, s.score))
    };
    let logits = |prior: &Prior| -> Vec<(f64, f64, usize)> {
        let heads: Vec<Logistic> = (0..folds)
            .map(|fold| Logistic::fit(rows(fold), prior))
            .collect();
        seen.iter()
            .map(|s| (heads[s.fold].logit(s.features).0, s.score, s.fold))
            .collect()
    };
    let loss = |held_out: &[(f64, f64, usize)]| -> f64 {
        let each = held_out.iter().map(|h| cross_entropy(h.0, h.1));
        each.sum::<f64>() / count.max(1) as f64
    };
    let tried: Vec<(Option<f64>, Prior)> = match pool.filter(|_| count < FEW) {
        Some(pool) => vec![(None, pool.clone())],
        None => PENALTIES.map(|p| (Some(p), prior(p))).into(),
    };
    let tried = tried.into_iter().map(|(penalty, prior)| {
        let held_out = logits(&prior);
        (penalty, prior, held_out)
    });
    let best = tried.min_by(|a, b| loss(&a.2).total_cmp(&loss(&b.2)));
    let (penalty, prior, held_out) = best.expect("there are penalties");
    let certain = mean.clamp(1e-6, 1.0 - 1e-6);
    let constant = (certain / (1.0 - certain)).ln();
    let flat: Vec<(f64, f64, usize)> = seen.iter().map(|s| (constant, s.score, s.fold)).collect();
    let lengths: Vec<(&[f64], f64)> = seen
        .iter()
        .filter_map(|s| Some((s.features, s.tokens?)))
        .collect();
    let calibration = Calibration::fit(&held_out);
    let forecasts = seen.iter().zip(&held_out);
    let forecasts = forecasts.map(|(s, h)| (s.at, calibration.apply(h.0)));
    let forecasts = forecasts.collect();
    let head = TrainedHead {
        logistic: Logistic::fit(rows(folds), &prior),
        calibration,
        length: Length::fit(&lengths),
        options: OptionRule::fit(scored),
        outcomes: count,
        mean,
        penalty,
        held_out: loss(&held_out),
        held_out_constant: loss(&flat),
    };
    (head, forecasts)
}

impl TrainedHead {
    /// Probability of a right answer, and its standard deviation.
    #[must_use]
    pub fn forecast(&self, features: &[f64]) -> (f64, f64) {
        let (logit, spread) = self.logistic.logit(features);
        let raw = sigmoid(logit);
        let deviation = (raw * (1.0 - raw) * spread).min(0.5);
        (self.calibration.apply(logit), deviation)
    }
}
