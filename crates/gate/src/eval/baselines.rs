//! What a gate has to beat.

use crate::data::Item;
use crate::vote::vote_weight;

/// The answer most experts agree on, whatever the question: expected score, ties shared. `None` where the
/// options' right one is not known or nobody chose.
pub(crate) fn majority(item: &Item) -> Option<f64> {
    let answer = item.answer?;
    let mut votes = vec![0u32; item.choices.len()];
    item.outcomes
        .values()
        .filter_map(|outcome| outcome.choice)
        .for_each(|choice| votes[choice] += 1);
    let most = votes.iter().copied().max().filter(|most| *most > 0)?;
    let tied = votes.iter().filter(|v| **v == most).count();
    Some(if votes[answer] == most {
        1.0 / tied as f64
    } else {
        0.0
    })
}

/// A vote of the most promising experts, each with the logarithm of its odds against chance: the best
/// rule there is if they err independently (Nitzan and Paroush 1982). Expected score, ties shared.
pub(crate) fn weighted_vote(
    item: &Item,
    forecasts: &[(usize, Option<usize>, f64)],
    k: usize,
) -> Option<f64> {
    let answer = item.answer?;
    let options = item.choices.len();
    let mut ranked = forecasts.to_vec();
    ranked.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    let mut support = vec![0.0; options];
    for (_, choice, probability) in ranked.iter().take(k) {
        if let Some(choice) = choice {
            support[*choice] += vote_weight(*probability, options);
        }
    }
    let most = support.iter().copied().fold(0.0, f64::max);
    if most == 0.0 {
        return Some(0.0);
    }
    let tied = support.iter().filter(|s| **s == most).count();
    Some(if support[answer] == most {
        1.0 / tied as f64
    } else {
        0.0
    })
}
