//! TF-IDF and ridge regression: the usual first router.
//!
//! Each expert's score is a linear function of the question's weighted n-grams; the penalty is chosen on
//! a fifth of the questions that the regression is not fitted to.

use std::collections::BTreeMap;

use moe2_model::ExpertName;

use super::Forecasts;
use super::baselines::{Baseline, tf_idf};
use crate::data::Item;
use crate::encode::Sparse;
use crate::encode::base::Base;
use crate::encode::ngrams::WIDTH;
use crate::train::fit::question;

/// Penalties tried.
const PENALTIES: [f64; 4] = [0.3, 1.0, 3.0, 10.0];
/// Steps of conjugate gradients.
const STEPS: usize = 40;
/// One in so many questions chooses the penalty.
const HELD_OUT: usize = 5;

#[derive(Debug)]
pub(super) struct Ridge {
    tfidf: Base,
    experts: BTreeMap<ExpertName, (f64, Vec<f64>)>,
}

impl Ridge {
    pub(super) fn new(items: &[Item]) -> Self {
        let tfidf = tf_idf(items);
        let vectors: Vec<Sparse> = items.iter().map(|item| tfidf.row(question(item))).collect();
        let mut experts: Vec<&ExpertName> = items.iter().flat_map(|i| i.outcomes.keys()).collect();
        experts.sort_unstable();
        experts.dedup();
        let rows = |expert: &ExpertName| -> Vec<(&Sparse, f64)> {
            let each = items.iter().zip(&vectors);
            each.filter_map(|(item, v)| Some((v, item.outcomes.get(expert)?.score)))
                .collect()
        };
        let error = |penalty: f64| -> f64 {
            let of = |expert: &&ExpertName| {
                let all = rows(expert);
                let numbered = || all.iter().copied().enumerate();
                let fitted = numbered()
                    .filter(|(n, _)| n % HELD_OUT != 0)
                    .map(|(_, r)| r);
                let model = fit(&fitted.collect::<Vec<_>>(), penalty);
                let held = numbered().filter(|(n, _)| n % HELD_OUT == 0);
                held.map(|(_, (v, y))| (predict(&model, v) - y).powi(2))
                    .sum::<f64>()
            };
            // A few experts tell as well as all which penalty the questions ask for.
            experts.iter().take(3).map(of).sum()
        };
        let best = PENALTIES
            .into_iter()
            .map(|p| (error(p), p))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let penalty = best.map_or(1.0, |b| b.1);
        let fitted = experts
            .iter()
            .map(|e| ((*e).clone(), fit(&rows(e), penalty)));
        let experts = fitted.collect();
        Self { tfidf, experts }
    }
}

impl Baseline for Ridge {
    fn name(&self) -> &'static str {
        "ridge"
    }

    fn forecast(&self, item: &Item) -> Forecasts {
        let vector = self.tfidf.row(question(item));
        let each = self.experts.iter();
        each.map(|(e, model)| (e.clone(), predict(model, &vector).clamp(0.0, 1.0)))
            .collect()
    }
}

fn predict((mean, weights): &(f64, Vec<f64>), row: &Sparse) -> f64 {
    let terms = row.entries().map(|(i, v)| f64::from(v) * weights[i]);
    mean + terms.sum::<f64>()
}

/// Minimises Σ (mean + w·x − y)² + penalty·|w|² by conjugate gradients on the normal equations.
fn fit(rows: &[(&Sparse, f64)], penalty: f64) -> (f64, Vec<f64>) {
    let mean = rows.iter().map(|r| r.1).sum::<f64>() / rows.len().max(1) as f64;
    let apply = |w: &[f64]| -> Vec<f64> {
        let mut out: Vec<f64> = w.iter().map(|v| penalty * v).collect();
        for (row, _) in rows {
            let along: f64 = row.entries().map(|(i, v)| f64::from(v) * w[i]).sum();
            row.entries()
                .for_each(|(i, v)| out[i] += along * f64::from(v));
        }
        out
    };
    let mut residual = vec![0.0; WIDTH];
    for (row, y) in rows {
        row.entries()
            .for_each(|(i, v)| residual[i] += f64::from(v) * (y - mean));
    }
    let mut weights = vec![0.0; WIDTH];
    let mut direction = residual.clone();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut size = dot(&residual, &residual);
    let enough = 1e-8 * size;
    for _ in 0..STEPS {
        if size <= enough {
            break;
        }
        let image = apply(&direction);
        let step = size / dot(&direction, &image).max(f64::MIN_POSITIVE);
        weights
            .iter_mut()
            .zip(&direction)
            .for_each(|(w, d)| *w += step * d);
        residual
            .iter_mut()
            .zip(&image)
            .for_each(|(r, i)| *r -= step * i);
        let next = dot(&residual, &residual);
        let keep = next / size;
        direction
            .iter_mut()
            .zip(&residual)
            .for_each(|(d, r)| *d = r + keep * *d);
        size = next;
    }
    (mean, weights)
}
