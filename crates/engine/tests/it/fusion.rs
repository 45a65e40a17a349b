//! Several experts: early exits, cascades, scores of answers, and the budgets of all of them.

use std::time::Duration;

use moe2_engine::coordinator::{Answer, Input, Output};
use moe2_model::{Budgets, Event, FinishReason, Job, Joules, Mode, Query, Seconds, Task};
use moe2_wire::{FailureKind, FromAgent, FromExpert, ToExpert, picked};

use crate::support::{Bench, Sent, done, failed, question, usage};

const LONG: [&str; 3] = [
    "The first of three long answers, which says at length that water is wet because it wets things",
    "The second long answer disagrees: being wet is what water does to others, it is not so itself",
    "The third says that it depends on the words one uses, and so does not help anybody very much",
];

fn choice(mode: Mode, options: &[&str]) -> Query {
    let options = options.iter().map(ToString::to_string).collect();
    Query {
        mode,
        max_experts: 3,
        task: Task::Choice { options },
        ..question("Is water wet?")
    }
}

fn free(mode: Mode) -> Query {
    Query {
        mode,
        max_experts: 3,
        ..question("Hello, is water wet?")
    }
}

fn scores(bench: &mut Bench, sent: &Sent, logprobs: &[f64]) {
    bench.says(sent, FromExpert::Options(logprobs.to_vec()));
    bench.says(sent, done(1.0));
}

fn cancelled(joules: f64) -> FromExpert {
    FromExpert::Done {
        finish: FinishReason::Cancelled,
        usage: usage(joules),
    }
}

/// Three long answers, and what was sent next.
fn long_answers(bench: &mut Bench, query: Query) -> Vec<Sent> {
    bench.ask(query);
    let sent = bench.sent();
    assert_eq!(sent.len(), 3);
    for (sent, text) in sent.iter().zip(LONG) {
        bench.text(sent, text);
        bench.says(sent, done(1.0));
    }
    sent
}

fn names(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(|s| s.expert.clone()).collect()
}

fn weights(answer: &Answer) -> f64 {
    answer
        .explanation
        .participants
        .iter()
        .map(|p| p.weight)
        .sum()
}

#[test]
fn a_long_option_is_not_less_likely_for_its_length() {
    let options = ["no", "yes, because it is a liquid that sticks to things"];
    for mode in [Mode::Single, Mode::Fuse] {
        let mut bench = Bench::with_fleet();
        bench.ask(choice(mode, &options));
        for sent in bench.sent() {
            // Per byte the long one is likelier, in all it is not.
            scores(&mut bench, &sent, &[-4.0, -12.0]);
        }
        assert_eq!(bench.answer().text, options[1]);
    }
}

#[test]
fn a_settled_mixture_cancels_the_rest_and_counts_what_that_saved() {
    let mut bench = Bench::with_fleet();
    bench.ask(choice(Mode::Fuse, &["yes", "no"]));
    let sent = bench.sent();
    scores(&mut bench, &sent[0], &[-0.1, -9.0]);
    assert_eq!(bench.replies(), [], "two others could still outweigh it");
    scores(&mut bench, &sent[1], &[-0.1, -9.0]);
    let answer = bench.answer();
    assert_eq!(answer.text, "yes");
    assert_eq!(bench.cancels(), [sent[2].dispatch]);
    let why = &answer.explanation;
    assert_eq!(why.fusion, "mixture");
    assert_eq!(why.saved, why.participants[2].forecast.energy);
    assert!((weights(&answer) - 1.0).abs() < 1e-9);
    bench.says(&sent[2], cancelled(0.01));
    assert!((bench.settled() - 2.01).abs() < 1e-9);
    let saved: Vec<Event> = bench
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Event(event @ (Event::EarlyExit { .. } | Event::Saved { .. })) => {
                Some(event.clone())
            }
            _ => None,
        })
        .collect();
    let energy = why.saved - Joules::saturating(0.01);
    assert_eq!(
        saved,
        [Event::EarlyExit { cancelled: 1 }, Event::Saved { energy }]
    );
}

#[test]
fn a_cascade_stops_at_a_sure_answer_and_goes_on_after_an_unsure_one() {
    let mut bench = Bench::with_fleet();
    let first = bench.ask_one(choice(Mode::Cascade, &["yes", "no"]));
    scores(&mut bench, &first, &[-0.1, -9.0]);
    let why = bench.answer().explanation;
    let cascade = why.cascade.expect("it was one");
    assert!(cascade.confidence > 0.9 && cascade.escalated == 0);
    assert_eq!((why.fusion.as_str(), why.participants.len()), ("single", 1));

    let options = ["a", "b", "c", "d", "e", "f"];
    let first = bench.ask_one(choice(Mode::Cascade, &options));
    scores(&mut bench, &first, &[-2.0; 6]);
    assert_eq!(bench.replies(), [], "it knows nothing");
    let second = bench.sent();
    assert_eq!(second.len(), 1, "the gate promises nothing for a third");
    assert_ne!(second[0].expert, first.expert);
    scores(
        &mut bench,
        &second[0],
        &[-9.0, -9.0, -0.1, -9.0, -9.0, -9.0],
    );
    let answer = bench.answer();
    let why = &answer.explanation;
    assert_eq!(
        (answer.text.as_str(), why.fusion.as_str()),
        ("c", "mixture")
    );
    let cascade = why.cascade.expect("it was one");
    assert!((cascade.confidence - 1.0 / 6.0).abs() < 1e-9 && cascade.escalated == 1);
    assert!((weights(&answer) - 1.0).abs() < 1e-9);
}

