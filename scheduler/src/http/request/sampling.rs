//! How text is sampled: lengths, temperature, nucleus, seed and stop strings.

use moe2_model::Sampling;
use serde_json::Value;

use super::fields::Fields;
use crate::http::Limits;
use crate::http::error::ApiError;

/// Tokens of answer when the request does not say: a page, so that a forgotten limit does not
/// occupy a small device for minutes.
const DEFAULT_MAX_TOKENS: u32 = 512;
/// OpenAI's limit.
const MAX_STOPS: usize = 4;

/// The sampling asked for; `seed` is used when the request has none.
pub(super) fn parse(fields: &Fields<'_>, limits: &Limits, seed: u32) -> Result<Sampling, ApiError> {
    let temperature = fields.number("temperature")?.unwrap_or(1.0);
    if !(0.0..=2.0).contains(&temperature) {
        return Err(fields.wrong("temperature", "a number from 0 to 2"));
    }
    let top_p = fields.number("top_p")?.unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(fields.wrong("top_p", "a number above 0 and at most 1"));
    }
    Ok(Sampling {
        max_tokens: max_tokens(fields, limits.max_output_tokens)?,
        temperature: temperature as f32,
        // A mass too small for f32 means "the most likely token only"; 0 would mean nothing.
        top_p: (top_p as f32).max(f32::MIN_POSITIVE),
        seed: self::seed(fields)?.unwrap_or(seed),
        stop: stop(fields)?,
    })
}

fn max_tokens(fields: &Fields<'_>, most: u32) -> Result<u32, ApiError> {
    let old = fields.integer("max_tokens", 1, most)?;
    let new = fields.integer("max_completion_tokens", 1, most)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(fields.wrong(
            "max_tokens",
            "left out, or equal to `max_completion_tokens`",
        )),
        _ => Ok(new.or(old).unwrap_or(DEFAULT_MAX_TOKENS.min(most))),
    }
}

/// Any 64-bit integer, folded into the sampler's 32 bits; small seeds stay as they are.
fn seed(fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let Some(value) = fields.get("seed") else {
        return Ok(None);
    };
    let seed = value
        .as_i64()
        .ok_or_else(|| fields.wrong("seed", "a 64-bit integer"))?
        .cast_unsigned();
    Ok(Some((seed ^ (seed >> 32)) as u32))
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let wrong = || {
        let wanted = format!("a string or an array of at most {MAX_STOPS} strings, none empty");
        fields.wrong("stop", &wanted)
    };
    let items = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MAX_STOPS => items.as_slice(),
        Some(Value::Array(_)) => return Err(wrong()),
        Some(one) => std::slice::from_ref(one),
    };
    items
        .iter()
        .map(|item| match item.as_str() {
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(wrong()),
        })
        .collect()
}
