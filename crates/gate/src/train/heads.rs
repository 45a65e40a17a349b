//! A head per expert: penalty, calibration and length chosen on questions it was not trained on.

use super::calibrate::Calibration;
use super::length::Length;
use super::logistic::{Logistic, Prior, cross_entropy, sigmoid};
use super::mean_and_error;
use super::network::{Network, Row};
use crate::options::{OptionRule, Scored};

use serde::{Deserialize, Serialize};

/// Penalties of a head that are tried: precision of the prior on each weight, in outcomes.
const PENALTIES: [f64; 7] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
/// The same for a network beside it.
const NETWORK_PRECISIONS: [f64; 2] = [3.0, 30.0];
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
    /// What it adds to the logit, where that paid on held-out folds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<Network>,
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

/// A held-out logit, its score, its fold.
type Logit = (f64, f64, usize);

/// Trains one, and says what it forecast of each outcome without having seen its fold.
pub(super) fn head(
    seen: &[Seen<'_>],
    folds: usize,
    scored: &[Scored],
    pool: Option<&Prior>,
) -> HeldOut {
    let count = seen.len();
    let mean = seen.iter().map(|s| s.score).sum::<f64>() / count.max(1) as f64;
    let pool = pool.filter(|_| count < FEW);
    let line = Line::chosen(seen, folds, mean, pool);
    let whole = Logistic::fit(outside(seen, folds), &line.prior);
    // A few outcomes cannot tell a network from noise.
    let network = (count >= FEW)
        .then(|| beside(seen, &line, &whole))
        .flatten();
    let (network, held_out) = match network {
        Some((network, held_out)) => (Some(network), held_out),
        None => (None, line.held_out),
    };
    let certain = mean.clamp(1e-6, 1.0 - 1e-6);
    let constant = (certain / (1.0 - certain)).ln();
    let flat: Vec<Logit> = seen.iter().map(|s| (constant, s.score, s.fold)).collect();
    let lengths: Vec<(&[f64], f64)> = seen
        .iter()
        .filter_map(|s| Some((s.features, s.tokens?)))
        .collect();
    let calibration = Calibration::fit(&held_out);
    let forecasts = seen.iter().zip(&held_out);
    let forecasts = forecasts.map(|(s, h)| (s.at, calibration.apply(h.0)));
    let forecasts = forecasts.collect();
    let head = TrainedHead {
        logistic: whole,
        network,
        calibration,
        length: Length::fit(&lengths),
        options: OptionRule::fit(scored),
        outcomes: count,
        mean,
        penalty: line.penalty,
        held_out: loss(&held_out),
        held_out_constant: loss(&flat),
    };
    (head, forecasts)
}

/// A linear head's penalty, its heads without each fold, and what they make of the fold.
struct Line {
    penalty: Option<f64>,
    prior: Prior,
    folds: Vec<Logistic>,
    held_out: Vec<Logit>,
}

impl Line {
    /// The penalty with the least loss on held-out folds, or the pool.
    fn chosen(seen: &[Seen<'_>], folds: usize, mean: f64, pool: Option<&Prior>) -> Self {
        let width = seen.first().map_or(1, |s| s.features.len());
        let count = seen.len() as f64;
        let share = (mean * count + 1.0) / (count + 2.0);
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
        let tried: Vec<(Option<f64>, Prior)> = match pool {
            Some(pool) => vec![(None, pool.clone())],
            None => PENALTIES.map(|p| (Some(p), prior(p))).into(),
        };
        let lines = tried.into_iter().map(|(penalty, prior)| {
            let fold = |fold| Logistic::fit(outside(seen, fold), &prior);
            let folds: Vec<Logistic> = (0..folds).map(fold).collect();
            let logit = |s: &Seen<'_>| (folds[s.fold].logit(s.features).0, s.score, s.fold);
            Self {
                held_out: seen.iter().map(logit).collect(),
                penalty,
                prior,
                folds,
            }
        });
        let best = lines.min_by(|a, b| loss(&a.held_out).total_cmp(&loss(&b.held_out)));
        best.expect("there are penalties")
    }
}

/// Outcomes of other folds.
fn outside<'s>(
    seen: &'s [Seen<'s>],
    fold: usize,
) -> impl Iterator<Item = (&'s [f64], f64)> + Clone {
    let others = seen.iter().filter(move |s| s.fold != fold);
    others.map(|s| (s.features, s.score))
}

/// Mean cross-entropy.
fn loss(held_out: &[Logit]) -> f64 {
    let each = held_out.iter().map(|h| cross_entropy(h.0, h.1));
    each.sum::<f64>() / held_out.len().max(1) as f64
}

/// A network beside the line and the logits of both on held-out folds, if that is better there by more
/// than its standard error.
fn beside(seen: &[Seen<'_>], line: &Line, whole: &Logistic) -> Option<(Network, Vec<Logit>)> {
    let rows = |line: &Logistic, fold: usize| -> Vec<Row<'_>> {
        let others = seen.iter().filter(|s| s.fold != fold);
        others
            .map(|s| (s.features, line.logit(s.features).0, s.score))
            .collect()
    };
    let tried = NETWORK_PRECISIONS.map(|precision| {
        let fold = |(fold, own): (usize, &Logistic)| Network::fit(&rows(own, fold), precision);
        let networks: Vec<Network> = line.folds.iter().enumerate().map(fold).collect();
        let logits = seen.iter().zip(&line.held_out);
        let logits: Vec<Logit> = logits
            .map(|(s, h)| (h.0 + networks[s.fold].beside(s.features), h.1, h.2))
            .collect();
        (precision, logits)
    });
    let best = tried
        .into_iter()
        .min_by(|a, b| loss(&a.1).total_cmp(&loss(&b.1)));
    let (precision, logits) = best?;
    let gains = logits.iter().zip(&line.held_out);
    let gains: Vec<f64> = gains
        .map(|(n, l)| cross_entropy(l.0, l.1) - cross_entropy(n.0, n.1))
        .collect();
    let (mean, error) = mean_and_error(&gains);
    let all = line.folds.len();
    (mean > error).then(|| (Network::fit(&rows(whole, all), precision), logits))
}

impl TrainedHead {
    /// Whether it has a small network beside its line.
    #[must_use]
    pub const fn has_network(&self) -> bool {
        self.network.is_some()
    }

    /// Probability of a right answer, and its standard deviation.
    #[must_use]
    pub fn forecast(&self, features: &[f64]) -> (f64, f64) {
        let (line, spread) = self.logistic.logit(features);
        let beside = self.network.as_ref().map_or(0.0, |n| n.beside(features));
        let logit = line + beside;
        let raw = sigmoid(logit);
        let deviation = (raw * (1.0 - raw) * spread).min(0.5);
        (self.calibration.apply(logit), deviation)
    }
}
