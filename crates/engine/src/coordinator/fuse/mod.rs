//! How several experts' answers become one (MATH section 5), as a table of rules.
//!
//! A choice is fused as a weighted mixture of the experts' option probabilities, because a
//! probability carries how sure an expert is and a vote does not. Text cannot be averaged. Short
//! answers are equal or not, so they are voted on; long ones hardly ever are, so every expert scores
//! all of them and the one they find likeliest wins. Nothing here asks an expert anything: a round of
//! scoring is `rounds`' business, and without its scores the gate's favourite stands.

mod text;

use moe2_gate::vote_weight;
use text::{is_short, normalise};

/// Wrong answers to a question with a short answer scatter over about so many; it makes an expert
/// that is right less than half of the time still worth hearing, as it should be.
const ASSUMED_ALTERNATIVES: usize = 10;
/// Scores of fewer experts are no cross-check: every one of them prefers its own words.
pub(crate) const FEWEST_SCORERS: usize = 2;
/// Longest answer that is scored, in bytes: as long as an option in a request may be.
const LONGEST_SCORED: usize = 1_024;
/// Sums in another order may differ by this much, relative to weights that add up to about 1.
const ROUNDING: f64 = 1e-9;

/// One expert's answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Contribution<'a> {
    /// The gate's forecast of its quality, at least 0.
    pub(crate) quality: f64,
    /// Its text; for a choice, empty.
    pub(crate) text: &'a str,
    /// Its probability of every option, for a choice.
    pub(crate) options: Option<Vec<f64>>,
}

/// One expert's opinion of the answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scores<'a> {
    /// The gate's forecast of its quality, at least 0.
    pub(crate) quality: f64,
    /// Log-likelihood of each text of the ballot.
    pub(crate) logprobs: &'a [f64],
}

/// All there is to decide by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answers<'a> {
    /// In order of dispatch.
    pub(crate) given: Vec<Contribution<'a>>,
    /// Experts asked whose answers could not change anything any more.
    pub(crate) spared: usize,
    /// Texts that were scored.
    pub(crate) ballot: &'a [String],
    /// By whom, and how.
    pub(crate) scores: Vec<Scores<'a>>,
}

/// What a rule chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Winner {
    /// The answer is the contribution with this index.
    Contribution(usize),
    /// The answer is the option with this index.
    Option(usize),
}

/// What is decided, and by whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    pub(crate) winner: Winner,
    /// Share of each contribution in it.
    pub(crate) given: Vec<f64>,
    /// Share of each expert's scores in it.
    pub(crate) scores: Vec<f64>,
}

