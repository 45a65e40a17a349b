//! The log-probability of every option as the continuation of a prompt.
//!
//! The prompt is processed once. The logits after its last token score the first token of all
//! options; the further tokens of an option are processed after the prompt and forgotten again, so
//! that the next option starts where this one did. Appending each option to the whole prompt would
//! be the same numbers at the price of a prefill each. A choice is a sequence of the batch like an
//! answer: on its own between two steps it would hold up everyone else.

use llama_cpp_2::token::LlamaToken;

use crate::engine::{Engine, Sequence};

/// Options that are being scored.
pub(crate) struct Scoring {
    options: Vec<Vec<LlamaToken>>,
    /// Tokens of the prompt.
    prompt: usize,
    /// The option whose tokens are in the sequence; those before it are scored.
    at: usize,
    logprobs: Vec<f64>,
}

impl Scoring {
    /// Nothing yet, after a prompt of so many tokens. Every option has a token.
    pub(crate) fn new(options: Vec<Vec<LlamaToken>>, prompt: usize) -> Self {
        Self {
            options,
            prompt,
            at: 0,
            logprobs: Vec::new(),
        }
    }

    /// Tokens of the options that are scored.
    pub(crate) fn scored(&self) -> u32 {
        let tokens: usize = self.options[..self.at].iter().map(Vec::len).sum();
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// Takes what a step has computed; the scores in the order of the options once all are known.
    pub(crate) fn advance(
        &mut self,
        engine: &mut Engine<'_>,
        sequence: &mut Sequence,
    ) -> Option<Vec<f64>> {
        for index in sequence.seen() {
            let logits = engine.logits(sequence, index);
            if index >= self.prompt {
                let next = self.options[self.at][index + 1 - self.prompt];
                self.logprobs[self.at] += log_softmax(logits, next.0);
            } else if self.logprobs.is_empty() {
                // The prompt's last, and not for the second time.
                let first = LogSoftmax::of(logits);
                let firsts = self.options.iter().map(|option| first.at(option[0].0));
                self.logprobs = firsts.collect();
            }
        }
        if sequence.waiting() > 0 {
            return None;
        }
        if sequence.len() > self.prompt {
            self.at += 1;
        }
        let left = self.options[self.at..].iter();
        // Of one token, scored already.
        self.at += left.take_while(|option| option.len() == 1).count();
        engine.cut(sequence, self.prompt);
        match self.options.get(self.at).map(Vec::as_slice) {
            Some([given @ .., _]) => {
                sequence.extend(given);
                None
            }
            _ => Some(std::mem::take(&mut self.logprobs)),
        }
    }
}

/// Logits with their normaliser, for many look-ups in one row.
struct LogSoftmax<'a> {
    logits: &'a [f32],
    normaliser: f64,
}

impl<'a> LogSoftmax<'a> {
    fn of(logits: &'a [f32]) -> Self {
        let normaliser = log_sum_exp(logits);
        Self { logits, normaliser }
    }

    fn at(&self, token: i32) -> f64 {
        logit(self.logits, token) - self.normaliser
    }
}

fn log_softmax(logits: &[f32], token: i32) -> f64 {
    logit(logits, token) - log_sum_exp(logits)
}

fn logit(logits: &[f32], token: i32) -> f64 {
    let index = usize::try_from(token).expect("the tokeniser makes no negative tokens");
    f64::from(logits[index])
}

/// `ln Σ exp(x)` without overflow. In double precision: a vocabulary has 10^5 terms.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = f64::from(largest);
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - largest).exp())
        .sum();
    largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_to_one_however_large_the_logits() {
        let row = LogSoftmax::of(&[1000.0, 1001.0, -1000.0]);
        let sum: f64 = (0..3).map(|token| row.at(token).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!((row.at(1) - log_softmax(row.logits, 1)).abs() < 1e-12);
    }
}