#[test]
fn a_pick_without_scores_is_as_sure_as_its_expert_is_good() {
    let mut bench = Bench::with_fleet();
    let first = bench.ask_one(choice(Mode::Cascade, &["a", "b", "c", "d", "e", "f"]));
    scores(&mut bench, &first, &picked(3, 6));
    for sent in bench.sent() {
        scores(&mut bench, &sent, &[-2.0; 6]);
    }
    let answer = bench.answer();
    assert_eq!(answer.text, "d");
    let why = answer.explanation;
    let quality = why.participants[0].forecast.quality;
    let confidence = why.cascade.expect("it was one").confidence;
    assert!((confidence - quality.max(1.0 / 6.0)).abs() < 1e-9 && confidence < 0.99);
}

#[test]
fn a_pick_among_long_answers_is_no_score() {
    let mut bench = Bench::with_fleet();
    long_answers(&mut bench, free(Mode::Fuse));
    let scorers = bench.sent();
    assert!(!scorers.is_empty());
    for sent in &scorers {
        scores(&mut bench, sent, &picked(2, LONG.len()));
    }
    let why = bench.answer().explanation;
    assert_eq!(why.fusion, "best_of/unscored");
}

#[test]
fn a_cascade_does_not_go_on_beyond_its_energy_or_its_limit_of_experts() {
    let options = ["a", "b", "c", "d", "e", "f"];
    let first_of = |query: Query, joules: f64| {
        let mut bench = Bench::with_fleet();
        let first = bench.ask_one(query);
        bench.says(&first, FromExpert::Options(vec![-2.0; 6]));
        bench.says(&first, done(joules));
        bench
    };
    let alone = Query {
        max_experts: 1,
        ..choice(Mode::Cascade, &options)
    };
    let first = first_of(alone, 1.0).answer().explanation.participants;
    assert_eq!(first.len(), 1);
    let budget = first[0].forecast.energy_p95;
    let poor = || Query {
        budgets: Budgets {
            first_token: None,
            delay: None,
            energy: Some(budget),
        },
        ..choice(Mode::Cascade, &options)
    };
    let why = first_of(poor(), budget.get()).answer().explanation;
    assert_eq!(why.cascade.map(|c| c.escalated), Some(0));
    let rich = Query {
        budgets: Budgets::default(),
        ..poor()
    };
    assert_eq!(first_of(rich, budget.get()).sent().len(), 1);
}

#[test]
fn a_cascade_whose_second_expert_is_lost_answers_with_the_first() {
    let mut bench = Bench::with_fleet();
    let first = bench.ask_one(choice(Mode::Cascade, &["a", "b", "c", "d", "e", "f"]));
    scores(&mut bench, &first, &[-1.9, -2.0, -2.0, -2.0, -2.0, -2.0]);
    let second = bench.sent().remove(0);
    bench.says(&second, failed(FailureKind::WorkerLost));
    let answer = bench.answer();
    assert_eq!(
        (answer.text.as_str(), answer.explanation.fusion.as_str()),
        ("a", "single")
    );
    assert!((bench.settled() - 1.0).abs() < 1e-9);
}

#[test]
fn long_answers_are_scored_by_all_and_the_likeliest_wins() {
    let mut bench = Bench::with_fleet();
    let first = long_answers(&mut bench, free(Mode::Fuse));
    let asked = bench.outputs.iter().find_map(|output| match output {
        Output::Dispatch { work, .. } => match work.as_ref() {
            ToExpert::Work { task, .. } => Some(task.clone()),
            _ => None,
        },
        _ => None,
    });
    let options = LONG.map(str::to_owned).to_vec();
    assert_eq!(asked, Some(Task::Choice { options }));
    let scorers = bench.sent();
    assert_eq!(names(&scorers), names(&first));
    assert_eq!(bench.replies(), []);
    for scorer in &scorers {
        scores(&mut bench, scorer, &[-90.0, -80.0, -60.0]);
    }
    let answer = bench.answer();
    assert_eq!(answer.text, LONG[2]);
    assert_eq!(answer.explanation.fusion, "best_of");
    let jobs: Vec<Job> = answer
        .explanation
        .participants
        .iter()
        .map(|p| p.job)
        .collect();
    assert_eq!(jobs, [[Job::Answer; 3], [Job::Score; 3]].concat());
    assert!((weights(&answer) - 1.0).abs() < 1e-9);
    assert!((answer.explanation.energy.get() - 6.0).abs() < 1e-9);
    assert!((bench.settled() - 6.0).abs() < 1e-9);
}

