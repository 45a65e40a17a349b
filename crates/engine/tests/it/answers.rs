//! Answers, single and fused, and what their explanations say.

use moe2_engine::coordinator::{Input, Reply};
use moe2_model::{FinishReason, Mode, Query, Target, Task, Verdict};
use moe2_wire::FromExpert;

use crate::support::{Bench, QWEN, SMOL, Sent, done, question, streamed, usage};

#[test]
fn a_query_is_dispatched_answered_once_and_explained() {
    let mut bench = Bench::with_fleet();
    let sent = bench.ask_one(question("Hello, how are you?"));
    assert_eq!(sent.expert, SMOL, "the best prior for chat");
    bench.text(&sent, "Fine, ");
    bench.text(&sent, "thanks.");
    assert_eq!(
        bench.replies(),
        [],
        "nothing is said before the end unless it is streamed"
    );
    bench.says(&sent, done(7.0));
    let answer = bench.answer();
    assert_eq!(answer.text, "Fine, thanks.");
    assert_eq!(answer.model, format!("{SMOL}@smol"));
    assert_eq!(answer.finish, FinishReason::Stop);
    let why = answer.explanation;
    assert_eq!((why.fusion.as_str(), why.redispatches), ("single", 0));
    assert_eq!(why.candidates.len(), 3);
    assert_eq!(why.candidates[0].verdict, Verdict::Chosen);
    assert_eq!(why.participants[0].usage, Some(usage(7.0)));
    assert!((bench.settled() - 7.0).abs() < 1e-9);
    bench.says(&sent, done(7.0));
    assert_eq!(
        bench.replies(),
        [],
        "a repeated terminal frame changes nothing"
    );
    assert!((bench.settled() - 7.0).abs() < 1e-9);
}

#[test]
fn a_streamed_query_starts_before_its_deltas() {
    let mut bench = Bench::with_fleet();
    let sent = bench.ask_one(streamed("Hello, how are you?"));
    bench.text(&sent, "Fine");
    bench.text(&sent, ".");
    bench.says(&sent, done(1.0));
    let replies = bench.replies();
    assert!(matches!(&replies[0], Reply::Started { model } if model.starts_with(SMOL)));
    assert_eq!(replies[1], Reply::Delta("Fine".to_owned()));
    assert_eq!(replies[2], Reply::Delta(".".to_owned()));
    assert!(matches!(&replies[3], Reply::Finished(answer) if answer.text == "Fine."));
    assert_eq!(replies.len(), 4);
}

#[test]
fn a_name_pins_the_expert() {
    let mut bench = Bench::with_fleet();
    let sent = bench.ask_one(Query {
        target: Target::Model(QWEN.parse().expect("a valid name")),
        ..question("Hello, how are you?")
    });
    assert_eq!(sent.expert, QWEN);
}

fn fused(bench: &mut Bench, query: Query) -> Vec<Sent> {
    bench.ask(Query {
        mode: Mode::Fuse,
        max_experts: 3,
        ..query
    });
    let sent = bench.sent();
    assert_eq!(sent.len(), 3);
    sent
}

#[test]
fn three_experts_on_a_choice_are_mixed() {
    let mut bench = Bench::with_fleet();
    let options = vec!["yes".to_owned(), "no".to_owned()];
    let sent = fused(
        &mut bench,
        Query {
            task: Task::Choice { options },
            ..question("Is water wet?")
        },
    );
    // One is quite sure of the second option, two lean to the first: the mixture follows the sure.
    for (index, sent) in sent.iter().enumerate() {
        let first: f64 = if index == 0 { 0.15 } else { 0.6 };
        bench.says(
            sent,
            FromExpert::Options(vec![first.ln(), (1.0 - first).ln()]),
        );
        bench.says(sent, done(1.0));
    }
    let answer = bench.answer();
    assert_eq!(answer.text, "no");
    assert_eq!(answer.explanation.fusion, "mixture");
    assert_eq!(answer.model.matches('+').count(), 2);
    let weight: f64 = answer
        .explanation
        .participants
        .iter()
        .map(|p| p.weight)
        .sum();
    assert!((weight - 1.0).abs() < 1e-9);
    assert!((bench.settled() - 3.0).abs() < 1e-9);
}

#[test]
fn a_vote_that_is_decided_cancels_the_rest_and_still_bills_it() {
    let mut bench = Bench::with_fleet();
    let sent = fused(
        &mut bench,
        question("Hello, what is the capital of France?"),
    );
    bench.text(&sent[0], "Paris");
    bench.says(&sent[0], done(1.0));
    assert_eq!(bench.replies(), [], "one vote does not decide");
    bench.text(&sent[1], "paris.");
    bench.says(&sent[1], done(1.0));
    let answer = bench.answer();
    assert_eq!(
        (answer.text.as_str(), answer.explanation.fusion.as_str()),
        ("Paris", "vote")
    );
    assert_eq!(bench.cancels(), [sent[2].dispatch]);
    bench.says(
        &sent[2],
        FromExpert::Done {
            finish: FinishReason::Cancelled,
            usage: usage(0.5),
        },
    );
    assert_eq!(bench.replies(), []);
    assert!((bench.settled() - 2.5).abs() < 1e-9);
}

#[test]
fn a_client_that_leaves_stops_the_work_and_is_billed_for_it() {
    let mut bench = Bench::with_fleet();
    let query = bench.ask(streamed("Hello, how are you?"));
    let sent = bench.sent().remove(0);
    bench.text(&sent, "Fi");
    bench.replies();
    bench.feed(Input::ClientGone { query });
    assert_eq!(bench.cancels(), [sent.dispatch]);
    bench.text(&sent, "ne");
    assert_eq!(
        bench.engine.open_dispatches(),
        1,
        "what it used is not known yet"
    );
    bench.says(
        &sent,
        FromExpert::Done {
            finish: FinishReason::Cancelled,
            usage: usage(2.0),
        },
    );
    assert_eq!(bench.replies(), [], "nobody is there to hear it");
    assert!((bench.settled() - 2.0).abs() < 1e-9);
}

#[test]
fn the_second_forecast_is_close_to_the_first_measurement() {
    let mut bench = Bench::empty();
    bench.join(1, "smol", SMOL);
    let mut ask = || {
        let sent = bench.ask_one(question("Hello, how are you?"));
        bench.text(&sent, "Fine.");
        bench.says(&sent, done(usage(0.0).decode.get() * 15.0 + 1.8));
        bench.answer().explanation.participants[0].clone()
    };
    let (first, second) = (ask(), ask());
    assert_eq!((first.forecast.samples, second.forecast.samples), (0, 1));
    let measured = first.usage.expect("it answered");
    let seconds = measured.prefill.get() + measured.decode.get();
    let delay = second.forecast.delay.get();
    assert!(
        (delay / seconds - 1.0).abs() < 0.2,
        "{delay} s forecast, {seconds} s measured"
    );
    let (energy, joules) = (second.forecast.energy.get(), measured.energy.get());
    assert!(
        (energy / joules - 1.0).abs() < 0.2,
        "{energy} J forecast, {joules} J measured"
    );
}
