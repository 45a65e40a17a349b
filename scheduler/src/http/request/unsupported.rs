//! Fields that OpenAI or vLLM document and that cannot be honoured here, one row each.
//!
//! A row says which values change nothing and may therefore pass. Fields about billing, storage
//! and caching elsewhere (`user`, `metadata`, `service_tier`, …) change no answer and need no row.

use serde_json::Value;

use super::fields::Fields;
use crate::http::error::ApiError;

type Harmless = fn(&Value) -> bool;

const LEAVE_OUT: &str = "leave it out";
const NO_TOOLS: &str = "experts here cannot call tools, leave it out";

/// Field, values that pass, and what to do instead. `null` passes everywhere.
const UNSUPPORTED: &[(&str, Harmless, &str)] = &[
    (
        "n",
        |v| v.as_u64() == Some(1),
        "only 1 answer is given, send several requests",
    ),
    (
        "best_of",
        |v| v.as_u64() == Some(1),
        "only 1 answer is made",
    ),
    ("echo", is_false, "only false is possible"),
    (
        "suffix",
        |v| v.as_str() == Some(""),
        "text can only be continued at its end",
    ),
    ("logprobs", is_false, LEAVE_OUT),
    ("top_logprobs", never, LEAVE_OUT),
    ("logit_bias", is_empty, LEAVE_OUT),
    ("presence_penalty", is_zero, "only 0 is possible"),
    ("frequency_penalty", is_zero, "only 0 is possible"),
    ("tools", is_empty, NO_TOOLS),
    ("tool_choice", is_none, NO_TOOLS),
    ("functions", is_empty, NO_TOOLS),
    ("function_call", is_none, NO_TOOLS),
    ("modalities", only_text, "only [\"text\"] is possible"),
    ("audio", never, "answers are text, leave it out"),
    ("prediction", never, LEAVE_OUT),
    ("web_search_options", never, LEAVE_OUT),
    ("reasoning_effort", never, LEAVE_OUT),
    ("verbosity", never, LEAVE_OUT),
    (
        "store",
        is_false,
        "answers are not stored, only false is possible",
    ),
    ("guided_json", never, "only `guided_choice` is possible"),
    ("guided_regex", never, "only `guided_choice` is possible"),
    ("guided_grammar", never, "only `guided_choice` is possible"),
];

fn never(_: &Value) -> bool {
    false
}

fn is_false(value: &Value) -> bool {
    value.as_bool() == Some(false)
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_none(value: &Value) -> bool {
    value.as_str() == Some("none")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn only_text(value: &Value) -> bool {
    value
        .as_array()
        .is_some_and(|items| matches!(items.as_slice(), [one] if one.as_str() == Some("text")))
}

/// Refuses a request that asks for something that cannot be done here.
pub(super) fn check(fields: &Fields<'_>) -> Result<(), ApiError> {
    for (name, harmless, hint) in UNSUPPORTED {
        if fields.get(name).is_some_and(|value| !harmless(value)) {
            return Err(fields.unsupported(name, hint));
        }
    }
    response_format(fields)
}

fn response_format(fields: &Fields<'_>) -> Result<(), ApiError> {
    let Some(format) = fields.object("response_format")? else {
        return Ok(());
    };
    if format.get("type").and_then(Value::as_str) == Some("text") {
        return Ok(());
    }
    let hint = "only {\"type\": \"text\"} is possible; for one of a few answers use `structured_outputs.choice`";
    Err(fields.unsupported("response_format", hint))
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    UNSUPPORTED.iter().map(|(name, _, _)| *name)
}
