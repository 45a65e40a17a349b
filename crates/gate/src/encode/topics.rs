//! The frozen part of a trained gate: from n-grams to a few numbers that say what a question is about and
//! how hard it is.
//!
//! Heads on raw n-grams have tens of thousands of weights, and the noise of fifteen such heads drowns
//! the differences between experts that routing needs. What those differences follow is mostly the
//! subject. So the subject is learnt first, from labels that have nothing to do with experts, and the
//! mean outcome beside it; a head then weighs a dozen numbers.

use super::Sparse;
use super::ngrams::{self, WIDTH};
use crate::train::softmax::Softmax;

/// Questions that an n-gram must be in.
const LEAST_QUESTIONS: u32 = 3;
/// Steps of rarity, so that one takes a byte in a file.
pub(crate) const RARITY_STEP: f32 = 0.0625;

/// A question as the gate sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'q> {
    pub(crate) text: &'q str,
    pub(crate) options: &'q [String],
}

impl Question<'_> {
    /// Weighted n-grams of the question with its options.
    pub(crate) fn ngrams(&self, rarity: &[f32]) -> Sparse {
        let mut whole = String::with_capacity(self.text.len() + 64);
        whole.push_str(self.text);
        for option in self.options {
            whole.push('\n');
            whole.push_str(option);
        }
        let mut sparse = ngrams::counts(&whole);
        sparse.weigh(rarity);
        sparse.normalise();
        sparse
    }
}

/// How telling each n-gram is: the logarithm of how few questions have it, in steps of [`RARITY_STEP`].
/// Those in hardly any question say nothing that would come again, and have none.
pub(crate) fn rarity<'q>(counts: impl Iterator<Item = &'q Sparse>) -> Vec<f32> {
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

/// Topics and difficulty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Topics {
    /// Names of the topics.
    pub(crate) names: Vec<String>,
    /// Of topics, from n-grams.
    pub(crate) topic: Softmax,
    /// Of "right" and "wrong", from n-grams: the mean outcome of the experts at hand.
    pub(crate) difficulty: Softmax,
}

impl Topics {
    /// Numbers for heads: 1, the topics' probabilities, the logit of being answered rightly, length and
    /// options.
    pub(crate) fn features(&self, ngrams: &Sparse, question: Question<'_>) -> Vec<f64> {
        let mut features = vec![1.0];
        features.extend(self.topic.predict(ngrams));
        let right = self.difficulty.predict(ngrams)[0].clamp(1e-6, 1.0 - 1e-6);
        features.push((right / (1.0 - right)).ln());
        features.extend(shape(question));
        features
    }
}

/// Length and number of options, scaled to about 1.
fn shape(question: Question<'_>) -> [f64; 2] {
    let length = (question.text.len() as f64 + 1.0).ln() / 5.0 - 1.0;
    let chance = match question.options.len() {
        0 => 0.0,
        options => 1.0 / options as f64,
    };
    [length, chance]
}

/// All that lies between a question and the heads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Encoder {
    /// By n-gram, 0 for those that count for nothing.
    pub(crate) rarity: Vec<f32>,
    pub(crate) topics: Topics,
    /// Tells features of one encoder from those of another.
    pub(crate) id: u64,
}

impl Encoder {
    pub(crate) fn new(rarity: Vec<f32>, topics: Topics) -> Self {
        let numbers = topics.topic.bias.iter().chain(&topics.topic.weights);
        let bits = numbers.chain(&rarity).map(|v| u64::from(v.to_bits()));
        let id = bits.fold(0xcbf2_9ce4_8422_2325, |hash: u64, bits| {
            (hash ^ bits).wrapping_mul(0x0100_0000_01b3)
        });
        Self { rarity, topics, id }
    }

    /// Numbers for heads.
    pub(crate) fn features(&self, question: Question<'_>) -> Vec<f64> {
        self.topics
            .features(&question.ngrams(&self.rarity), question)
    }

    /// How many.
    pub(crate) fn width(&self) -> usize {
        self.topics.names.len() + 4
    }
}
