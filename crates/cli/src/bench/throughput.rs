//! Tokens per second through the whole system against the engine alone, in turn, with the same threads.
//!
//! Prefill through the system is the prompt's tokens over the whole time of a request for one token;
//! decode is the tokens after the first over the time between the first and the last delta, as the
//! client sees them. The engine alone is measured by the worker binary's own benchmark on the same code.

use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use moe2_cost::percentile;

use super::fleet;
use crate::client::Client;
use crate::out;
use crate::table::Table;
use crate::up::processes::binary;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which model.
    #[arg(long, default_value = "smollm2-135m-instruct")]
    model: String,
    /// Threads of the engine, in both cases.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Pairs of measurements.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Print JSON with every sample.
    #[arg(long)]
    json: bool,
}

/// Words of the prompt that is measured; about as many tokens in each of the models.
const PROMPT_WORDS: usize = 256;
const OUTPUT_TOKENS: u32 = 64;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let running = fleet(
        "throughput",
        vec![format!("model = {:?}", args.model)],
        args.threads,
    )?;
    let file = model_file(&args.model)?;
    let mut samples: Vec<[f64; 4]> = Vec::new();
    // The first pair warms file cache and forecasts and is not counted.
    for pair in 0..=args.pairs {
        let through = (
            prefill(running.api(), &args.model, pair)?,
            decode(running.api(), &args.model)?,
        );
        let tokens = u32::try_from(through.0.1).unwrap_or(256);
        let alone = engine_alone(&file, args.threads, tokens)?;
        if pair > 0 {
            samples.push([through.0.0, alone.0, through.1, alone.1]);
        }
    }
    let median = |value: &dyn Fn(&[f64; 4]) -> f64| {
        let values: Vec<f64> = samples.iter().map(value).collect();
        percentile(&values, 0.5).context("no pair was measured: use --pairs 1 or more")
    };
    let mut medians = [0.0; 4];
    for (n, slot) in medians.iter_mut().enumerate() {
        *slot = median(&|sample| sample[n])?;
    }
    let ratios = [median(&|s| s[0] / s[1])?, median(&|s| s[2] / s[3])?];
    if args.json {
        let report = json!({"model": args.model, "threads": args.threads, "pairs": args.pairs,
            "prefill_tokens_per_s": {"system": medians[0], "engine": medians[1], "ratio": ratios[0]},
            "decode_tokens_per_s": {"system": medians[2], "engine": medians[3], "ratio": ratios[1]},
            "samples": samples});
        out::data(&report.to_string());
        return Ok(());
    }
    let mut table = Table::new(&["PHASE", "SYSTEM", "ENGINE ALONE", "RATIO (median of pairs)"]);
    for (phase, at, ratio) in [("prefill", 0, ratios[0]), ("decode", 2, ratios[1])] {
        table.row([
            phase.to_owned(),
            format!("{:.1} tok/s", medians[at]),
            format!("{:.1} tok/s", medians[at + 1]),
            format!("{ratio:.3}"),
        ]);
    }
    out::data(&table.to_string());
    Ok(())
}

fn model_file(id: &str) -> anyhow::Result<std::path::PathBuf> {
    let (manifest, cache) = (
        moe2_models::Manifest::embedded(),
        moe2_models::Cache::default_dir()?,
    );
    Ok(moe2_models::find_model(id, &manifest, &cache)?.path)
}

/// Prompt tokens per second, and how many there were. Every prompt begins differently.
fn prefill(client: &Client, model: &str, run: usize) -> anyhow::Result<(f64, u64)> {
    let prompt = format!(
        "Run {run}. {}",
        "The quick brown fox jumps over it. ".repeat(PROMPT_WORDS / 8)
    );
    let body = json!({"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0});
    let began = Instant::now();
    let reply = client.post("/v1/completions", &body)?;
    let seconds = began.elapsed().as_secs_f64();
    let tokens = reply["usage"]["prompt_tokens"]
        .as_u64()
        .context("no usage in the reply")?;
    #[allow(clippy::cast_precision_loss)]
    Ok((tokens as f64 / seconds, tokens))
}

/// Output tokens per second between the first and the last delta.
fn decode(client: &Client, model: &str) -> anyhow::Result<f64> {
    let question = "Write a long story about a ship, a storm and a lighthouse.";
    let body = json!({"model": model, "messages": [{"role": "user", "content": question}],
        "max_tokens": OUTPUT_TOKENS, "temperature": 0, "stream": true,
        "stream_options": {"include_usage": true}});
    let (mut first, mut last, mut tokens) = (None, None, 0);
    client.stream(&body, |chunk| {
        let text = chunk["choices"][0]["delta"]["content"]
            .as_str()
            .unwrap_or_default();
        if !text.is_empty() {
            first.get_or_insert_with(Instant::now);
            last = Some(Instant::now());
        }
        tokens = chunk["usage"]["completion_tokens"]
            .as_u64()
            .unwrap_or(tokens);
    })?;
    let (Some(first), Some(last)) = (first, last) else {
        bail!("the answer was empty")
    };
    #[allow(clippy::cast_precision_loss)]
    Ok(tokens.saturating_sub(1) as f64 / last.duration_since(first).as_secs_f64())
}

/// Prefill and decode of the engine alone, in tokens per second.
fn engine_alone(file: &std::path::Path, threads: u32, prompt: u32) -> anyhow::Result<(f64, f64)> {
    let output = binary("moe2-worker")?
        .args(["bench", "--json", "--runs", "1", "--model"])
        .arg(file)
        .args([
            "--threads",
            &threads.to_string(),
            "--prompt-tokens",
            &prompt.to_string(),
        ])
        .args(["--output-tokens", &OUTPUT_TOKENS.to_string()])
        .output()?;
    if !output.status.success() {
        bail!(
            "the engine's benchmark failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let median = |key: &str| {
        report["median"][key]
            .as_f64()
            .with_context(|| format!("no {key}"))
    };
    Ok((
        median("prefill_tokens_per_second")?,
        median("decode_tokens_per_second")?,
    ))
}
