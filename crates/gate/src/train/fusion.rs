//! What fusing several experts' choices adds to the best one's, measured on held-out outcomes.
//!
//! Experts err together, so no formula over their probabilities says what fusion is worth; a straight line
//! in the gap between the first and the last of them, fitted to what fusion did, does.

use std::collections::BTreeMap;

use moe2_model::ExpertName;
use serde::{Deserialize, Serialize};

use super::cholesky;
use super::mean_and_error;
use super::trust::Forecasts;
use crate::data::Item;
use crate::options::OptionRule;
use crate::vote::fuse;

/// Most experts whose fusion is measured.
pub(crate) const MOST: usize = 5;
/// Ridge penalty on the slope: a handful of questions.
const PENALTY: f64 = 5.0;
/// Questions without which nothing is promised.
const LEAST: usize = 100;

/// Gains by number of experts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionGain {
    /// For 2, 3, … experts.
    pub lines: Vec<Line>,
}

/// Probability gained: `gain + slope · gap`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Gained where the first and the last are equally good.
    pub gain: f64,
    /// Gained beyond that for each unit between them.
    pub slope: f64,
    /// Standard error of the mean gain.
    pub error: f64,
    /// Held-out questions behind it.
    pub questions: usize,
}

impl FusionGain {
    pub(super) fn fit(
        items: &[Item],
        forecasts: &[Forecasts],
        rules: &BTreeMap<ExpertName, OptionRule>,
    ) -> Self {
        let lines = (2..=MOST).map_while(|k| {
            let rows = items.iter().zip(forecasts);
            let rows: Vec<(f64, f64)> = rows
                .filter_map(|(item, forecasts)| gained(item, forecasts, rules, k))
                .collect();
            (rows.len() >= LEAST).then(|| line(&rows))
        });
        Self {
            lines: lines.collect(),
        }
    }

    /// Probability that the fused answer is right, from those of its members, best first.
    #[must_use]
    pub fn forecast(&self, ranked: &[f64]) -> f64 {
        let (Some(first), Some(last)) = (ranked.first(), ranked.last()) else {
            return 0.0;
        };
        let line = ranked.len().checked_sub(2).and_then(|n| self.lines.get(n));
        // One standard error less: what may be noise is not paid for.
        let gain = line.map_or(0.0, |l| l.gain - l.error + l.slope * (first - last));
        (first + gain).clamp(0.0, 1.0)
    }
}

/// The gap between the first and the k-th expert, and what fusing them did.
fn gained(
    item: &Item,
    forecasts: &Forecasts,
    rules: &BTreeMap<ExpertName, OptionRule>,
    k: usize,
) -> Option<(f64, f64)> {
    let mut ranked: Vec<(&ExpertName, f64)> = forecasts.iter().map(|(e, p)| (e, *p)).collect();
    if ranked.len() < k || item.answer.is_none() {
        return None;
    }
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    ranked.truncate(k);
    let single = item.outcomes.get(ranked[0].0)?.score;
    let rule = |expert: &ExpertName| rules.get(expert).copied().unwrap_or_default();
    let fused = fuse(item, &ranked, rule)?;
    Some((ranked[0].1 - ranked[k - 1].1, fused - single))
}

fn line(rows: &[(f64, f64)]) -> Line {
    let mut matrix = [0.0; 4];
    let mut right = [0.0; 2];
    for (gap, gain) in rows {
        let row = [1.0, *gap];
        for i in 0..2 {
            right[i] += row[i] * gain;
            for j in 0..2 {
                matrix[2 * i + j] += row[i] * row[j];
            }
        }
    }
    matrix[3] += PENALTY;
    let weights = cholesky::factor(&matrix, 2)
        .map_or_else(|| vec![0.0; 2], |factor| cholesky::solve(&factor, &right));
    let gains: Vec<f64> = rows.iter().map(|r| r.1).collect();
    let (_, error) = mean_and_error(&gains);
    Line {
        gain: weights[0],
        slope: weights[1],
        error,
        questions: rows.len(),
    }
}
