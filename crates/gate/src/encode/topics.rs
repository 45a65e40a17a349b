//! The frozen part of a trained gate: from rows of a base to a few numbers that say what a question is about and
//! how hard it is.
//!
//! Heads on raw n-grams have tens of thousands of weights, and the noise of fifteen such heads drowns
//! the differences between experts that routing needs. What those differences follow is mostly the
//! subject. So the subject is learnt first, from labels that have nothing to do with experts, and the
//! mean outcome beside it; a head then weighs a dozen numbers.

use super::Sparse;
use super::base::{Base, Question};
use crate::train::softmax::Softmax;

/// Topics and difficulty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Topics {
    /// Names of the topics.
    pub(crate) names: Vec<String>,
    /// Of topics, from rows of the base.
    pub(crate) topic: Softmax,
    /// Of "right" and "wrong", from rows of the base: the mean outcome of the experts at hand.
    pub(crate) difficulty: Softmax,
}

impl Topics {
    /// Numbers for heads: 1, the topics' probabilities, the logit of being answered rightly, length and
    /// options.
    pub(crate) fn features(&self, row: &Sparse, question: Question<'_>) -> Vec<f64> {
        let mut features = vec![1.0];
        features.extend(self.topic.predict(row));
        let right = self.difficulty.predict(row)[0].clamp(1e-6, 1.0 - 1e-6);
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
    pub(crate) base: Base,
    pub(crate) topics: Topics,
    /// Tells features of one encoder from those of another.
    pub(crate) id: u64,
}

impl Encoder {
    pub(crate) fn new(base: Base, topics: Topics) -> Self {
        let numbers = topics.topic.bias.iter().chain(&topics.topic.weights);
        let bits = numbers.map(|v| u64::from(v.to_bits())).chain(base.bits());
        let id = bits.fold(0xcbf2_9ce4_8422_2325, |hash: u64, bits| {
            (hash ^ bits).wrapping_mul(0x0100_0000_01b3)
        });
        Self { base, topics, id }
    }

    /// Numbers for heads.
    pub(crate) fn features(&self, question: Question<'_>) -> Vec<f64> {
        self.topics.features(&self.base.row(question), question)
    }

    /// How many.
    pub(crate) fn width(&self) -> usize {
        self.topics.names.len() + 4
    }
}
