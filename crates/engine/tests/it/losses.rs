//! Experts and nodes lost while they work.

use std::time::Duration;

use moe2_engine::coordinator::{Input, NodeState, Output, Reply};
use moe2_model::{Budgets, Event, Query, RefusalKind, Seconds, SessionId, Task};
use moe2_wire::{FailureKind, FromAgent, FromExpert};

use crate::support::{Bench, QWEN, SMOL, done, failed, question, streamed, tenant};

#[test]
fn a_worker_lost_before_the_first_delta_is_replaced_unseen() {
    let mut bench = Bench::with_fleet();
    let first = bench.ask_one(streamed("Hello, how are you?"));
    bench.says(&first, failed(FailureKind::WorkerLost));
    let second = bench.sent().remove(0);
    assert_eq!(
        (first.expert.as_str(), second.expert.as_str()),
        (SMOL, QWEN)
    );
    assert_eq!(bench.replies(), [], "the client sees nothing of it");
    bench.text(&second, "Fine.");
    bench.says(&second, done(1.0));
    let replies = bench.replies();
    let Some(Reply::Finished(answer)) = replies.last() else {
        unreachable!("not answered: {replies:?}");
    };
    assert_eq!(answer.explanation.redispatches, 1);
    let failure = answer.explanation.participants[0].failure.as_deref();
    assert_eq!(failure, Some("for the test"));
    assert!((bench.settled() - 1.0).abs() < 1e-9);
}

#[test]
fn a_loss_in_mid_stream_is_an_error_for_the_client() {
    let mut bench = Bench::with_fleet();
    let sent = bench.ask_one(streamed("Hello, how are you?"));
    bench.text(&sent, "Fi");
    bench.feed(Input::WorkLost {
        dispatch: sent.dispatch,
        reason: "the stream was reset".to_owned(),
    });
    let (before, refusal) = bench.refusal();
    assert_eq!(before.len(), 2, "started and one delta: {before:?}");
    assert_eq!(refusal.kind, RefusalKind::LostMidStream);
    assert_eq!(bench.sent(), []);
    assert!(bench.settled().abs() < 1e-9);
}

#[test]
fn a_fleet_that_fails_at_a_query_says_whom_it_tried() {
    let mut bench = Bench::with_fleet();
    bench.ask(question("Hello, how are you?"));
    for _ in 0..3 {
        let sent = bench.sent().remove(0);
        bench.says(&sent, failed(FailureKind::Busy));
    }
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::NoExpert);
    assert!(refusal.message.contains("smol") && refusal.retry_after.is_some());
}

#[test]
fn a_loss_that_leaves_only_experts_beyond_the_budgets_is_told_as_that() {
    let mut bench = Bench::with_fleet();
    let delay = |bench: &mut Bench, seconds: f64| {
        let mut query = question("Hello, how are you?");
        query.budgets = Budgets {
            delay: Some(Seconds::saturating(seconds)),
            ..Budgets::default()
        };
        bench.ask(query);
    };
    delay(&mut bench, 1e-3);
    let smallest = bench.refusal().1.smallest.delay.expect("it is the reason");
    delay(&mut bench, smallest.get() + 0.1);
    let sent = bench.sent().remove(0);
    bench.pass(Duration::from_millis(200));
    bench.says(&sent, failed(FailureKind::WorkerLost));
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::NoExpert);
    assert!(
        refusal
            .message
            .ends_with("others would break what is left of the budgets"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_silent_node_is_suspected_then_given_up_and_its_work_moves() {
    let mut bench = Bench::with_fleet();
    let first = bench.ask_one(question("Hello, how are you?"));
    assert_eq!(first.session, SessionId(1));
    let beat = |bench: &mut Bench, sequence| {
        for (session, node) in [(2, "gemma"), (3, "qwen")] {
            bench.agent(
                session,
                node,
                FromAgent::Heartbeat {
                    sequence,
                    standing: moe2_model::Figure::NONE,
                    clock: None,
                },
            );
        }
    };
    bench.pass(Duration::from_millis(1_100));
    assert_eq!(bench.state_of("smol"), NodeState::Ready);
    beat(&mut bench, 1);
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.state_of("smol"), NodeState::Suspect);
    assert_eq!(bench.state_of("qwen"), NodeState::Ready);
    let suspected = |o: &&Output| matches!(o, Output::Event(Event::NodeSuspected { node }) if node.as_str() == "smol");
    assert_eq!(bench.outputs.iter().filter(suspected).count(), 1);
    assert_eq!(bench.sent(), [], "suspicion moves nothing");
    let other = bench.ask_one(question("Hello again"));
    assert_eq!(other.expert, QWEN, "but it gets no new work");
    bench.says(&other, done(0.5));
    bench.pass(Duration::from_millis(800));
    beat(&mut bench, 2);
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.state_of("smol"), NodeState::Gone);
    let second = bench.sent().remove(0);
    assert_eq!(second.session, SessionId(3));
    let closed = |o: &Output| matches!(o, Output::CloseAgent { session, .. } if session.0 == 1);
    assert!(bench.outputs.iter().any(closed));
}

