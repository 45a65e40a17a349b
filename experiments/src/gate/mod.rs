//! What a gate is worth on questions it was not trained on, fold by fold.

pub(crate) mod cost;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::Context;
use moe2_gate::{
    Against, Forecasts, InTurn, Item, OptionRule, Reference, Split, Trained, Training, baselines,
    groups, judge, read_outcomes, read_questions, reread,
};
use moe2_model::ExpertName;
use serde_json::{Value, json};

use crate::Setting;

/// Folds that are judged, each by a gate trained on the others.
const FOLDS: usize = 5;
/// Seed of the folds and of everything trained.
const SEED: u64 = 7;
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

/// MMLU-Pro, models of 13B and below, five folds.
pub(crate) fn mmlu_pro(setting: &Setting) -> anyhow::Result<Value> {
    let small: BTreeSet<&str> = SMALL.into();
    let mut items = outcomes(&setting.data()?.join("mmlu_pro_29llm.jsonl.zst"))?;
    for item in &mut items {
        item.outcomes.retain(|e, _| small.contains(e.as_str()));
    }
    items.retain(|item| !item.outcomes.is_empty());
    cross_validate(items, setting)
}

/// The demo's models on the recorded sample, five folds.
pub(crate) fn local(setting: &Setting) -> anyhow::Result<Value> {
    let questions = setting.data()?.join("questions.jsonl.zst");
    let texts = read_questions(open(&questions)?).context("the questions")?;
    let mut items = outcomes(&root().join(LOCAL))?;
    let by_id: std::collections::HashMap<_, _> =
        texts.iter().map(|q| (q.id.as_deref(), q)).collect();
    for item in &mut items {
        let question = by_id
            .get(&item.id.as_deref())
            .context("a question is missing")?;
        item.take_texts(question).map_err(anyhow::Error::msg)?;
    }
    cross_validate(items, setting)
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

fn cross_validate(mut items: Vec<Item>, setting: &Setting) -> anyhow::Result<Value> {
    if setting.smoke {
        items.truncate(400);
    }
    // Two parameters per expert: read once, for training and judging alike.
    let experts: BTreeSet<ExpertName> = items
        .iter()
        .flat_map(|i| i.outcomes.keys().cloned())
        .collect();
    let rules: std::collections::BTreeMap<ExpertName, OptionRule> = experts
        .iter()
        .map(|e| (e.clone(), OptionRule::fit(&moe2_gate::scored(&items, e))))
        .collect();
    reread(&mut items, |e| rules.get(e).copied());
    let split = Split::new(&groups(&items), FOLDS, SEED);
    let mut forecasts = vec![Forecasts::new(); items.len()];
    let mut others: Vec<(&'static str, Vec<Forecasts>)> = Vec::new();
    let mut folds = Vec::new();
    for fold in 0..FOLDS {
        setting.say(&format!("fold {} of {FOLDS}", fold + 1));
        let train: Vec<Item> = split
            .outside(fold)
            .into_iter()
            .map(|i| items[i].clone())
            .collect();
        let simple = baselines(&train);
        let began = std::time::Instant::now();
        let trained = Training::new(train, SEED)?.run(&InTurn, || {});
        folds.push(
            json!({"train": split.outside(fold).len(), "test": split.inside(fold).len(),
            "trust": trained.trust, "seconds": began.elapsed().as_secs_f64(),
            "fusion_gains": trained.fusion_gains()}),
        );
        for at in split.inside(fold) {
            forecasts[at] = forecast(&trained, &items[at]);
            for (n, baseline) in simple.iter().enumerate() {
                if others.len() <= n {
                    others.push((baseline.name(), vec![Forecasts::new(); items.len()]));
                }
                others[n].1[at] = baseline.forecast(&items[at]);
            }
        }
    }
    // The best single expert is far ahead of the second in every fold, so the folds' choices are one.
    let reference = Reference::new(&items);
    let against = Against {
        reference: &reference,
        others: &others,
    };
    let rule = |e: &ExpertName| rules.get(e).copied().unwrap_or_default();
    let judged = judge(&items, &forecasts, &against, rule, SEED).context("nothing to judge")?;
    let bests: BTreeSet<String> = (0..FOLDS)
        .filter_map(|fold| {
            let train: Vec<Item> = split
                .outside(fold)
                .into_iter()
                .map(|i| items[i].clone())
                .collect();
            Some(Reference::new(&train).best()?.to_string())
        })
        .collect();
    Ok(json!({"folds": folds, "best_single_of_training_folds": bests, "judgement": judged}))
}

fn forecast(trained: &Trained, item: &Item) -> Forecasts {
    let features = trained.features(item);
    let each = item.outcomes.keys();
    each.filter_map(|e| Some((e.clone(), trained.forecast(e, &features)?.0)))
        .collect()
}
