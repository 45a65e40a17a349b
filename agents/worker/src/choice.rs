//! The log-probability of every option as the continuation of a prompt.
//!
//! The prompt is processed once. The logits after its last token score the first token of all
//! options; the further tokens of an option are processed after the prompt and forgotten again, so
//! that the next option starts where this one did. Appending each option to the whole prompt would
//! be the same numbers at the price of a prefill each.

use std::time::Instant;

use moe2_model::{FinishReason, Prompt};

use crate::engine::{Engine, Ran};
use crate::failure::WorkError;
use crate::generate::{Outcome, fitting};
use crate::prompt::ChatFormat;
use crate::queue::Cancel;

/// Scores `options` in order; no scores if cancelled.
pub(crate) fn choose(
    engine: &mut Engine<'_>,
    format: &ChatFormat,
    (prompt, options): (&Prompt, &[String]),
    cancel: &Cancel,
) -> Result<(Option<Vec<f64>>, Outcome), WorkError> {
    let model = engine.model();
    let rendered = format.render(model, prompt)?;
    let options = options
        .iter()
        .map(|option| rendered.option(model, option))
        .collect::<Result<Vec<_>, _>>()?;
    let longest = options.iter().map(Vec::len).max().unwrap_or(0);
    let prompt_tokens = fitting(engine, rendered.tokens.len(), longest.max(1))?;

    let start = Instant::now();
    let ran = engine.prefill(&rendered.tokens, cancel)?;
    let mut outcome = Outcome {
        prompt_tokens,
        prefill: start.elapsed(),
        ..Outcome::NOTHING
    };
    if ran == Ran::Cancelled {
        return Ok((None, outcome));
    }
    let start = Instant::now();
    let first = LogSoftmax::of(engine.logits().to_vec());
    let mut logprobs = Vec::with_capacity(options.len());
    for option in &options {
        if cancel.is_set() {
            outcome.decode = start.elapsed();
            return Ok((None, outcome));
        }
        let mut sum = first.at(option[0].0);
        if let [given @ .., _] = option.as_slice()
            && !given.is_empty()
        {
            engine.append_all(given, |index, logits| {
                sum += log_softmax(logits, option[index + 1].0);
            })?;
            let forgot = engine.truncate(prompt_tokens);
            if !forgot && engine.prefill(&rendered.tokens, cancel)? == Ran::Cancelled {
                outcome.decode = start.elapsed();
                return Ok((None, outcome));
            }
        }
        outcome.output_tokens += u32::try_from(option.len()).unwrap_or(u32::MAX);
        logprobs.push(sum);
    }
    outcome.finish = FinishReason::Stop;
    outcome.decode = start.elapsed();
    Ok((Some(logprobs), outcome))
}

/// Logits with their normaliser, for many look-ups in one row.
struct LogSoftmax {
    logits: Vec<f32>,
    normaliser: f64,
}

impl LogSoftmax {
    fn of(logits: Vec<f32>) -> Self {
        let normaliser = log_sum_exp(&logits);
        Self { logits, normaliser }
    }

    fn at(&self, token: i32) -> f64 {
        logit(&self.logits, token) - self.normaliser
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
        let row = LogSoftmax::of(vec![1000.0, 1001.0, -1000.0]);
        let sum: f64 = (0..3).map(|token| row.at(token).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!((row.at(1) - log_softmax(&row.logits, 1)).abs() < 1e-12);
    }
}
