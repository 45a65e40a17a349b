//! From outcomes to a gate: folds, the frozen encoder, a head per expert.
//!
//! Every number that a head, a calibration or a penalty is chosen by comes from questions that the thing
//! before it in the chain was not trained on: the topic layer of each fold is trained without that fold,
//! heads see its answers on the fold only, and calibration sees logits of heads that were trained without
//! the fold.

use std::collections::BTreeMap;
use std::sync::Arc;

use moe2_model::ExpertName;

use super::fusion::FusionGain;
use super::heads::{self, HeldOut, Seen};
use super::logistic::Prior;
use super::model::Trained;
use super::parallel::{self, Runner};
use super::softmax::Softmax;
use super::trust::{self, Common};
use crate::data::{Item, Split, groups, reread, scored};
use crate::encode::Sparse;
use crate::encode::base::{Base, Embedder, Question};
use crate::encode::topics::{Encoder, Topics};
use crate::options::OptionRule;

/// Folds of the questions.
pub(crate) const FOLDS: usize = 5;
/// Questions of a topic below which it is not one.
const LEAST_TOPIC: usize = 20;
/// Characters of a token, where only characters were counted.
const CHARS_PER_TOKEN: f64 = 4.0;
/// Questions needed for five folds to mean anything.
const LEAST_ITEMS: usize = 50;

/// Questions read in one job.
const PART: usize = 256;

/// Who runs jobs, and who hears of each that is done.
type Jobs<'j> = (&'j dyn Runner, &'j (dyn Fn() + Sync));

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

/// A training about to run.
#[derive(Debug)]
pub struct Training {
    items: Vec<Item>,
    split: Split,
    base: Base,
    topics: Vec<String>,
    /// Topic of each item among `topics`.
    topic: Vec<usize>,
    rules: BTreeMap<ExpertName, OptionRule>,
    /// What experts are added to.
    onto: Option<Trained>,
}

/// Everyone's held-out forecasts, from which gates for any of the experts follow.
#[derive(Debug)]
pub struct Fitted {
    items: Vec<Item>,
    features: Vec<Vec<f64>>,
    rules: BTreeMap<ExpertName, OptionRule>,
    encoder: Encoder,
    heads: BTreeMap<ExpertName, HeldOut>,
    questions: Vec<u64>,
}

pub(crate) fn question(item: &Item) -> Question<'_> {
    Question {
        text: &item.prompt,
        options: &item.choices,
    }
}

impl Training {
    /// Looks at all questions and splits them; the seed decides how. Questions are read as hashed n-grams.
    ///
    /// # Errors
    /// [`TrainError`] if there are too few, or one lacks its text.
    pub fn new(items: Vec<Item>, seed: u64) -> Result<Self, TrainError> {
        let base = Base::hashed(items.iter().map(question));
        Self::of_base(items, seed, base)
    }

