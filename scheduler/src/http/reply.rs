//! What the engine said, as OpenAI's JSON: whole completions, chunks and usage.
//!
//! Structs rather than `json!`: fields come out in OpenAI's order and the same bytes every time,
//! so streams can be tested byte for byte. Our own data sits under `moe2`, in [`explain`].

mod explain;

use moe2_engine::coordinator::Answer;
use serde::Serialize;

use super::Endpoint;
use explain::Moe2;

/// What all parts of one answer share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// How it was asked.
    pub endpoint: Endpoint,
    /// Names the completion.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// Token counts are wanted at the end of the stream.
    pub include_usage: bool,
    /// Candidates and log-probabilities are wanted.
    pub explain: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    /// Outer `None`: left out; inner `None`: `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Tokens>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moe2: Option<Moe2<'a>>,
}

#[derive(Debug, Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(flatten)]
    part: Part<'a>,
    /// Not supported, and `null` rather than absent for clients with strict types.
    logprobs: (),
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part<'a> {
    Message(Message<'a>),
    Delta(Delta<'a>),
    Text(&'a str),
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: (),
}

#[derive(Debug, Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Tokens {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptTokens,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct PromptTokens {
    cached_tokens: u32,
}

impl Tokens {
    fn of(answer: &Answer) -> Self {
        Self {
            prompt_tokens: answer.prompt_tokens,
            completion_tokens: answer.output_tokens,
            total_tokens: u64::from(answer.prompt_tokens) + u64::from(answer.output_tokens),
            prompt_tokens_details: PromptTokens {
                cached_tokens: answer.cached_tokens,
            },
        }
    }
}

/// An id as OpenAI shapes it, from 128 random bits.
pub(super) fn completion_id(endpoint: Endpoint, high: u64, low: u64) -> String {
    match endpoint {
        Endpoint::Chat => format!("chatcmpl-{high:016x}{low:016x}"),
        Endpoint::Text => format!("cmpl-{high:016x}{low:016x}"),
    }
}

/// A whole answer.
pub(super) fn completion<'a>(head: &'a Head, answer: &'a Answer) -> Completion<'a> {
    let (object, part) = match head.endpoint {
        Endpoint::Chat => {
            let message = Message {
                role: "assistant",
                content: &answer.text,
                refusal: (),
            };
            ("chat.completion", Part::Message(message))
        }
        Endpoint::Text => ("text_completion", Part::Text(&answer.text)),
    };
    Completion {
        id: &head.id,
        object,
        created: head.created,
        model: &answer.model,
        choices: vec![choice(part, Some(answer.finish.as_str()))],
        usage: Some(Some(Tokens::of(answer))),
        moe2: Some(Moe2::new(&answer.explanation, head.explain)),
    }
}

/// The first chunk of a chat: who speaks.
pub(super) fn opening_chunk(head: &Head, model: &str) -> String {
    let delta = Delta {
        role: Some("assistant"),
        content: Some(""),
    };
    json(&chunk(head, model, vec![choice(Part::Delta(delta), None)]))
}

/// A chunk of text.
pub(super) fn text_chunk(head: &Head, model: &str, text: &str) -> String {
    let part = match head.endpoint {
        Endpoint::Chat => Part::Delta(Delta {
            role: None,
            content: Some(text),
        }),
        Endpoint::Text => Part::Text(text),
    };
    json(&chunk(head, model, vec![choice(part, None)]))
}

/// The chunk that says why the answer ends.
pub(super) fn finish_chunk(head: &Head, model: &str, answer: &Answer) -> String {
    let part = match head.endpoint {
        Endpoint::Chat => Part::Delta(Delta::default()),
        Endpoint::Text => Part::Text(""),
    };
    let last = choice(part, Some(answer.finish.as_str()));
    json(&Completion {
        moe2: Some(Moe2::new(&answer.explanation, head.explain)),
        ..chunk(head, model, vec![last])
    })
}

/// The chunk with the token counts, for clients that asked for it.
pub(super) fn usage_chunk(head: &Head, model: &str, answer: &Answer) -> String {
    json(&Completion {
        usage: Some(Some(Tokens::of(answer))),
        ..chunk(head, model, Vec::new())
    })
}

fn chunk<'a>(head: &'a Head, model: &'a str, choices: Vec<Choice<'a>>) -> Completion<'a> {
    Completion {
        id: &head.id,
        object: match head.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Text => "text_completion",
        },
        created: head.created,
        model,
        choices,
        usage: head.include_usage.then_some(None),
        moe2: None,
    }
}

fn choice<'a>(part: Part<'a>, finish_reason: Option<&'static str>) -> Choice<'a> {
    Choice {
        index: 0,
        part,
        logprobs: (),
        finish_reason,
    }
}

fn json(completion: &Completion<'_>) -> String {
    serde_json::to_string(completion).expect("strings and numbers can be written as JSON")
}
