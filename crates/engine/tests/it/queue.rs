//! Work that waits for a place at its node.

use std::time::Duration;

use moe2_engine::coordinator::{
    Config, EnergyWindow, Engine, Input, Output, PlanLimits, Reply, Span, Spending, TenantLimits,
};
use moe2_gate::Gate;
use moe2_model::{
    Budgets, ExpertName, ExpertState, Joules, Query, RefusalKind, Seconds, SessionId, TenantId,
    Verdict,
};
use moe2_wire::{FailureKind, FromAgent, ToExpert};

use crate::support::{Bench, GEMMA, SMOL, Sent, device, done, failed, offer, question, tenant};

fn other() -> TenantId {
    TenantId::new("other").expect("a valid name")
}

fn of(tenant: TenantId) -> Query {
    Query {
        tenant,
        ..question("Hello, how are you?")
    }
}

/// One node with one place.
fn one_place() -> Bench {
    let mut bench = Bench::empty();
    bench.join(1, "smol", SMOL);
    bench
}

fn crowd(bench: &mut Bench, tenant: &TenantId, queries: usize) {
    for _ in 0..queries {
        bench.ask(of(tenant.clone()));
    }
}

fn only(mut sent: Vec<Sent>) -> Sent {
    assert_eq!(sent.len(), 1, "one is sent: {sent:?}");
    sent.remove(0)
}

fn within(seconds: f64) -> Query {
    Query {
        budgets: Budgets {
            delay: Some(Seconds::saturating(seconds)),
            first_token: None,
            energy: None,
        },
        ..of(tenant())
    }
}

/// Forecast delay (p95) of a query that asks for the only expert while it is idle.
fn idle_p95() -> f64 {
    let mut bench = one_place();
    bench.ask(within(1e-3));
    let smallest = bench.refusal().1.smallest.delay;
    smallest.expect("delay is the reason").get()
}

#[test]
fn a_node_is_sent_no_more_than_it_can_begin_with() {
    let mut bench = one_place();
    crowd(&mut bench, &tenant(), 5);
    for _ in 0..5 {
        let sent = only(bench.sent());
        let view = bench.engine.view(bench.now);
        assert_eq!(view.nodes[0].experts[0].in_flight, 1);
        bench.says(&sent, done(1.0));
    }
    assert!(bench.sent().is_empty());
    assert!((bench.settled() - 5.0).abs() < 1e-9);
}

#[test]
fn a_burst_of_one_tenant_keeps_another_waiting_for_a_turn_and_not_for_the_burst() {
    let mut bench = one_place();
    crowd(&mut bench, &tenant(), 50);
    let theirs = bench.ask(of(other()));
    let first = only(bench.sent());
    let mut ended = 0;
    bench.says(&first, done(1.0));
    while !bench.outputs.iter().any(
        |output| matches!(output, Output::Reply { query, reply } if *query == theirs && reply.is_terminal()),
    ) {
        let sent = only(bench.sent());
        bench.says(&sent, done(1.0));
        ended += 1;
    }
    assert!(ended <= 3, "{ended} were before it");
}

#[test]
fn a_query_that_can_no_longer_be_in_time_is_refused_while_it_waits() {
    let alone = idle_p95();
    let mut bench = one_place();
    let slow = bench.ask_one(of(tenant()));
    // Behind one that is forecast to take as long.
    bench.ask(within(alone * 2.5));
    assert!(bench.sent().is_empty() && bench.replies().is_empty());
    bench.live(alone * 1.49);
    assert!(bench.replies().is_empty(), "there is time yet");
    bench.live(alone * 0.02);
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::DeadlineExceeded);
    assert!(
        refusal.message.contains("soonest answer is forecast"),
        "{}",
        refusal.message
    );
    assert!(bench.cancels().is_empty(), "nobody was at work on it");
    bench.says(&slow, done(2.0));
    assert!(bench.sent().is_empty(), "and nobody is asked any more");
    assert!((bench.settled() - 2.0).abs() < 1e-9);
}

#[test]
fn whoever_has_answers_late_waits_for_them() {
    let alone = idle_p95();
    let limits = TenantLimits {
        late: true,
        ..TenantLimits::unlimited(tenant())
    };
    let mut bench = Bench::planning(PlanLimits {
        tenants: vec![limits],
        ..PlanLimits::default()
    });
    bench.join(1, "smol", SMOL);
    bench.settle();
    bench.plan();
    let slow = bench.ask_one(of(tenant()));
    bench.ask(within(alone * 2.5));
    bench.ask(within(alone * 0.1));
    bench.live(alone * 4.0);
    assert!(bench.replies().is_empty(), "nobody is refused");
    bench.says(&slow, done(1.0));
    for _ in 0..2 {
        let sent = only(bench.sent());
        bench.says(&sent, done(1.0));
    }
    assert_eq!(bench.replies().len(), 3);
}

#[test]
fn what_waits_for_a_node_that_falls_out_goes_to_another_and_costs_nothing_there() {
    let lost: [&dyn Fn(&mut Bench); 3] = [
        &|bench| bench.agent(1, "a", FromAgent::Draining),
        &|bench| {
            bench.feed(Input::AgentLost {
                session: SessionId(1),
                reason: "for the test".to_owned(),
            });
        },
        &|bench| {
            let name = ExpertName::new(SMOL).expect("a valid name");
            let reason = "for the test".to_owned();
            let state = ExpertState::Failed { reason };
            bench.agent(1, "a", FromAgent::Expert { name, state });
        },
    ];
    for fall in lost {
        let mut bench = Bench::empty();
        bench.join(1, "a", SMOL);
        let _running = bench.ask_one(of(tenant()));
        bench.ask(of(tenant()));
        assert!(bench.sent().is_empty(), "it waits");
        bench.join(2, "b", SMOL);
        bench.settle();
        bench.plan();
        fall(&mut bench);
        let sent = bench.sent();
        assert!(
            sent.iter().any(|sent| sent.session.0 == 2),
            "the other node is asked: {sent:?}"
        );
    }
}

