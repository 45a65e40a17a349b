//! The table of encoders: what turns a question's text into a row of numbers that the topic layer weighs.
//!
//! Hashed n-grams need no file and are what ships. Any other encoder comes from outside through
//! [`Embedder`], because reading weights is not for a crate that only computes. docs/gate.md has the
//! record that the default was chosen by.

use std::fmt::Debug;
use std::sync::Arc;

use super::Sparse;
use super::ngrams::{self, WIDTH};

/// Questions that an n-gram must be in.
const LEAST_QUESTIONS: u32 = 3;
/// Steps of rarity, so that one takes a byte in a file.
pub(crate) const RARITY_STEP: f32 = 0.0625;
/// Ridge penalties of the topic layer and of difficulty, per question: hashed n-grams.
const HASHED_PENALTIES: [f64; 2] = [2e-5, 2e-4];
/// The same for vectors of an embedder.
const DENSE_PENALTIES: [f64; 2] = [3e-6, 1e-4];

/// A frozen text encoder from outside.
pub trait Embedder: Debug + Send + Sync {
    /// What gate files call it.
    fn name(&self) -> &str;
    /// Numbers in a vector.
    fn width(&self) -> usize;
    /// Tells its weights from others: vectors of other weights make a gate route badly without a word.
    fn digest(&self) -> &str;
    /// The vector of a text of at most 16 KiB, of length [`Self::width`] and norm 1; zeros for a text that has none.
    fn embed(&self, text: &str) -> Vec<f32>;
}

/// A question as the gate sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'q> {
    pub(crate) text: &'q str,
    pub(crate) options: &'q [String],
}

impl Question<'_> {
    /// The question, then its options, a line each.
    pub(crate) fn whole(&self) -> String {
        let mut whole = String::with_capacity(self.text.len() + 64);
        whole.push_str(self.text);
        for option in self.options {
            whole.push('\n');
            whole.push_str(option);
        }
        whole
    }
}

/// One row of the table.
#[derive(Debug, Clone)]
pub(crate) enum Base {
    /// Hashed n-grams and the rarity of each, 0 for those that count for nothing.
    Hashed(Vec<f32>),
    /// Vectors of an embedder.
    Dense(Arc<dyn Embedder>),
}

impl PartialEq for Base {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Hashed(a), Self::Hashed(b)) => a == b,
            (Self::Dense(a), Self::Dense(b)) => (a.name(), a.digest()) == (b.name(), b.digest()),
            _ => false,
        }
    }
}

impl Base {
    /// Hashed n-grams, weighted by how rare they are in these questions.
    pub(crate) fn hashed<'q>(questions: impl Iterator<Item = Question<'q>>) -> Self {
        Self::Hashed(rarity(questions.map(|q| ngrams::counts(&q.whole()))))
    }

    /// The table's name of the row.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Hashed(_) => "hashed",
            Self::Dense(embedder) => embedder.name(),
        }
    }

    /// Numbers in a row.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Hashed(_) => WIDTH,
            Self::Dense(embedder) => embedder.width(),
        }
    }

    /// Ridge penalties of the topic layer and of difficulty.
    pub(crate) const fn penalties(&self) -> [f64; 2] {
        match self {
            Self::Hashed(_) => HASHED_PENALTIES,
            Self::Dense(_) => DENSE_PENALTIES,
        }
    }

    /// Those that may differ from 0; the others need no place in a file.
    pub(crate) fn kept(&self) -> Vec<usize> {
        match self {
            Self::Hashed(rarity) => (0..WIDTH).filter(|&i| rarity[i] != 0.0).collect(),
            Self::Dense(embedder) => (0..embedder.width()).collect(),
        }
    }

    /// A question's row.
    pub(crate) fn row(&self, question: Question<'_>) -> Sparse {
        let whole = question.whole();
        match self {
            Self::Hashed(rarity) => weighted(&whole, rarity),
            Self::Dense(embedder) => Sparse {
                index: (0..).take(embedder.width()).collect(),
                value: embedder.embed(&ngrams::ends(&whole)),
            },
        }
    }

    /// Numbers that tell this base from another.
    pub(crate) fn bits(&self) -> Vec<u64> {
        match self {
            Self::Hashed(rarity) => rarity.iter().map(|v| u64::from(v.to_bits())).collect(),
            Self::Dense(embedder) => embedder.name().bytes().map(u64::from).collect(),
        }
    }
}

/// N-grams of a text, weighted by rarity, with length 1.
pub(crate) fn weighted(text: &str, rarity: &[f32]) -> Sparse {
    let mut sparse = ngrams::counts(text);
    sparse.weigh(rarity);
    sparse.normalise();
    sparse
}

/// How telling each n-gram is: the logarithm of how few questions have it, in steps of [`RARITY_STEP`].
/// Those in hardly any question say nothing that would come again, and have none.
pub(crate) fn rarity(counts: impl Iterator<Item = Sparse>) -> Vec<f32> {
    let mut with = vec![0u32; WIDTH];
    let mut all = 0u32;
    for sparse in counts {
        all += 1;
        sparse.index.iter().for_each(|&i| with[i as usize] += 1);
    }
    let idf = |&n: &u32| {
        if n < LEAST_QUESTIONS {
            return 0.0;
        }
        let idf = (f64::from(all + 1) / f64::from(n + 1)).ln() + 1.0;
        ((idf / f64::from(RARITY_STEP)).round().min(255.0) as f32) * RARITY_STEP
    };
    with.iter().map(idf).collect()
}
