//! A server for tests that speaks OpenAI's interface, well or as badly as a test wants.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Patience, Settings};

/// A step of a reply's body.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// These bytes.
    Send(Vec<u8>),
    /// Nothing more, and no end, until the server dies.
    Hang,
    /// The connection breaks.
    Break,
}

/// A reply.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) acts: Vec<Act>,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) key: Option<String>,
    pub(crate) body: Value,
}

type Respond = dyn Fn(&Asked) -> Script + Send + Sync;

struct Shared {
    respond: Box<Respond>,
    asked: Mutex<Vec<Asked>>,
    dead: watch::Receiver<bool>,
    left: mpsc::UnboundedSender<()>,
}

/// A running server; it ends when dropped.
pub(crate) struct FakeServer {
    pub(crate) url: String,
    shared: Arc<Shared>,
    die: watch::Sender<bool>,
    /// One for every body that its client did not read to the end.
    pub(crate) left: mpsc::UnboundedReceiver<()>,
    task: JoinHandle<()>,
}

impl FakeServer {
    /// One that answers every request, for models too, as `respond` says.
    pub(crate) async fn start(respond: impl Fn(&Asked) -> Script + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", respond).await
    }

    /// The same at a given address.
    pub(crate) async fn start_at(
        address: &str,
        respond: impl Fn(&Asked) -> Script + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (die, dead) = watch::channel(false);
        let (left_to, left) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            respond: Box::new(respond),
            asked: Mutex::default(),
            dead,
            left: left_to,
        });
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // It ends by being aborted.
            let _ = axum::serve(listener, app).await;
        });
        Self {
            url: format!("http://{address}/v1"),
            shared,
            die,
            left,
            task,
        }
    }

    /// Breaks every connection and listens no more.
    pub(crate) fn die(&self) {
        self.task.abort();
        let _ = self.die.send(true);
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How to use it.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            endpoint: self.url.parse().expect("it is an address"),
            model: None,
            key: None,
            context_tokens: 2_048,
            patience: Patience {
                first_token: Duration::from_secs(60),
                next_token: Duration::from_secs(60),
            },
        }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.die();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 24)
        .await
        .unwrap_or_default();
    let key = parts.headers.get(header::AUTHORIZATION);
    let asked = Asked {
        path: parts.uri.path().to_owned(),
        key: key.and_then(|key| key.to_str().ok()).map(str::to_owned),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let script = (shared.respond)(&asked);
    shared
        .asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(asked);
    let status = StatusCode::from_u16(script.status).expect("a status");
    let played = Played {
        acts: script.acts.into_iter(),
        dead: shared.dead.clone(),
        left: Some(shared.left.clone()),
    };
    let body = Body::from_stream(stream::unfold(played, Played::next));
    (status, [(header::CONTENT_TYPE, script.content_type)], body).into_response()
}

struct Played {
    acts: std::vec::IntoIter<Act>,
    dead: watch::Receiver<bool>,
    left: Option<mpsc::UnboundedSender<()>>,
}

impl Drop for Played {
    fn drop(&mut self) {
        if let Some(left) = self.left.take() {
            let _ = left.send(());
        }
    }
}

impl Played {
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Self)> {
        let bytes = match self.acts.next() {
            Some(Act::Send(bytes)) => Ok(Bytes::from(bytes)),
            Some(Act::Hang) => {
                let _ = self.dead.wait_for(|dead| *dead).await;
                Err(std::io::Error::other("dead"))
            }
            Some(Act::Break) => {
                // What was sent before leaves when there is nothing more for a moment.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("broken"))
            }
            None => {
                self.left = None;
                return None;
            }
        };
        Some((bytes, self))
    }
}

/// A stream of these events, whole.
pub(crate) fn events(data: &[Value]) -> Vec<Act> {
    let each = data.iter().map(|data| send(&format!("data: {data}\n\n")));
    each.chain([send("data: [DONE]\n\n")]).collect()
}

/// Some text of a body.
pub(crate) fn send(text: &str) -> Act {
    Act::Send(text.as_bytes().to_vec())
}

/// A stream that acts like this.
pub(crate) fn stream_of(acts: Vec<Act>) -> Script {
    Script {
        status: 200,
        content_type: "text/event-stream; charset=utf-8",
        acts,
    }
}

/// A whole reply of JSON.
pub(crate) fn json_reply(status: u16, body: &Value) -> Script {
    Script {
        status,
        content_type: "application/json",
        acts: vec![send(&body.to_string())],
    }
}

/// A piece of an answer.
pub(crate) fn delta(text: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
}

/// The end of an answer.
pub(crate) fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

/// The models there are.
pub(crate) fn models(names: &[&str]) -> Script {
    let data: Vec<Value> = names.iter().map(|id| json!({"id": id})).collect();
    json_reply(200, &json!({"object": "list", "data": data}))
}

/// What [`well`] says.
pub(crate) const WORDS: [&str; 8] = [
    "one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight ",
];
/// Asked for at least so many tokens, [`well`] says two words and hangs.
pub(crate) const ENDLESS: u64 = 100;

/// A server as it should be: one model, `structured_outputs`, probabilities, usage.
pub(crate) fn well(asked: &Asked) -> Script {
    if asked.path.ends_with("/models") {
        return models(&["m"]);
    }
    let body = &asked.body;
    if let Some(options) = body["structured_outputs"]["choice"].as_array() {
        return chosen(options, body["logprobs"] == true);
    }
    let most = body["max_tokens"].as_u64().unwrap_or(u64::MAX);
    if most >= ENDLESS {
        let begun = WORDS[..2]
            .iter()
            .map(|word| send(&format!("data: {}\n\n", delta(word))));
        return stream_of(begun.chain([Act::Hang]).collect());
    }
    let stops: Vec<&str> = body["stop"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut said = String::new();
    let mut data = vec![json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]})];
    let mut reason = "stop";
    for (n, word) in (0..).zip(WORDS) {
        said.push_str(word);
        if stops.iter().any(|stop| said.contains(stop)) {
            break;
        }
        if n == most {
            reason = "length";
            break;
        }
        data.push(delta(word));
    }
    let tokens = data.len() - 1;
    data.push(finish(reason));
    data.push(json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}}));
    stream_of(events(&data))
}

/// The first of the options, each half as likely as the one before.
fn chosen(options: &[Value], scored: bool) -> Script {
    let mut logprob = 0.0;
    let likeliest: Vec<Value> = options
        .iter()
        .map(|option| {
            logprob -= std::f64::consts::LN_2;
            json!({"token": option, "logprob": logprob})
        })
        .collect();
    let mut first = delta(options[0].as_str().unwrap_or_default());
    if scored {
        let position = json!({"token": options[0], "top_logprobs": likeliest});
        first["choices"][0]["logprobs"] = json!({"content": [position]});
    }
    stream_of(events(&[first, finish("stop")]))
}
