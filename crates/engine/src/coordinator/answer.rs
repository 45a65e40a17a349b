//! The answer of a query whose experts have said enough, and its explanation.

use moe2_gate::Gate;
use moe2_model::{Explanation, Figure, Job, Participant, Task, Time};
use moe2_wire::picked_of;

use super::fuse::{self, Answers, Contribution, Decision, Scores, Winner};
use super::query::{Attempt, Running};
use super::reply::Answer;

/// What experts have said so far, as the fusion rules read it.
pub(crate) fn answers<'a>(gate: &Gate, running: &'a Running) -> Answers<'a> {
    let answered = running.attempts.iter().filter(|a| a.answered());
    let scored = |a: &'a Attempt| {
        let logprobs = a.options.as_deref()?;
        let quality = a.forecast.quality;
        is_score(a).then_some(Scores { quality, logprobs })
    };
    Answers {
        given: answered
            .map(|a| Contribution {
                quality: a.forecast.quality,
                text: &a.text,
                options: probabilities(gate, running, a),
            })
            .collect(),
        spared: running.spared,
        ballot: &running.ballot,
        scores: running.attempts.iter().filter_map(scored).collect(),
    }
}

/// Whether it is a score that counts.
fn is_score(attempt: &Attempt) -> bool {
    let scored = |options: &[f64]| picked_of(options).is_none();
    attempt.job == Job::Score && attempt.is_done() && attempt.options.as_deref().is_some_and(scored)
}

/// How likely an expert finds each option of a choice. One that only says what it picked is as sure as the
/// gate is of it, and has no opinion of the rest.
pub(crate) fn probabilities(gate: &Gate, running: &Running, attempt: &Attempt) -> Option<Vec<f64>> {
    let Task::Choice { options } = &running.query.task else {
        return None;
    };
    let rule = gate.option_rule(&attempt.expert.name);
    let logprobs = attempt.options.as_deref()?;
    if let Some(index) = picked_of(logprobs) {
        return Some(unscored(index, options.len(), attempt.forecast.quality));
    }
    Some(rule.probabilities(logprobs, options.iter().map(String::len)))
}

/// Probabilities of `count` options, at least two, of which one was picked by who is right with
/// probability `quality`. Never below an even share: what it picked is not held against an option.
fn unscored(index: usize, count: usize, quality: f64) -> Vec<f64> {
    #[allow(clippy::cast_precision_loss)] // options of one request
    let count_f = count as f64;
    let sure = quality.clamp(1.0 / count_f, 1.0);
    let rest = (1.0 - sure) / (count_f - 1.0);
    let of = |n| if n == index { sure } else { rest };
    (0..count).map(of).collect()
}

/// Energy of all attempts that reported it.
pub(crate) fn energy(running: &Running) -> Figure {
    let reported = running.attempts.iter().filter_map(|a| a.reported);
    reported.map(|usage| usage.figure()).sum()
}

/// Makes one answer of all that were given; at least one attempt has answered.
pub(crate) fn answer(now: Time, gate: &Gate, running: &Running) -> Answer {
    let answers = answers(gate, running);
    let done: Vec<&Attempt> = running.attempts.iter().filter(|a| a.answered()).collect();
    let rule = fuse::rule_for(&answers);
    let decision = (rule.decide)(&answers);
    let (text, lead) = match (decision.winner, &running.query.task) {
        (Winner::Option(index), Task::Choice { options }) => {
            (options.get(index).cloned().unwrap_or_default(), done[0])
        }
        (Winner::Contribution(index), _) => (done[index].text.clone(), done[index]),
        (Winner::Option(_), Task::Generate(_)) => (done[0].text.clone(), done[0]),
    };
    let (finish, usage) = lead
        .outcome()
        .expect("only attempts that are done have answered");
    let model = match decision.winner {
        Winner::Option(_) => {
            let names: Vec<String> = done.iter().map(|a| a.expert.to_string()).collect();
            names.join("+")
        }
        Winner::Contribution(_) => lead.expert.to_string(),
    };
    let energy = energy(running);
    Answer {
        model,
        text,
        finish,
        prompt_tokens: usage.prompt_tokens,
        cached_tokens: usage.cached_tokens,
        output_tokens: usage.output_tokens,
        explanation: Explanation {
            topic: running.features.explain(),
            prices: running.prices,
            candidates: running.choices.explained(),
            participants: participants(running, &decision),
            fusion: rule.name.to_owned(),
            cascade: running.cascade,
            saved: running.saved,
            redispatches: running.redispatches,
            delay: now.seconds_since(running.submitted),
            energy: energy.joules,
            energy_source: energy.source,
            energy_error: energy.error,
        },
    }
}

/// Everyone who was asked, with their weights in the decision; who was spared in line did nothing.
fn participants(running: &Running, decision: &Decision) -> Vec<Participant> {
    let (mut given, mut scores) = (decision.given.iter(), decision.scores.iter());
    running
        .attempts
        .iter()
        .filter(|attempt| attempt.sent.is_some())
        .map(|attempt| {
            let weight = if attempt.answered() {
                given.next()
            } else if is_score(attempt) {
                scores.next()
            } else {
                None
            };
            attempt.participant(weight.copied().unwrap_or(0.0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pick_counts_as_much_as_its_expert_is_right() {
        let even = unscored(1, 4, 0.1);
        assert_eq!(even, [0.25; 4]);
        let good = unscored(1, 3, 0.8);
        assert!((good[1] - 0.8).abs() < 1e-12 && (good[0] - 0.1).abs() < 1e-12);
        assert!((good.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
