//! The HTTP side: the operator's calls, and requests whose ends are told apart exactly.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use ureq::Body;
use ureq::http::Response;

/// Longest that a client waits for the end of an answer; then it counts as lost.
const PATIENCE: Duration = Duration::from_secs(40);

/// A coordinator's address with a credential.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    agent: ureq::Agent,
    base: String,
    key: String,
}

/// How a request ended, as its client saw it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// In full: who answered, the text, and what the reply's `moe2` says.
    Answered {
        model: String,
        text: String,
        moe2: Value,
    },
    /// The error envelope, with a status, before anything else.
    Refused {
        status: u16,
        code: String,
        message: String,
    },
    /// The error event, and then the end without `[DONE]`; whether there was text before.
    Broken { code: String, text: bool },
    /// The client hung up once it had text.
    Left,
    /// Anything else.
    Undocumented(String),
}

/// A request's way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ended {
    pub(crate) end: End,
    /// To the first text of a stream.
    pub(crate) first: Option<Duration>,
    /// What the coordinator calls it.
    pub(crate) id: String,
}

impl Api {
    /// `base` is like `http://127.0.0.1:8077`.
    pub(crate) fn new(base: &str, key: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            agent,
            base: base.to_owned(),
            key: key.to_owned(),
        }
    }

    /// The same place with another credential, and connections of its own.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self::new(&self.base, key)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.key)
    }

    /// A GET of text.
    pub(crate) fn text(&self, path: &str) -> anyhow::Result<String> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let reply = request.header("authorization", self.bearer()).call();
        checked(reply, path)
    }

    /// A GET of JSON.
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        serde_json::from_str(&self.text(path)?).with_context(|| path.to_owned())
    }

    /// A POST of JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let reply = self.send(path, body);
        serde_json::from_str(&checked(reply, path)?).with_context(|| path.to_owned())
    }

    /// A PUT of JSON.
    pub(crate) fn put(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let request = self.agent.put(format!("{}{path}", self.base));
        let reply = request
            .header("authorization", self.bearer())
            .send_json(body);
        checked(reply, path).map(drop)
    }

    /// A chat completion to its end, whatever that is.
    pub(crate) fn chat(&self, body: &Value) -> Ended {
        self.ask(body, false)
    }

    /// A streamed chat completion whose client hangs up at the first text.
    pub(crate) fn chat_and_leave(&self, body: &Value) -> Ended {
        self.ask(body, true)
    }

    fn ask(&self, body: &Value, leave: bool) -> Ended {
        let began = Instant::now();
        let mut reply = match self.send("/v1/chat/completions", body) {
            Ok(reply) => reply,
            Err(error) => {
                let end = End::Undocumented(format!("no reply: {error}"));
                return Ended {
                    end,
                    first: None,
                    id: String::new(),
                };
            }
        };
        let id = reply.headers().get("x-request-id");
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let id = id.to_owned();
        let status = reply.status().as_u16();
        if status == 200 && body["stream"] == true {
            let lines = BufReader::new(reply.body_mut().as_reader()).lines();
            let (end, first) = read_stream(lines, (began, leave));
            return Ended { end, first, id };
        }
        let end = match reply.body_mut().read_to_string() {
            Ok(text) => read_whole(status, &text),
            Err(error) => End::Undocumented(format!("the reply broke off: {error}")),
        };
        Ended {
            end,
            first: None,
            id,
        }
    }

    fn send(&self, path: &str, body: &Value) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.post(format!("{}{path}", self.base));
        request
            .header("authorization", self.bearer())
            .send_json(body)
    }
}

fn checked(reply: Result<Response<Body>, ureq::Error>, path: &str) -> anyhow::Result<String> {
    let mut reply = reply.with_context(|| format!("the coordinator does not answer {path}"))?;
    let text = reply.body_mut().read_to_string()?;
    let status = reply.status().as_u16();
    if status >= 400 {
        bail!("{path}: status {status}: {text}");
    }
    Ok(text)
}

/// The code of an error envelope; an error without one is not as documented.
fn code(envelope: &Value) -> Option<String> {
    let error = &envelope["error"];
    let complete = error["message"].is_string() && error["type"].is_string();
    error["code"]
        .as_str()
        .filter(|_| complete)
        .map(str::to_owned)
}

