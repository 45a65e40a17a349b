//! Budgets on the time to the first token.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_engine::coordinator::{Input, PlanLimits, TenantLimits};
use moe2_gate::Topic;
use moe2_model::{Budgets, Forecast, Mode, Query, RefusalKind, Seconds};
use moe2_wire::FailureKind;

use crate::support::{Bench, SMOL, done, failed, question, streamed, tenant};

const HELLO: &str = "Hello, how are you?";

fn one_place() -> Bench {
    let mut bench = Bench::empty();
    bench.join(1, "smol", SMOL);
    bench
}

fn begins_within(seconds: f64, query: Query) -> Query {
    Query {
        budgets: Budgets {
            first_token: Some(Seconds::saturating(seconds)),
            ..query.budgets
        },
        ..query
    }
}

/// What the only expert is forecast to take while it is idle.
fn idle(query: Query) -> Forecast {
    let mut bench = one_place();
    let sent = bench.ask_one(query);
    bench.says(&sent, done(1.0));
    bench.finished().explanation.participants[0].forecast
}

#[test]
fn an_infeasible_one_is_refused_with_the_smallest_that_is_admitted() {
    let mut bench = one_place();
    bench.ask(begins_within(1e-4, streamed(HELLO)));
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::BudgetInfeasible);
    assert!(
        refusal.message.contains("first_token_budget_ms"),
        "{}",
        refusal.message
    );
    let smallest = refusal.smallest;
    assert_eq!((smallest.delay, smallest.energy), (None, None));
    let first = smallest.first_token.expect("it is the reason");
    assert_eq!(first, idle(streamed(HELLO)).first_token_p95);
    bench.ask(begins_within(first.get() * 0.99, streamed(HELLO)));
    assert_eq!(bench.refusal().1.kind, RefusalKind::BudgetInfeasible);
    bench.ask_one(begins_within(first.get(), streamed(HELLO)));
}

#[test]
fn it_says_nothing_of_answers_that_are_not_streamed_and_all_of_those_in_one_piece() {
    let forecast = idle(streamed(HELLO));
    assert!(forecast.first_token < forecast.delay);
    one_place().ask_one(begins_within(1e-4, question(HELLO)));
    let fused = Query {
        mode: Mode::Fuse,
        ..streamed(HELLO)
    };
    let mut bench = one_place();
    bench.ask(begins_within(forecast.first_token_p95.get(), fused));
    let smallest = bench.refusal().1.smallest.first_token;
    assert_eq!(smallest, Some(forecast.delay_p95));
}

#[test]
fn a_tenants_budget_is_tightened_by_a_request_and_never_loosened() {
    let first = idle(streamed(HELLO)).first_token_p95.get();
    let limits = TenantLimits {
        first_token: BTreeMap::from([(Topic::Chat, Seconds::saturating(first * 1.01))]),
        ..TenantLimits::unlimited(tenant())
    };
    let plan = PlanLimits {
        tenants: vec![limits.clone()],
        ..PlanLimits::default()
    };
    let mut bench = Bench::planning(plan);
    bench.join(1, "smol", SMOL);
    bench.ask(begins_within(first * 0.99, streamed(HELLO)));
    assert!(bench.refusal().1.smallest.first_token.is_some());
    bench.ask_one(begins_within(first * 9.0, streamed(HELLO)));
    // Behind that one it would begin too late.
    bench.ask(begins_within(first * 900.0, streamed(HELLO)));
    assert!(bench.refusal().1.smallest.first_token.is_some());
}

#[test]
fn a_query_that_can_no_longer_begin_in_time_is_refused_while_it_waits() {
    let alone = idle(streamed(HELLO));
    let (first, behind) = (alone.first_token_p95.get(), alone.delay.get());
    let mut bench = one_place();
    bench.ask_one(question(HELLO));
    // The p95 of the wait is that of a first token, relatively.
    let factor = first / alone.first_token.get();
    let budget = (behind + alone.first_token.get()) * factor * 1.001;
    bench.ask(begins_within(budget, streamed(HELLO)));
    assert!(bench.replies().is_empty(), "it waits");
    bench.pass(Duration::from_secs_f64((budget - first) * 0.99));
    assert!(bench.replies().is_empty(), "there is time yet");
    bench.pass(Duration::from_secs_f64((budget - first) * 0.02));
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::DeadlineExceeded);
    assert!(
        refusal.message.contains("soonest first token"),
        "{}",
        refusal.message
    );
}

