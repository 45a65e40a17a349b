//! The `moe2` object of a reply: who worked on it, what was forecast and what it took.
//!
//! Field names carry their units. Figures a client may want on every answer are always there; the
//! candidates that were not taken and the log-probabilities only on request, because they grow with
//! the fleet.

use moe2_model::{
    Candidate, Cascade, EnergySource, Explanation, Forecast, Job, Participant, Usage, Verdict,
};
use moe2_wire::picked_of;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Moe2<'a> {
    experts: Vec<Expert<'a>>,
    fusion: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cascade: Option<Cascade>,
    topic: &'a str,
    prices: moe2_model::Prices,
    delay_s: f64,
    energy_j: f64,
    energy_source: EnergySource,
    /// The most by which `energy_j` may be off, either way.
    energy_error_j: f64,
    /// Forecast of the work that an early exit cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved_j: Option<f64>,
    redispatches: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<Considered>>,
}

#[derive(Debug, Serialize)]
struct Expert<'a> {
    expert: String,
    #[serde(skip_serializing_if = "Job::is_answer")]
    job: Job,
    weight: f64,
    gate_score: f64,
    predicted: Predicted,
    actual: Option<Actual>,
    failure: Option<&'a str>,
    /// In the order of the request's options; of a scorer, in that of the different answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    option_logprobs: Option<&'a [f64]>,
    /// It only said which option it picked, and the numbers above are no probabilities.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unscored: bool,
}

#[derive(Debug, Serialize)]
struct Predicted {
    /// Part of the delay.
    waiting_s: f64,
    delay_s: f64,
    delay_p95_s: f64,
    first_token_s: f64,
    first_token_p95_s: f64,
    energy_j: f64,
    samples: u64,
}

#[derive(Debug, Serialize)]
struct Actual {
    queue_s: f64,
    prefill_s: f64,
    decode_s: f64,
    energy_j: f64,
    energy_source: EnergySource,
    energy_error_j: f64,
    prompt_tokens: u32,
    cached_tokens: u32,
    output_tokens: u32,
}

#[derive(Debug, Serialize)]
struct Considered {
    expert: String,
    verdict: Verdict,
    score: f64,
    forecast: Full,
}

#[derive(Debug, Serialize)]
struct Full {
    quality: f64,
    output_tokens: f64,
    /// Part of the delay.
    waiting_s: f64,
    delay_s: f64,
    delay_p95_s: f64,
    first_token_s: f64,
    first_token_p95_s: f64,
    energy_j: f64,
    energy_p95_j: f64,
    samples: u64,
}

impl<'a> Moe2<'a> {
    pub(super) fn new(explanation: &'a Explanation, explain: bool) -> Self {
        Self {
            experts: explanation
                .participants
                .iter()
                .map(|p| Expert::new(p, explain))
                .collect(),
            fusion: &explanation.fusion,
            cascade: explanation.cascade,
            topic: &explanation.topic,
            prices: explanation.prices,
            delay_s: explanation.delay.get(),
            energy_j: explanation.energy.get(),
            energy_source: explanation.energy_source,
            energy_error_j: explanation.energy_error.get(),
            saved_j: Some(explanation.saved.get()).filter(|joules| *joules > 0.0),
            redispatches: explanation.redispatches,
            candidates: explain
                .then(|| explanation.candidates.iter().map(Considered::new).collect()),
        }
    }
}

impl<'a> Expert<'a> {
    fn new(participant: &'a Participant, explain: bool) -> Self {
        let forecast = &participant.forecast;
        Self {
            expert: participant.expert.to_string(),
            job: participant.job,
            weight: participant.weight,
            gate_score: forecast.quality,
            predicted: Predicted {
                waiting_s: forecast.waiting.get(),
                delay_s: forecast.delay.get(),
                delay_p95_s: forecast.delay_p95.get(),
                first_token_s: forecast.first_token.get(),
                first_token_p95_s: forecast.first_token_p95.get(),
                energy_j: forecast.energy.get(),
                samples: forecast.samples,
            },
            actual: participant.usage.as_ref().map(Actual::new),
            failure: participant.failure.as_deref(),
            option_logprobs: participant.option_logprobs.as_deref().filter(|_| explain),
            unscored: participant
                .option_logprobs
                .as_deref()
                .and_then(picked_of)
                .is_some(),
        }
    }
}

impl Actual {
    fn new(usage: &Usage) -> Self {
        Self {
            queue_s: usage.queue.get(),
            prefill_s: usage.prefill.get(),
            decode_s: usage.decode.get(),
            energy_j: usage.energy.get(),
            energy_source: usage.energy_source,
            energy_error_j: usage.energy_error.get(),
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            output_tokens: usage.output_tokens,
        }
    }
}

impl Considered {
    fn new(candidate: &Candidate) -> Self {
        Self {
            expert: candidate.expert.to_string(),
            verdict: candidate.verdict,
            score: candidate.score,
            forecast: Full::new(&candidate.forecast),
        }
    }
}

impl Full {
    fn new(forecast: &Forecast) -> Self {
        Self {
            quality: forecast.quality,
            output_tokens: forecast.output_tokens,
            waiting_s: forecast.waiting.get(),
            delay_s: forecast.delay.get(),
            delay_p95_s: forecast.delay_p95.get(),
            first_token_s: forecast.first_token.get(),
            first_token_p95_s: forecast.first_token_p95.get(),
            energy_j: forecast.energy.get(),
            energy_p95_j: forecast.energy_p95.get(),
            samples: forecast.samples,
        }
    }
}
