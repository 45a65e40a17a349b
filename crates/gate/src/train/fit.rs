//! From outcomes to a gate: folds, the frozen encoder, a head per expert.
//!
//! Every number that a head, a calibration or a penalty is chosen by comes from questions that the thing
//! before it in the chain was not trained on: the topic layer of each fold is trained without that fold,
//! heads see its answers on the fold only, and calibration sees logits of heads that were trained without
//! the fold.

use std::collections::BTreeMap;

use moe2_model::ExpertName;

use super::fusion::FusionGain;
use super::heads::{self, HeldOut, Seen, TrainedHead};
use super::logistic::Prior;
use super::parallel::{self, Runner};
use super::softmax::Softmax;
use super::trust::{self, Common};
use crate::data::{Item, Split, groups, reread, scored};
use crate::encode::Sparse;
use crate::encode::ngrams::{self, WIDTH};
use crate::encode::topics::{Encoder, Question, Topics, rarity};
use crate::gate::Quality;
use crate::options::OptionRule;

/// Folds of the questions.
pub(crate) const FOLDS: usize = 5;
/// Ridge penalty of the topic layer, per question.
const TOPIC_PENALTY: f64 = 2e-5;
const DIFFICULTY_PENALTY: f64 = 2e-4;
/// Questions of a topic below which it is not one.
const LEAST_TOPIC: usize = 20;
/// Characters of a token, where only characters were counted.
const CHARS_PER_TOKEN: f64 = 4.0;
/// Questions needed for five folds to mean anything.
const LEAST_ITEMS: usize = 50;

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
    /// A question without its text.
    #[error(
        "question {id} has no text: name the file of its text, as records without texts need it"
    )]
    NoText {
        /// Its id.
        id: String,
    },
    /// Nothing to learn.
    #[error("the gate has a head for every expert in the data already")]
    NothingNew,
}

/// What a training gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    pub(crate) encoder: Encoder,
    /// By expert.
    pub heads: BTreeMap<ExpertName, TrainedHead>,
    pub(crate) pool: Option<Prior>,
    pub(crate) common: Common,
    pub(crate) fusion: FusionGain,
    /// How far an expert's forecast may leave what all have in common, from 0 to 1.
    pub trust: f64,
    /// Fingerprints of the questions, in order.
    pub(crate) questions: Vec<u64>,
}

/// A training about to run.
#[derive(Debug)]
pub struct Training {
    items: Vec<Item>,
    split: Split,
    rarity: Vec<f32>,
    ngrams: Vec<Sparse>,
    topics: Vec<String>,
    /// Topic of each item among `topics`.
    topic: Vec<usize>,
    rules: BTreeMap<ExpertName, OptionRule>,
    base: Option<Trained>,
}

pub(crate) fn question(item: &Item) -> Question<'_> {
    Question {
        text: &item.prompt,
        options: &item.choices,
    }
}

impl Training {
    /// Looks at all questions and splits them; the seed decides how.
    ///
    /// # Errors
    /// [`TrainError`] if there are too few, or one lacks its text.
    pub fn new(items: Vec<Item>, seed: u64) -> Result<Self, TrainError> {
        let counts = usable(&items)?;
        let rarity = rarity(counts.iter());
        let (topics, topic) = topics(&items, None);
        Ok(Self::prepared(items, seed, rarity, (topics, topic), None))
    }

    /// Adds experts to a gate and leaves all else as it is: the encoder, the others' heads.
    ///
    /// # Errors
    /// [`TrainError`] as for [`Self::new`], or if the data has no new expert.
    pub fn onto(base: Trained, items: Vec<Item>, seed: u64) -> Result<Self, TrainError> {
        usable(&items)?;
        let known = |name: &ExpertName| base.heads.contains_key(name);
        if items.iter().all(|item| item.outcomes.keys().all(known)) {
            return Err(TrainError::NothingNew);
        }
        let topics = topics(&items, Some(&base.encoder.topics.names));
        let rarity = base.encoder.rarity.clone();
        Ok(Self::prepared(items, seed, rarity, topics, Some(base)))
    }

    fn prepared(
        mut items: Vec<Item>,
        seed: u64,
        rarity: Vec<f32>,
        (topics, topic): (Vec<String>, Vec<usize>),
        base: Option<Trained>,
    ) -> Self {
        let mut experts: Vec<ExpertName> = items
            .iter()
            .flat_map(|item| item.outcomes.keys().cloned())
            .collect();
        experts.sort_unstable();
        experts.dedup();
        let rule = |expert: &ExpertName| {
            let known = base.as_ref().and_then(|base| base.heads.get(expert));
            known.map_or_else(|| OptionRule::fit(&scored(&items, expert)), |h| h.options)
        };
        let rules: BTreeMap<_, _> = experts.into_iter().map(|e| (e.clone(), rule(&e))).collect();
        reread(&mut items, |expert| rules.get(expert).copied());
        let ngrams = items.iter().map(|item| question(item).ngrams(&rarity));
        Self {
            split: Split::new(&groups(&items), FOLDS, seed),
            ngrams: ngrams.collect(),
            items,
            rarity,
            topics,
            topic,
            rules,
            base,
        }
    }

