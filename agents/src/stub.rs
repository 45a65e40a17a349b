//! The stub backend: canned words at a steady pace, so that load tests measure moe2 and no model.
//!
//! It speaks the same messages as a worker process. Its name and its words say what it is.

use std::collections::HashMap;
use std::time::Duration;

use moe2_engine::agent::Input;
use moe2_model::{Bytes, DispatchId, ExpertName, FinishReason, Seconds, Task};
use moe2_wire::{FromWorker, ToWorker};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::worker::WorkerLine;

/// Words of an answer, unless the request wants fewer.
const WORDS: u32 = 8;
/// Each of them.
const WORD: &str = "stub ";

/// Starts a stub that answers as `expert`, with `pace` for each word; it ends when the line is dropped.
pub(crate) fn start(
    expert: ExpertName,
    (context, pace): (u32, Duration),
    inputs: mpsc::Sender<Input>,
) -> (WorkerLine, JoinHandle<()>) {
    let (line, mut said) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let ready = FromWorker::Ready {
            context_tokens: context,
            kv_per_token: Bytes(1),
            load: Seconds::ZERO,
        };
        say(&inputs, &expert, ready).await;
        let mut jobs = JoinSet::new();
        let mut cancels = HashMap::new();
        loop {
            let message = tokio::select! {
                message = said.recv() => message,
                Some(Ok(ended)) = jobs.join_next() => {
                    cancels.remove(&ended);
                    continue;
                }
            };
            match message {
                Some(ToWorker::Start {
                    dispatch,
                    task,
                    prompt,
                }) => {
                    let tokens = u32::try_from(prompt.text_bytes() / 4).unwrap_or(u32::MAX);
                    let (cancel, cancelled) = oneshot::channel();
                    cancels.insert(dispatch, cancel);
                    let (inputs, expert) = (inputs.clone(), expert.clone());
                    jobs.spawn(async move {
                        let work = (dispatch, task, tokens);
                        answer(&inputs, (&expert, pace), work, cancelled).await;
                        dispatch
                    });
                }
                Some(ToWorker::Cancel { dispatch }) => drop(cancels.remove(&dispatch)),
                None => break,
            }
        }
        drop(jobs);
        let reason = "it was told to end".to_owned();
        // Fails only when the agent is ending.
        let _ = inputs.send(Input::WorkerExited { expert, reason }).await;
    });
    (line, task)
}

/// One answer; the end of `cancelled` ends it early.
async fn answer(
    inputs: &mpsc::Sender<Input>,
    (expert, pace): (&ExpertName, Duration),
    (dispatch, task, prompt_tokens): (DispatchId, Task, u32),
    mut cancelled: oneshot::Receiver<()>,
) {
    let mut words = 0;
    let mut finish = FinishReason::Stop;
    let most = match &task {
        Task::Generate(sampling) => sampling.max_tokens.min(words_before(&sampling.stop)),
        Task::Choice { .. } => 1,
    };
    while words < most && finish == FinishReason::Stop {
        tokio::select! {
            biased;
            _ = &mut cancelled => finish = FinishReason::Cancelled,
            () = sleep(pace) => {
                words += 1;
                let message = word(dispatch, &task);
                say(inputs, expert, message).await;
            }
        }
    }
    let all = matches!(&task, Task::Generate(sampling) if sampling.max_tokens == words);
    if all && words < WORDS && finish == FinishReason::Stop {
        finish = FinishReason::Length;
    }
    let output_tokens = match &task {
        Task::Choice { options } => u32::try_from(options.len()).unwrap_or(u32::MAX),
        Task::Generate(_) => words,
    };
    let finished = FromWorker::Finished {
        dispatch,
        finish,
        prompt_tokens,
        cached_tokens: 0,
        output_tokens,
        prefill: Seconds::ZERO,
        decode: Seconds::from_duration(pace * words),
    };
    say(inputs, expert, finished).await;
}

/// How many words can be said before any of these strings is.
fn words_before(stops: &[String]) -> u32 {
    let mut said = String::new();
    let said_whole = |_: &u32| {
        said.push_str(WORD);
        !stops.iter().any(|stop| said.contains(stop.as_str()))
    };
    (0..WORDS)
        .take_while(said_whole)
        .last()
        .map_or(0, |last| last + 1)
}

/// What it says at each step.
fn word(dispatch: DispatchId, task: &Task) -> FromWorker {
    match task {
        Task::Generate(_) => FromWorker::Text {
            dispatch,
            text: WORD.to_owned(),
        },
        Task::Choice { options } => FromWorker::Options {
            dispatch,
            logprobs: (0..options.len())
                .map(|n| if n == 0 { -0.1 } else { -5.0 })
                .collect(),
        },
    }
}

async fn say(inputs: &mpsc::Sender<Input>, expert: &ExpertName, message: FromWorker) {
    // Fails only when the agent is ending.
    let _ = inputs
        .send(Input::Worker {
            expert: expert.clone(),
            message,
        })
        .await;
}
