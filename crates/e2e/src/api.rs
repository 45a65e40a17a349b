//! The HTTP side of a system under test: whole answers, streams, and the fleet view.
//!
//! Every request has a deadline, so that a coordinator that never answers fails the test.

use std::io::{BufRead, BufReader, Lines};
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Body;
use ureq::http::Response;

use crate::fail;

/// Longest any request may take, stream included.
const NEVER_HANGS: Duration = Duration::from_secs(60);

/// A coordinator's HTTP address with a credential.
#[derive(Debug, Clone)]
pub struct Api {
    agent: ureq::Agent,
    base: String,
    key: String,
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// What `x-should-retry` says.
    pub should_retry: Option<String>,
    /// The body; `null` if it is no JSON.
    pub json: Value,
}

impl Reply {
    /// The answer's text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.json["choices"][0]["message"]["content"]
            .as_str()
            .unwrap_or_default()
    }

    /// Who answered, `model@node`.
    #[must_use]
    pub fn model(&self) -> &str {
        self.json["model"].as_str().unwrap_or_default()
    }
}

/// What a stream says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A chunk with text.
    Text(String),
    /// A chunk without: role, finish or usage.
    Other(Value),
    /// The error frame.
    Error(Value),
    /// `[DONE]`.
    Done,
    /// The connection ended.
    Closed,
}

/// A stream being read; dropping it closes the connection.
pub struct Stream {
    lines: Lines<BufReader<ureq::BodyReader<'static>>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    /// The next event.
    #[must_use]
    pub fn next_event(&mut self) -> Event {
        loop {
            let Some(Ok(line)) = self.lines.next() else {
                return Event::Closed;
            };
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                return Event::Done;
            }
            let chunk: Value = serde_json::from_str(data).unwrap_or(Value::Null);
            if chunk.get("error").is_some() {
                return Event::Error(chunk);
            }
            return match chunk["choices"][0]["delta"]["content"].as_str() {
                Some(text) if !text.is_empty() => Event::Text(text.to_owned()),
                _ => Event::Other(chunk),
            };
        }
    }

    /// Reads until text comes.
    ///
    /// # Panics
    /// If the stream ends before.
    pub fn first_text(&mut self) -> String {
        loop {
            match self.next_event() {
                Event::Text(text) => return text,
                Event::Other(_) => {}
                end => fail(&format!("no text before {end:?}")),
            }
        }
    }

    /// Everything that is left, the end included.
    #[must_use]
    pub fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next_event();
            events.push(event.clone());
            if event == Event::Closed {
                return events;
            }
        }
    }
}

impl Api {
    /// `base` is like `http://127.0.0.1:8077`.
    #[must_use]
    pub fn new(base: &str, key: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(NEVER_HANGS))
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            agent,
            base: base.to_owned(),
            key: key.to_owned(),
        }
    }

    /// The base address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The credential.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A GET; `None` if nobody answers.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Reply> {
        let sent = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.key))
            .call();
        sent.ok().map(whole)
    }

    /// A GET of text; empty if nobody answers.
    #[must_use]
    pub fn text(&self, path: &str) -> String {
        let sent = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.key))
            .call();
        let text = sent
            .ok()
            .and_then(|mut r| r.body_mut().read_to_string().ok());
        text.unwrap_or_default()
    }

    /// A POST of JSON.
    ///
    /// # Panics
    /// If nobody answers within a minute.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        whole(self.send(path, body))
    }

    /// A chat completion of a coordinator that may die meanwhile; `None` if it does.
    #[must_use]
    pub fn try_chat(&self, question: &str, body: &Value) -> Option<Reply> {
        let sent = self
            .agent
            .post(format!("{}/v1/chat/completions", self.base))
            .header("authorization", format!("Bearer {}", self.key))
            .send_json(request(question, body));
        // A reply that broke off is none.
        sent.ok().map(whole).filter(|reply| !reply.json.is_null())
    }

    /// A chat completion; `body` overrides the defaults (model `auto`, temperature 0).
    #[must_use]
    pub fn chat(&self, question: &str, body: &Value) -> Reply {
        self.post("/v1/chat/completions", &request(question, body))
    }

    /// The same as a stream.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn stream(&self, question: &str, body: &Value) -> Stream {
        let mut asked = request(question, body);
        asked["stream"] = json!(true);
        let response = self.send("/v1/chat/completions", &asked);
        let status = response.status().as_u16();
        assert!(status == 200, "status {status}: {:?}", whole(response).json);
        let reader = response.into_body().into_reader();
        Stream {
            lines: BufReader::new(reader).lines(),
        }
    }

    fn send(&self, path: &str, body: &Value) -> Response<Body> {
        self.agent
            .post(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.key))
            .send_json(body)
            .expect("the coordinator answers within a minute")
    }
}

fn request(question: &str, body: &Value) -> Value {
    let mut asked = json!({
        "model": "auto",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
    });
    if let Some(fields) = body.as_object() {
        for (name, value) in fields {
            asked[name] = value.clone();
        }
    }
    asked
}

fn whole(mut response: Response<Body>) -> Reply {
    let status = response.status().as_u16();
    let should_retry = response.headers().get("x-should-retry");
    let should_retry = should_retry
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Reply {
        status,
        should_retry,
        json,
    }
}