    /// Folds of the questions by which everything is chosen.
    #[must_use]
    pub const fn folds(&self) -> usize {
        FOLDS
    }

    /// Jobs that [`Self::run`] reports.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.layers() + self.rules.len()
    }

    /// One per fold, and one on everything unless there is one.
    fn layers(&self) -> usize {
        FOLDS + usize::from(self.base.is_none())
    }

    /// Trains; `done` hears of every job that is. The result does not depend on the runner.
    #[must_use]
    pub fn run(mut self, runner: &dyn Runner, done: impl Fn() + Sync) -> Trained {
        let layers = parallel::map(runner, self.layers(), |which| {
            let layer = self.layer(which);
            done();
            layer
        });
        let features: Vec<Vec<f64>> = self
            .items
            .iter()
            .enumerate()
            .map(|(at, item)| {
                let layer = &layers[self.split.fold[at]];
                layer.features(&self.ngrams[at], question(item))
            })
            .collect();
        let mut questions: Vec<u64> = self.items.iter().map(Item::fingerprint).collect();
        if let Some(base) = self.base.take() {
            let new = |e: &&ExpertName| !base.heads.contains_key(*e);
            let experts: Vec<&ExpertName> = self.rules.keys().filter(new).collect();
            let added = self.heads(&experts, &features, base.pool.as_ref(), (runner, &done));
            let mut heads = base.heads;
            heads.extend(added.into_iter().map(|(expert, (head, _))| (expert, head)));
            questions.extend(base.questions);
            return Trained {
                heads,
                questions: in_order(questions),
                ..base
            };
        }
        // Those that can stand alone come first, the others start from what they have in common.
        let enough = |e: &&ExpertName| self.count(e) >= heads::FEW;
        let (known, few): (Vec<&ExpertName>, Vec<&ExpertName>) =
            self.rules.keys().partition(enough);
        let mut all = self.heads(&known, &features, None, (runner, &done));
        let pool = heads::pool(all.values().map(|(head, _)| head));
        all.extend(self.heads(&few, &features, pool.as_ref(), (runner, &done)));
        let topics = layers.into_iter().next_back().expect("there are layers");
        self.finished(all, pool, &features, (topics, in_order(questions)))
    }

    /// Outcomes of an expert.
    fn count(&self, expert: &ExpertName) -> usize {
        let has = |item: &&Item| item.outcomes.contains_key(expert);
        self.items.iter().filter(has).count()
    }

    fn heads(
        &self,
        experts: &[&ExpertName],
        features: &[Vec<f64>],
        pool: Option<&Prior>,
        (runner, done): (&dyn Runner, &(dyn Fn() + Sync)),
    ) -> BTreeMap<ExpertName, HeldOut> {
        let fitted = parallel::map(runner, experts.len(), |n| {
            let seen = self.seen(experts[n], features);
            let head = heads::head(&seen, FOLDS, &scored(&self.items, experts[n]), pool);
            done();
            head
        });
        let named = experts.iter().map(|e| (*e).clone());
        named.zip(fitted).collect()
    }

    /// What is chosen by the heads' held-out forecasts together: trust and the gain of fusion.
    fn finished(
        self,
        all: BTreeMap<ExpertName, HeldOut>,
        pool: Option<Prior>,
        features: &[Vec<f64>],
        (topics, questions): (Topics, Vec<u64>),
    ) -> Trained {
        let mut forecasts = vec![BTreeMap::new(); self.items.len()];
        let mut heads = BTreeMap::new();
        for (expert, (head, held_out)) in all {
            for (at, p) in held_out {
                forecasts[at].insert(expert.clone(), p);
            }
            heads.insert(expert, head);
        }
        let means: BTreeMap<&ExpertName, f64> = heads
            .iter()
            .map(|(expert, head): (_, &TrainedHead)| (expert, head.mean))
            .collect();
        let shared = pool.as_ref().map(|pool| pool.mean.clone());
        let common = Common::new(shared.unwrap_or_default(), features);
        let eases: Vec<f64> = features.iter().map(|row| common.ease(row)).collect();
        let trust = trust::choose(&self.items, &forecasts, &eases, &means);
        trust::apply(&mut forecasts, &eases, &means, trust);
        let fusion = FusionGain::fit(&self.items, &forecasts, &self.rules);
        Trained {
            encoder: Encoder::new(self.rarity, topics),
            heads,
            pool,
            common,
            fusion,
            trust,
            questions,
        }
    }

    /// Trains a topic layer without one fold.
    fn layer(&self, without: usize) -> Topics {
        let kept: Vec<usize> = self.split.outside(without);
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
        Topics {
            names: self.topics.clone(),
            topic: Softmax::fit(&rows, &targets(&topic), (WIDTH, classes), TOPIC_PENALTY).rounded(),
            difficulty: Softmax::fit(&rows, &targets(&right), (WIDTH, 2), DIFFICULTY_PENALTY)
                .rounded(),
        }
    }

    fn seen<'f>(&self, expert: &ExpertName, features: &'f [Vec<f64>]) -> Vec<Seen<'f>> {
        let each = self.items.iter().enumerate();
        each.filter_map(|(at, item)| {
            let outcome = item.outcomes.get(expert)?;
            let tokens = outcome.output_tokens.map(|t| t as f64);
            let chars = outcome.output_chars.map(|c| c as f64 / CHARS_PER_TOKEN);
            Some(Seen {
                at,
                features: &features[at],
                score: outcome.score,
                fold: self.split.fold[at],
                tokens: tokens.or(chars),
            })
        })
        .collect()
    }
}

