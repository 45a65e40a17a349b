//! Free text: sane, repeatable, and ended where it should end.

use moe2_model::{FinishReason, Sampling, Task};

use crate::support::{GEMMA, QWEN, SMOLLM2, Worker, greedy, turn, user};

/// Questions and a word that a sane answer contains.
type Questions = [(&'static str, &'static str); 3];

const GENERAL: Questions = [
    ("What is the capital of France?", "Paris"),
    ("What is 2 + 2?", "4"),
    ("What is the opposite of hot?", "cold"),
];

fn answers(model: (&str, &str), questions: &Questions) -> Option<Vec<String>> {
    let mut worker = Worker::ready(model, 512)?;
    let ask = |(question, word): &(&str, &str)| {
        let reply = worker.ask(user(question), greedy(32));
        assert!(
            reply.text.contains(word),
            "{question} was answered {:?}",
            reply.text
        );
        reply.text
    };
    Some(questions.iter().map(ask).collect())
}

fn are_sane_and_the_same_in_every_process(model: (&str, &str)) {
    let _turn = turn();
    let Some(first) = answers(model, &GENERAL) else {
        return;
    };
    assert_eq!(Some(first), answers(model, &GENERAL));
}

#[test]
fn smollm2_answers_simple_questions_the_same_way_in_every_process() {
    are_sane_and_the_same_in_every_process(SMOLLM2);
}

#[test]
fn gemma_answers_simple_questions_the_same_way_in_every_process() {
    are_sane_and_the_same_in_every_process(GEMMA);
}

#[test]
fn qwen_answers_simple_questions_the_same_way_in_every_process() {
    are_sane_and_the_same_in_every_process(QWEN);
}

#[test]
fn an_answer_does_not_depend_on_what_was_asked_before() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 512) else {
        return;
    };
    let question = || user("Tell me about the sea.");
    let first = worker.ask(question(), greedy(24));
    worker.ask(user("What is 2 + 2?"), greedy(8));
    assert_eq!(first, worker.ask(question(), greedy(24)));
}

#[test]
fn a_seed_decides_what_is_drawn() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 512) else {
        return;
    };
    let mut draw = |seed| {
        let stop = Vec::new();
        let sampling = Sampling {
            max_tokens: 16,
            temperature: 1.0,
            top_p: 0.95,
            seed,
            stop,
        };
        worker
            .ask(user("Tell me a story."), Task::Generate(sampling))
            .text
    };
    // The largest seed is an ordinary one, whatever the engine means by it.
    assert_eq!(draw(u32::MAX), draw(u32::MAX));
    let drawn = [draw(1), draw(2), draw(3)];
    assert_eq!(drawn[0], draw(1));
    assert!(drawn.iter().any(|text| *text != drawn[0]), "{drawn:?}");
}

#[test]
fn text_ends_before_a_stop_string() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 512) else {
        return;
    };
    let stop = vec![" Paris".to_owned(), "never".to_owned()];
    let sampling = Sampling {
        max_tokens: 32,
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
        stop,
    };
    let reply = worker.ask(user(GENERAL[0].0), Task::Generate(sampling));
    assert_eq!(reply.text, "The capital of France is");
    assert_eq!(reply.finish, Some(FinishReason::Stop));
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 48) else {
        return;
    };
    let reply = worker.ask(user("Write a long story about the sea."), greedy(1000));
    assert_eq!(reply.finish, Some(FinishReason::Length));
    assert_eq!(reply.prompt_tokens + reply.output_tokens, 48);
}
