//! From outcomes to a gate: folds, the frozen encoder, a head per expert.
//!
//! Every number that a head, a calibration or a penalty is chosen by comes from questions that the thing
//! before it in the chain was not trained on: the topic layer of each fold is trained without that fold,
//! heads see its answers on the fold only, and calibration sees logits of heads that were trained without
//! the fold. The layers are the work, and independent: callers may run them on as many threads as they
//! have.

use std::collections::BTreeMap;

use moe2_model::ExpertName;

use super::calibrate::Calibration;
use super::length::Length;
use super::logistic::{Logistic, Prior, cross_entropy, sigmoid};
use super::softmax::Softmax;
use crate::data::{Item, Split, groups};
use crate::encode::Sparse;
use crate::encode::ngrams::{self, WIDTH};
use crate::encode::topics::{Question, Topics, rarity};

/// Folds of the questions.
const FOLDS: usize = 5;
/// Penalties of a head that are tried: precision of the prior on each weight, in outcomes.
const PENALTIES: [f64; 7] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
/// Ridge penalty of the topic layer, per question.
const TOPIC_PENALTY: f64 = 2e-5;
const DIFFICULTY_PENALTY: f64 = 2e-4;
/// Precision of a head's constant: hardly any.
const FREE: f64 = 1e-3;
/// Questions of a topic below which it is not one.
const LEAST_TOPIC: usize = 20;
/// Characters of a token, where only characters were counted.
const CHARS_PER_TOKEN: f64 = 4.0;

/// Why a gate cannot be trained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrainError {
    /// Too few questions.
    #[error("{count} questions are too few to train and to judge by: give at least {least}")]
    TooFew {
        /// How many there are.
        count: usize,
        /// How many are needed.
        least: usize,
    },
}

/// Questions needed for five folds to mean anything.
const LEAST_ITEMS: usize = 50;

/// A training in progress.
#[derive(Debug)]
pub struct Training<'d> {
    items: &'d [Item],
    split: Split,
    rarity: Vec<f32>,
    ngrams: Vec<Sparse>,
    topics: Vec<String>,
    /// Topic of each item among `topics`.
    topic: Vec<usize>,
}

/// One expert's head.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedHead {
    pub(crate) logistic: Logistic,
    pub(crate) calibration: Calibration,
    pub(crate) length: Option<Length>,
    /// Outcomes it was trained on.
    pub outcomes: usize,
    /// Their mean score.
    pub mean: f64,
    /// Penalty chosen.
    pub penalty: f64,
    /// Cross-entropy on held-out folds, per outcome, and that of the mean alone.
    pub held_out: (f64, f64),
}

/// What a training gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    pub(crate) rarity: Vec<f32>,
    pub(crate) topics: Topics,
    /// By expert.
    pub heads: BTreeMap<ExpertName, TrainedHead>,
}

fn question(item: &Item) -> Question<'_> {
    Question {
        text: &item.prompt,
        options: &item.choices,
    }
}

impl<'d> Training<'d> {
    /// Looks at all questions and splits them; the seed decides how.
    ///
    /// # Errors
    /// [`TrainError`] if there are too few.
    pub fn new(items: &'d [Item], seed: u64) -> Result<Self, TrainError> {
        if items.len() < LEAST_ITEMS {
            return Err(TrainError::TooFew {
                count: items.len(),
                least: LEAST_ITEMS,
            });
        }
        let counts: Vec<Sparse> = items
            .iter()
            .map(|item| ngrams::counts(&item.texts().collect::<Vec<_>>().join("\n")))
            .collect();
        let rarity = rarity(counts.iter());
        let ngrams = items.iter().map(|item| question(item).ngrams(&rarity));
        let (topics, topic) = topics(items);
        Ok(Self {
            items,
            split: Split::new(&groups(items), FOLDS, seed),
            ngrams: ngrams.collect(),
            rarity,
            topics,
            topic,
        })
    }

    /// How many layers there are to train: one per fold, and one on everything.
    #[must_use]
    pub const fn layers(&self) -> usize {
        FOLDS + 1
    }

    /// Trains one; this is where the time goes.
    #[must_use]
    pub fn layer(&self, which: usize) -> Layer {
        let kept: Vec<usize> = (0..self.items.len())
            .filter(|&at| self.split.fold[at] != which)
            .collect();
        let rows: Vec<&Sparse> = kept.iter().map(|&at| &self.ngrams[at]).collect();
        let classes = self.topics.len();
        let topic = |at: usize| {
            let mut target = vec![0.0; classes];
            target[self.topic[at]] = 1.0;
            target
        };
        let right = |at: usize| {
            let scores = self.items[at].outcomes.values().map(|o| o.score);
            let (sum, count) = scores.fold((0.0, 0.0), |(s, c), score| (s + score, c + 1.0));
            let mean: f64 = if count > 0.0 { sum / count } else { 0.5 };
            vec![mean, 1.0 - mean]
        };
        let targets =
            |of: &dyn Fn(usize) -> Vec<f64>| kept.iter().map(|&at| of(at)).collect::<Vec<_>>();
        Layer(Topics {
            names: self.topics.clone(),
            topic: Softmax::fit(&rows, &targets(&topic), (WIDTH, classes), TOPIC_PENALTY),
            difficulty: Softmax::fit(&rows, &targets(&right), (WIDTH, 2), DIFFICULTY_PENALTY),
        })
    }