fn in_order(mut all: Vec<u64>) -> Vec<u64> {
    all.sort_unstable();
    all.dedup();
    all
}

/// Counts of n-grams, if the questions can be trained on.
fn usable(items: &[Item]) -> Result<Vec<Sparse>, TrainError> {
    if items.len() < LEAST_ITEMS {
        return Err(TrainError::TooFew {
            count: items.len(),
            least: LEAST_ITEMS,
        });
    }
    if let Some(item) = items.iter().find(|item| item.lacks_text()) {
        let id = item.id.clone().unwrap_or_default();
        return Err(TrainError::NoText { id });
    }
    let text = |item: &Item| item.texts().collect::<Vec<_>>().join("\n");
    Ok(items
        .iter()
        .map(|item| ngrams::counts(&text(item)))
        .collect())
}

/// Topics by the items' domains, or data sets, and which each item has; small ones are one. Given names
/// are kept.
fn topics(items: &[Item], given: Option<&[String]>) -> (Vec<String>, Vec<usize>) {
    const OTHER: &str = "other";
    let label = |item: &Item| -> String {
        let stated = item.domain.as_deref().or(item.dataset.as_deref());
        stated.unwrap_or(OTHER).to_owned()
    };
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    items
        .iter()
        .for_each(|item| *count.entry(label(item)).or_default() += 1);
    let mut names: Vec<String> = match given {
        Some(names) => names.to_vec(),
        None => count
            .iter()
            .filter(|(_, count)| **count >= LEAST_TOPIC)
            .map(|(name, _)| name.clone())
            .collect(),
    };
    let place = |names: &[String], label: &str| names.iter().position(|n| n == label);
    let homeless = |item: &Item| place(&names, &label(item)).is_none();
    if given.is_none() && items.iter().any(homeless) && place(&names, OTHER).is_none() {
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
        self.encoder.features(question(item))
    }

    /// Probability that an expert with a head answers rightly, and its standard deviation.
    #[must_use]
    pub fn forecast(&self, expert: &ExpertName, features: &[f64]) -> Option<(f64, f64)> {
        let head = self.heads.get(expert)?;
        let (p, deviation) = head.forecast(features);
        let ease = self.common.ease(features);
        Some((trust::blend(p, head.mean, ease, self.trust), deviation))
    }

    /// What an expert would make of a question. Nothing if it has no head.
    pub(crate) fn quality(&self, expert: &ExpertName, features: &[f64]) -> Option<Quality> {
        let (probability, uncertainty) = self.forecast(expert, features)?;
        let length = self.heads.get(expert).and_then(|h| h.length.as_ref());
        Some(Quality {
            probability,
            output_tokens: length.map_or(1.0, |l| l.tokens(features)),
            uncertainty,
        })
    }

    /// Names of the encoder's topics.
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.encoder.topics.names
    }

    /// What fusing 2, 3, … experts gained over the best of them where they are equally good, and its
    /// standard error.
    #[must_use]
    pub fn fusion_gains(&self) -> Vec<(f64, f64)> {
        let lines = self.fusion.lines.iter();
        lines.map(|line| (line.gain, line.error)).collect()
    }

    /// Whether it was trained on a question.
    #[must_use]
    pub fn has_seen(&self, item: &Item) -> bool {
        self.questions.binary_search(&item.fingerprint()).is_ok()
    }
}
