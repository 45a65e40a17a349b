//! A second expert for answers that do not begin.

use moe2_engine::coordinator::{Config, Input, Output};
use moe2_model::{Budgets, Event, FinishReason, Joules, Mode, Prices, Query, Target, Task};
use moe2_wire::{FailureKind, FromExpert};

use crate::support::{
    Bench, GEMMA, QWEN, SMOL, Sent, done, failed, question, streamed, tenant, usage,
};

const HELLO: &str = "Hello, how are you?";
const NODES: [&str; 3] = ["smol", "gemma", "qwen"];

/// A fleet whose experts have each answered often enough for their percentiles to be measured, where a second is
/// worth what a tenant in a hurry pays.
fn measured() -> Bench {
    measured_with(Config {
        prices: Prices {
            per_joule: 1e-4,
            per_second: 0.05,
            ..Prices::default()
        },
        ..Config::default()
    })
}

fn measured_with(config: Config) -> Bench {
    let mut bench = Bench::configured(config).joined();
    for model in [SMOL, GEMMA, QWEN] {
        for _ in 0..25 {
            let sent = bench.ask_one(Query {
                target: Target::Model(model.parse().expect("a valid name")),
                ..question(HELLO)
            });
            bench.says(&sent, done(1.0));
        }
    }
    bench.outputs.clear();
    bench
}

/// Lets seconds pass until something is sent.
fn waits(bench: &mut Bench, seconds: u64) -> Vec<Sent> {
    bench.live_all(seconds, &NODES);
    bench.sent()
}

fn cancelled(bench: &Bench, sent: &Sent) -> bool {
    bench.cancels().contains(&sent.dispatch)
}

fn stopped(bench: &mut Bench, sent: &Sent, joules: f64) {
    let frame = FromExpert::Done {
        finish: FinishReason::Cancelled,
        usage: usage(joules),
    };
    bench.says(sent, frame);
}

/// Work that was sent, and the hedge that came of it.
fn hedged(bench: &mut Bench, query: Query) -> (Sent, Sent) {
    let first = bench.ask_one(query);
    let second = waits(bench, 8);
    assert_eq!(
        second.len(),
        1,
        "one more is asked, and only one: {second:?}"
    );
    (first, second[0].clone())
}

#[test]
fn the_one_that_begins_first_answers_and_the_other_is_stopped() {
    for later_wins in [true, false] {
        let mut bench = measured();
        let before = bench.engine.account(&tenant()).spent.get();
        let (first, second) = hedged(&mut bench, streamed(HELLO));
        assert_ne!(first.expert, second.expert);
        assert_eq!(bench.replies(), [], "the client sees nothing of it");
        let (winner, loser) = if later_wins {
            (&second, &first)
        } else {
            (&first, &second)
        };
        bench.text(winner, "Fine");
        assert!(cancelled(&bench, loser) && !cancelled(&bench, winner));
        bench.text(loser, "too late");
        bench.text(winner, ".");
        stopped(&mut bench, loser, 0.25);
        bench.says(winner, done(0.5));
        let answer = bench.finished();
        assert_eq!(answer.text, "Fine.");
        assert_eq!(answer.explanation.participants.len(), 2);
        let told = answer.explanation.energy.get();
        assert!((told - 0.75).abs() < 1e-9, "the reply says so: {told}");
        let spent = bench.settled() - before;
        assert!((spent - 0.75).abs() < 1e-9, "both are billed: {spent}");
        let won = bench
            .outputs
            .iter()
            .any(|o| matches!(o, Output::Event(Event::HedgeWon { .. })));
        assert_eq!(won, later_wins);
    }
}

#[test]
fn an_answer_in_one_piece_wins_when_it_is_there() {
    let mut bench = measured_choices();
    bench.replies();
    let (first, second) = hedged(&mut bench, choice());
    answers(&mut bench, &second);
    assert!(cancelled(&bench, &first));
    assert_eq!(bench.finished().text, "yes");
}

/// The same fleet, whose experts have answered as many choices.
fn measured_choices() -> Bench {
    let mut bench = measured();
    for model in [SMOL, GEMMA, QWEN] {
        for _ in 0..25 {
            let choice = Query {
                target: Target::Model(model.parse().expect("a valid name")),
                ..choice()
            };
            let sent = bench.ask_one(choice);
            answers(&mut bench, &sent);
        }
    }
    bench
}

fn choice() -> Query {
    Query {
        task: Task::Choice {
            options: vec!["yes".to_owned(), "no".to_owned()],
        },
        ..question(HELLO)
    }
}

fn answers(bench: &mut Bench, sent: &Sent) {
    bench.says(sent, FromExpert::Options(vec![-0.1, -2.4]));
    bench.says(sent, done(1.0));
}