#[test]
fn a_coordinator_that_was_held_up_blames_no_node_for_it() {
    let mut bench = Bench::with_fleet();
    // Ten seconds without a call; what the agents said meanwhile comes after the timers.
    bench.now = bench.now + Duration::from_secs(10);
    bench.agent(
        1,
        "smol",
        FromAgent::Heartbeat {
            sequence: 1,
            standing: moe2_model::Figure::NONE,
            clock: None,
        },
    );
    bench.agent(
        3,
        "qwen",
        FromAgent::Heartbeat {
            sequence: 1,
            standing: moe2_model::Figure::NONE,
            clock: None,
        },
    );
    assert_eq!(bench.state_of("gemma"), NodeState::Ready);
    bench.pass(Duration::from_millis(600));
    assert_eq!(bench.state_of("smol"), NodeState::Ready);
    assert_eq!(
        bench.state_of("gemma"),
        NodeState::Gone,
        "it really is silent"
    );
}

#[test]
fn a_suspected_node_that_speaks_is_trusted_again() {
    let mut bench = Bench::with_fleet();
    bench.pass(Duration::from_millis(1_500));
    assert_eq!(bench.state_of("smol"), NodeState::Suspect);
    bench.agent(
        1,
        "smol",
        FromAgent::Heartbeat {
            sequence: 1,
            standing: moe2_model::Figure::NONE,
            clock: None,
        },
    );
    assert_eq!(bench.state_of("smol"), NodeState::Ready);
}

#[test]
fn a_node_that_comes_back_loses_the_work_of_its_old_session() {
    let mut bench = Bench::with_fleet();
    let first = bench.ask_one(question("Hello, how are you?"));
    bench.outputs.clear();
    bench.join(9, "smol", SMOL);
    let order = |found: fn(&Output) -> bool| bench.outputs.iter().position(found);
    let welcome = order(|o| matches!(o, Output::ToAgent { session, .. } if session.0 == 9));
    let close = order(|o| matches!(o, Output::CloseAgent { session, .. } if session.0 == 1));
    let moved = order(|o| matches!(o, Output::Dispatch { .. }));
    assert!(
        close < welcome && welcome < moved,
        "close, welcome, then new work"
    );
    let second = bench.sent().remove(0);
    assert_eq!(
        second.session,
        SessionId(3),
        "who lost it is not asked again"
    );
    bench.says(&first, done(5.0));
    assert_eq!(bench.replies(), [], "the old session's word counts no more");
    bench.says(&second, done(1.0));
    assert_eq!(bench.answer().explanation.redispatches, 1);
    assert!((bench.settled() - 1.0).abs() < 1e-9);
}

#[test]
fn an_expert_that_says_nothing_for_too_long_is_given_up_and_cancelled() {
    let mut bench = Bench::with_fleet();
    let first = bench.ask_one(question("Hello, how are you?"));
    for sequence in 0..60 {
        bench.pass(Duration::from_secs(1));
        for (session, node) in [(1, "smol"), (2, "gemma"), (3, "qwen")] {
            bench.agent(
                session,
                node,
                FromAgent::Heartbeat {
                    sequence,
                    standing: moe2_model::Figure::NONE,
                    clock: None,
                },
            );
        }
        if !bench.cancels().is_empty() {
            break;
        }
    }
    assert_eq!(bench.cancels(), [first.dispatch]);
    assert_eq!(bench.sent().len(), 1, "another expert is asked");
}

#[test]
fn who_does_not_stop_when_told_to_keeps_neither_its_place_nor_the_joules() {
    let mut bench = Bench::empty();
    bench.join(1, "smol", SMOL);
    let query = bench.ask(question("Hello, how are you?"));
    let sent = bench.sent().remove(0);
    bench.feed(Input::ClientGone { query });
    assert_eq!(bench.cancels(), [sent.dispatch]);
    bench.ask(question("And you?"));
    bench.live_all(55, &["smol"]);
    assert!(bench.sent().is_empty(), "it may still be at work");
    assert!(bench.engine.account(&tenant()).reserved.get() > 0.0);
    bench.live_all(10, &["smol"]);
    let next = bench.sent().remove(0);
    bench.says(&sent, done(7.0));
    bench.says(&next, done(1.0));
    assert!(
        (bench.settled() - 1.0).abs() < 1e-9,
        "what comes too late is nobody's"
    );
}

#[test]
fn scores_beyond_certainty_are_no_scores() {
    for (score, answers) in [
        (0.0, true),
        (1e-4, true),
        (0.1, false),
        (f64::INFINITY, false),
        (f64::NAN, false),
    ] {
        let mut bench = Bench::empty();
        bench.join(1, "smol", SMOL);
        let choice = Query {
            task: Task::Choice {
                options: vec!["yes".to_owned(), "no".to_owned()],
            },
            ..question("Is it?")
        };
        let sent = bench.ask_one(choice);
        bench.says(&sent, FromExpert::Options(vec![score, f64::NEG_INFINITY]));
        bench.says(&sent, done(1.0));
        let answered = matches!(bench.replies().as_slice(), [Reply::Finished(_)]);
        assert_eq!(answered, answers, "{score}");
    }
}

#[test]
fn a_long_reason_is_cut() {
    let mut bench = Bench::empty();
    bench.join(1, "smol", SMOL);
    let sent = bench.ask_one(question("Hello, how are you?"));
    let message = "x".repeat(1 << 20);
    let kind = FailureKind::Rejected;
    bench.says(
        &sent,
        FromExpert::Failed {
            kind,
            message,
            usage: None,
        },
    );
    assert!(bench.refusal().1.message.len() < 1_000);
}
