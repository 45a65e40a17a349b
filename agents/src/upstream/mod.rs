//! The backend for a server that speaks OpenAI's interface: llama-server, Ollama, vLLM, another moe2.
//!
//! It speaks the messages of a worker process, so the agent's engine knows no difference. An expert is
//! ready while the server answers and has its model; it is looked at every few seconds, and at once when
//! a piece of work finds it gone. Each piece of work is a request on a connection of its own; a cancel
//! closes it and still has its terminal message. What the server counts as tokens is believed, what it
//! draws is metered like any work of this machine.
//!
//! [`sse`] and [`chunk`] read what comes, [`http`] moves it, [`mod@answer`] is one request, [`health`] asks
//! whether the server is there, [`choice`] knows the ways to hold it to options.

mod answer;
mod choice;
mod chunk;
mod failure;
mod health;
mod http;
mod request;
pub(crate) mod sse;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moe2_engine::agent::Input;
use moe2_model::{Bytes, DispatchId, ExpertName, FinishReason, Prompt, Seconds, Task};
use moe2_wire::{FromWorker, ToWorker};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::worker::WorkerLine;
use answer::{Progress, Server, Sink, Used};
use choice::Choosing;
use failure::Failure;
pub(crate) use http::{ApiKey, Endpoint};

/// How long a server may say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// From the request to the first token.
    pub(crate) first_token: Duration,
    /// From one token to the next.
    pub(crate) next_token: Duration,
}

/// Which server, and how it is to be used.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    /// What the server calls the model; the only one it has if not given.
    pub(crate) model: Option<String>,
    pub(crate) key: Option<ApiKey>,
    pub(crate) context_tokens: u32,
    pub(crate) patience: Patience,
}

/// Starts to use a server as `expert`; the task ends when the line is dropped, or when the server was
/// there and is gone.
pub(crate) fn start(
    expert: ExpertName,
    settings: Settings,
    inputs: mpsc::Sender<Input>,
) -> (WorkerLine, JoinHandle<()>) {
    let (line, said) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let speaker = Speaker { expert, inputs };
        let reason = host(&speaker, &settings, said).await;
        let Speaker { expert, inputs } = speaker;
        tracing::warn!(%expert, reason, "the server is not used any more");
        // Fails only when the agent is ending.
        let _ = inputs.send(Input::WorkerExited { expert, reason }).await;
    });
    (line, task)
}

/// Says what a worker would.
#[derive(Debug, Clone)]
struct Speaker {
    expert: ExpertName,
    inputs: mpsc::Sender<Input>,
}

impl Speaker {
    async fn say(&self, message: FromWorker) {
        // Fails only when the agent is ending.
        let expert = self.expert.clone();
        let _ = self.inputs.send(Input::Worker { expert, message }).await;
    }
}

/// A piece of work's text on its way to the coordinator.
struct Text<'a>(&'a Speaker, DispatchId);

impl Sink for Text<'_> {
    async fn take(&mut self, text: String) {
        let Self(speaker, dispatch) = self;
        let dispatch = *dispatch;
        speaker.say(FromWorker::Text { dispatch, text }).await;
    }
}

/// What the work under way shares.
struct Host {
    speaker: Speaker,
    server: Server,
    choosing: Choosing,
    /// Somebody has reason to think that the server is gone.
    doubt: Notify,
}

/// Waits for the server, then serves; returns why that is over.
async fn host(
    speaker: &Speaker,
    settings: &Settings,
    mut said: mpsc::UnboundedReceiver<ToWorker>,
) -> String {
    let began = Instant::now();
    let (server, choosing) = tokio::select! {
        found = health::wait_for(speaker, settings) => found,
        () = dropped(&mut said) => return "it was told to end".to_owned(),
    };
    let (expert, endpoint, model) = (&speaker.expert, &settings.endpoint, &server.model);
    tracing::info!(%expert, %endpoint, model, choices = %choosing, "the server is ready");
    let ready = FromWorker::Ready {
        context_tokens: settings.context_tokens,
        kv_per_token: Bytes(0),
        load: Seconds::from_duration(began.elapsed()),
    };
    speaker.say(ready).await;
    let host = Arc::new(Host {
        speaker: speaker.clone(),
        server,
        choosing,
        doubt: Notify::new(),
    });
    // Dropped on return, and with it every connection: the engine then says that the work is lost.
    let mut jobs = JoinSet::new();
    let mut cancels = HashMap::new();
    let lost = health::watch(&host.server, &host.doubt);
    tokio::pin!(lost);
    loop {
        tokio::select! {
            message = said.recv() => match message {
                Some(ToWorker::Start { dispatch, prompt, task }) => {
                    let (cancel, cancelled) = oneshot::channel();
                    cancels.insert(dispatch, cancel);
                    jobs.spawn(work(Arc::clone(&host), dispatch, (prompt, task), cancelled));
                }
                Some(ToWorker::Cancel { dispatch }) => drop(cancels.remove(&dispatch)),
                None => return "it was told to end".to_owned(),
            },
            Some(ended) = jobs.join_next() => match ended {
                Ok(dispatch) => drop(cancels.remove(&dispatch)),
                Err(error) => return format!("a piece of work ended badly: {error}"),
            },
            why = &mut lost => return why,
        }
    }
}

/// Ends when nobody can ask for work any more. Nothing is asked for before the server is ready.
async fn dropped(said: &mut mpsc::UnboundedReceiver<ToWorker>) {
    while said.recv().await.is_some() {}
}

/// One piece of work, with exactly one terminal message. The cancel is the end of its channel.
async fn work(
    host: Arc<Host>,
    dispatch: DispatchId,
    (prompt, task): (Prompt, Task),
    cancelled: oneshot::Receiver<()>,
) -> DispatchId {
    let mut progress = Progress::of(&prompt);
    let end = tokio::select! {
        biased;
        // Drops the request, and so closes its connection.
        _ = cancelled => Ok(FinishReason::Cancelled),
        end = answer(&host, dispatch, (&prompt, &task), &mut progress) => end,
    };
    let message = match end {
        Ok(finish) => finished(dispatch, finish, progress.used()),
        Err(failure) => {
            if failure.doubts_the_server() {
                host.doubt.notify_one();
            }
            FromWorker::Failed {
                dispatch,
                kind: failure.kind(),
                message: failure.to_string(),
            }
        }
    };
    host.speaker.say(message).await;
    dispatch
}

async fn answer(
    host: &Host,
    dispatch: DispatchId,
    (prompt, task): (&Prompt, &Task),
    progress: &mut Progress,
) -> Result<FinishReason, Failure> {
    let Host {
        speaker, server, ..
    } = host;
    match task {
        Task::Generate(sampling) => {
            let mut sink = Text(speaker, dispatch);
            server
                .generate((prompt, sampling), progress, &mut sink)
                .await
        }
        Task::Choice { options } => {
            let asked = (prompt, options.as_slice());
            let logprobs = server.choose(asked, host.choosing, progress).await?;
            speaker
                .say(FromWorker::Options { dispatch, logprobs })
                .await;
            Ok(FinishReason::Stop)
        }
    }
}

fn finished(dispatch: DispatchId, finish: FinishReason, used: Used) -> FromWorker {
    FromWorker::Finished {
        dispatch,
        finish,
        prompt_tokens: used.prompt_tokens,
        cached_tokens: used.cached_tokens,
        output_tokens: used.output_tokens,
        prefill: Seconds::from_duration(used.prefill),
        decode: Seconds::from_duration(used.decode),
    }
}
