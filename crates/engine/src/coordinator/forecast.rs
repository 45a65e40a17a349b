//! What one expert is forecast to make of one query: quality, seconds and joules.
//!
//! Routing asks it of live queries with the work ahead of them, planning of past and typical ones
//! without.

use moe2_cost::Speed;
use moe2_gate::Quality;
use moe2_model::{Forecast, Query, Seconds, Task};

/// Length forecasts are means; a hard budget must hold for answers this many times as long, unless
/// the token limit ends them earlier.
const LENGTH_P95_FACTOR: f64 = 3.0;

/// What kind of answer is wanted, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    /// Text of at most so many tokens.
    Text(f64),
    /// One of some options, which are scored.
    Option,
}

/// A query as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    prompt_bytes: usize,
    answer: Answer,
}

impl Shape {
    /// Scoring of given texts after a prompt.
    pub(crate) fn scoring(prompt_bytes: usize) -> Self {
        Self {
            prompt_bytes,
            answer: Answer::Option,
        }
    }

    pub(crate) fn of(query: &Query) -> Self {
        Self {
            prompt_bytes: query.prompt.text_bytes(),
            answer: match &query.task {
                Task::Generate(sampling) => Answer::Text(f64::from(sampling.max_tokens)),
                Task::Choice { .. } => Answer::Option,
            },
        }
    }
}

/// The forecast, with what `ahead` makes of the expert's own seconds to wait for first.
pub(crate) fn forecast(
    shape: Shape,
    speed: &Speed,
    quality: &Quality,
    ahead: impl Fn(Seconds) -> Seconds,
) -> Forecast {
    let prompt_tokens = speed.prompt_tokens(shape.prompt_bytes);
    // Links are not measured yet: on a local network their share is far below the forecast's error.
    let (mean, high) = match shape.answer {
        Answer::Text(limit) => {
            let tokens = quality.output_tokens.min(limit);
            let long = (tokens * LENGTH_P95_FACTOR).min(limit);
            speed.forecast_up_to(prompt_tokens, tokens, long)
        }
        Answer::Option => {
            let tokens = quality.output_tokens;
            let forecast = speed.forecast_choice(prompt_tokens, tokens);
            (forecast, forecast)
        }
    };
    let waiting = ahead(mean.busy);
    let (mean, high) = (mean.behind(waiting), high.behind(waiting));
    Forecast {
        quality: quality.probability,
        output_tokens: quality.output_tokens,
        waiting,
        delay: mean.delay,
        delay_p95: high.delay_p95,
        first_token: mean.first_token,
        first_token_p95: mean.first_token_p95,
        energy: mean.energy,
        energy_p95: high.energy_p95,
        samples: mean.samples,
    }
}
