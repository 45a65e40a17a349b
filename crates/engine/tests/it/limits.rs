//! Limits of tenants as their queries meet them, to the last joule and token.

use std::time::Duration;

use moe2_engine::coordinator::{
    Config, Decision, EnergyWindow, Engine, Output, PlanLimits, QueryRecord, Span, Spending,
    TenantLimits,
};
use moe2_gate::Gate;
use moe2_model::{Budgets, Joules, Mode, Query, RefusalKind, Seconds, Target, Task, Verdict};
use moe2_wire::FailureKind;

use crate::support::{Bench, GEMMA, QWEN, SMOL, done, failed, question, tenant};

fn limited(limits: TenantLimits) -> Bench {
    let plan = PlanLimits {
        tenants: vec![limits],
        ..PlanLimits::default()
    };
    let config = Config {
        plan,
        records: true,
        ..Config::default()
    };
    let mut bench = Bench::empty();
    bench.engine = Engine::new(config, Gate::builtin());
    bench.join(1, "smol", SMOL);
    bench.settle();
    bench.plan();
    bench
}

fn spending(spending: Spending) -> Bench {
    limited(TenantLimits {
        spending,
        ..TenantLimits::unlimited(tenant())
    })
}

fn window(joules: f64) -> Bench {
    spending(Spending {
        energy_windows: vec![EnergyWindow {
            joules: Joules::saturating(joules),
            per: Span::Hour,
            rolling: false,
            soft: false,
        }],
        ..Spending::default()
    })
}

fn asked() -> Query {
    question("Hello, how are you?")
}

/// What the only expert's answer may take.
fn bound() -> f64 {
    let mut bench = window(1e6);
    bench.ask_one(asked());
    bench.engine.account(&tenant()).reserved.get()
}

#[test]
fn a_window_takes_what_fits_exactly_and_says_what_is_in_the_way_otherwise() {
    let bound = bound();
    let mut bench = window(bound);
    let first = bench.ask_one(asked());
    // All is set aside, and may come back.
    bench.ask(asked());
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::RateLimited);
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
    bench.says(&first, done(bound / 2.0));
    bench.replies();
    // Half of it is spent, and comes back with the next hour only.
    bench.ask(asked());
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::QuotaExhausted);
    let left = 3_600 - bench.now.as_micros() / 1_000_000;
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(left)));
    assert!(refusal.message.contains("per hour"), "{}", refusal.message);
    let mut small = window(bound * 0.999);
    small.ask(asked());
    let (_, refusal) = small.refusal();
    assert_eq!(refusal.kind, RefusalKind::QuotaExhausted);
    assert_eq!(refusal.retry_after, None, "waiting never helps");
}

#[test]
fn what_breaks_the_querys_own_budget_is_not_blamed_on_the_window() {
    let bound = bound();
    let own = |joules: f64| Query {
        budgets: Budgets {
            energy: Some(Joules::saturating(joules)),
            first_token: None,
            delay: None,
        },
        ..asked()
    };
    let mut bench = window(bound * 0.5);
    bench.ask(own(bound * 0.9));
    assert_eq!(bench.refusal().1.kind, RefusalKind::BudgetInfeasible);
    bench.ask(own(bound));
    assert_eq!(bench.refusal().1.kind, RefusalKind::QuotaExhausted);
}

#[test]
fn tokens_are_counted_as_a_quarter_of_the_bytes_and_the_longest_answer() {
    // 19 bytes and at most 20 tokens of answer; 19 bytes and options of 5.
    let choice = Query {
        task: Task::Choice {
            options: vec!["yes".to_owned(), "no".to_owned()],
        },
        ..asked()
    };
    for (query, tokens) in [(asked(), 25), (choice, 6)] {
        let limit = |tokens| {
            spending(Spending {
                tokens_per_minute: Some(tokens),
                ..Spending::default()
            })
        };
        limit(tokens).ask_one(query.clone());
        let mut bench = limit(tokens - 1);
        bench.ask(query);
        let (_, refusal) = bench.refusal();
        assert_eq!(refusal.kind, RefusalKind::RateLimited);
        assert_eq!(refusal.retry_after, None, "it never fits");
    }
}

