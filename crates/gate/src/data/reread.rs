//! Choices read again from log-probabilities, under another rule than when they were recorded.

use moe2_model::ExpertName;

use super::outcomes::Item;
use crate::options::{OptionRule, Scored};

/// What an expert made of questions with a known answer.
#[must_use]
pub fn scored(items: &[Item], expert: &ExpertName) -> Vec<Scored> {
    let each = items.iter().filter_map(|item| {
        let outcome = item.outcomes.get(expert)?;
        (!outcome.choice_logprobs.is_empty()).then_some(())?;
        Some(Scored {
            logprobs: outcome.choice_logprobs.clone(),
            bytes: item.choices.iter().map(String::len).collect(),
            answer: item.answer?,
        })
    });
    each.collect()
}

/// Sets choice and score of every outcome with log-probabilities to what the expert's rule makes of
/// them; experts without a rule keep theirs.
pub fn reread(items: &mut [Item], rule: impl Fn(&ExpertName) -> Option<OptionRule>) {
    for item in items {
        let Some(answer) = item.answer else { continue };
        for (expert, outcome) in &mut item.outcomes {
            if outcome.choice_logprobs.is_empty() {
                continue;
            }
            let Some(rule) = rule(expert) else { continue };
            let bytes = item.choices.iter().map(String::len);
            let choice = rule.choose(&outcome.choice_logprobs, bytes);
            outcome.choice = Some(choice);
            outcome.score = f64::from(u8::from(choice == answer));
        }
    }
}