/// A way to make one answer of several.
pub(crate) struct Rule {
    /// As the explanation names it.
    pub(crate) name: &'static str,
    /// Whether it can fuse these answers.
    pub(crate) applies: fn(&Answers<'_>) -> bool,
    /// The decision; at least one contribution is given.
    pub(crate) decide: fn(&Answers<'_>) -> Decision,
    /// Whether the winner is the same whatever experts of these qualities still answer, and if they do
    /// not answer at all.
    pub(crate) settled: fn(&Answers<'_>, &[f64]) -> bool,
}

/// All rules; the first that applies is used.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "single",
        applies: |answers| answers.given.len() + answers.spared < 2,
        decide: single,
        settled: |_, outstanding| outstanding.is_empty(),
    },
    Rule {
        name: "mixture",
        applies: is_choice,
        decide: mixture,
        settled: mixture_is_settled,
    },
    Rule {
        name: "vote",
        applies: |answers| !is_choice(answers) && can_vote(answers),
        decide: vote,
        settled: vote_is_settled,
    },
    Rule {
        name: "best_of",
        applies: |answers| answers.scores.len() >= FEWEST_SCORERS,
        decide: best_of,
        settled: |_, outstanding| outstanding.is_empty(),
    },
    Rule {
        name: "best_of/unscored",
        applies: |_| true,
        decide: favourite,
        settled: |_, outstanding| outstanding.is_empty(),
    },
];

/// The rule for these answers.
pub(crate) fn rule_for(answers: &Answers<'_>) -> &'static Rule {
    let last = &RULES[RULES.len() - 1];
    RULES
        .iter()
        .find(|rule| (rule.applies)(answers))
        .unwrap_or(last)
}

/// Whether experts of the qualities outstanding cannot change the answer any more.
pub(crate) fn is_settled(answers: &Answers<'_>, outstanding: &[f64]) -> bool {
    !answers.given.is_empty()
        && RULES
            .iter()
            .any(|rule| (rule.settled)(answers, outstanding))
}

/// The texts to be scored, if scores would decide: several, none too long to be scored.
pub(crate) fn ballot(answers: &Answers<'_>) -> Option<Vec<String>> {
    if is_choice(answers) || answers.given.len() < 2 || can_vote(answers) {
        return None;
    }
    let mut ballot: Vec<String> = Vec::new();
    for text in answers.given.iter().map(|c| c.text) {
        if !normalise(text).is_empty() && ballot.iter().all(|known| known != text) {
            ballot.push(text.to_owned());
        }
    }
    let scored = ballot.len() > 1 && ballot.iter().all(|text| text.len() <= LONGEST_SCORED);
    scored.then_some(ballot)
}

fn is_choice(answers: &Answers<'_>) -> bool {
    answers.given.iter().any(|c| c.options.is_some())
}

fn single(answers: &Answers<'_>) -> Decision {
    let winner = match &answers.given[0].options {
        Some(probabilities) => Winner::Option(best(probabilities)),
        None => Winner::Contribution(0),
    };
    decided(winner, answers, &[1.0], &[])
}

/// P(a) = Σ w_n P_n(a); the first of equal options wins. The weights are the gate's qualities as they
/// are, not log odds: how sure an expert is stands in its probabilities already.
fn mixture(answers: &Answers<'_>) -> Decision {
    let weights: Vec<f64> = answers.given.iter().map(|c| c.quality).collect();
    let winner = Winner::Option(best(&mixed(answers)));
    decided(winner, answers, &weights, &[])
}

fn mixed(answers: &Answers<'_>) -> Vec<f64> {
    let mut mixed = Vec::new();
    for contribution in &answers.given {
        for (option, p) in contribution.options.iter().flatten().enumerate() {
            if option == mixed.len() {
                mixed.push(0.0);
            }
            mixed[option] += contribution.quality * p;
        }
    }
    mixed
}

/// All that is outstanding may go to the runner-up.
fn mixture_is_settled(answers: &Answers<'_>, outstanding: &[f64]) -> bool {
    if !is_choice(answers) {
        return false;
    }
    let mixed = mixed(answers);
    let lead = best(&mixed);
    let needed: f64 = outstanding.iter().sum::<f64>() + ROUNDING;
    mixed
        .iter()
        .enumerate()
        .all(|(option, p)| option == lead || mixed[lead] > p + needed)
}

/// A vote makes sense of answers that can be equal: short ones, or long ones that most agree on.
fn can_vote(answers: &Answers<'_>) -> bool {
    answers.given.iter().all(|c| is_short(c.text)) || has_majority(answers, &[])
}

/// Weights of equal normalised answers add up; of equal groups the one with the earliest, i.e.
/// best-scored, member wins.
fn vote(answers: &Answers<'_>) -> Decision {
    let winner = Winner::Contribution(best(&support(answers)));
    decided(winner, answers, &votes(answers), &[])
}

/// Who says nothing has no vote.
fn votes(answers: &Answers<'_>) -> Vec<f64> {
    let vote = |c: &Contribution<'_>| {
        let silent = normalise(c.text).is_empty();
        if silent { 0.0 } else { votes_of(c.quality) }
    };
    answers.given.iter().map(vote).collect()
}

fn votes_of(quality: f64) -> f64 {
    vote_weight(quality, ASSUMED_ALTERNATIVES)
}

/// For each contribution the weight of all that are equal to it.
fn support(answers: &Answers<'_>) -> Vec<f64> {
    let keys: Vec<String> = answers.given.iter().map(|c| normalise(c.text)).collect();
    let votes = votes(answers);
    let of = |key: &String| {
        let equal = keys.iter().zip(&votes).filter(|(k, _)| *k == key);
        equal.map(|(_, weight)| weight).sum()
    };
    keys.iter().map(of).collect()
}

/// Only an absolute majority is safe: a mere lead is lost if a long answer comes in and the rest is
/// scored instead of counted.
fn vote_is_settled(answers: &Answers<'_>, outstanding: &[f64]) -> bool {
    !is_choice(answers) && has_majority(answers, outstanding)
}

/// Whether at least two equal answers outweigh everything else together. One alone would make the
/// strongest expert's text win always.
fn has_majority(answers: &Answers<'_>, outstanding: &[f64]) -> bool {
    let support = support(answers);
    let lead = best(&support);
    let key = normalise(answers.given[lead].text);
    let members = answers.given.iter().filter(|c| normalise(c.text) == key);
    let outstanding: f64 = outstanding.iter().map(|quality| votes_of(*quality)).sum();
    let all = votes(answers).iter().sum::<f64>() + outstanding;
    members.count() > 1 && 2.0 * support[lead] > all + ROUNDING
}

/// The highest mean log-likelihood per byte, weighted by the quality of who scored. Per byte, because
/// the likelihood of a long text is low for its length alone.
fn best_of(answers: &Answers<'_>) -> Decision {
    let weights: Vec<f64> = answers.scores.iter().map(|s| s.quality).collect();
    #[allow(clippy::cast_precision_loss)] // bounded by the longest text that is scored
    let likelihood = |c: &Contribution<'_>| -> Option<f64> {
        let place = answers.ballot.iter().position(|text| text == c.text)?;
        let each = answers.scores.iter().map(|s| {
            let logprob = s.logprobs.get(place).copied().unwrap_or(f64::NEG_INFINITY);
            s.quality * logprob / c.text.len().max(1) as f64
        });
        Some(each.sum())
    };
    let likelihoods: Vec<f64> = answers
        .given
        .iter()
        .map(|c| likelihood(c).unwrap_or(f64::NEG_INFINITY))
        .collect();
    decided(
        Winner::Contribution(best(&likelihoods)),
        answers,
        &[],
        &weights,
    )
}

