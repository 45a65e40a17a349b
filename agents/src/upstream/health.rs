//! Whether a server is there, what it serves, and how it can be held to options.

use std::time::Duration;

use hyper::StatusCode;
use moe2_model::{Message, Prompt, Role};
use moe2_wire::FromWorker;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::answer::{Progress, Server};
use super::choice::{Choosing, LAST_RESORT, PROBE, PROBE_QUESTION, WAYS};
use super::failure::Failure;
use super::http::{Client, HttpError};
use super::{Settings, Speaker};

/// Between looks at a server that is not there: doubled from the one to the other.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// Between looks at a server that is.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For one look; a list of models costs nothing.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// Looks in a row without an answer after which a server counts as gone. One alone may have been slow.
const MISSED_LOOKS: u32 = 3;
/// Names in an error, when a server has many models.
const MOST_NAMES: usize = 8;

/// Why a server cannot be used now.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("{0}")]
    Unreachable(HttpError),
    #[error("the server does not answer within {} s", LOOK_WITHIN.as_secs())]
    Slow,
    #[error(transparent)]
    Refuses(Failure),
    #[error("the server has too much to do to say what it has")]
    Busy,
    #[error("the server's list of models cannot be read: {0}; is the address its /v1?")]
    NoList(String),
    #[error("the server has no model `{wanted}`, but {has}: set `upstream_model`")]
    OtherModels { wanted: String, has: String },
    #[error("the server has {has}: say which with `upstream_model`")]
    ManyModels { has: String },
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// The server and what it can do about choices, as soon as it is there and has the model. Until then the
/// expert is failed, with the reason.
pub(super) async fn wait_for(speaker: &Speaker, settings: &Settings) -> (Server, Choosing) {
    let client = Client::new(settings.endpoint.clone(), settings.key.clone());
    let mut pause = RETRY.0;
    let mut told = None;
    let model = loop {
        let unfit = match look(&client, settings).await {
            Ok(model) => break model,
            Err(unfit) => unfit.to_string(),
        };
        if told.as_ref() != Some(&unfit) {
            tracing::warn!(expert = %speaker.expert, reason = unfit, "the server is not ready");
            let message = unfit.clone();
            speaker.say(FromWorker::LoadFailed { message }).await;
            told = Some(unfit);
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    };
    let server = Server {
        client,
        model,
        context_tokens: settings.context_tokens,
        patience: settings.patience,
    };
    let choosing = probe(&server).await;
    (server, choosing)
}

/// Ends when the server is gone or has its model no more, with what to say of it. `doubt` has it looked at
/// at once.
pub(super) async fn watch(server: &Server, doubt: &Notify) -> String {
    let mut missed = 0;
    loop {
        let _ = timeout(LOOK_EVERY, doubt.notified()).await;
        match served(&server.client).await {
            Ok(models) if !models.iter().any(|has| is_same(has, &server.model)) => {
                return format!("the server has no model `{}` any more", server.model);
            }
            Ok(_) => missed = 0,
            Err(Unfit::Slow | Unfit::Busy) => missed += 1,
            Err(unfit) => return unfit.to_string(),
        }
        if missed == MISSED_LOOKS {
            return Unfit::Slow.to_string();
        }
    }
}

/// The name of the model to use.
async fn look(client: &Client, settings: &Settings) -> Result<String, Unfit> {
    let models = served(client).await?;
    let has = || {
        let names = models.iter().take(MOST_NAMES).map(|m| format!("`{m}`"));
        let names: Vec<String> = names.collect();
        let more = if models.len() > MOST_NAMES {
            " and others"
        } else {
            ""
        };
        if names.is_empty() {
            "none".to_owned()
        } else {
            format!("{}{more}", names.join(", "))
        }
    };
    match (&settings.model, models.as_slice()) {
        (Some(wanted), models) if models.iter().any(|has| is_same(has, wanted)) => {
            Ok(wanted.clone())
        }
        (Some(wanted), _) => Err(Unfit::OtherModels {
            wanted: wanted.clone(),
            has: has(),
        }),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(Unfit::ManyModels { has: has() }),
    }
}

/// Ollama adds a tag to names without one.
fn is_same(has: &str, wanted: &str) -> bool {
    has == wanted || has.strip_suffix(":latest") == Some(wanted)
}

/// The models that the server says it has.
async fn served(client: &Client) -> Result<Vec<String>, Unfit> {
    let asked = async {
        let mut reply = client.send("/models", None).await?;
        let body = reply.whole().await?;
        Ok((reply.status(), body))
    };
    let (status, body) = match timeout(LOOK_WITHIN, asked).await {
        Ok(asked) => asked.map_err(Unfit::Unreachable)?,
        Err(_) => return Err(Unfit::Slow),
    };
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Unfit::Busy);
    }
    if !status.is_success() {
        return Err(Unfit::Refuses(Failure::of_status(status, &body, 0)));
    }
    let models: Models =
        serde_json::from_slice(&body).map_err(|error| Unfit::NoList(error.to_string()))?;
    Ok(models.data.into_iter().map(|model| model.id).collect())
}

/// The first way of holding it to options that works.
async fn probe(server: &Server) -> Choosing {
    let question = Prompt::Chat(vec![Message {
        role: Role::User,
        content: PROBE_QUESTION.to_owned(),
    }]);
    let options = PROBE.map(str::to_owned);
    for way in WAYS {
        let mut progress = Progress::of(&question);
        let chosen = server
            .choose((&question, &options), way, &mut progress)
            .await;
        match chosen {
            Ok(_) if !way.scores || progress.has_likeliest() => return way,
            // It chose, and gave no probabilities: the same way without them will do.
            Ok(_) => {}
            Err(failure) => {
                tracing::debug!(way = %way, %failure, "choices cannot be asked for like this")
            }
        }
    }
    LAST_RESORT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_ollama_adds_is_no_difference() {
        assert!(is_same("smollm2:latest", "smollm2") && is_same("a", "a"));
        assert!(!is_same("smollm2:135m", "smollm2") && !is_same("a", "b"));
    }
}
