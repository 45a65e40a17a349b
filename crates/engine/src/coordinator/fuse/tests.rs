//! The rules one by one, and the promise that what is settled stays so whatever else comes.

use super::*;
use proptest::prelude::*;

const LONG: &str =
    "a long answer that goes on and on until nobody can expect another one to be equal to it";
const OTHER: &str =
    "another long answer that says something else and needs no fewer words than the first to do so";

fn text(quality: f64, text: &str) -> Contribution<'_> {
    Contribution {
        quality,
        text,
        options: None,
    }
}

fn option(quality: f64, probabilities: &[f64]) -> Contribution<'static> {
    Contribution {
        quality,
        text: "",
        options: Some(probabilities.to_vec()),
    }
}

fn answers<'a>(given: &[Contribution<'a>]) -> Answers<'a> {
    Answers {
        given: given.to_vec(),
        spared: 0,
        ballot: &[],
        scores: Vec::new(),
    }
}

fn decide(given: &[Contribution<'_>]) -> (&'static str, Winner) {
    let answers = answers(given);
    let rule = rule_for(&answers);
    (rule.name, (rule.decide)(&answers).winner)
}

#[test]
fn a_sure_expert_outweighs_two_unsure_ones_in_a_mixture() {
    let all = [
        option(1.0, &[0.9, 0.1]),
        option(1.0, &[0.45, 0.55]),
        option(1.0, &[0.45, 0.55]),
    ];
    assert_eq!(decide(&all), ("mixture", Winner::Option(0)));
}

#[test]
fn a_vote_pools_answers_that_differ_only_in_form() {
    let all = [text(0.5, "Lyon"), text(0.3, " paris."), text(0.3, "Paris")];
    assert_eq!(decide(&all), ("vote", Winner::Contribution(1)));
}

#[test]
fn a_choice_of_one_option_needs_no_second_expert() {
    assert!(is_settled(&answers(&[option(0.5, &[1.0])]), &[0.9]));
}

#[test]
fn long_answers_are_scored_unless_most_of_them_are_equal() {
    let differ = [text(0.3, LONG), text(0.5, OTHER)];
    assert_eq!(ballot(&answers(&differ)).map(|b| b.len()), Some(2));
    assert_eq!(
        decide(&differ),
        ("best_of/unscored", Winner::Contribution(1))
    );
    let agree = [text(0.3, LONG), text(0.3, LONG), text(0.4, OTHER)];
    assert_eq!(ballot(&answers(&agree)), None);
    assert_eq!(decide(&agree), ("vote", Winner::Contribution(0)));
}

#[test]
fn a_text_too_long_to_be_scored_leaves_it_to_the_gate_and_silence_never_wins() {
    let endless = "word ".repeat(300);
    let given = [text(0.3, &endless), text(0.5, "  "), text(0.2, LONG)];
    assert_eq!(ballot(&answers(&given)), None);
    assert_eq!(
        decide(&given),
        ("best_of/unscored", Winner::Contribution(0))
    );
}

#[test]
fn scores_count_per_byte_and_by_the_quality_of_who_gave_them() {
    let long = format!("{LONG}, {OTHER}");
    let given = [text(0.4, &long), text(0.4, LONG)];
    let ballot = [long.clone(), LONG.to_owned()];
    let bytes = [long.len() as f64, LONG.len() as f64];
    let scores = |quality, per_byte: [f64; 2]| {
        let logprobs = [per_byte[0] * bytes[0], per_byte[1] * bytes[1]];
        (quality, logprobs)
    };
    let decide = |all: [(f64, [f64; 2]); 2]| {
        let answers = Answers {
            scores: all
                .iter()
                .map(|(quality, logprobs)| Scores {
                    quality: *quality,
                    logprobs,
                })
                .collect(),
            ballot: &ballot,
            ..answers(&given)
        };
        let rule = rule_for(&answers);
        assert_eq!(rule.name, "best_of");
        (rule.decide)(&answers)
    };
    // The sums prefer the short one, the means the long one.
    let decision = decide([scores(0.5, [-1.0, -1.1]), scores(0.5, [-1.0, -1.1])]);
    assert_eq!(decision.winner, Winner::Contribution(0));
    assert_eq!(
        (decision.given, decision.scores),
        (vec![0.0; 2], vec![0.5; 2])
    );
    let decision = decide([scores(0.9, [-1.2, -1.0]), scores(0.3, [-1.0, -1.3])]);
    assert_eq!(decision.winner, Winner::Contribution(1));
}

fn simplex(options: usize) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(0.0f64..1.0, options).prop_map(|raw| {
        let sum: f64 = raw.iter().sum::<f64>().max(1e-9);
        raw.iter().map(|p| p / sum).collect()
    })
}

