//! The stub backend: canned words at a steady pace, so that load tests measure moe2 and no model.
//!
//! It speaks the same messages as a worker process. Its name and its words say what it is.

use std::time::Duration;

use moe2_engine::agent::Input;
use moe2_model::{Bytes, DispatchId, ExpertName, FinishReason, Seconds, Task};
use moe2_wire::{FromWorker, ToWorker};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::worker::WorkerLine;

/// Words of an answer, unless the request wants fewer.
const WORDS: u32 = 8;

/// Starts a stub that answers as `expert`, with `pace` for each word.
pub(crate) fn start(
    expert: ExpertName,
    (context, pace): (u32, Duration),
    inputs: mpsc::Sender<Input>,
) -> WorkerLine {
    let (line, mut said) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let ready = FromWorker::Ready {
            context_tokens: context,
            kv_per_token: Bytes(1),
            load: Seconds::ZERO,
        };
        say(&inputs, &expert, ready).await;
        while let Some(message) = said.recv().await {
            let ToWorker::Start {
                dispatch,
                task,
                prompt,
            } = message
            else {
                continue;
            };
            let tokens = u32::try_from(prompt.text_bytes() / 4).unwrap_or(u32::MAX);
            let (inputs, expert) = (inputs.clone(), expert.clone());
            let work = (dispatch, task, tokens);
            tokio::spawn(async move { answer(&inputs, (&expert, pace), work).await });
        }
    });
    line
}

async fn answer(
    inputs: &mpsc::Sender<Input>,
    (expert, pace): (&ExpertName, Duration),
    (dispatch, task, prompt_tokens): (DispatchId, Task, u32),
) {
    let words = match task {
        Task::Generate(sampling) => {
            let words = sampling.max_tokens.min(WORDS);
            for _ in 0..words {
                sleep(pace).await;
                let text = "stub ".to_owned();
                say(inputs, expert, FromWorker::Text { dispatch, text }).await;
            }
            words
        }
        Task::Choice { options } => {
            sleep(pace).await;
            let logprobs = (0..options.len())
                .map(|n| if n == 0 { -0.1 } else { -5.0 })
                .collect();
            say(inputs, expert, FromWorker::Options { dispatch, logprobs }).await;
            u32::try_from(options.len()).unwrap_or(u32::MAX)
        }
    };
    let decode = Seconds::from_duration(pace * words);
    let finished = FromWorker::Finished {
        dispatch,
        finish: FinishReason::Stop,
        prompt_tokens,
        output_tokens: words,
        prefill: Seconds::ZERO,
        decode,
    };
    say(inputs, expert, finished).await;
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
