//! Budgets and windows that do not suffice.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_engine::coordinator::{PlanLimits, TenantLimits};
use moe2_gate::Topic;
use moe2_model::{Budgets, Joules, Query, RefusalKind, Seconds};
use moe2_wire::FailureKind;

use crate::support::{Bench, SMOL, done, failed, question, tenant};

fn within(delay: Option<f64>, energy: Option<f64>) -> Query {
    Query {
        budgets: Budgets {
            delay: delay.map(Seconds::saturating),
            first_token: None,
            energy: energy.map(Joules::saturating),
        },
        ..question("Hello, how are you?")
    }
}

#[test]
fn an_infeasible_delay_is_refused_with_the_smallest_that_is_admitted() {
    let mut bench = Bench::with_fleet();
    bench.ask(within(Some(0.001), None));
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::BudgetInfeasible);
    let smallest = refusal.smallest.delay.expect("delay is the reason").get();
    assert_eq!(refusal.smallest.energy, None);
    bench.ask(within(Some(smallest * 0.99), None));
    assert_eq!(bench.refusal().1.kind, RefusalKind::BudgetInfeasible);
    bench.ask_one(within(Some(smallest), None));
}

#[test]
fn both_budgets_of_a_refusal_together_are_admitted() {
    let mut bench = Bench::with_fleet();
    bench.ask(within(Some(0.001), Some(0.001)));
    let (_, refusal) = bench.refusal();
    let delay = refusal.smallest.delay.map(Seconds::get);
    let energy = refusal.smallest.energy.map(Joules::get);
    assert!(delay.is_some() && energy.is_some());
    bench.ask_one(within(delay, energy));
}

#[test]
fn the_queue_in_front_of_a_node_grows_by_each_query_once() {
    let mut bench = Bench::empty();
    bench.join(1, "smol", SMOL);
    for _ in 0..4 {
        bench.ask(question("Hello, how are you?"));
    }
    let delays: Vec<f64> = bench
        .sent()
        .iter()
        .map(|sent| {
            bench.says(sent, done(1.0));
            bench.answer().explanation.participants[0]
                .forecast
                .delay
                .get()
        })
        .collect();
    for (index, delay) in delays.iter().enumerate() {
        let expected = delays[0] * f64::from(u32::try_from(index).expect("small") + 1);
        assert!((delay / expected - 1.0).abs() < 1e-9, "{delays:?}");
    }
}

#[test]
fn a_prompt_too_long_for_every_expert_is_refused_with_the_longest_window() {
    let mut bench = Bench::with_fleet();
    bench.ask(question("Hello, how are you?"));
    for context_tokens in [1_024, 4_096, 2_048] {
        let Some(sent) = bench.sent().pop() else {
            break;
        };
        let kind = FailureKind::ContextTooLong {
            prompt_tokens: 9_000,
            context_tokens,
        };
        bench.says(&sent, failed(kind));
    }
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::ContextTooLong);
    assert!(refusal.message.contains("9000"), "{}", refusal.message);
    assert!(bench.settled().abs() < 1e-9);
}

#[test]
fn a_mean_budget_begins_with_the_price_that_the_planner_gives_it() {
    let mean = |joules: f64| {
        let limits = TenantLimits {
            mean_energy: Some(Joules::saturating(joules)),
            ..TenantLimits::unlimited(tenant())
        };
        let mut bench = Bench::planning(PlanLimits {
            tenants: vec![limits],
            ..PlanLimits::default()
        })
        .joined();
        bench.plan();
        let prices = bench.engine.tenant_prices(&tenant());
        assert_eq!((prices.seconds, prices.late), (None, None));
        prices.joules.expect("it has a budget")
    };
    let all: Vec<_> = (1..60).rev().map(|n| mean(f64::from(n))).collect();
    let dearer = all.is_sorted_by(|wide, tight| wide.price <= tight.price * (1.0 + 1e-9));
    assert!(dearer, "a tighter budget is never cheaper: {all:?}");
    assert_eq!(all[0].planned, 0.0, "the widest does not bind");
    assert!(
        all.last().is_some_and(|p| p.saturated),
        "nobody keeps the tightest"
    );
    let kept = all.iter().filter(|p| p.planned > 0.0 && !p.saturated);
    // The configuration's price is the least.
    assert!(kept.clone().all(|p| p.price == p.planned.max(0.001)));
    assert!(kept.count() > 0, "{all:?}");
}

#[test]
fn late_answers_make_being_late_dearer_and_nothing_is_refused_for_it() {
    let limits = TenantLimits {
        delay_p95: BTreeMap::from([(Topic::Chat, Seconds::saturating(0.2))]),
        ..TenantLimits::unlimited(tenant())
    };
    let mut bench = Bench::planning(PlanLimits {
        tenants: vec![limits],
        ..PlanLimits::default()
    })
    .joined();
    let late = |bench: &Bench| {
        let late = bench.engine.tenant_prices(&tenant()).late;
        late.expect("it has a budget")
    };
    let first = late(&bench);
    for millis in [300, 100, 300] {
        let sent = bench.ask_one(question("Hello, how are you?"));
        bench.pass(Duration::from_millis(millis));
        bench.says(&sent, done(1.0));
        bench.answer();
    }
    let then = late(&bench);
    assert_eq!(then.queries, 3);
    assert!((then.mean - 2.0 / 3.0).abs() < 1e-12, "{then:?}");
    assert!(then.price > first.price, "{first:?} {then:?}");
    // Of other topics nothing is said.
    let sent = bench.ask_one(question("Write a Python function that reverses a string."));
    bench.pass(Duration::from_millis(400));
    bench.says(&sent, done(1.0));
    assert_eq!(late(&bench), then);
}

#[test]
fn a_tenants_percentile_widens_with_every_answer_that_was_later() {
    let beyond_mean = |seconds: f64| {
        let mut bench = Bench::empty();
        let mut last = 0.0;
        bench.join(1, "smol", SMOL);
        for _ in 0..12 {
            let sent = bench.ask_one(question("Hello, how are you?"));
            bench.live(seconds);
            bench.says(&sent, done(1.0));
            let forecast = bench.answer().explanation.participants[0].forecast;
            last = forecast.delay_p95.get() / forecast.delay.get() - 1.0;
        }
        last
    };
    let (in_time, late) = (beyond_mean(0.0), beyond_mean(5.0));
    assert!(late > 2.0 * in_time, "{in_time} {late}");
}