/// The expert that the gate thinks most of, among those that said something.
fn favourite(answers: &Answers<'_>) -> Decision {
    let said = |c: &Contribution<'_>| {
        if normalise(c.text).is_empty() {
            -1.0
        } else {
            c.quality
        }
    };
    let favourite = best(&answers.given.iter().map(said).collect::<Vec<f64>>());
    let mut weights = vec![0.0; answers.given.len()];
    weights[favourite] = 1.0;
    decided(Winner::Contribution(favourite), answers, &weights, &[])
}

/// A decision whose weights, in either place, add up to 1.
fn decided(winner: Winner, answers: &Answers<'_>, given: &[f64], scores: &[f64]) -> Decision {
    let total: f64 = given.iter().chain(scores).sum();
    let used = given.iter().chain(scores).filter(|w| !w.is_nan()).count();
    #[allow(clippy::cast_precision_loss)] // a handful of experts
    let share = |weight: &f64| {
        if total > 0.0 {
            weight / total
        } else {
            1.0 / used as f64
        }
    };
    let mut shares = Decision {
        winner,
        given: given.iter().map(share).collect(),
        scores: scores.iter().map(share).collect(),
    };
    shares.given.resize(answers.given.len(), 0.0);
    shares.scores.resize(answers.scores.len(), 0.0);
    shares
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
mod tests;
