//! What is in a streamed answer, as far as it matters here: text, why it ended, tokens, and the
//! probabilities of the first token.
//!
//! llama-server, Ollama, vLLM and others agree on the outline and differ in what they leave out, so
//! every field may be absent, and unknown ones are nothing.

use std::collections::BTreeMap;

use moe2_model::FinishReason;
use serde::Deserialize;
use serde_json::Value;

/// One event's data.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Chunk {
    /// More answer; may be empty.
    pub(super) text: String,
    /// Whether a token came with it, be it of a thought that is not part of the answer.
    pub(super) token: bool,
    /// It ended, and why.
    pub(super) finish: Option<Finish>,
    /// What the server counts.
    pub(super) usage: Option<Counted>,
    /// The likeliest tokens at the first place that the chunk says anything about, with natural
    /// logarithms of their probabilities.
    pub(super) likeliest: Vec<(String, f64)>,
}

/// Tokens, as a server counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) prompt: u32,
    /// Of the prompt's: what was in a cache; 0 of a server that does not say.
    pub(super) cached: u32,
    pub(super) output: u32,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finish {
    /// As asked.
    As(FinishReason),
    /// Otherwise: a filter, an abort.
    Other(String),
}

/// Why a chunk cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChunkError {
    /// Not what it should be.
    #[error("an event is no part of an answer: {0}")]
    Malformed(String),
    /// The server says that it failed.
    #[error("the server gave up: {0}")]
    Failed(String),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Choice {
    /// Of a chat.
    delta: Option<Delta>,
    /// Of a continuation.
    text: Option<String>,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    /// Of a chat; llama-server has it for continuations, too.
    content: Option<Vec<Position>>,
    /// Of a continuation.
    top_logprobs: Option<Vec<BTreeMap<String, f64>>>,
}

#[derive(Deserialize)]
struct Position {
    #[serde(default)]
    top_logprobs: Vec<Likely>,
}

#[derive(Deserialize)]
struct Likely {
    token: String,
    logprob: f64,
}

/// Reads the data of an event that is not `[DONE]`.
pub(super) fn read(data: &str) -> Result<Chunk, ChunkError> {
    let raw: Raw =
        serde_json::from_str(data).map_err(|error| ChunkError::Malformed(error.to_string()))?;
    if let Some(error) = raw.error.filter(|error| !error.is_null()) {
        return Err(ChunkError::Failed(message_of(&error)));
    }
    let usage = raw.usage.map(|usage| {
        let details = usage.prompt_tokens_details;
        let cached = details.and_then(|details| details.cached_tokens);
        Counted {
            prompt: usage.prompt_tokens,
            cached: cached.unwrap_or(0).min(usage.prompt_tokens),
            output: usage.completion_tokens,
        }
    });
    let mut chunk = Chunk {
        usage,
        ..Chunk::default()
    };
    let Some(choice) = raw.choices.into_iter().next() else {
        return Ok(chunk);
    };
    let thought = choice
        .delta
        .as_ref()
        .and_then(|d| d.reasoning_content.as_ref());
    let thinks = thought.is_some_and(|thought| !thought.is_empty());
    chunk.text = choice
        .delta
        .and_then(|d| d.content)
        .or(choice.text)
        .unwrap_or_default();
    chunk.token = thinks || !chunk.text.is_empty();
    chunk.finish = choice.finish_reason.map(|reason| finish(&reason));
    chunk.likeliest = choice.logprobs.map(likeliest).unwrap_or_default();
    Ok(chunk)
}

fn finish(reason: &str) -> Finish {
    match reason {
        "stop" | "eos" | "eos_token" | "stop_sequence" => Finish::As(FinishReason::Stop),
        "length" | "max_tokens" => Finish::As(FinishReason::Length),
        other => Finish::Other(other.chars().take(64).collect()),
    }
}

