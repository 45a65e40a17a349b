//! Free text: one token after the other, and when that is enough.
//!
//! Temperature 0 takes the largest logit, the first of equals, so that two runs give the same text.
//! Anything else goes through the engine's sampler chain: nucleus, temperature, seeded draw.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use moe2_model::{FinishReason, Sampling};

use crate::engine::{Engine, Sequence};
use crate::prompt::Rendered;
use crate::text::TextAssembler;

/// An answer that is being written.
pub(crate) struct Generation {
    sampler: Option<LlamaSampler>,
    text: TextAssembler,
    most: u32,
    written: u32,
}

impl Generation {
    /// Nothing yet, after a prompt that leaves `room` tokens of context.
    pub(crate) fn new(sampling: &Sampling, rendered: &Rendered, room: u32) -> Self {
        let stops = rendered.stops.iter().map(|stop| (*stop).to_owned());
        let stops = stops.chain(sampling.stop.iter().cloned()).collect();
        Self {
            sampler: sampler(sampling),
            text: TextAssembler::new(stops, rendered.skip_space),
            most: sampling.max_tokens.min(room),
            written: 0,
        }
    }

    /// Tokens of answer, without the one that ends it.
    pub(crate) fn written(&self) -> u32 {
        self.written
    }

    /// Chooses the next token after a step, if the sequence is through: the text that is certain
    /// now, and why there will be no more.
    pub(crate) fn advance(
        &mut self,
        engine: &Engine<'_>,
        sequence: &mut Sequence,
    ) -> (String, Option<FinishReason>) {
        if sequence.waiting() > 0 {
            return (String::new(), None);
        }
        let mut text = String::new();
        let finish = self.next(engine, sequence, &mut text);
        if finish.is_some() {
            text.push_str(&self.text.finish());
        }
        (text, finish)
    }

    fn next(
        &mut self,
        engine: &Engine<'_>,
        sequence: &mut Sequence,
        text: &mut String,
    ) -> Option<FinishReason> {
        if self.written == self.most {
            return Some(FinishReason::Length);
        }
        let last = sequence.len() - 1;
        let token = match &mut self.sampler {
            Some(sampler) => {
                let (context, place) = engine.place(sequence, last);
                sampler.sample(context, place)
            }
            None => most_likely(engine.logits(sequence, last)),
        };
        let vocab = engine.model().vocab();
        if vocab.is_eog(token) {
            return Some(FinishReason::Stop);
        }
        self.written += 1;
        text.push_str(&self.text.push(&vocab.token_to_piece(token, false, None)));
        if self.text.is_stopped() {
            return Some(FinishReason::Stop);
        }
        if self.written == self.most {
            return Some(FinishReason::Length);
        }
        sequence.push(token);
        None
    }
}

/// `None` takes the most likely token.
fn sampler(sampling: &Sampling) -> Option<LlamaSampler> {
    // The engine takes the largest seed to mean "any".
    let seed = sampling.seed.min(u32::MAX - 1);
    let chain = || {
        let nucleus = LlamaSampler::top_p(sampling.top_p, 1);
        let temperature = LlamaSampler::temp(sampling.temperature);
        LlamaSampler::chain_simple([nucleus, temperature, LlamaSampler::dist(seed)])
    };
    (sampling.temperature > 0.0).then(chain)
}

/// The first of the largest logits.
pub(crate) fn most_likely(logits: &[f32]) -> LlamaToken {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    LlamaToken(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_the_most_likely() {
        assert_eq!(most_likely(&[0.5, 2.0, 2.0, f32::NAN]), LlamaToken(1));
        assert_eq!(most_likely(&[f32::NAN]), LlamaToken(0));
    }
}
