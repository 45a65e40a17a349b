//! What a gate has to beat: no gate at all, and simpler gates.

use std::collections::BTreeMap;

use moe2_model::ExpertName;

use super::Forecasts;
use super::knn::Neighbours;
use super::ridge::Ridge;
use crate::data::{Item, Split, groups};
use crate::encode::base::Base;
use crate::train::fit::question;

/// Folds within which baselines are trained if nothing else is given.
const FOLDS: usize = 5;

/// A simple gate.
pub trait Baseline {
    /// As it is printed.
    fn name(&self) -> &'static str;
    /// Probability of a good answer of every expert it was trained on.
    fn forecast(&self, item: &Item) -> Forecasts;
}

/// Each expert's mean score, and the one with the best.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// By expert.
    pub means: BTreeMap<ExpertName, f64>,
}

impl Reference {
    /// From training data.
    #[must_use]
    pub fn new(items: &[Item]) -> Self {
        let mut sums: BTreeMap<ExpertName, (f64, f64)> = BTreeMap::new();
        for (expert, outcome) in items.iter().flat_map(|item| &item.outcomes) {
            let sum = sums.entry(expert.clone()).or_default();
            *sum = (sum.0 + outcome.score, sum.1 + 1.0);
        }
        let means = sums.into_iter().map(|(e, (sum, count))| (e, sum / count));
        Self {
            means: means.collect(),
        }
    }

    /// Which expert was best; the first of equals.
    #[must_use]
    pub fn best(&self) -> Option<&ExpertName> {
        let order = self.means.iter().rev();
        order.max_by(|a, b| a.1.total_cmp(b.1)).map(|(e, _)| e)
    }
}

/// Every simple gate, trained on `items`.
#[must_use]
pub fn baselines(items: &[Item]) -> Vec<Box<dyn Baseline>> {
    vec![
        Box::new(Neighbours::new(items)),
        Box::new(Ridge::new(items)),
    ]
}

/// What baselines forecast of each item when trained on the other folds of the same data.
#[must_use]
pub fn cross_fitted(items: &[Item], seed: u64) -> Vec<(&'static str, Vec<Forecasts>)> {
    let split = Split::new(&groups(items), FOLDS, seed);
    let mut all: Vec<(&'static str, Vec<Forecasts>)> = Vec::new();
    for fold in 0..FOLDS {
        let others = split.outside(fold);
        let train: Vec<Item> = others.into_iter().map(|at| items[at].clone()).collect();
        for (n, baseline) in baselines(&train).iter().enumerate() {
            if all.len() <= n {
                all.push((baseline.name(), vec![Forecasts::new(); items.len()]));
            }
            for at in split.inside(fold) {
                all[n].1[at] = baseline.forecast(&items[at]);
            }
        }
    }
    all
}

/// TF-IDF: weighted n-grams of length 1.
pub(super) fn tf_idf(items: &[Item]) -> Base {
    Base::hashed(items.iter().map(question))
}

/// The answer most experts agree on, whatever the question: expected score, ties shared. `None` where the
/// right option is not known; 0 where nobody chose.
pub(super) fn majority(item: &Item) -> Option<f64> {
    let answer = item.answer?;
    let mut votes = vec![0.0; item.choices.len()];
    item.outcomes
        .values()
        .filter_map(|outcome| outcome.choice)
        .for_each(|choice| votes[choice] += 1.0);
    Some(crate::vote::share_of_winner(&votes, answer).unwrap_or(0.0))
}
