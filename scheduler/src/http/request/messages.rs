//! The `messages` of a chat.
//!
//! Content is a string or an array of text parts; parts are joined by line breaks, since templates
//! of text models have one text per message. Everything that is not text is refused where it sits.

use moe2_model::{Message, Role};
use serde_json::Value;

use super::fields::Fields;
use crate::http::error::ApiError;

/// All messages, at least one.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let items = fields
        .array("messages")?
        .ok_or_else(|| fields.missing("messages", "an array of at least one message"))?;
    if items.is_empty() {
        return Err(fields.wrong("messages", "an array of at least one message"));
    }
    items
        .iter()
        .enumerate()
        .map(|(i, item)| message(fields, &format!("messages[{i}]"), item))
        .collect()
}

fn message(fields: &Fields<'_>, path: &str, item: &Value) -> Result<Message, ApiError> {
    let Value::Object(map) = item else {
        return Err(fields.wrong(path, "an object with `role` and `content`"));
    };
    let message = Fields::at(path, map);
    let role = role(&message)?;
    for name in ["tool_calls", "function_call", "audio"] {
        let given = message.get(name);
        if given.is_some_and(|value| value.as_array().is_none_or(|calls| !calls.is_empty())) {
            return Err(message.unsupported(name, "experts here read and write text only"));
        }
    }
    let content = content(&message)?;
    Ok(Message { role, content })
}

fn role(message: &Fields<'_>) -> Result<Role, ApiError> {
    let name = message
        .string("role")?
        .ok_or_else(|| message.missing("role", "\"system\", \"user\" or \"assistant\""))?;
    match name {
        "system" | "developer" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        "tool" | "function" => {
            let hint = "experts here cannot call tools, so there is no result to give them";
            Err(message.unsupported("role", hint))
        }
        _ => Err(message.wrong(
            "role",
            "\"system\", \"developer\", \"user\" or \"assistant\"",
        )),
    }
}

fn content(message: &Fields<'_>) -> Result<String, ApiError> {
    const WANTED: &str = "a string or an array of at least one text part";
    match message.get("content") {
        None => Err(message.missing("content", WANTED)),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let texts: Result<Vec<_>, _> = parts
                .iter()
                .enumerate()
                .map(|(j, item)| part(message, &format!("content[{j}]"), item))
                .collect();
            Ok(texts?.join("\n"))
        }
        Some(_) => Err(message.wrong("content", WANTED)),
    }
}

fn part<'a>(message: &Fields<'_>, name: &str, item: &'a Value) -> Result<&'a str, ApiError> {
    const WANTED: &str = "{\"type\": \"text\", \"text\": …}";
    match item.get("type").and_then(Value::as_str) {
        Some("text") => item
            .get("text")
            .and_then(Value::as_str)
            .ok_or_else(|| message.wrong(name, WANTED)),
        Some(_) => Err(message.unsupported(name, "experts here read text only, send text parts")),
        None => Err(message.wrong(name, WANTED)),
    }
}
