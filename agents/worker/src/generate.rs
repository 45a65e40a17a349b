//! Free text: prefill, then one token after the other.
//!
//! Temperature 0 takes the largest logit, the first of equals, so that two runs give the same text.
//! Anything else goes through the engine's sampler chain: nucleus, temperature, seeded draw.

use std::time::{Duration, Instant};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use moe2_model::{FinishReason, Prompt, Sampling};

use crate::engine::{Engine, Ran};
use crate::failure::WorkError;
use crate::prompt::ChatFormat;
use crate::queue::Cancel;
use crate::text::TextAssembler;

/// What a piece of work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) finish: FinishReason,
    /// Tokens of prompt.
    pub(crate) prompt_tokens: u32,
    /// Tokens of answer, without the one that ends it; for a choice, tokens scored.
    pub(crate) output_tokens: u32,
    /// Processing the prompt.
    pub(crate) prefill: Duration,
    /// Producing the answer.
    pub(crate) decode: Duration,
}

impl Outcome {
    /// Nothing was done, because it was cancelled.
    pub(crate) const NOTHING: Self = Self {
        finish: FinishReason::Cancelled,
        prompt_tokens: 0,
        output_tokens: 0,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
    };
}

/// Answers `prompt` with free text, which goes to `emit` as it comes.
pub(crate) fn generate(
    engine: &mut Engine<'_>,
    format: &ChatFormat,
    (prompt, sampling): (&Prompt, &Sampling),
    cancel: &Cancel,
    emit: &mut dyn FnMut(String),
) -> Result<Outcome, WorkError> {
    let rendered = format.render(engine.model(), prompt)?;
    let prompt_tokens = fitting(engine, rendered.tokens.len(), 1)?;
    let room = engine.context_tokens() - prompt_tokens;
    let stops = rendered.stops.iter().map(|stop| (*stop).to_owned());
    let stops = stops.chain(sampling.stop.iter().cloned()).collect();
    let mut text = TextAssembler::new(stops, rendered.skip_space);

    let start = Instant::now();
    let ran = engine.prefill(&rendered.tokens, cancel)?;
    let mut outcome = Outcome {
        prompt_tokens,
        prefill: start.elapsed(),
        ..Outcome::NOTHING
    };
    if ran == Ran::Cancelled {
        return Ok(outcome);
    }
    let start = Instant::now();
    let mut decoder = Decoder::new(sampling);
    let most = sampling.max_tokens.min(room);
    outcome.finish = loop {
        if cancel.is_set() {
            break FinishReason::Cancelled;
        }
        if outcome.output_tokens == most {
            break FinishReason::Length;
        }
        if outcome.output_tokens > 0 {
            engine.append(decoder.last)?;
        }
        let Some(piece) = decoder.next(engine) else {
            break FinishReason::Stop;
        };
        outcome.output_tokens += 1;
        send(text.push(&piece), emit);
        if text.is_stopped() {
            break FinishReason::Stop;
        }
    };
    outcome.decode = start.elapsed();
    if outcome.finish != FinishReason::Cancelled {
        send(text.finish(), emit);
    }
    Ok(outcome)
}

/// The number of prompt tokens, if `more` fit after them.
pub(crate) fn fitting(engine: &Engine<'_>, prompt: usize, more: usize) -> Result<u32, WorkError> {
    let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
    if count(prompt.saturating_add(more)) <= engine.context_tokens() {
        return Ok(count(prompt));
    }
    Err(WorkError::ContextTooLong {
        prompt_tokens: count(prompt),
        context_tokens: engine.context_tokens(),
    })
}

fn send(text: String, emit: &mut dyn FnMut(String)) {
    if !text.is_empty() {
        emit(text);
    }
}

/// Picks tokens.
struct Decoder {
    /// `None` takes the most likely token.
    sampler: Option<LlamaSampler>,
    last: LlamaToken,
}

impl Decoder {
    fn new(sampling: &Sampling) -> Self {
        // The engine takes the largest seed to mean "any".
        let seed = sampling.seed.min(u32::MAX - 1);
        let chain = || {
            let nucleus = LlamaSampler::top_p(sampling.top_p, 1);
            let temperature = LlamaSampler::temp(sampling.temperature);
            LlamaSampler::chain_simple([nucleus, temperature, LlamaSampler::dist(seed)])
        };
        Self {
            sampler: (sampling.temperature > 0.0).then(chain),
            last: LlamaToken(0),
        }
    }

    /// The bytes of the next token, `None` if it ends the answer.
    fn next(&mut self, engine: &Engine<'_>) -> Option<Vec<u8>> {
        self.last = match &mut self.sampler {
            Some(sampler) => sampler.sample(engine.context(), -1),
            None => most_likely(engine.logits()),
        };
        let vocab = engine.model().vocab();
        (!vocab.is_eog(self.last)).then(|| vocab.token_to_piece(self.last, false, None))
    }
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
