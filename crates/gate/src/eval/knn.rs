//! A gate without training: how experts did on the most similar questions.

use std::collections::BTreeMap;

use super::Forecasts;
use super::baselines::{Baseline, Reference, tf_idf};
use crate::data::Item;
use crate::encode::base::Base;
use crate::train::fit::question;

/// Neighbours asked.
const K: usize = 40;
/// Outcomes of the expert's mean that are counted beside them.
const PRIOR: f64 = 5.0;

/// Questions with their outcomes, found by cosine similarity through an inverted index.
#[derive(Debug)]
pub(super) struct Neighbours {
    tfidf: Base,
    postings: BTreeMap<u32, Vec<(u32, f32)>>,
    outcomes: Vec<Forecasts>,
    reference: Reference,
}

impl Neighbours {
    pub(super) fn new(items: &[Item]) -> Self {
        let tfidf = tf_idf(items);
        let mut postings: BTreeMap<u32, Vec<(u32, f32)>> = BTreeMap::new();
        for (at, item) in (0u32..).zip(items) {
            let vector = tfidf.row(question(item));
            for (index, value) in vector.index.iter().zip(&vector.value) {
                postings.entry(*index).or_default().push((at, *value));
            }
        }
        let scores = |item: &Item| {
            let each = item.outcomes.iter();
            each.map(|(e, o)| (e.clone(), o.score)).collect()
        };
        Self {
            tfidf,
            postings,
            outcomes: items.iter().map(scores).collect(),
            reference: Reference::new(items),
        }
    }
}

impl Baseline for Neighbours {
    fn name(&self) -> &'static str {
        "knn"
    }

    fn forecast(&self, item: &Item) -> Forecasts {
        let vector = self.tfidf.row(question(item));
        let mut similarity = vec![0.0f32; self.outcomes.len()];
        for (index, value) in vector.index.iter().zip(&vector.value) {
            for (at, other) in self.postings.get(index).into_iter().flatten() {
                similarity[*at as usize] += value * other;
            }
        }
        let mut order: Vec<usize> = (0..similarity.len()).collect();
        let k = K.min(order.len());
        if k > 0 {
            order.select_nth_unstable_by(k - 1, |&a, &b| {
                similarity[b].total_cmp(&similarity[a]).then(a.cmp(&b))
            });
        }
        let means = self.reference.means.iter();
        means
            .map(|(expert, mean)| {
                let (mut sum, mut weight) = (PRIOR * mean, PRIOR);
                for &at in &order[..k] {
                    if let Some(score) = self.outcomes[at].get(expert) {
                        sum += score;
                        weight += 1.0;
                    }
                }
                (expert.clone(), sum / weight)
            })
            .collect()
    }
}