#[test]
fn a_floor_of_quality_holds_for_auto_and_not_for_an_expert_that_is_named() {
    let limits = TenantLimits {
        least_quality: Some(0.999),
        ..TenantLimits::unlimited(tenant())
    };
    let mut bench = limited(limits);
    bench.ask(asked());
    assert_eq!(bench.refusal().1.kind, RefusalKind::QualityInfeasible);
    bench.ask_one(Query {
        target: Target::Model(SMOL.parse().expect("a valid name")),
        ..asked()
    });
}

#[test]
fn a_heavier_tenant_has_more_of_the_places() {
    let places = |weight: f64| {
        let config = Config {
            max_queries: 90,
            plan: PlanLimits {
                tenants: vec![TenantLimits {
                    weight,
                    ..TenantLimits::unlimited(tenant())
                }],
                ..PlanLimits::default()
            },
            ..Config::default()
        };
        let mut bench = Bench::empty();
        bench.engine = Engine::new(config, Gate::builtin());
        bench.join(1, "smol", SMOL);
        (0..90).for_each(|_| {
            bench.ask(asked());
        });
        90 - bench.replies().len()
    };
    // w · 8 for each that is left.
    assert_eq!([0.125, 1.0, 2.0].map(places), [45, 80, 85]);
}

/// The record of the one query that ended.
fn record(bench: &mut Bench) -> QueryRecord {
    let ended = bench.outputs.iter().find_map(|output| match output {
        Output::Ended(record) => Some(record.as_ref().clone()),
        _ => None,
    });
    bench.outputs.clear();
    ended.expect("a query ended")
}

#[test]
fn what_a_choice_follows_from_is_what_was_asked_and_what_is_left() {
    let options = vec!["yes".to_owned(), "no".to_owned()];
    let choice = Task::Choice { options };
    let cases = [
        // Experts by score, and more if fusing pays; at first, and after a loss.
        (Mode::Auto, choice.clone(), (1, 2), (1, 0)),
        (Mode::Auto, asked().task, (1, 0), (1, 0)),
        (Mode::Single, choice.clone(), (1, 0), (1, 0)),
        (Mode::Fuse, choice, (3, 0), (1, 0)),
        (Mode::Cascade, asked().task, (0, 0), (0, 0)),
    ];
    for (mode, task, first, second) in cases {
        let mut bench = limited(TenantLimits::unlimited(tenant()));
        bench.join(2, "gemma", GEMMA);
        bench.join(3, "qwen", QWEN);
        bench.settle();
        bench.plan();
        bench.ask(Query {
            mode,
            task,
            max_experts: 3,
            budgets: Budgets {
                delay: Some(Seconds::saturating(100.0)),
                first_token: None,
                energy: Some(Joules::saturating(1e5)),
            },
            ..asked()
        });
        // Everyone fails until nobody is left.
        loop {
            let sent = bench.sent();
            if sent.is_empty() {
                break;
            }
            bench.pass(Duration::from_millis(100));
            for sent in sent {
                bench.says(&sent, failed(FailureKind::WorkerLost));
            }
        }
        let record = record(&mut bench);
        let grounds = |d: &Decision| (d.grounds.terms.experts, d.grounds.fused);
        let made: Vec<_> = record.decisions.iter().map(grounds).collect();
        assert_eq!(made[0], first, "{mode:?}");
        assert!(made[1..].iter().all(|m| *m == second), "{mode:?}: {made:?}");
        let terms = record.decisions[0].grounds.terms;
        assert_eq!(terms.budgets.energy, Some(Joules::saturating(1e5)));
        assert_eq!(terms.budgets.delay, Some(Seconds::saturating(100.0)));
        let last = record.decisions.last().expect("there are several");
        assert!(last.grounds.terms.budgets.delay < terms.budgets.delay);
        let excluded = last
            .candidates
            .iter()
            .filter(|c| c.verdict == Verdict::Excluded);
        assert!(excluded.count() > 0, "who failed is not asked again");
        assert!(record.decisions.iter().all(|d| d.replay() == d.candidates));
    }
}
