//! The outcomes that gates are trained on and judged by.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::Context;
use moe2_gate::{Item, read_outcomes, read_questions};

use crate::Setting;

/// Models of at most 13 billion parameters.
const SMALL: [&str; 15] = [
    "llama-2-13b",
    "llama-2-7b",
    "llama-3-8b",
    "llama-3.1-8b",
    "llama-3.1-8b-instruct",
    "mistral-7b-instruct-v0.1",
    "mistral-7b-instruct-v0.2",
    "mistral-7b-v0.1",
    "mistral-7b-v0.2",
    "phi-3-mini-4k-instruct",
    "qwen1.5-7b-chat",
    "yi-6b",
    "yi-6b-chat",
    "gemma-7b",
    "mathstral-7b",
];
/// Where the record of the demo's models lies, from the repository's root.
const LOCAL: &str = "experiments/record/outcomes-demo-models/outcomes.jsonl.zst";

/// MMLU-Pro with the outcomes of models of 13B and below.
pub(super) fn mmlu_pro(setting: &Setting) -> anyhow::Result<Vec<Item>> {
    let small: BTreeSet<&str> = SMALL.into();
    let mut items = outcomes(&setting.data()?.join("mmlu_pro_29llm.jsonl.zst"))?;
    for item in &mut items {
        item.outcomes.retain(|e, _| small.contains(e.as_str()));
    }
    items.retain(|item| !item.outcomes.is_empty());
    Ok(items)
}

/// The demo's models on the recorded sample.
pub(super) fn demo_models(setting: &Setting) -> anyhow::Result<Vec<Item>> {
    let questions = setting.data()?.join("questions.jsonl.zst");
    let texts = read_questions(open(&questions)?).context("the questions")?;
    let mut items = outcomes(&root().join(LOCAL))?;
    let by_id: HashMap<_, _> = texts.iter().map(|q| (q.id.as_deref(), q)).collect();
    for item in &mut items {
        let question = by_id
            .get(&item.id.as_deref())
            .context("a question is missing")?;
        item.take_texts(question).map_err(anyhow::Error::msg)?;
    }
    Ok(items)
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn open(path: &Path) -> anyhow::Result<BufReader<Box<dyn Read>>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = ruzstd::decoding::StreamingDecoder::new(file)
        .map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    Ok(BufReader::new(Box::new(text)))
}

fn outcomes(path: &Path) -> anyhow::Result<Vec<Item>> {
    read_outcomes(open(path)?).with_context(|| format!("in {}", path.display()))
}
