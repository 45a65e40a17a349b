//! Cancels, and the end of the agent.

use moe2_model::{FinishReason, Prompt};
use moe2_wire::FromWorker;

use crate::support::{SMOLLM2, Worker, choice, greedy, turn, user};

const STORY: &str = "Write a very long story about the sea, in many chapters.";

/// Text of which nothing is short.
fn long_prompt() -> Prompt {
    Prompt::Raw("The sea was calm. ".repeat(300))
}

#[test]
fn a_cancel_stops_a_running_answer() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 4096) else {
        return;
    };
    let story = worker.begin(user(STORY), greedy(4000));
    assert!(matches!(worker.receive(), FromWorker::Text { .. }));
    worker.cancel(story);
    let reply = worker.collect(story);
    assert_eq!(reply.finish, Some(FinishReason::Cancelled));
    assert!(reply.output_tokens < 2000, "{} tokens", reply.output_tokens);
    let next = worker.ask(user("What is 2 + 2?"), greedy(8));
    assert!(next.text.contains('4'), "{next:?}");
}

#[test]
fn a_cancel_stops_the_processing_of_a_prompt() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 4096) else {
        return;
    };
    let prompt = worker.begin(long_prompt(), greedy(1));
    worker.cancel(prompt);
    let reply = worker.collect(prompt);
    // The cancel may come before the engine has even begun.
    assert_eq!(
        (reply.finish, reply.texts),
        (Some(FinishReason::Cancelled), 0)
    );
    assert_eq!(reply.output_tokens, 0);
}

#[test]
fn what_waits_can_be_cancelled_and_the_rest_is_answered_in_order() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 4096) else {
        return;
    };
    let running = worker.begin(user(STORY), greedy(4000));
    assert!(matches!(worker.receive(), FromWorker::Text { .. }));
    let waiting = worker.begin(user(STORY), greedy(4000));
    let last = worker.begin(user("What is 2 + 2?"), choice(&["4", "5"]));
    worker.cancel(waiting);
    worker.cancel(running);
    let mut ended = Vec::new();
    while ended.len() < 3 {
        match worker.receive() {
            FromWorker::Finished {
                dispatch,
                finish,
                prompt_tokens,
                ..
            } => {
                assert!(dispatch != waiting || prompt_tokens == 0);
                ended.push((dispatch, finish));
            }
            FromWorker::Text { dispatch, .. } => assert_eq!(dispatch, running),
            FromWorker::Options { dispatch, .. } => assert_eq!(dispatch, last),
            other => unreachable!("{other:?}"),
        }
    }
    let cancelled = FinishReason::Cancelled;
    let expected = [
        (waiting, cancelled),
        (running, cancelled),
        (last, FinishReason::Stop),
    ];
    assert_eq!(ended, expected);
}

#[test]
fn a_cancel_of_something_unknown_is_forgotten() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 256) else {
        return;
    };
    let first = worker.begin(user("What is 2 + 2?"), greedy(8));
    worker.collect(first);
    worker.cancel(first);
    let reply = worker.ask(user("What is 2 + 2?"), greedy(8));
    assert_ne!(reply.finish, Some(FinishReason::Cancelled));
}

#[test]
fn the_worker_ends_with_its_agent_even_in_the_middle_of_an_answer() {
    let _turn = turn();
    for _ in 0..3 {
        let Some(mut worker) = Worker::ready(SMOLLM2, 4096) else {
            return;
        };
        worker.begin(user(STORY), greedy(4000));
        assert!(matches!(worker.receive(), FromWorker::Text { .. }));
        assert_eq!(worker.hang_up().code(), Some(0));
    }
}

#[test]
fn the_worker_ends_with_its_agent_in_the_middle_of_a_prompt_or_of_nothing() {
    let _turn = turn();
    for _ in 0..3 {
        let Some(mut worker) = Worker::ready(SMOLLM2, 4096) else {
            return;
        };
        worker.begin(long_prompt(), greedy(1));
        assert_eq!(worker.hang_up().code(), Some(0));
    }
    let Some(worker) = Worker::ready(SMOLLM2, 256) else {
        return;
    };
    assert_eq!(worker.hang_up().code(), Some(0));
}