#[test]
fn if_one_of_the_two_fails_the_other_is_waited_for() {
    for first_fails in [true, false] {
        let mut bench = measured();
        let (first, second) = hedged(&mut bench, streamed(HELLO));
        let (lost, other) = if first_fails {
            (&first, &second)
        } else {
            (&second, &first)
        };
        bench.says(lost, failed(FailureKind::WorkerLost));
        assert_eq!(bench.sent(), [], "nobody else is asked");
        bench.text(other, "Fine.");
        bench.says(other, done(0.5));
        assert_eq!(bench.finished().text, "Fine.");
    }
}

#[test]
fn nothing_is_hedged_that_does_not_pay_or_cannot_be_paid() {
    let none = |mut bench: Bench, query: Query, why: &str| {
        bench.ask(query);
        bench.sent();
        assert_eq!(waits(&mut bench, 5), [], "{why}");
    };
    none(Bench::with_fleet(), streamed(HELLO), "nothing is measured");
    none(
        measured(),
        Query {
            mode: Mode::Cascade,
            ..streamed(HELLO)
        },
        "a cascade asks others anyway",
    );
    none(
        measured(),
        Query {
            mode: Mode::Fuse,
            max_experts: 2,
            ..streamed(HELLO)
        },
        "two are at it",
    );
    none(
        measured(),
        Query {
            target: Target::Model(SMOL.parse().expect("a name")),
            ..streamed(HELLO)
        },
        "nobody else has it",
    );
    let need = {
        let mut bench = measured();
        let sent = bench.ask_one(streamed(HELLO));
        bench.says(&sent, done(1.0));
        bench.finished().explanation.participants[0]
            .forecast
            .energy_p95
    };
    let mut query = streamed(HELLO);
    query.budgets = Budgets {
        energy: Some(Joules::saturating(need.get() * 1.5)),
        ..Budgets::default()
    };
    none(measured(), query, "its joules do not reach for two");
    let dear = measured_with(Config {
        prices: Prices {
            per_joule: 0.001,
            per_second: 0.0,
            ..Prices::default()
        },
        ..Config::default()
    });
    none(dear, streamed(HELLO), "a second is worth nothing");
    let off = measured_with(Config {
        prices: Prices {
            per_joule: 1e-4,
            per_second: 0.05,
            ..Prices::default()
        },
        hedge_share: 0.0,
        ..Config::default()
    });
    none(off, streamed(HELLO), "it is turned off");
}

#[test]
fn an_answer_that_has_begun_is_not_hedged_and_busy_experts_are_left_to_others() {
    let mut bench = measured();
    let first = bench.ask_one(streamed(HELLO));
    bench.text(&first, "Fi");
    assert_eq!(waits(&mut bench, 5), []);
    let mut bench = measured();
    let busy: Vec<Sent> = [SMOL, GEMMA, QWEN]
        .into_iter()
        .map(|model| {
            bench.ask_one(Query {
                target: Target::Model(model.parse().expect("a valid name")),
                ..question(HELLO)
            })
        })
        .collect();
    assert_eq!(waits(&mut bench, 5), [], "no place is free: {busy:?}");
}

#[test]
fn what_both_may_use_is_reserved_and_a_client_that_leaves_stops_both() {
    let mut bench = measured();
    let first = bench.ask_one(streamed(HELLO));
    let account = |bench: &Bench| bench.engine.account(&tenant()).reserved.get();
    let one = account(&bench);
    let second = waits(&mut bench, 8).remove(0);
    assert!(account(&bench) > one * 1.5, "both are reserved");
    let query = bench.engine.query_of(first.dispatch).expect("it is open");
    bench.feed(Input::ClientGone { query });
    assert!(cancelled(&bench, &first) && cancelled(&bench, &second));
    stopped(&mut bench, &first, 0.25);
    stopped(&mut bench, &second, 0.25);
    bench.settled();
}

#[test]
fn one_that_sends_more_than_was_asked_for_does_not_win() {
    let mut bench = measured();
    let (first, second) = hedged(&mut bench, streamed(HELLO));
    bench.text(&second, &"a".repeat(512 * 20 + 1));
    assert!(cancelled(&bench, &second) && !cancelled(&bench, &first));
    bench.text(&first, "Fine.");
    bench.says(&first, done(0.5));
    assert_eq!(bench.finished().text, "Fine.");
}

#[test]
fn experts_that_answer_together_are_not_hedged_when_one_has_answered() {
    let mut bench = measured_choices();
    bench.ask(Query {
        mode: Mode::Fuse,
        max_experts: 2,
        ..choice()
    });
    let sent = bench.sent();
    assert_eq!(sent.len(), 2, "{sent:?}");
    bench.says(&sent[0], FromExpert::Options(vec![-0.6, -0.8]));
    bench.says(&sent[0], done(1.0));
    assert_eq!(waits(&mut bench, 5), []);
}
