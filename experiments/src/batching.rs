//! Several answers in one batch of a worker, and beginnings of prompts that are in its cache.
//!
//! The worker measures itself (`moe2-worker bench`): short prompts, so that decoding is what is
//! compared; the time to the first token after a long system prompt; and what an answer takes beside
//! ended sequences that fill the cache.

use std::process::Command;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::Setting;

/// Models, and tokens of prompt and of answer; few, so that all of it takes minutes.
const MODELS: [(&str, &[(u32, u32)]); 2] = [
    ("smollm2-135m-instruct", &[(32, 48)]),
    ("qwen2.5-coder-0.5b-instruct", &[(32, 32)]),
];

/// Ended sequences in the cache beside which an answer is measured.
const PREFIXES: &str = "8";

/// Pairs of measurements.
const PAIRS: u32 = 2;

pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let worker = setting.program("moe2-worker")?;
    let cache = moe2_models::Cache::default_dir()?;
    let manifest = moe2_models::Manifest::embedded();
    let pairs = if setting.smoke { 1 } else { PAIRS };
    let mut models = serde_json::Map::new();
    for (id, of_model) in MODELS {
        let file = moe2_models::find_model(id, &manifest, &cache)?.path;
        let mut shapes = Vec::new();
        for (n, (prompt, output)) in of_model.iter().enumerate() {
            setting.say(&format!("{id}, prompts of {prompt} tokens"));
            let mut bench = Command::new(&worker);
            bench
                .args(["bench", "--json", "--threads", "2", "--streams", "1,2,4,8"])
                .args(["--prompt-tokens", &prompt.to_string()])
                .args(["--output-tokens", &output.to_string()])
                .args(["--runs", &pairs.to_string(), "--model"])
                .arg(&file);
            if n == 0 {
                bench.args(["--system-tokens", "500", "--prefixes", PREFIXES]);
            }
            shapes.push(output_of(&mut bench)?);
        }
        models.insert(id.to_owned(), Value::Array(shapes));
    }
    Ok(json!({"pairs": pairs, "models": models}))
}

/// What a benchmark prints, without where its model lies.
fn output_of(bench: &mut Command) -> anyhow::Result<Value> {
    let output = bench.output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("the worker's benchmark failed: {why}");
    }
    let mut report: Value = serde_json::from_slice(&output.stdout)?;
    let report = report.as_object_mut().context("it is no object")?;
    report.remove("model");
    Ok(Value::Object(std::mem::take(report)))
}