fn read_whole(status: u16, text: &str) -> End {
    let json: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    if status != 200 {
        return match code(&json) {
            Some(code) => End::Refused {
                status,
                code,
                message: json["error"]["message"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            },
            None => End::Undocumented(format!("status {status} without an envelope")),
        };
    }
    let choice = &json["choices"][0];
    match (
        choice["message"]["content"].as_str(),
        choice["finish_reason"].as_str(),
    ) {
        (Some(text), Some(_)) => End::Answered {
            model: json["model"].as_str().unwrap_or_default().to_owned(),
            text: text.to_owned(),
            moe2: json["moe2"].clone(),
        },
        _ => End::Undocumented("status 200 without an answer".to_owned()),
    }
}

/// Reads events up to the end of the stream, where what comes after a terminal one is seen too, or to the first
/// text if the client is to leave then.
fn read_stream(
    lines: impl Iterator<Item = std::io::Result<String>>,
    (began, leave): (Instant, bool),
) -> (End, Option<Duration>) {
    let (mut first, mut text, mut model) = (None, String::new(), String::new());
    let mut finished = None;
    let mut end: Option<End> = None;
    for line in lines {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                let why = format!("the stream broke off: {error}");
                return (End::Undocumented(why), first);
            }
        };
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        if end.is_some() {
            let why = "something came after the end of the stream".to_owned();
            return (End::Undocumented(why), first);
        }
        if data == "[DONE]" {
            end = Some(match finished.take() {
                Some(moe2) => End::Answered {
                    model: model.clone(),
                    text: text.clone(),
                    moe2,
                },
                None => End::Undocumented("[DONE] without a finish reason".to_owned()),
            });
            continue;
        }
        let chunk: Value = serde_json::from_str(data).unwrap_or(Value::Null);
        if chunk.get("error").is_some() {
            end = Some(match code(&chunk) {
                Some(code) => End::Broken {
                    code,
                    text: !text.is_empty(),
                },
                None => End::Undocumented("an error event without an envelope".to_owned()),
            });
            continue;
        }
        let choice = &chunk["choices"][0];
        if let Some(piece) = choice["delta"]["content"]
            .as_str()
            .filter(|p| !p.is_empty())
        {
            first.get_or_insert_with(|| began.elapsed());
            text.push_str(piece);
            if leave {
                return (End::Left, first);
            }
        }
        if let Some(named) = chunk["model"].as_str() {
            named.clone_into(&mut model);
        }
        if choice["finish_reason"].is_string() {
            finished = Some(chunk["moe2"].clone());
        }
    }
    let cut = || End::Undocumented("the stream ended without an end mark".to_owned());
    (end.unwrap_or_else(cut), first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = r#"data: {"error":{"message":"m","type":"server_error","param":null,"code":"lost_mid_stream"}}"#;
    const TEXT: &str =
        r#"data: {"model":"a@b","choices":[{"delta":{"content":"hi"},"finish_reason":null}]}"#;
    const FINISH: &str =
        r#"data: {"model":"a@b","choices":[{"delta":{},"finish_reason":"stop"}],"moe2":{"x":1}}"#;
    const DONE: &str = "data: [DONE]";

    fn read(lines: &[&str]) -> End {
        let lines = lines.iter().map(|line| Ok((*line).to_owned()));
        read_stream(lines, (Instant::now(), false)).0
    }

    #[test]
    fn ends_of_streams_are_told_apart() {
        let whole = read(&[TEXT, "", TEXT, FINISH, DONE]);
        assert!(
            matches!(whole, End::Answered { ref text, .. } if text == "hihi"),
            "{whole:?}"
        );
        let broken = |text| End::Broken {
            code: "lost_mid_stream".to_owned(),
            text,
        };
        assert_eq!(read(&[TEXT, ERROR]), broken(true));
        assert_eq!(read(&[ERROR]), broken(false));
        let wrong = [
            &[TEXT][..],
            &[TEXT, DONE],
            &[TEXT, ERROR, DONE],
            &[TEXT, FINISH, DONE, TEXT],
            &[TEXT, FINISH],
            &[TEXT, r#"data: {"error":"torn"}"#],
        ];
        for lines in wrong {
            assert!(matches!(read(lines), End::Undocumented(_)), "{lines:?}");
        }
    }

    #[test]
    fn who_leaves_reads_no_further_than_the_first_text() {
        let leave = |line: &str| {
            let broken = Err(std::io::ErrorKind::ConnectionReset.into());
            let lines = [Ok(line.to_owned()), broken];
            read_stream(lines.into_iter(), (Instant::now(), true)).0
        };
        assert_eq!(leave(TEXT), End::Left);
        assert!(matches!(leave(""), End::Undocumented(_)));
    }

    #[test]
    fn a_refusal_needs_the_envelope() {
        let envelope = ERROR.trim_start_matches("data: ");
        let refused = read_whole(503, envelope);
        assert!(
            matches!(refused, End::Refused { status: 503, .. }),
            "{refused:?}"
        );
        assert!(matches!(read_whole(503, "sorry"), End::Undocumented(_)));
        assert!(matches!(read_whole(200, "{}"), End::Undocumented(_)));
    }
}
