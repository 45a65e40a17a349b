//! Bytes of JSON to a checked [`Query`], or a refusal that names the field at fault.
//!
//! Unknown fields are ignored, as OpenAI does; fields that are documented there and mean something
//! we cannot do are refused by name ([`unsupported`]), because an answer that silently ignores
//! `tools` looks like a bad model. Parsed by hand from `serde_json` values rather than derived:
//! derive stops at a position in the text, while clients need the name of the field.

mod choice;
mod fields;
mod messages;
mod moe2;
mod sampling;
#[cfg(test)]
mod tests;
mod unsupported;

use axum::http::StatusCode;
use moe2_model::{Prompt, Query, Target, Task, TenantId};
use serde_json::Value;

use super::error::ApiError;
use super::{Endpoint, Limits, models};
use fields::Fields;

/// What a request is judged by besides its bytes.
#[derive(Debug, Clone)]
pub(super) struct Context<'a> {
    /// Who pays.
    pub tenant: TenantId,
    /// What is allowed.
    pub limits: &'a Limits,
    /// Used when the request has no seed.
    pub seed: u32,
}

/// A request for the engine, and how its answer is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parsed {
    /// What the engine is asked.
    pub query: Query,
    /// Candidates and log-probabilities are wanted.
    pub explain: bool,
    /// Token counts are wanted at the end of the stream.
    pub include_usage: bool,
}

/// Reads one request.
pub(super) fn parse(
    endpoint: Endpoint,
    body: &[u8],
    context: Context<'_>,
) -> Result<Parsed, ApiError> {
    let value = json(body)?;
    let Value::Object(map) = &value else {
        return Err(ApiError::invalid(
            StatusCode::BAD_REQUEST,
            "The request body must be a JSON object.",
        ));
    };
    let fields = Fields::new(map);
    unsupported::check(&fields)?;
    let target = target(&fields)?;
    let prompt = match endpoint {
        Endpoint::Chat => Prompt::Chat(messages::parse(&fields)?),
        Endpoint::Text => Prompt::Raw(raw(&fields)?),
    };
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let include_usage = include_usage(&fields, stream)?;
    let sampling = sampling::parse(&fields, context.limits, context.seed)?;
    let task = match choice::parse(&fields)? {
        Some(options) => Task::Choice { options },
        None => Task::Generate(sampling),
    };
    let wishes = moe2::parse(&fields)?;
    let query = Query {
        tenant: context.tenant,
        prompt,
        task,
        target,
        budgets: wishes.budgets,
        max_experts: wishes.max_experts,
        mode: wishes.mode,
        stream,
    };
    Ok(Parsed {
        query,
        explain: wishes.explain,
        include_usage,
    })
}

fn json(body: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let message = format!(
            "The request body is not valid UTF-8 (at byte {}).",
            error.valid_up_to()
        );
        ApiError::invalid(StatusCode::BAD_REQUEST, message)
    })?;
    serde_json::from_str(text).map_err(|error| {
        let message = format!("The request body is not valid JSON: {error}.");
        ApiError::invalid(StatusCode::BAD_REQUEST, message)
    })
}

/// `auto`, a model's name, or a deployment's `model@node`.
fn target(fields: &Fields<'_>) -> Result<Target, ApiError> {
    let name = fields
        .string("model")?
        .ok_or_else(|| fields.missing("model", "\"auto\" or a name from GET /v1/models"))?;
    if name == models::AUTO {
        return Ok(Target::Auto);
    }
    let target = if name.contains('@') {
        name.parse().map(Target::Expert)
    } else {
        name.parse().map(Target::Model)
    };
    target.map_err(|_| {
        let shown = fields::shown(name);
        ApiError::model_not_found(format!(
            "There is no model {shown:?}; use \"auto\" or a name from GET /v1/models."
        ))
    })
}

/// The prompt of a text completion: a string, or an array of exactly one.
fn raw(fields: &Fields<'_>) -> Result<String, ApiError> {
    let value = fields
        .get("prompt")
        .ok_or_else(|| fields.missing("prompt", "the text to continue"))?;
    let text = match value {
        Value::String(text) => Some(text),
        Value::Array(items) => match items.as_slice() {
            [Value::String(text)] => Some(text),
            _ => None,
        },
        _ => None,
    };
    match text {
        Some(text) if !text.is_empty() => Ok(text.clone()),
        Some(_) => Err(fields.wrong("prompt", "text that is not empty")),
        None => Err(fields.wrong(
            "prompt",
            "a string or an array of one string; send several prompts as several requests",
        )),
    }
}

fn include_usage(fields: &Fields<'_>, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.object("stream_options")? else {
        return Ok(false);
    };
    if !stream {
        return Err(fields.wrong("stream_options", "left out unless `stream` is true"));
    }
    Ok(options.boolean("include_usage")?.unwrap_or(false))
}
