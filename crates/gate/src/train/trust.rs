//! How far forecasts may leave each expert's mean.
//!
//! A gate must not lose to a constant. Forecasts between an expert's mean and what its head says order the
//! experts less and less by the question; the share that routes best on held-out folds is taken, but only
//! as far as it is surer than noise to beat the constant choice of the best expert.

use std::collections::BTreeMap;

use moe2_model::ExpertName;

use crate::data::Item;

/// Shares tried.
const SHARES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Forecasts of one question, held out.
pub(crate) type Forecasts = BTreeMap<ExpertName, f64>;

/// Between the mean, at 0, and the forecast, at 1.
pub(crate) fn blend(forecast: f64, mean: f64, trust: f64) -> f64 {
    mean + trust * (forecast - mean)
}

pub(super) fn apply(forecasts: &mut [Forecasts], means: &BTreeMap<&ExpertName, f64>, trust: f64) {
    for (expert, p) in forecasts.iter_mut().flatten() {
        *p = blend(*p, means.get(expert).copied().unwrap_or(*p), trust);
    }
}

/// The share whose gain over the constant choice is largest by its lower end, one standard error below.
pub(super) fn choose(
    items: &[Item],
    forecasts: &[Forecasts],
    means: &BTreeMap<&ExpertName, f64>,
) -> f64 {
    let value = |item: &Item, forecasts: &Forecasts, share: f64| -> Option<f64> {
        let blended = |e: &ExpertName, p: f64| blend(p, means.get(e).copied().unwrap_or(p), share);
        let best = forecasts
            .iter()
            .max_by(|a, b| blended(a.0, *a.1).total_cmp(&blended(b.0, *b.1)))?;
        Some(item.outcomes.get(best.0)?.score)
    };
    let lower = |share: f64| -> f64 {
        let gains = items
            .iter()
            .zip(forecasts)
            .filter_map(|(item, f)| Some(value(item, f, share)? - value(item, f, 0.0)?));
        let gains: Vec<f64> = gains.collect();
        let count = gains.len().max(1) as f64;
        let mean = gains.iter().sum::<f64>() / count;
        let variance = gains.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / count;
        mean - (variance / count).sqrt()
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