/// Early answers, late ones, and which of the late ones come.
type Race = (Vec<(f64, Vec<f64>)>, Vec<(f64, Vec<f64>, bool)>);

fn race() -> impl Strategy<Value = Race> {
    (1usize..4).prop_flat_map(|options| {
        (
            prop::collection::vec((0.01f64..1.0, simplex(options)), 1..5),
            prop::collection::vec((0.01f64..0.3, simplex(options), any::<bool>()), 0..4),
        )
    })
}

proptest! {
    #[test]
    fn a_settled_mixture_is_not_changed_by_whatever_else_comes((early, late) in race()) {
        let mut all: Vec<_> = early.iter().map(|(w, p)| option(*w, p)).collect();
        let outstanding: Vec<f64> = late.iter().map(|(w, ..)| *w).collect();
        if is_settled(&answers(&all), &outstanding) {
            let (_, before) = decide(&all);
            // Also the worst case: all of the late ones are sure of the same option.
            let sure = |o: usize| {
                let n = early[0].1.len();
                let mut all = all.clone();
                all.extend(outstanding.iter().map(|w| {
                    let p: Vec<f64> = (0..n).map(|i| if i == o { 1.0 } else { 0.0 }).collect();
                    option(*w, &p)
                }));
                decide(&all).1
            };
            for o in 0..early[0].1.len() {
                prop_assert_eq!(before, sure(o));
            }
            all.extend(late.iter().filter(|(.., comes)| *comes).map(|(w, p, _)| option(*w, p)));
            prop_assert_eq!(before, decide(&all).1);
        }
    }

    #[test]
    fn a_mixture_is_settled_exactly_when_nobody_can_overtake(
        (early, late) in race(),
    ) {
        let all: Vec<_> = early.iter().map(|(w, p)| option(*w, p)).collect();
        let outstanding: Vec<f64> = late.iter().map(|(w, ..)| *w).collect();
        let sum: f64 = outstanding.iter().sum();
        let mut sums = mixed(&answers(&all));
        sums.sort_by(|a, b| b.total_cmp(a));
        let lead = sums[0] - sums.get(1).copied().unwrap_or(f64::NEG_INFINITY);
        prop_assume!((lead - sum).abs() > 1e-6);
        prop_assert_eq!(is_settled(&answers(&all), &outstanding), lead > sum || late.is_empty());
    }

    #[test]
    fn a_settled_vote_is_not_changed_by_whatever_else_comes(
        votes in prop::collection::vec((0usize..4, 0.01f64..1.0), 1..6),
        late in prop::collection::vec((0usize..4, 0.01f64..1.0, any::<bool>()), 1..4),
    ) {
        let texts = ["Paris", "Lyon", LONG, OTHER];
        let early: Vec<_> = votes.iter().map(|(n, w)| text(*w, texts[*n])).collect();
        let outstanding: Vec<f64> = late.iter().map(|(_, w, _)| *w).collect();
        if is_settled(&answers(&early), &outstanding) {
            let mut all = early.clone();
            all.extend(late.iter().filter(|l| l.2).map(|(n, w, _)| text(*w, texts[*n])));
            let (rule, before) = decide(&early);
            prop_assert_eq!(rule, "vote");
            prop_assert_eq!(decide(&all), (rule, before));
            prop_assert_eq!(ballot(&answers(&all)), None);
        }
    }

    #[test]
    fn every_rule_gives_shares_that_add_up_to_one(
        given in prop::collection::vec((0usize..4, 0.0f64..1.0), 1..6),
        scorers in 0usize..4,
    ) {
        let texts = ["Paris", "Lyon", LONG, OTHER];
        let ballot: Vec<String> = texts.map(str::to_owned).to_vec();
        let logprobs = [-1.0, -2.0, -3.0, f64::NEG_INFINITY];
        let answers = Answers {
            given: given.iter().map(|(n, w)| text(*w, texts[*n])).collect(),
            spared: 0,
            ballot: &ballot,
            scores: vec![Scores { quality: 0.3, logprobs: &logprobs }; scorers],
        };
        for rule in RULES.iter().filter(|rule| (rule.applies)(&answers)) {
            let decision = (rule.decide)(&answers);
            let sum: f64 = decision.given.iter().chain(&decision.scores).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9, "{}", rule.name);
            prop_assert_eq!(decision.given.len(), answers.given.len());
            prop_assert_eq!(decision.scores.len(), scorers);
        }
    }
}
