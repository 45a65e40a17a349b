//! How several experts' answers become one (MATH section 5), as a table of rules.
//!
//! A choice is fused as a weighted mixture of the experts' option probabilities, because a
//! probability carries how sure an expert is and a vote does not. Free text cannot be averaged:
//! equal answers (after normalising case and spaces) pool their weights and the heaviest group wins.

use moe2_model::Task;

/// One expert's contribution.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Contribution<'a> {
    /// Weight from the gate, at least 0.
    pub(crate) weight: f64,
    /// Its text; for a choice, empty.
    pub(crate) text: &'a str,
    /// Its log-probability of every option, for a choice.
    pub(crate) options: Option<&'a [f64]>,
}

/// What a rule decides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fused {
    /// The answer is the contribution with this index.
    Contribution(usize),
    /// The answer is the option with this index.
    Option(usize),
}

/// A way to make one answer of several.
pub(crate) struct Rule {
    /// As the explanation names it.
    pub(crate) name: &'static str,
    /// Whether it can fuse this task's answers.
    pub(crate) applies: fn(&Task, usize) -> bool,
    /// The decision; at least one contribution is given.
    pub(crate) decide: fn(&[Contribution<'_>]) -> Fused,
}

/// All rules; the first that applies is used.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "mixture",
        applies: |task, n| matches!(task, Task::Choice { .. }) && n > 1,
        decide: mixture,
    },
    Rule {
        name: "vote",
        applies: |task, n| matches!(task, Task::Generate(_)) && n > 1,
        decide: vote,
    },
    Rule {
        name: "single",
        applies: |_, _| true,
        decide: first,
    },
];

/// The rule for this many answers to this task.
pub(crate) fn rule_for(task: &Task, answers: usize) -> &'static Rule {
    RULES
        .iter()
        .find(|rule| (rule.applies)(task, answers))
        .expect("the last rule applies to everything")
}

fn first(contributions: &[Contribution<'_>]) -> Fused {
    match contributions[0].options {
        Some(logprobs) => Fused::Option(best(logprobs)),
        None => Fused::Contribution(0),
    }
}

/// P(a) = Σ w_n softmax(l_n)(a); the first of equal options wins.
fn mixture(contributions: &[Contribution<'_>]) -> Fused {
    let options = contributions
        .iter()
        .find_map(|c| c.options)
        .map_or(0, <[f64]>::len);
    let mut mixed = vec![0.0; options];
    for contribution in contributions {
        let Some(logprobs) = contribution.options else {
            continue;
        };
        for (sum, p) in mixed.iter_mut().zip(softmax(logprobs)) {
            *sum += contribution.weight * p;
        }
    }
    Fused::Option(best(&mixed))
}

/// Weights of equal normalised answers add up; of equal groups the one with the earliest, i.e.
/// best-scored, member wins.
fn vote(contributions: &[Contribution<'_>]) -> Fused {
    let keys: Vec<String> = contributions.iter().map(|c| normalise(c.text)).collect();
    let support: Vec<f64> = keys
        .iter()
        .map(|key| {
            keys.iter()
                .zip(contributions)
                .filter(|(k, _)| *k == key)
                .map(|(_, c)| c.weight)
                .sum()
        })
        .collect();
    Fused::Contribution(best(&support))
}

/// Whether the first `done` of the weights already decide a vote whatever the others say.
pub(crate) fn vote_is_decided(contributions: &[Contribution<'_>], outstanding: f64) -> bool {
    let keys: Vec<String> = contributions.iter().map(|c| normalise(c.text)).collect();
    let mut groups: Vec<(&str, f64)> = Vec::new();
    for (key, contribution) in keys.iter().zip(contributions) {
        match groups.iter_mut().find(|(k, _)| k == key) {
            Some((_, weight)) => *weight += contribution.weight,
            None => groups.push((key, contribution.weight)),
        }
    }
    groups.sort_by(|a, b| b.1.total_cmp(&a.1));
    let lead = groups.first().map_or(0.0, |g| g.1);
    let second = groups.get(1).map_or(0.0, |g| g.1);
    lead > second + outstanding
}

fn normalise(text: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| {
            word.trim_matches(|c: char| c.is_ascii_punctuation())
                .to_lowercase()
        })
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

/// Probabilities of log-probabilities that need not be normalised; all equal if none is finite.
#[allow(clippy::cast_precision_loss)] // a handful of options
pub(crate) fn softmax(logprobs: &[f64]) -> Vec<f64> {
    let top = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return vec![1.0 / logprobs.len().max(1) as f64; logprobs.len()];
    }
    let exps: Vec<f64> = logprobs.iter().map(|l| (l - top).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// Index of the largest value, the first of equals; NaN counts as smallest.
fn best(values: &[f64]) -> usize {
    let mut winner = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[winner] || values[winner].is_nan() {
            winner = index;
        }
    }
    winner
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(weight: f64, text: &str) -> Contribution<'_> {
        Contribution {
            weight,
            text,
            options: None,
        }
    }

    #[test]
    fn a_sure_expert_outweighs_two_unsure_ones_in_a_mixture() {
        let sure = [0.9f64.ln(), 0.1f64.ln()];
        let unsure = [0.45f64.ln(), 0.55f64.ln()];
        let all = [&sure, &unsure, &unsure].map(|o| Contribution {
            weight: 1.0,
            text: "",
            options: Some(o.as_slice()),
        });
        assert_eq!(mixture(&all), Fused::Option(0));
    }

    #[test]
    fn a_vote_pools_answers_that_differ_only_in_form() {
        let answers = [text(0.5, "Lyon"), text(0.3, " paris."), text(0.3, "Paris")];
        assert_eq!(vote(&answers), Fused::Contribution(1));
    }

    proptest! {
        #[test]
        fn a_decided_vote_is_not_changed_by_whatever_else_comes(
            votes in prop::collection::vec((0usize..3, 0.01f64..1.0), 1..6),
            late in prop::collection::vec((0usize..3, 0.01f64..1.0), 0..4),
        ) {
            let names = ["a", "b", "c"];
            let early: Vec<_> = votes.iter().map(|(n, w)| text(*w, names[*n])).collect();
            let outstanding = late.iter().map(|(_, w)| w).sum();
            if vote_is_decided(&early, outstanding) {
                let Fused::Contribution(before) = vote(&early) else { unreachable!() };
                let mut all = early.clone();
                all.extend(late.iter().map(|(n, w)| text(*w, names[*n])));
                let Fused::Contribution(after) = vote(&all) else { unreachable!() };
                prop_assert_eq!(all[before].text, all[after].text);
            }
        }

        #[test]
        fn probabilities_sum_to_one_whatever_the_logs(
            logs in prop::collection::vec(prop_oneof![-1e6f64..0.0, Just(f64::NEG_INFINITY)], 1..9),
        ) {
            let sum: f64 = softmax(&logs).iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
        }
    }
}