    /// The same with questions read by an encoder from outside.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_embedder(
        items: Vec<Item>,
        seed: u64,
        embedder: Arc<dyn Embedder>,
    ) -> Result<Self, TrainError> {
        Self::of_base(items, seed, Base::Dense(embedder))
    }

    fn of_base(items: Vec<Item>, seed: u64, base: Base) -> Result<Self, TrainError> {
        check(&items)?;
        let (topics, topic) = topics(&items, None);
        Ok(Self::prepared(items, seed, base, (topics, topic), None))
    }

    /// Adds experts to a gate and leaves all else as it is: the encoder, the others' heads.
    ///
    /// # Errors
    /// [`TrainError`] as for [`Self::new`], or if the data has no new expert.
    pub fn onto(onto: Trained, items: Vec<Item>, seed: u64) -> Result<Self, TrainError> {
        check(&items)?;
        let known = |name: &ExpertName| onto.heads.contains_key(name);
        if items.iter().all(|item| item.outcomes.keys().all(known)) {
            return Err(TrainError::NothingNew);
        }
        let topics = topics(&items, Some(&onto.encoder.topics.names));
        let base = onto.encoder.base.clone();
        Ok(Self::prepared(items, seed, base, topics, Some(onto)))
    }

    fn prepared(
        mut items: Vec<Item>,
        seed: u64,
        base: Base,
        (topics, topic): (Vec<String>, Vec<usize>),
        onto: Option<Trained>,
    ) -> Self {
        let mut experts: Vec<ExpertName> = items
            .iter()
            .flat_map(|item| item.outcomes.keys().cloned())
            .collect();
        experts.sort_unstable();
        experts.dedup();
        let rule = |expert: &ExpertName| {
            let known = onto.as_ref().and_then(|onto| onto.heads.get(expert));
            known.map_or_else(|| OptionRule::fit(&scored(&items, expert)), |h| h.options)
        };
        let rules: BTreeMap<_, _> = experts.into_iter().map(|e| (e.clone(), rule(&e))).collect();
        reread(&mut items, |expert| rules.get(expert).copied());
        Self {
            split: Split::new(&groups(&items), FOLDS, seed),
            items,
            base,
            topics,
            topic,
            rules,
            onto,
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
        self.parts() + self.layers() + self.rules.len()
    }

    /// Parts that questions are read in.
    fn parts(&self) -> usize {
        self.items.len().div_ceil(PART)
    }

    /// One per fold, and one on everything unless there is one.
    fn layers(&self) -> usize {
        FOLDS + usize::from(self.onto.is_none())
    }

    /// Trains; `done` hears of every job that is. The result does not depend on the runner.
    #[must_use]
    pub fn run(mut self, runner: &dyn Runner, done: impl Fn() + Sync) -> Trained {
        match self.onto.take() {
            Some(onto) => self.added(onto, (runner, &done)),
            None => self.fitted((runner, &done)).gate(|_| true),
        }
    }

    /// Trains a head for everyone and stops there.
    #[must_use]
    pub fn fit(self, runner: &dyn Runner, done: impl Fn() + Sync) -> Fitted {
        self.fitted((runner, &done))
    }

    /// Features of every item, by layers that were trained without it, and the layers.
    fn features(&self, layers: usize, (runner, done): Jobs<'_>) -> (Vec<Vec<f64>>, Vec<Topics>) {
        let parts = parallel::map(runner, self.parts(), |part| {
            let items = self.items.iter().skip(part * PART).take(PART);
            let rows = items.map(|item| self.base.row(question(item)));
            let rows = rows.collect::<Vec<Sparse>>();
            done();
            rows
        });
        let rows = parts.concat();
        let layers = parallel::map(runner, layers, |which| {
            let layer = self.layer(&rows, which);
            done();
            layer
        });
        let each = self.items.iter().zip(&rows).zip(&self.split.fold);
        let features = each.map(|((item, row), fold)| layers[*fold].features(row, question(item)));
        (features.collect(), layers)
    }

    fn questions(&self) -> Vec<u64> {
        self.items.iter().map(Item::fingerprint).collect()
    }

    fn added(self, onto: Trained, jobs: Jobs<'_>) -> Trained {
        let (features, _) = self.features(FOLDS, jobs);
        let new = |e: &&ExpertName| !onto.heads.contains_key(*e);
        let experts: Vec<&ExpertName> = self.rules.keys().filter(new).collect();
        let added = self.heads(&experts, &features, onto.common.prior.as_ref(), jobs);
        let mut heads = onto.heads;
        heads.extend(added.into_iter().map(|(expert, (head, _))| (expert, head)));
        let mut questions = self.questions();
        questions.extend(onto.questions);
        Trained {
            heads,
            questions: in_order(questions),
            ..onto
        }
    }

    fn fitted(self, jobs: Jobs<'_>) -> Fitted {
        let (features, layers) = self.features(self.layers(), jobs);
        // Those that can stand alone come first, the others start from what they have in common.
        let enough = |e: &&ExpertName| self.count(e) >= heads::FEW;
        let (known, few): (Vec<&ExpertName>, Vec<&ExpertName>) =
            self.rules.keys().partition(enough);
        let mut all = self.heads(&known, &features, None, jobs);
        let pool = heads::pool(all.values().map(|(head, _)| head));
        all.extend(self.heads(&few, &features, pool.as_ref(), jobs));
        let topics = layers.into_iter().next_back().expect("there are layers");
        Fitted {
            features,
            heads: all,
            encoder: Encoder::new(self.base.clone(), topics),
            questions: in_order(self.questions()),
            items: self.items,
            rules: self.rules,
        }
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
        (runner, done): Jobs<'_>,
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

    /// Trains a topic layer without one fold.
    fn layer(&self, rows: &[Sparse], without: usize) -> Topics {
        let kept: Vec<usize> = self.split.outside(without);
        let rows: Vec<&Sparse> = kept.iter().map(|&at| &rows[at]).collect();
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
        let (width, [of_topic, of_difficulty]) = (self.base.width(), self.base.penalties());
        let fit = |targets: &[Vec<f64>], classes, penalty| {
            Softmax::fit(&rows, targets, (width, classes), penalty).rounded()
        };
        Topics {
            names: self.topics.clone(),
            topic: fit(&targets(&topic), classes, of_topic),
            difficulty: fit(&targets(&right), 2, of_difficulty),
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

impl Fitted {
    /// The gate of those experts that `chosen` picks, as if no others had been there from the heads on:
    /// what is chosen by all held-out forecasts together (what they have in common, trust, the gain of
    /// fusion) is chosen by theirs.
    #[must_use]
    pub fn gate(&self, chosen: impl Fn(&ExpertName) -> bool) -> Trained {
        let mut forecasts = vec![BTreeMap::new(); self.items.len()];
        let mut heads = BTreeMap::new();
        for (expert, (head, held_out)) in self.heads.iter().filter(|(e, _)| chosen(e)) {
            for (at, p) in held_out {
                forecasts[*at].insert(expert.clone(), *p);
            }
            heads.insert(expert.clone(), head.clone());
        }
        let means: BTreeMap<&ExpertName, f64> = heads
            .iter()
            .map(|(expert, head)| (expert, head.mean))
            .collect();
        let common = Common::new(heads::pool(heads.values()), &self.features);
        let eases: Vec<f64> = self.features.iter().map(|row| common.ease(row)).collect();
        let trust = trust::choose(&self.items, &forecasts, &eases, &means);
        trust::apply(&mut forecasts, &eases, &means, trust);
        let fusion = FusionGain::fit(&self.items, &forecasts, &self.rules);
        Trained {
            encoder: self.encoder.clone(),
            heads,
            common,
            fusion,
            trust,
            questions: self.questions.clone(),
        }
    }
}

fn in_order(mut all: Vec<u64>) -> Vec<u64> {
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether the questions can be trained on.
fn check(items: &[Item]) -> Result<(), TrainError> {
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
    Ok(())
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
