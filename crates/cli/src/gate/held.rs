//! A gate and outcomes that it has not seen.

use std::path::PathBuf;

use moe2_gate::{Gate, Item, reread};

use super::files::{Data, Encoders};
use crate::BadInput;

#[derive(Debug, clap::Args)]
pub(super) struct HeldOut {
    /// Gate file.
    #[arg(long, value_name = "FILE")]
    gate: PathBuf,
    #[command(flatten)]
    pub(super) data: Data,
    #[command(flatten)]
    encoders: Encoders,
}

/// What they hold.
pub(super) struct Held {
    /// A trained one.
    pub(super) gate: Gate,
    /// With outcomes of experts that the gate has a head for, choices read as the gate reads them.
    pub(super) items: Vec<Item>,
}

impl HeldOut {
    pub(super) fn read(&self) -> anyhow::Result<Held> {
        let (gate, _) = self.encoders.gate(&self.gate)?;
        let Some(trained) = gate.trained() else {
            let why = "the gate holds stated priors, there is nothing to judge: train one with `moe2 gate train`";
            return Err(BadInput(why.to_owned()).into());
        };
        let (mut items, _) = self.data.read()?;
        if let Some(item) = items.iter().find(|item| item.lacks_text()) {
            return Err(BadInput(format!(
                "question {} has no text: name the file of its text with --questions",
                item.id.as_deref().unwrap_or("?")
            ))
            .into());
        }
        refuse_seen(&items, |item| trained.has_seen(item))?;
        let known = |item: &mut Item| {
            item.outcomes.retain(|e, _| trained.heads.contains_key(e));
            !item.outcomes.is_empty()
        };
        items.retain_mut(known);
        reread(&mut items, |expert| Some(gate.option_rule(expert)));
        Ok(Held { gate, items })
    }
}

/// A gate judged on what it was trained on is judged on its memory.
fn refuse_seen(items: &[Item], seen: impl Fn(&Item) -> bool) -> anyhow::Result<()> {
    let known: Vec<&Item> = items.iter().filter(|item| seen(item)).collect();
    let Some(first) = known.first() else {
        return Ok(());
    };
    Err(BadInput(format!(
        "the gate was trained on {} of these {} questions (the first is {}): give data it has not seen; `moe2 gate split` keeps some apart",
        known.len(),
        items.len(),
        first.id.as_deref().unwrap_or("without an id"),
    ))
    .into())
}