    /// Trains the heads on all layers, in order.
    ///
    /// # Panics
    /// If a layer is missing.
    #[must_use]
    pub fn finish(self, layers: Vec<Layer>) -> Trained {
        assert_eq!(layers.len(), self.layers(), "every layer was trained");
        let features: Vec<Vec<f64>> = self
            .items
            .iter()
            .enumerate()
            .map(|(at, item)| {
                let layer = &layers[self.split.fold[at]].0;
                layer.features(&self.ngrams[at], question(item))
            })
            .collect();
        let mut experts: Vec<&ExpertName> =
            self.items.iter().flat_map(|i| i.outcomes.keys()).collect();
        experts.sort_unstable();
        experts.dedup();
        let heads = experts.into_iter().map(|expert| {
            let seen = self.items.iter().enumerate();
            let seen = seen.filter_map(|(at, item)| {
                let outcome = item.outcomes.get(expert)?;
                let tokens = outcome.output_tokens.map(|t| t as f64);
                let chars = outcome.output_chars.map(|c| c as f64 / CHARS_PER_TOKEN);
                Some(Seen {
                    features: &features[at],
                    score: outcome.score,
                    fold: self.split.fold[at],
                    tokens: tokens.or(chars),
                })
            });
            (expert.clone(), head(&seen.collect::<Vec<_>>()))
        });
        let heads = heads.collect();
        let Layer(topics) = layers.into_iter().next_back().expect("there are layers");
        Trained {
            rarity: self.rarity,
            topics,
            heads,
        }
    }
}

/// A trained layer of the encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer(Topics);

/// One outcome of the expert a head is for.
#[derive(Debug, Clone, Copy)]
struct Seen<'f> {
    features: &'f [f64],
    score: f64,
    fold: usize,
    tokens: Option<f64>,
}

fn head(seen: &[Seen<'_>]) -> TrainedHead {
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
    let logits = |penalty: f64| -> Vec<(f64, f64, usize)> {
        let heads: Vec<Logistic> = (0..FOLDS)
            .map(|fold| Logistic::fit(rows(fold), &prior(penalty)))
            .collect();
        seen.iter()
            .map(|s| (heads[s.fold].logit(s.features).0, s.score, s.fold))
            .collect()
    };
    let loss = |held_out: &[(f64, f64, usize)]| -> f64 {
        held_out
            .iter()
            .map(|h| cross_entropy(h.0, h.1))
            .sum::<f64>()
            / count.max(1) as f64
    };
    let tried = PENALTIES.map(|penalty| (penalty, logits(penalty)));
    let best = tried
        .into_iter()
        .min_by(|a, b| loss(&a.1).total_cmp(&loss(&b.1)));
    let (penalty, held_out) = best.expect("there are penalties");
    let constant = (mean.clamp(1e-6, 1.0 - 1e-6) / (1.0 - mean.clamp(1e-6, 1.0 - 1e-6))).ln();
    let flat: Vec<(f64, f64, usize)> = seen.iter().map(|s| (constant, s.score, s.fold)).collect();
    let lengths: Vec<(&[f64], f64)> = seen
        .iter()
        .filter_map(|s| Some((s.features, s.tokens?)))
        .collect();
    TrainedHead {
        logistic: Logistic::fit(rows(FOLDS), &prior(penalty)),
        calibration: Calibration::fit(&held_out),
        length: Length::fit(&lengths),
        outcomes: count,
        mean,
        penalty,
        held_out: (loss(&held_out), loss(&flat)),
    }
}

/// Topics by the items' domains, or data sets, and which each item has; small ones are one.
fn topics(items: &[Item]) -> (Vec<String>, Vec<usize>) {
    const OTHER: &str = "other";
    let label = |item: &Item| -> String {
        let stated = item.domain.as_deref().or(item.dataset.as_deref());
        stated.unwrap_or(OTHER).to_owned()
    };
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    items
        .iter()
        .for_each(|item| *count.entry(label(item)).or_default() += 1);
    let mut names: Vec<String> = count
        .iter()
        .filter(|(_, count)| **count >= LEAST_TOPIC)
        .map(|(name, _)| name.clone())
        .collect();
    let place = |names: &[String], label: &str| names.iter().position(|n| n == label);
    if items
        .iter()
        .any(|item| place(&names, &label(item)).is_none())
        && place(&names, OTHER).is_none()
    {
        names.push(OTHER.to_owned());
    }
    let other = place(&names, OTHER).unwrap_or(0);
    let topic = items
        .iter()
        .map(|item| place(&names, &label(item)).unwrap_or(other));
    let topic = topic.collect();
    (names, topic)
}

impl Trained {
    /// What a head needs to see of a question.
    #[must_use]
    pub fn features(&self, item: &Item) -> Vec<f64> {
        let question = question(item);
        self.topics
            .features(&question.ngrams(&self.rarity), question)
    }
}

impl TrainedHead {
    /// Probability of a right answer, and its standard deviation.
    #[must_use]
    pub fn forecast(&self, features: &[f64]) -> (f64, f64) {
        let (logit, spread) = self.logistic.logit(features);
        let probability = self.calibration.apply(logit);
        let raw = sigmoid(logit);
        (probability, (raw * (1.0 - raw) * spread).min(0.5))
    }
}