#[test]
fn a_lost_scorer_is_done_without_and_two_lost_ones_leave_it_to_the_gate() {
    for (lost, fusion, text) in [(1, "best_of", LONG[2]), (2, "best_of/unscored", LONG[0])] {
        let mut bench = Bench::with_fleet();
        long_answers(&mut bench, free(Mode::Fuse));
        for (index, scorer) in bench.sent().iter().enumerate() {
            if index < lost {
                bench.feed(Input::WorkLost {
                    dispatch: scorer.dispatch,
                    reason: "for the test".to_owned(),
                });
            } else {
                scores(&mut bench, scorer, &[-90.0, -80.0, -60.0]);
            }
        }
        let answer = bench.answer();
        assert_eq!(answer.explanation.fusion, fusion);
        assert_eq!(answer.text, text);
        assert!((weights(&answer) - 1.0).abs() < 1e-9);
    }
}

#[test]
fn without_energy_for_scores_the_gate_decides() {
    let mut bench = Bench::with_fleet();
    long_answers(&mut bench, free(Mode::Fuse));
    for scorer in bench.sent() {
        scores(&mut bench, &scorer, &[-90.0, -80.0, -60.0]);
    }
    let all = bench.answer().explanation.participants;
    let spent: f64 = all[..3].iter().map(|p| p.forecast.energy_p95.get()).sum();
    let mut query = free(Mode::Fuse);
    query.budgets.energy = Some(Joules::saturating(spent * 1.01));
    bench.ask(query);
    let sent = bench.sent();
    for (sent, text) in sent.iter().zip(LONG) {
        bench.text(sent, text);
        bench.says(sent, done(spent / 3.0));
    }
    assert_eq!(bench.sent(), [], "nothing is left");
    assert_eq!(bench.answer().explanation.fusion, "best_of/unscored");
}

#[test]
fn nothing_more_is_asked_once_too_little_is_left_of_the_delay_budget() {
    let options = ["a", "b", "c", "d", "e", "f"];
    // Answers come after this share of the budget: how many dispatches follow, and the slowest forecast.
    let asked = |mut query: Query, delay: Option<f64>, late: f64| {
        let mut bench = Bench::with_fleet();
        let is_choice = matches!(query.task, Task::Choice { .. });
        let budget = delay.map(Seconds::saturating);
        // Of what comes in one piece the first token is the last.
        if query.stream {
            query.budgets.first_token = budget;
        } else {
            query.budgets.delay = budget;
        }
        bench.ask(query);
        let sent = bench.sent();
        assert!(!sent.is_empty(), "{delay:?} is feasible at first");
        bench.pass(Duration::from_secs_f64(delay.unwrap_or(0.0) * late));
        // Nobody is left out for being silent.
        for (session, node) in [(1, "smol"), (2, "gemma"), (3, "qwen")] {
            bench.agent(
                session,
                node,
                FromAgent::Heartbeat {
                    sequence: 1,
                    standing: moe2_model::Figure::NONE,
                    clock: None,
                },
            );
        }
        for (n, sent) in sent.iter().enumerate() {
            if is_choice {
                bench.says(sent, FromExpert::Options(vec![-2.0; 6]));
            } else {
                bench.text(sent, LONG[n]);
            }
            bench.says(sent, done(1.0));
        }
        let more = bench.sent();
        for sent in &more {
            scores(
                &mut bench,
                sent,
                &[-1.0; 6][..if is_choice { 6 } else { 3 }],
            );
        }
        let participants = bench.finished().explanation.participants;
        let delays = participants.iter().map(|p| p.forecast.delay_p95.get());
        (more.len(), delays.fold(0.0, f64::max))
    };
    let streamed = |query: Query| Query {
        stream: true,
        ..query
    };
    let cascade = choice(Mode::Cascade, &options);
    let queries = [
        (cascade.clone(), 1),
        (streamed(cascade), 1),
        (free(Mode::Fuse), 3),
        (streamed(free(Mode::Fuse)), 3),
    ];
    for (query, again) in queries {
        let (all, slowest) = asked(query.clone(), None, 0.0);
        assert_eq!(all, again);
        let budget = Some(slowest * 1.1);
        assert_eq!(asked(query.clone(), budget, 0.0).0, again);
        assert_eq!(asked(query, budget, 0.99).0, 0);
    }
}

#[test]
fn an_answer_is_not_lost_to_a_scorer_that_never_answers() {
    let mut bench = Bench::with_fleet();
    long_answers(&mut bench, free(Mode::Fuse));
    assert_eq!(bench.sent().len(), 3);
    bench.pass(Duration::from_secs(310));
    assert_eq!(bench.answer().explanation.fusion, "best_of/unscored");
}

#[test]
fn auto_asks_one_expert_while_the_gate_promises_nothing() {
    let mut bench = Bench::with_fleet();
    bench.ask_one(choice(Mode::Auto, &["yes", "no"]));
    bench.ask_one(free(Mode::Auto));
}
