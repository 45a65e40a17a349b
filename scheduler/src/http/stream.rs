//! Server-sent events: the engine's replies, framed as OpenAI streams them.
//!
//! The status is decided by the first reply, before headers go out; after that an error can only
//! be an event, and the stream closes without `[DONE]` so that no client takes a torn answer for a
//! whole one. [`Framer`] is pure; the stream around it owns the [`Submission`], so a body dropped
//! by a client that left drops the submission, which cancels the work.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use moe2_engine::coordinator::{Answer, Reply};

use super::error::ApiError;
use super::reply::{self, Head};
use crate::handle::Submission;

/// Silence after which a comment is sent: proxies commonly cut connections idle for 30 to 60 s.
const PING_AFTER: Duration = Duration::from_secs(15);
const PING: &str = ": ping\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// Waits for the first reply, then streams from it on.
pub(super) async fn respond(mut submission: Submission, head: Head) -> Result<Response, ApiError> {
    let opening = match submission.next().await {
        None => return Err(ApiError::shutting_down()),
        Some(Reply::Refused(refusal)) => {
            return Err(ApiError::from_refusal(
                &refusal,
                head.endpoint.prompt_field(),
            ));
        }
        Some(Reply::Started { model }) => Opening { model, first: None },
        Some(Reply::Finished(answer)) => Opening {
            model: answer.model.clone(),
            first: Some(Reply::Finished(answer)),
        },
        // The engine names the expert first; if it ever did not, the router decided.
        Some(delta @ Reply::Delta(_)) => Opening {
            model: super::models::AUTO.to_owned(),
            first: Some(delta),
        },
    };
    let events = Events {
        submission,
        first: opening.first,
        framer: Framer::new(head, opening.model),
    };
    let body = Body::from_stream(futures_util::stream::unfold(events, Events::step));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, body).into_response())
}

struct Opening {
    model: String,
    /// The reply that still has to be framed.
    first: Option<Reply>,
}

struct Events {
    submission: Submission,
    first: Option<Reply>,
    framer: Framer,
}

impl Events {
    async fn step(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.framer.stage == Stage::Closed {
            return None;
        }
        let frames = if self.framer.stage == Stage::New {
            self.framer.open()
        } else if let Some(first) = self.first.take() {
            self.framer.frames(Some(&first))
        } else {
            match tokio::time::timeout(PING_AFTER, self.submission.next()).await {
                Ok(reply) => self.framer.frames(reply.as_ref()),
                Err(_) => PING.to_owned(),
            }
        };
        Some((Ok(frames.into()), self))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    /// Opened, no text yet.
    Opened,
    /// Some text was sent.
    Telling,
    Closed,
}

/// Turns replies into events.
#[derive(Debug)]
struct Framer {
    head: Head,
    model: String,
    stage: Stage,
}

impl Framer {
    fn new(head: Head, model: String) -> Self {
        // A text completion has no role to announce, so its stream begins with text.
        let stage = match head.endpoint {
            super::Endpoint::Chat => Stage::New,
            super::Endpoint::Text => Stage::Opened,
        };
        Self { head, model, stage }
    }

    fn open(&mut self) -> String {
        self.stage = Stage::Opened;
        event(&reply::opening_chunk(&self.head, &self.model))
    }

    /// The events for one reply; `None` is an engine that went away.
    fn frames(&mut self, reply: Option<&Reply>) -> String {
        match reply {
            Some(Reply::Started { .. }) => String::new(),
            Some(Reply::Delta(text)) => {
                self.stage = Stage::Telling;
                event(&reply::text_chunk(&self.head, &self.model, text))
            }
            Some(Reply::Finished(answer)) => self.finish(answer),
            Some(Reply::Refused(refusal)) => {
                let field = self.head.endpoint.prompt_field();
                self.fail(&ApiError::from_refusal(refusal, field))
            }
            None => self.fail(&ApiError::shutting_down()),
        }
    }

    fn finish(&mut self, answer: &Answer) -> String {
        let mut frames = String::new();
        // Fused answers and choices exist only as a whole.
        if self.stage != Stage::Telling && !answer.text.is_empty() {
            frames += &event(&reply::text_chunk(&self.head, &self.model, &answer.text));
        }
        frames += &event(&reply::finish_chunk(&self.head, &self.model, answer));
        if self.head.include_usage {
            frames += &event(&reply::usage_chunk(&self.head, &self.model, answer));
        }
        frames += DONE;
        self.stage = Stage::Closed;
        frames
    }

    fn fail(&mut self, error: &ApiError) -> String {
        self.stage = Stage::Closed;
        event(&error.envelope())
    }
}

/// One event; JSON on one line needs no further splitting.
fn event(json: &str) -> String {
    format!("data: {json}\n\n")
}
