//! The way to a coordinator: where it is, with which key, and what it answered.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{Infeasible, paths};

/// How to find the coordinator; the same for every command that talks to one.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Where {
    /// Base address of the coordinator; by default the one `moe2 up` started here.
    #[arg(long, env = "MOE2_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File with the API key; by default that of the local coordinator, or the variable `MOE2_API_KEY`.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

/// Which credential a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A tenant's.
    Api,
    /// The operator's.
    Admin,
}

/// A coordinator that can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    key: String,
}

impl Where {
    /// A client with the credential that the command needs.
    pub(crate) fn client(&self, credential: Credential) -> anyhow::Result<Client> {
        let state = paths::local_state().join("coordinator");
        let base = match &self.url {
            Some(url) => url.trim_end_matches('/').trim_end_matches("/v1").to_owned(),
            None => local_base(&state)?,
        };
        let (variable, file) = match credential {
            Credential::Api => ("MOE2_API_KEY", "api.key"),
            Credential::Admin => ("MOE2_ADMIN_KEY", "admin.key"),
        };
        let key = match (&self.key_file, std::env::var(variable)) {
            (Some(file), _) => read_key(file)?,
            (None, Ok(key)) => key,
            // The local fleet's key is for the local fleet only.
            (None, Err(_)) if self.url.is_some() => {
                bail!("--url needs a key for it: set {variable} or name a file with --key-file")
            }
            (None, Err(_)) => read_key(&state.join(file))
                .with_context(|| format!("set {variable} or name a file with --key-file"))?,
        };
        Ok(Client::new(&base, key.trim()))
    }
}

fn read_key(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read the key {}", path.display()))
}

/// Where the coordinator of this state directory listens.
pub(crate) fn local_base(state: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(state.join("endpoints.json"))
        .context("no coordinator runs here: start one with `moe2 up`, or name one with --url")?;
    let endpoints: Value = serde_json::from_str(&text).context("endpoints.json is damaged")?;
    let http = endpoints["http"]
        .as_str()
        .context("endpoints.json names no HTTP address")?;
    Ok(format!("http://{http}"))
}

impl Client {
    pub(crate) fn new(base: &str, key: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(5)))
            .http_status_as_error(false)
            .build();
        Self {
            agent: config.into(),
            base: base.to_owned(),
            key: key.to_owned(),
        }
    }

    /// The base address, e.g. `http://127.0.0.1:8077`.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.key)
    }

    /// A GET whose answer is text.
    pub(crate) fn get_text(&self, path: &str) -> anyhow::Result<String> {
        self.text(self.agent.get(format!("{}{path}", self.base)))
    }

    /// A DELETE.
    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.text(self.agent.delete(format!("{}{path}", self.base)))?;
        Ok(())
    }

    /// A PUT whose answer is JSON.
    pub(crate) fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.agent.put(format!("{}{path}", self.base));
        let reply = request
            .header("authorization", self.bearer())
            .send_json(body);
        let mut reply = reply.with_context(|| format!("{} does not answer", self.base))?;
        let status = reply.status().as_u16();
        let text = reply.body_mut().read_to_string()?;
        if status >= 400 {
            return Err(refused(&text, status));
        }
        Ok(serde_json::from_str(&text)?)
    }

    fn text(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
    ) -> anyhow::Result<String> {
        let mut reply = request
            .header("authorization", self.bearer())
            .call()
            .with_context(|| format!("{} does not answer", self.base))?;
        let status = reply.status().as_u16();
        let text = reply.body_mut().read_to_string()?;
        if status >= 400 {
            Err(refused(&text, status))
        } else {
            Ok(text)
        }
    }

    /// A GET whose answer is JSON.
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.get_text(path)?)?)
    }

    /// A POST whose answer is JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let mut reply = self.send(path, body)?;
        let status = reply.status().as_u16();
        let text = reply.body_mut().read_to_string()?;
        if status >= 400 {
            Err(refused(&text, status))
        } else {
            Ok(serde_json::from_str(&text)?)
        }
    }

    /// A POST that tells a refusal by its status from not getting through at all.
    pub(crate) fn try_post(&self, path: &str, body: &Value) -> anyhow::Result<Answered> {
        let mut reply = self.send(path, body)?;
        let status = reply.status().as_u16();
        let text = reply.body_mut().read_to_string()?;
        if status >= 400 {
            return Ok(Answered::Refused(status, message(&text)));
        }
        Ok(Answered::Reply(serde_json::from_str(&text)?))
    }

    /// A chat completion as it comes: `each` sees every chunk.
    pub(crate) fn stream(&self, body: &Value, mut each: impl FnMut(&Value)) -> anyhow::Result<()> {
        let mut reply = self.send("/v1/chat/completions", body)?;
        let status = reply.status().as_u16();
        if status >= 400 {
            return Err(refused(&reply.body_mut().read_to_string()?, status));
        }
        for line in BufReader::new(reply.body_mut().as_reader()).lines() {
            let line = line.context("the answer broke off")?;
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                return Ok(());
            }
            let chunk: Value = serde_json::from_str(data).context("a chunk is not JSON")?;
            if chunk.get("error").is_some() {
                return Err(refused(data, 0));
            }
            each(&chunk);
        }
        bail!("the answer ended without its end mark")
    }

    fn send(&self, path: &str, body: &Value) -> anyhow::Result<ureq::http::Response<ureq::Body>> {
        self.agent
            .post(format!("{}{path}", self.base))
            .header("authorization", self.bearer())
            .send_json(body)
            .with_context(|| format!("{} does not answer", self.base))
    }
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Answered {
    /// An answer.
    Reply(Value),
    /// A refusal: its status and message.
    Refused(u16, String),
}

/// The message of an error envelope, or the text if it is none.
fn message(text: &str) -> String {
    let envelope: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    envelope["error"]["message"]
        .as_str()
        .unwrap_or(text)
        .to_owned()
}

/// The envelope's message as an error.
fn refused(text: &str, status: u16) -> anyhow::Error {
    let envelope: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let message = message(text);
    if envelope["error"]["code"] == "budget_infeasible" {
        return anyhow::Error::new(Infeasible(message));
    }
    if status == 0 {
        anyhow::anyhow!(message)
    } else {
        anyhow::anyhow!("{message} (status {status})")
    }
}
