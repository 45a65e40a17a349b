//! What is sent: a prompt and a task as the body of a request.

use moe2_model::{Prompt, Sampling};
use serde_json::{Map, Value, json};

/// Most alternatives for a token that servers of this kind give: OpenAI's limit, vLLM's default.
const ALTERNATIVES: u32 = 20;
/// The same for the older call.
const ALTERNATIVES_OLD: u32 = 5;

/// Where a prompt goes.
pub(super) fn path(prompt: &Prompt) -> &'static str {
    match prompt {
        Prompt::Chat(_) => "/chat/completions",
        Prompt::Raw(_) => "/completions",
    }
}

/// Asks for text.
pub(super) fn text(model: &str, prompt: &Prompt, sampling: &Sampling) -> Value {
    let mut body = streamed(model, prompt);
    body.insert("max_tokens".to_owned(), json!(sampling.max_tokens));
    body.insert("temperature".to_owned(), json!(sampling.temperature));
    body.insert("top_p".to_owned(), json!(sampling.top_p));
    body.insert("seed".to_owned(), json!(sampling.seed));
    if !sampling.stop.is_empty() {
        body.insert("stop".to_owned(), json!(sampling.stop));
    }
    Value::Object(body)
}

/// Asks for one of `options`, in the way of `choosing`.
pub(super) fn choice(
    model: &str,
    prompt: &Prompt,
    options: &[String],
    choosing: super::choice::Choosing,
) -> Value {
    let mut body = streamed(model, prompt);
    body.insert("temperature".to_owned(), json!(0.0));
    // A token has at least a byte; some more for quotation marks and an end.
    let longest = options.iter().map(String::len).max().unwrap_or(0);
    let held = choosing.held_by.is_some();
    let tokens = if held { longest + 8 } else { 1 };
    body.insert("max_tokens".to_owned(), json!(tokens));
    if let Some(constraint) = choosing.held_by {
        let (key, value) = constraint.field(options);
        body.insert(key.to_owned(), value);
    }
    if choosing.scores {
        match prompt {
            Prompt::Chat(_) => {
                body.insert("logprobs".to_owned(), json!(true));
                body.insert("top_logprobs".to_owned(), json!(ALTERNATIVES));
            }
            Prompt::Raw(_) => {
                body.insert("logprobs".to_owned(), json!(ALTERNATIVES_OLD));
            }
        }
    }
    Value::Object(body)
}

fn streamed(model: &str, prompt: &Prompt) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(model));
    match prompt {
        Prompt::Chat(messages) => {
            let messages = messages
                .iter()
                .map(|m| json!({"role": m.role.as_str(), "content": m.content}));
            body.insert("messages".to_owned(), messages.collect());
        }
        Prompt::Raw(text) => {
            body.insert("prompt".to_owned(), json!(text));
        }
    }
    body.insert("stream".to_owned(), json!(true));
    body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    body
}
