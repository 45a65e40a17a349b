//! Nodes that join slowly, and experts that fail again and again.

use std::time::Duration;

use moe2_engine::coordinator::{Input, NodeState, Reply};
use moe2_model::{ExpertState, Query, RefusalKind, Target, TenantId};
use moe2_wire::{FailureKind, FromAgent, PROTOCOL_VERSION};

use crate::support::{Bench, QWEN, SMOL, Sent, device, done, failed, offer, question};

const HELLO: &str = "Hello, how are you?";

fn only(model: &str) -> Query {
    Query {
        target: Target::Model(model.parse().expect("a valid name")),
        ..question(HELLO)
    }
}

/// Fails at so many queries that name smol, each its expert's first.
fn fail(bench: &mut Bench, times: usize, kind: FailureKind) {
    for _ in 0..times {
        let sent = bench.ask_one(only(SMOL));
        bench.says(&sent, failed(kind));
        assert_eq!(bench.refusal().1.kind, RefusalKind::NoExpert);
    }
}

fn left_alone(bench: &Bench) -> Option<f64> {
    let view = bench.engine.view(bench.now);
    let mut experts = view.nodes.iter().flat_map(|node| &node.experts);
    let smol = experts.find(|e| e.id.name.as_str() == SMOL);
    smol.and_then(|e| e.left_alone_for).map(|s| s.get())
}

#[test]
fn an_expert_that_failed_three_times_is_left_alone_and_then_tried_once() {
    let mut bench = Bench::with_fleet();
    fail(&mut bench, 2, FailureKind::WorkerLost);
    assert_eq!(left_alone(&bench), None);
    fail(&mut bench, 1, FailureKind::WorkerLost);
    assert_eq!(left_alone(&bench), Some(1.0));
    bench.ask(only(SMOL));
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::NoExpert);
    assert!(
        refusal.message.contains("left alone"),
        "{}",
        refusal.message
    );
    assert!(refusal.retry_after.is_some());
    let other = bench.ask_one(question(HELLO));
    assert_eq!(other.expert, QWEN, "others are asked instead");
    bench.says(&other, done(1.0));
    bench.live_all(1, &["smol", "gemma", "qwen"]);
    // One trial, and not a second beside it.
    let trial = bench.ask_one(only(SMOL));
    bench.replies();
    bench.ask(only(SMOL));
    assert_eq!(bench.refusal().1.kind, RefusalKind::NoExpert);
    bench.says(&trial, failed(FailureKind::WorkerLost));
    assert_eq!(left_alone(&bench), Some(2.0), "twice as long");
    bench.live_all(2, &["smol", "gemma", "qwen"]);
    let trial = bench.ask_one(only(SMOL));
    bench.says(&trial, done(1.0));
    assert_eq!(
        bench.ask_one(question(HELLO)).expert,
        SMOL,
        "it is trusted again"
    );
}

#[test]
fn what_is_not_the_experts_fault_does_not_count() {
    let long = FailureKind::ContextTooLong {
        prompt_tokens: 12,
        context_tokens: 10,
    };
    for kind in [
        FailureKind::Busy,
        FailureKind::Unavailable,
        FailureKind::Deadline,
    ] {
        let mut bench = Bench::with_fleet();
        fail(&mut bench, 6, kind);
        assert_eq!(left_alone(&bench), None, "{kind:?}");
    }
    for kind in [long, FailureKind::Rejected] {
        let mut bench = Bench::with_fleet();
        for _ in 0..6 {
            let sent = bench.ask_one(only(SMOL));
            bench.says(&sent, failed(kind));
        }
        assert_eq!(left_alone(&bench), None, "{kind:?}");
    }
}

#[test]
fn a_prompt_that_kills_every_worker_costs_nobody_the_others() {
    let mut bench = Bench::with_fleet();
    for _ in 0..2 {
        // The first to fail may be to blame, those after it are not.
        bench.ask(question(HELLO));
        for _ in 0..3 {
            let sent = bench.sent().remove(0);
            bench.says(&sent, failed(FailureKind::WorkerLost));
        }
        bench.refusal();
    }
    fail(&mut bench, 1, FailureKind::WorkerLost);
    assert_eq!(left_alone(&bench), Some(1.0), "it was the first each time");
    assert_eq!(bench.ask_one(question(HELLO)).expert, QWEN);
    let view = bench.engine.view(bench.now);
    let mut others = view.nodes.iter().flat_map(|n| &n.experts);
    assert!(others.all(|e| e.id.name.as_str() == SMOL || e.left_alone_for.is_none()));
}