fn likeliest(logprobs: Logprobs) -> Vec<(String, f64)> {
    let chat = logprobs.content.into_iter().flatten().next();
    if let Some(position) = chat {
        let each = position.top_logprobs.into_iter();
        return each.map(|l| (l.token, l.logprob)).collect();
    }
    let continuation = logprobs.top_logprobs.into_iter().flatten().next();
    continuation.into_iter().flatten().collect()
}

/// The words of an error, however the server wraps them.
pub(super) fn message_of(error: &Value) -> String {
    let inner = error.get("error").unwrap_or(error);
    let words = inner
        .get("message")
        .or_else(|| inner.get("detail"))
        .unwrap_or(inner);
    let words = words
        .as_str()
        .map_or_else(|| words.to_string(), str::to_owned);
    words.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_chunk_of_a_chat_has_no_text() {
        let chunk = read(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
        );
        assert_eq!(chunk, Ok(Chunk::default()));
        let chunk = read(r#"{"choices":[{"delta":{"role":"assistant","content":null}}]}"#);
        assert_eq!(chunk, Ok(Chunk::default()));
    }

    #[test]
    fn text_comes_from_chats_and_continuations() {
        for data in [
            r#"{"choices":[{"delta":{"content":"a b"}}]}"#,
            r#"{"choices":[{"text":"a b","index":0}]}"#,
        ] {
            let chunk = read(data).expect("it is sound");
            assert_eq!((chunk.text.as_str(), chunk.token), ("a b", true));
        }
    }

    #[test]
    fn a_thought_is_a_token_and_no_text() {
        let chunk = read(r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#).expect("sound");
        assert_eq!((chunk.text.as_str(), chunk.token), ("", true));
    }

    #[test]
    fn ends_and_tokens_are_read() {
        let chunk = read(r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#).expect("sound");
        assert_eq!(chunk.finish, Some(Finish::As(FinishReason::Length)));
        let chunk = read(r#"{"choices":[{"delta":{},"finish_reason":"abort"}]}"#).expect("sound");
        assert_eq!(chunk.finish, Some(Finish::Other("abort".to_owned())));
        let chunk = read(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#);
        let counted = |cached| Counted {
            prompt: 3,
            cached,
            output: 5,
        };
        assert_eq!(chunk.expect("sound").usage, Some(counted(0)));
        for (details, cached) in [
            ("null", 0),
            ("{}", 0),
            (r#"{"cached_tokens":null,"audio_tokens":0}"#, 0),
            (r#"{"cached_tokens":2}"#, 2),
            (r#"{"cached_tokens":9}"#, 3),
        ] {
            let data = format!(
                r#"{{"usage":{{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{details}}}}}"#
            );
            assert_eq!(read(&data).expect("sound").usage, Some(counted(cached)));
        }
    }

    #[test]
    fn probabilities_are_read_in_both_shapes() {
        let chat = r#"{"choices":[{"delta":{"content":"A"},"logprobs":{"content":[
            {"token":"A","logprob":-0.5,"top_logprobs":[{"token":"A","logprob":-0.5},{"token":" B","logprob":-1.5}]}]}}]}"#;
        let text = r#"{"choices":[{"text":"A","logprobs":{"tokens":["A"],"top_logprobs":[{" B":-1.5,"A":-0.5}]}}]}"#;
        for data in [chat, text] {
            let mut likeliest = read(data).expect("sound").likeliest;
            likeliest.sort_by(|a, b| b.1.total_cmp(&a.1));
            assert_eq!(likeliest, [("A".to_owned(), -0.5), (" B".to_owned(), -1.5)]);
        }
    }

    #[test]
    fn an_error_is_one_in_whatever_wrapping() {
        for data in [
            r#"{"error":{"message":"out of memory","type":"server_error"}}"#,
            r#"{"error":"out of memory"}"#,
        ] {
            assert_eq!(
                read(data),
                Err(ChunkError::Failed("out of memory".to_owned()))
            );
        }
        assert!(matches!(read("null"), Err(ChunkError::Malformed(_))));
        assert!(matches!(
            read(r#"{"choices":[{"delta":{"content":7}}]}"#),
            Err(ChunkError::Malformed(_))
        ));
    }
}
