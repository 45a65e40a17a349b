//! The weight of one expert's vote.
//!
//! Among experts that err independently the best rule there is weighs each by the logarithm of its odds
//! against chance (Nitzan and Paroush 1982).

use moe2_model::ExpertName;

use crate::data::{Item, Outcome};
use crate::options::OptionRule;

/// Probabilities are taken as no surer than this.
const SURE: (f64, f64) = (0.02, 0.98);
/// An expert that is no better than chance still breaks ties.
const LEAST_WEIGHT: f64 = 1e-3;

/// Weight of a vote for one of `options`, by an expert that is right with this probability.
#[must_use]
pub fn vote_weight(probability: f64, options: usize) -> f64 {
    let p = probability.clamp(SURE.0, SURE.1);
    let others = options.saturating_sub(1).max(1) as f64;
    (p * others / (1.0 - p)).ln().max(LEAST_WEIGHT)
}

/// Expected score of experts' fused choice, ties shared: a mixture of option probabilities where every
/// member gave them, otherwise a vote. Members with their forecasts; `None` without a known answer or any
/// choice.
pub(crate) fn fuse(
    item: &Item,
    members: &[(&ExpertName, f64)],
    rule: impl Fn(&ExpertName) -> OptionRule,
) -> Option<f64> {
    let given: Vec<(&ExpertName, f64, &Outcome)> = given(item, members).collect();
    if given.is_empty() || given.iter().any(|g| g.2.choice_logprobs.is_empty()) {
        return vote(item, members);
    }
    let mut support = vec![0.0; item.choices.len()];
    for (expert, p, outcome) in given {
        let bytes = item.choices.iter().map(String::len);
        let own = rule(expert).probabilities(&outcome.choice_logprobs, bytes);
        support.iter_mut().zip(own).for_each(|(s, q)| *s += p * q);
    }
    share_of_winner(&support, item.answer?)
}

/// Expected score of the members' weighted vote; `None` without a known answer or any choice.
pub(crate) fn vote(item: &Item, members: &[(&ExpertName, f64)]) -> Option<f64> {
    let options = item.choices.len();
    let mut support = vec![0.0; options];
    for (_, p, outcome) in given(item, members) {
        if let Some(choice) = outcome.choice {
            support[choice] += vote_weight(p, options);
        }
    }
    share_of_winner(&support, item.answer?)
}

fn given<'i>(
    item: &'i Item,
    members: &'i [(&'i ExpertName, f64)],
) -> impl Iterator<Item = (&'i ExpertName, f64, &'i Outcome)> {
    let each = members.iter();
    each.filter_map(|(e, p)| Some((*e, *p, item.outcomes.get(*e)?)))
}

/// 1 if the answer alone has most support, a share of it if it ties, else 0; `None` without support.
pub(crate) fn share_of_winner(support: &[f64], answer: usize) -> Option<f64> {
    let most = support.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let tied = support.iter().filter(|s| **s == most).count();
    Some(if support[answer] == most {
        1.0 / tied as f64
    } else {
        0.0
    })
}
