//! Several pieces of work at once in one process.

use std::collections::BTreeMap;

use moe2_model::{DispatchId, FinishReason};
use moe2_wire::FromWorker;

use crate::support::{SMOLLM2, Worker, choice, greedy, turn, user};

const STORY: &str = "Write a very long story about the sea, in many chapters.";

#[test]
fn work_joins_and_leaves_while_other_work_goes_on() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready_for(SMOLLM2, (512, 3, 2)) else {
        return;
    };
    let running = worker.begin(user(STORY), greedy(80));
    assert!(matches!(worker.receive(), FromWorker::Text { .. }));
    let long = worker.begin(user("Tell me all about the sky."), greedy(400));
    let short = worker.begin(user("What is 2 + 2?"), greedy(4));
    // The fourth has no slot before one of the others leaves.
    let fourth = worker.begin(user("Is the sky blue?"), choice(&["yes", "no, it is not"]));
    worker.cancel(long);
    let mut texts: BTreeMap<DispatchId, String> = BTreeMap::new();
    let mut ended = Vec::new();
    while ended.len() < 4 {
        match worker.receive() {
            FromWorker::Text { dispatch, text } => {
                assert!(!ended.iter().any(|(other, _)| *other == dispatch));
                texts.entry(dispatch).or_default().push_str(&text);
            }
            FromWorker::Options { dispatch, logprobs } => {
                assert_eq!((dispatch, logprobs.len()), (fourth, 2));
            }
            FromWorker::Finished {
                dispatch, finish, ..
            } => ended.push((dispatch, finish)),
            other => unreachable!("{other:?}"),
        }
    }
    assert_eq!(ended[0], (long, FinishReason::Cancelled));
    assert_eq!(ended[3], (running, FinishReason::Length));
    ended.sort_by_key(|(dispatch, _)| *dispatch);
    assert_eq!(ended[2], (short, FinishReason::Length));
    assert_eq!(ended[3], (fourth, FinishReason::Stop));
    assert!(texts[&running].len() > 100);
}

#[test]
fn a_second_question_says_what_it_found_in_the_cache() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready_for(SMOLLM2, (512, 1, 1)) else {
        return;
    };
    let first = worker.ask(user(STORY), greedy(4));
    assert_eq!(first.cached_tokens, 0);
    let second = worker.ask(user(STORY), greedy(4));
    assert_eq!(second.cached_tokens, second.prompt_tokens - 1);
    assert_eq!(first.text, second.text);
}

/// By default no answer depends on what was asked before it: not in its last bit, nor in what it says.
#[test]
fn a_worker_that_keeps_nothing_gives_the_same_bits_whatever_came_before() {
    let _turn = turn();
    let options = ["yes", "no, it is not"];
    let asked = |worker: &mut Worker| {
        let scores = worker.ask(user("Is the sky blue?"), choice(&options));
        let text = worker.ask(user(STORY), greedy(20));
        assert_eq!((scores.cached_tokens, text.cached_tokens), (0, 0));
        (scores, text)
    };
    let Some(mut worker) = Worker::ready(SMOLLM2, 512) else {
        return;
    };
    let fresh = asked(&mut worker);
    worker.ask(user("Is the sky blue, or is the sea?"), greedy(30));
    let long = worker.begin(user("Tell me all about the sky."), greedy(400));
    worker.cancel(long);
    worker.collect(long);
    assert_eq!(asked(&mut worker), fresh);
}