#[test]
fn whether_most_begin_in_time_is_judged_by_the_first_token_alone() {
    let limits = TenantLimits {
        first_token_p95: BTreeMap::from([(Topic::Chat, Seconds::saturating(0.2))]),
        ..TenantLimits::unlimited(tenant())
    };
    let plan = PlanLimits {
        tenants: vec![limits],
        ..PlanLimits::default()
    };
    let mut bench = Bench::planning(plan).joined();
    let price = |bench: &Bench| {
        bench
            .engine
            .tenant_prices(&tenant())
            .late
            .expect("it has one")
    };
    let before = price(&bench);
    let mut asked = |query: Query, first: u64, last: u64| {
        let sent = bench.ask_one(query);
        bench.pass(Duration::from_millis(first));
        bench.text(&sent, "Fine.");
        bench.pass(Duration::from_millis(last));
        bench.says(&sent, done(1.0));
        bench.replies();
        price(&bench)
    };
    let in_time = asked(streamed(HELLO), 100, 400);
    assert_eq!((in_time.queries, in_time.mean), (1, 0.0));
    let late = asked(streamed(HELLO), 300, 0);
    assert_eq!((late.queries, late.mean), (2, 0.5));
    assert!(late.price > before.price);
    // Others are not counted.
    assert_eq!(asked(question(HELLO), 300, 300), late);
}

#[test]
fn a_mean_until_the_first_token_has_a_price_that_streamed_answers_alone_move_and_pay() {
    let limits = TenantLimits {
        mean_first_token: Some(Seconds::saturating(0.2)),
        ..TenantLimits::unlimited(tenant())
    };
    let plan = PlanLimits {
        tenants: vec![limits],
        ..PlanLimits::default()
    };
    let mut bench = Bench::planning(plan).joined();
    let price = |bench: &Bench| {
        let prices = bench.engine.tenant_prices(&tenant());
        prices.first_token_seconds.expect("it has one")
    };
    let mut asked = |query: Query, first: u64, last: u64| {
        let sent = bench.ask_one(query);
        bench.pass(Duration::from_millis(first));
        bench.text(&sent, "Fine.");
        bench.pass(Duration::from_millis(last));
        bench.says(&sent, done(1.0));
        let paid = bench.finished().explanation;
        (paid, price(&bench))
    };
    let (paid, early) = asked(streamed(HELLO), 100, 900);
    assert_eq!((early.queries, early.mean), (1, 0.1));
    let (forecast, prices) = (paid.candidates[0].forecast, paid.prices);
    assert!(prices.per_first_token_second > 0.0, "{prices:?}");
    let cost = prices.per_joule * forecast.energy.get()
        + prices.per_second * forecast.delay.get()
        + prices.per_first_token_second * forecast.first_token.get();
    let score = paid.candidates[0].score;
    assert!(
        (score - (forecast.quality - cost)).abs() < 1e-12,
        "{paid:?}"
    );
    let (_, slow) = asked(streamed(HELLO), 400, 0);
    assert_eq!((slow.queries, slow.mean), (2, 0.25));
    assert!(slow.price > early.price);
    let (paid, after) = asked(question(HELLO), 600, 300);
    assert_eq!(after, slow, "others are not counted");
    assert_eq!(paid.prices.per_first_token_second, 0.0, "and do not pay");
}

