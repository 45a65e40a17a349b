//! `moe2 gate split`: outcomes to train on, and others to judge by.

use std::path::PathBuf;

use moe2_gate::{Item, Split, groups};
use serde_json::json;

use super::files::{self, Data};
use crate::{BadInput, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  moe2 gate split --data outcomes.jsonl --every 5 --train train.jsonl --test test.jsonl\n\nQuestions that are the same, or nearly, go the same way."
)]
pub(crate) struct Args {
    #[command(flatten)]
    data: Data,
    /// One in so many questions is kept apart.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=1000))]
    every: u16,
    /// Which ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the outcomes to train on go.
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Where the others go.
    #[arg(long, value_name = "FILE")]
    test: PathBuf,
    /// Leave question texts out.
    #[arg(long)]
    without_texts: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (items, _) = args.data.read()?;
    if let Some(item) = items.iter().find(|item| item.lacks_text()) {
        let id = item.id.as_deref().unwrap_or("?");
        let why = format!(
            "question {id} has no text to tell duplicates by: name its file with --questions"
        );
        return Err(BadInput(why).into());
    }
    let split = Split::new(&groups(&items), usize::from(args.every), args.seed);
    let (test, train) = (split.inside(0), split.outside(0));
    for (path, chosen) in [(&args.train, &train), (&args.test, &test)] {
        files::write(path, &lines(&items, chosen, args.without_texts)?)?;
    }
    if args.json {
        return out::json(&json!({"train": train.len(), "test": test.len()}));
    }
    out::data(&format!(
        "{} questions in {}, {} in {}",
        train.len(),
        args.train.display(),
        test.len(),
        args.test.display()
    ));
    Ok(())
}

fn lines(items: &[Item], chosen: &[usize], without_texts: bool) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    for &at in chosen {
        let mut item = items[at].clone();
        if without_texts {
            item.drop_texts();
        }
        serde_json::to_writer(&mut text, &item)?;
        text.push(b'\n');
    }
    Ok(text)
}
