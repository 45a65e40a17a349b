//! What went wrong, and what the coordinator is to do about it.

use hyper::StatusCode;
use moe2_wire::FailureKind;
use serde_json::Value;

use super::chunk::{ChunkError, message_of};
use super::http::HttpError;
use super::sse::SseError;

/// Why there is no answer, or no end of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection, or it broke before the first byte.
    #[error(transparent)]
    Unreachable(HttpError),
    /// It broke in the middle.
    #[error("the server's answer broke off: {0}")]
    BrokeOff(String),
    /// Its answer is none.
    #[error("the server's answer cannot be read: {0}")]
    Stream(#[from] SseError),
    /// The same, or the server says that it failed.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// It did not say anything in time.
    #[error("the server said nothing for {0} s")]
    Silent(u64),
    /// Something else than a stream of events.
    #[error("the server sent {0:?} instead of a stream of events; is the address its /v1?")]
    NoStream(String),
    /// Not answered.
    #[error("the server answered {status}: {message}")]
    Status {
        status: StatusCode,
        message: String,
        /// Tokens of the prompt, of the context.
        too_long: Option<(u32, u32)>,
    },
    /// It ended otherwise than asked.
    #[error("the server ended the answer: {0}")]
    Ended(String),
    /// A choice of none of the options.
    #[error("the server chose none of the options")]
    NoOption,
}

impl Failure {
    /// A status other than 200, with what the server says about it.
    pub(super) fn of_status(status: StatusCode, body: &[u8], context_tokens: u32) -> Self {
        let error: Option<Value> = serde_json::from_slice(body).ok();
        let message = error.as_ref().map_or_else(
            || String::from_utf8_lossy(body).chars().take(120).collect(),
            message_of,
        );
        let too_long = error
            .as_ref()
            .filter(|_| status.is_client_error())
            .and_then(|error| too_long(error, &message, context_tokens));
        Self::Status {
            status,
            message,
            too_long,
        }
    }

    /// What the coordinator is told.
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Unreachable(_) | Self::BrokeOff(_) | Self::Silent(_) => FailureKind::WorkerLost,
            Self::Stream(_)
            | Self::Chunk(_)
            | Self::NoStream(_)
            | Self::Ended(_)
            | Self::NoOption => FailureKind::Unavailable,
            Self::Status {
                too_long: Some((prompt_tokens, context_tokens)),
                ..
            } => FailureKind::ContextTooLong {
                prompt_tokens: *prompt_tokens,
                context_tokens: *context_tokens,
            },
            Self::Status { status, .. } => match status.as_u16() {
                429 => FailureKind::Busy,
                // Another expert may take what this server does not.
                400 | 413 | 422 => FailureKind::Rejected,
                // A wrong key or a model that is gone is this server's trouble, not the request's.
                _ => FailureKind::Unavailable,
            },
        }
    }

    /// Whether the server itself may be gone.
    pub(super) fn doubts_the_server(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::BrokeOff(_) | Self::Silent(_) => true,
            Self::Status { status, .. } => !matches!(status.as_u16(), 400 | 413 | 422 | 429),
            _ => false,
        }
    }
}

/// Tokens of prompt and context, if the error is that the one does not fit the other. llama-server has a
/// type for it and says both; OpenAI and vLLM have a code or a sentence.
fn too_long(error: &Value, message: &str, context_tokens: u32) -> Option<(u32, u32)> {
    let inner = error.get("error").unwrap_or(error);
    let is = |key: &str, value: &str| inner.get(key).and_then(Value::as_str) == Some(value);
    let message = message.to_lowercase();
    let says_so = is("type", "exceed_context_size_error")
        || is("code", "context_length_exceeded")
        || message.contains("maximum context length")
        || message.contains("context size")
        || message.contains("context window");
    if !says_so {
        return None;
    }
    let number = |key: &str| {
        let number = inner.get(key).and_then(Value::as_u64);
        number.and_then(|number| u32::try_from(number).ok())
    };
    let context = number("n_ctx").unwrap_or(context_tokens);
    let prompt = number("n_prompt_tokens").unwrap_or(0);
    Some((prompt.max(context.saturating_add(1)), context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, body: &str) -> FailureKind {
        let status = StatusCode::from_u16(status).expect("a status");
        Failure::of_status(status, body.as_bytes(), 2_048).kind()
    }

    #[test]
    fn a_status_is_told_as_what_the_coordinator_can_do_about_it() {
        for (status, expected) in [
            (400, FailureKind::Rejected),
            (401, FailureKind::Unavailable),
            (404, FailureKind::Unavailable),
            (422, FailureKind::Rejected),
            (429, FailureKind::Busy),
            (500, FailureKind::Unavailable),
            (503, FailureKind::Unavailable),
        ] {
            let body = r#"{"error":{"message":"no"}}"#;
            assert_eq!(kind(status, body), expected, "{status}");
            assert_eq!(kind(status, "<html>no</html>"), expected, "{status}");
        }
    }

    #[test]
    fn a_prompt_beyond_the_context_is_told_with_its_size() {
        let llama = r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}"#;
        let too_long = |prompt_tokens, context_tokens| FailureKind::ContextTooLong {
            prompt_tokens,
            context_tokens,
        };
        assert_eq!(kind(400, llama), too_long(5_000, 4_096));
        let openai = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
        assert_eq!(kind(400, openai), too_long(2_049, 2_048));
        let vllm = r#"{"object":"error","message":"This model's maximum context length is 4096 tokens.","code":400}"#;
        assert_eq!(kind(400, vllm), too_long(2_049, 2_048));
        assert_eq!(kind(500, openai), FailureKind::Unavailable);
    }
}