#[test]
fn a_client_that_leaves_the_line_costs_nothing() {
    let mut bench = one_place();
    let first = bench.ask_one(of(tenant()));
    let query = bench.ask(of(tenant()));
    let reserved = bench.engine.account(&tenant()).reserved;
    bench.feed(Input::ClientGone { query });
    assert!(bench.engine.account(&tenant()).reserved < reserved);
    assert!(bench.cancels().is_empty());
    bench.says(&first, done(1.0));
    assert!(bench.sent().is_empty());
    assert!((bench.settled() - 1.0).abs() < 1e-9);
}

#[test]
fn the_last_places_are_kept_for_those_who_have_few() {
    let config = Config {
        max_queries: 90,
        ..Config::default()
    };
    let mut bench = one_place();
    bench.engine = Engine::new(config, Gate::builtin());
    bench.join(1, "smol", SMOL);
    crowd(&mut bench, &tenant(), 90);
    let refused = bench.replies();
    assert_eq!(refused.len(), 10, "eight of nine places are one tenant's");
    bench.ask(of(other()));
    assert!(bench.replies().is_empty(), "another finds one");
    crowd(&mut bench, &other(), 9);
    let refused = bench.replies().len();
    assert!(refused > 0 && refused < 9, "and others after it: {refused}");
}

#[test]
fn a_prompt_that_only_some_hold_is_not_tried_on_the_others() {
    let mut bench = Bench::empty();
    let mut short = offer(SMOL);
    short.context_tokens = 256;
    bench.hello((1, "short"), device(), short);
    bench.join(2, "long", GEMMA);
    bench.settle();
    bench.plan();
    let long = question(&"word ".repeat(1_000));
    let sent = bench.ask_one(long.clone());
    assert_eq!(sent.expert, GEMMA);
    bench.says(&sent, done(1.0));
    let candidates = bench.answer().explanation.candidates;
    let short = candidates.iter().find(|c| c.expert.name.as_str() == SMOL);
    assert_eq!(
        short.expect("it is listed").verdict,
        Verdict::ContextTooShort
    );
    // Whom nobody else can relieve is asked: only its tokenizer knows for sure.
    bench.agent(2, "long", FromAgent::Draining);
    let sent = bench.ask_one(long);
    assert_eq!(sent.expert, SMOL);
    let kind = FailureKind::ContextTooLong {
        prompt_tokens: 1_001,
        context_tokens: 256,
    };
    bench.says(&sent, failed(kind));
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::ContextTooLong);
}

#[test]
fn settings_change_under_way_and_lose_nothing() {
    let mut bench = one_place();
    let sent = bench.ask_one(of(tenant()));
    let mut live = Config::default().live();
    (live.max_queries, live.prices.per_second) = (1, 0.25);
    live.plan.closed = true;
    bench.feed(Input::Settings(Box::new(live.clone())));
    bench.ask(of(other()));
    assert_eq!(bench.refusal().1.kind, RefusalKind::Overloaded, "one place");
    live.max_queries = 1_024;
    bench.feed(Input::Settings(Box::new(live.clone())));
    bench.ask(of(other()));
    assert_eq!(bench.refusal().1.kind, RefusalKind::NotAllowed, "no tenant");
    bench.says(&sent, done(1.0));
    bench.answer();
    assert!((bench.settled() - 1.0).abs() < 1e-9);
    live.plan.tenants = vec![TenantLimits::unlimited(other())];
    bench.feed(Input::Settings(Box::new(live)));
    let sent = bench.ask_one(of(other()));
    bench.says(&sent, done(1.0));
    assert_eq!(bench.answer().explanation.prices.per_second, 0.25);
}

#[test]
fn a_query_keeps_the_time_it_was_given_when_it_came() {
    let mut bench = one_place();
    let first = bench.ask_one(of(tenant()));
    bench.ask(of(tenant()));
    let mut live = Config::default().live();
    live.query_timeout = Duration::from_secs(1);
    bench.feed(Input::Settings(Box::new(live)));
    bench.says(&first, done(1.0));
    let given = bench.outputs.iter().find_map(|output| match output {
        Output::Dispatch { work, .. } => match **work {
            ToExpert::Work { deadline_ms, .. } => Some(deadline_ms),
            ToExpert::Cancel => None,
        },
        _ => None,
    });
    assert!(given > Some(1_000), "{given:?} ms");
}

#[test]
fn who_waited_and_is_refused_for_another_reason_is_told_that_one() {
    let mut bench = one_place();
    bench.join(2, "gemma", GEMMA);
    for _ in 0..8 {
        bench.ask(within(1e4));
    }
    bench.replies();
    let poor = TenantLimits {
        spending: Spending {
            energy_windows: vec![EnergyWindow {
                joules: Joules::saturating(1e-9),
                per: Span::Day,
                rolling: false,
                soft: false,
            }],
            ..Spending::default()
        },
        ..TenantLimits::unlimited(tenant())
    };
    bench.feed(Input::Tenants(vec![poor]));
    bench.agent(1, "smol", FromAgent::Draining);
    let refused: Vec<RefusalKind> = bench
        .replies()
        .into_iter()
        .filter_map(|reply| match reply {
            Reply::Refused(refusal) => Some(refusal.kind),
            _ => None,
        })
        .collect();
    assert!(!refused.is_empty(), "some waited there");
    assert!(
        !refused.contains(&RefusalKind::DeadlineExceeded),
        "{refused:?}"
    );
}
