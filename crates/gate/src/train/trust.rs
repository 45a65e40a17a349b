//! How far forecasts may leave what all experts have in common.
//!
//! A gate must not lose to a constant. Between an expert's mean, moved by how hard the question is for
//! everyone, and what its own head says, forecasts order the experts less and less by the question. The
//! share that routes best on held-out folds is taken, but only as far as it is surer than noise to beat
//! the constant choice of the best expert.

use std::collections::BTreeMap;

use moe2_model::ExpertName;
use serde::{Deserialize, Serialize};

use super::logistic::{Prior, sigmoid};
use super::mean_and_error;
use crate::data::Item;

/// Shares tried.
const SHARES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Forecasts of one question, held out.
pub(crate) type Forecasts = BTreeMap<ExpertName, f64>;

/// What all experts' heads have in common, frozen with the encoder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Common {
    /// Mean and spread of their weights, from which the head of an expert with few outcomes starts;
    /// nothing where no expert has enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prior: Option<Prior>,
    /// Mean over the questions of what the mean weights forecast.
    pub(crate) mean: f64,
}

impl Common {
    pub(super) fn new(prior: Option<Prior>, features: &[Vec<f64>]) -> Self {
        let mut common = Self { prior, mean: 0.0 };
        let sum: f64 = features.iter().map(|row| common.ease(row)).sum();
        common.mean = sum / features.len().max(1) as f64;
        common
    }

    /// How much likelier than usual a good answer is, whoever gives it.
    pub(crate) fn ease(&self, features: &[f64]) -> f64 {
        let weights = self.prior.iter().flat_map(|prior| &prior.mean);
        let logit: f64 = weights.zip(features).map(|(w, x)| w * x).sum();
        sigmoid(logit) - self.mean
    }
}

/// Between the expert's mean on a question of this ease, at trust 0, and its own forecast, at 1.
pub(crate) fn blend(forecast: f64, mean: f64, ease: f64, trust: f64) -> f64 {
    let constant = (mean + ease).clamp(0.0, 1.0);
    constant + trust * (forecast - constant)
}

/// Blends held-out forecasts with the eases of their questions.
pub(super) fn apply(
    forecasts: &mut [Forecasts],
    eases: &[f64],
    means: &BTreeMap<&ExpertName, f64>,
    trust: f64,
) {
    for (forecasts, ease) in forecasts.iter_mut().zip(eases) {
        for (expert, p) in forecasts {
            *p = blend(*p, means.get(expert).copied().unwrap_or(*p), *ease, trust);
        }
    }
}

/// The share whose gain over the constant choice is largest by its lower end, one standard error below.
pub(super) fn choose(
    items: &[Item],
    forecasts: &[Forecasts],
    eases: &[f64],
    means: &BTreeMap<&ExpertName, f64>,
) -> f64 {
    let value = |at: usize, share: f64| -> Option<f64> {
        let blended =
            |e: &ExpertName, p: f64| blend(p, means.get(e).copied().unwrap_or(p), eases[at], share);
        let best = forecasts[at]
            .iter()
            .max_by(|a, b| blended(a.0, *a.1).total_cmp(&blended(b.0, *b.1)))?;
        Some(items[at].outcomes.get(best.0)?.score)
    };
    let lower = |share: f64| -> f64 {
        let gains = (0..items.len()).filter_map(|at| Some(value(at, share)? - value(at, 0.0)?));
        let gains: Vec<f64> = gains.collect();
        let (mean, error) = mean_and_error(&gains);
        mean - error
    };
    let mut best = (0.0, 0.0);
    for share in SHARES {
        let gain = lower(share);
        if gain > best.1 {
            best = (share, gain);
        }
    }
    best.0
}