#[test]
fn what_waits_for_an_expert_that_is_left_alone_goes_to_others() {
    let mut bench = Bench::with_fleet();
    fail(&mut bench, 2, FailureKind::WorkerLost);
    let running = bench.ask_one(only(SMOL));
    bench.ask(only(SMOL));
    assert_eq!(bench.sent(), [], "it waits for the same expert");
    bench.feed(Input::WorkLost {
        dispatch: running.dispatch,
        reason: "the stream was reset".to_owned(),
    });
    let refused = |reply: &Reply| matches!(reply, Reply::Refused(_));
    let replies = bench.replies();
    assert_eq!(
        replies.iter().filter(|r| refused(r)).count(),
        2,
        "{replies:?}"
    );
    assert_eq!(bench.sent(), Vec::<Sent>::new());
    assert!(bench.settled().abs() < 1e-9);
}

#[test]
fn a_node_whose_models_load_is_joining_until_one_has() {
    let mut bench = Bench::empty();
    let hello = FromAgent::Hello {
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        software: "test".to_owned(),
        device: device(),
        experts: vec![
            (offer(SMOL), ExpertState::Loading),
            (offer(QWEN), ExpertState::Loading),
        ],
    };
    bench.agent(1, "one", hello);
    assert_eq!(bench.state_of("one"), NodeState::Joining);
    let loaded = FromAgent::Expert {
        name: offer(QWEN).name,
        state: ExpertState::Ready,
    };
    bench.agent(1, "one", loaded);
    assert_eq!(bench.state_of("one"), NodeState::Ready);
}

#[test]
fn a_node_that_comes_and_goes_gets_work_only_when_it_stays() {
    let mut bench = Bench::empty();
    for session in 1..=2 {
        bench.join(session, "smol", SMOL);
        assert_eq!(bench.state_of("smol"), NodeState::Ready);
        bench.feed(Input::AgentLost {
            session: moe2_model::SessionId(session),
            reason: "for the test".to_owned(),
        });
    }
    bench.join(3, "smol", SMOL);
    bench.settle();
    assert_eq!(bench.state_of("smol"), NodeState::Joining);
    bench.ask(question(HELLO));
    assert_eq!(bench.refusal().1.kind, RefusalKind::NoExpert);
    bench.pass(Duration::from_millis(500));
    bench.beat(1, (3, "smol"));
    assert_eq!(bench.state_of("smol"), NodeState::Ready);
    bench.ask_one(question(HELLO));
}

#[test]
fn tokens_show_that_a_node_is_alive_when_its_heartbeats_are_late() {
    let mut bench = Bench::with_fleet();
    let sent = bench.ask_one(question(HELLO));
    for _ in 0..5 {
        bench.pass(Duration::from_secs(1));
        bench.text(&sent, "a ");
        assert_eq!(bench.state_of("smol"), NodeState::Ready);
    }
    assert_eq!(
        bench.state_of("gemma"),
        NodeState::Gone,
        "nothing was heard of it"
    );
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.state_of("smol"), NodeState::Gone);
}

#[test]
fn an_end_that_comes_after_all_makes_up_for_nothing() {
    let mut bench = Bench::with_fleet();
    for _ in 0..3 {
        let sent = bench.ask_one(only(SMOL));
        bench.text(&sent, &"a".repeat(512 * 20 + 1));
        assert_eq!(bench.refusal().1.kind, RefusalKind::NoExpert);
        bench.says(&sent, done(1.0));
    }
    assert_eq!(left_alone(&bench), Some(1.0));
}

#[test]
fn what_one_tenant_asks_costs_one_expert_its_trust_and_no_second() {
    let mut bench = Bench::with_fleet();
    let qwen_fails = |bench: &mut Bench, tenant: &str| {
        for _ in 0..3 {
            let sent = bench.ask_one(Query {
                tenant: TenantId::new(tenant).expect("a valid name"),
                ..only(QWEN)
            });
            bench.says(&sent, failed(FailureKind::WorkerLost));
            bench.refusal();
        }
        let view = bench.engine.view(bench.now);
        let mut experts = view.nodes.iter().flat_map(|node| &node.experts);
        let qwen = experts.find(|e| e.id.name.as_str() == QWEN);
        qwen.is_some_and(|e| e.left_alone_for.is_some())
    };
    fail(&mut bench, 3, FailureKind::WorkerLost);
    assert!(left_alone(&bench).is_some());
    assert!(!qwen_fails(&mut bench, "acme"), "it may be what it asks");
    assert!(qwen_fails(&mut bench, "zenith"), "it fails others, too");
}

#[test]
fn work_that_never_left_and_work_that_nobody_waits_for_blame_nobody() {
    let mut bench = Bench::with_fleet();
    for _ in 0..4 {
        let sent = bench.ask_one(only(SMOL));
        let query = bench.engine.query_of(sent.dispatch).expect("it is open");
        bench.feed(Input::ClientGone { query });
        bench.feed(Input::WorkLost {
            dispatch: sent.dispatch,
            reason: "cancelled before it was sent".to_owned(),
        });
        let sent = bench.ask_one(only(SMOL));
        bench.feed(Input::Unsent {
            dispatch: sent.dispatch,
            reason: "the books cannot be written".to_owned(),
        });
        bench.refusal();
    }
    assert_eq!(left_alone(&bench), None);
}