#[test]
fn another_expert_is_chosen_by_what_is_left_until_the_first_token() {
    let limits = TenantLimits {
        first_token_p95: BTreeMap::from([(Topic::Chat, Seconds::saturating(0.2))]),
        ..TenantLimits::unlimited(tenant())
    };
    let plan = PlanLimits {
        tenants: vec![limits],
        ..PlanLimits::default()
    };
    let mut bench = Bench::planning(plan).joined();
    let late = bench.engine.tenant_prices(&tenant()).late;
    let price = late.expect("it has one").price;
    let sent = bench.ask_one(streamed(HELLO));
    bench.pass(Duration::from_millis(150));
    bench.says(&sent, failed(FailureKind::WorkerLost));
    let sent = bench.sent().pop().expect("another is asked");
    bench.says(&sent, done(1.0));
    let explanation = bench.finished().explanation;
    let chosen = &explanation.candidates[0];
    let (forecast, prices) = (chosen.forecast, explanation.prices);
    let left = Seconds::saturating(0.05);
    let cost = prices.per_joule * forecast.energy.get()
        + prices.per_second * forecast.delay.get()
        + price * forecast.first_token_later_than(left);
    let expected = forecast.quality - cost;
    assert!(
        (chosen.score - expected).abs() < 1e-9,
        "{chosen:?} {expected}"
    );
}

#[test]
fn its_percentile_widens_with_every_first_token_that_was_later_and_not_with_the_last() {
    let beyond = |first: f64, last: f64| {
        let mut bench = one_place();
        for _ in 0..30 {
            let sent = bench.ask_one(streamed(HELLO));
            bench.live(first);
            bench.text(&sent, "Fine.");
            bench.live(last);
            bench.says(&sent, done(1.0));
            bench.replies();
        }
        let sent = bench.ask_one(streamed(HELLO));
        bench.text(&sent, "Fine.");
        bench.says(&sent, done(1.0));
        let forecast = bench.finished().explanation.participants[0].forecast;
        let over = |mean: Seconds, p95: Seconds| p95.get() / mean.get() - 1.0;
        (
            over(forecast.first_token, forecast.first_token_p95),
            over(forecast.delay, forecast.delay_p95),
        )
    };
    // Nobody waits for the last one any longer.
    let given_up = |after: f64| {
        let mut bench = one_place();
        for _ in 0..30 {
            let query = bench.ask(streamed(HELLO));
            bench.live(after);
            bench.feed(Input::ClientGone { query });
            bench
                .sent()
                .iter()
                .for_each(|sent| bench.says(sent, done(1.0)));
        }
        let sent = bench.ask_one(streamed(HELLO));
        bench.says(&sent, done(1.0));
        let forecast = bench.finished().explanation.participants[0].forecast;
        forecast.first_token_p95.get() / forecast.first_token.get() - 1.0
    };
    let (soon, late) = (given_up(0.0), given_up(3.0));
    assert!(late > 2.0 * soon, "{soon} {late}");
    let (in_time, ends_late, begins_late) = (beyond(0.0, 0.0), beyond(0.0, 2.0), beyond(2.0, 0.0));
    assert!(
        (ends_late.0 - in_time.0).abs() < 1e-9,
        "{in_time:?} {ends_late:?}"
    );
    assert!(ends_late.1 > 2.0 * in_time.1, "{in_time:?} {ends_late:?}");
    assert!(
        begins_late.0 > 2.0 * in_time.0,
        "{in_time:?} {begins_late:?}"
    );
}

#[test]
fn the_planner_holds_only_streamed_prompts_to_it() {
    let limits = TenantLimits {
        first_token: BTreeMap::from([(Topic::Chat, Seconds::saturating(1e-4))]),
        ..TenantLimits::unlimited(tenant())
    };
    let worthless = |query: Query| {
        let plan = PlanLimits {
            tenants: vec![limits.clone()],
            ..PlanLimits::default()
        };
        let mut bench = Bench::planning(plan).joined();
        bench.ask(query);
        bench.join(4, "again", SMOL);
        let problem = bench.problem().expect("a plan is asked for").problem;
        let rows = 0..problem.row_count();
        rows.filter(|&x| problem.row(x).iter().all(|u| *u == 0.0))
            .count()
    };
    assert_eq!(worthless(question(HELLO)) + 1, worthless(streamed(HELLO)));
}
