//! Tokens per second through the whole system against the engine alone, with the same threads.
//!
//! Two comparisons, because shared machines change speed from one second to the next. *Alone*: the
//! worker binary's own benchmark on the same code and the same number of tokens, run in turn with
//! requests; its ratio is as noisy as the machine. *Inside*: for the same request, the engine's own
//! seconds as the worker reports them over the seconds the client saw, so both sides have the same
//! second of the same machine.
//!
//! Prefill is the prompt's tokens over the whole time of a request for one token; decode is the tokens
//! after the first over the time between the first and the last delta.

use std::path::PathBuf;
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

/// One phase of one pair, in tokens per second, but for the last.
#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Sample {
    system: f64,
    engine_alone: f64,
    /// The engine's seconds over the client's for the same request.
    inside: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let expert = vec![format!("model = {:?}", args.model)];
    let running = fleet("throughput", expert, args.threads)?;
    let engine = Engine {
        file: model_file(&args.model)?,
        threads: args.threads,
    };
    let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
    // The first pair warms file cache and forecasts and is not counted.
    for pair in 0..=args.pairs {
        let through = prefill(running.api(), &args.model, pair)?;
        let alone = engine.alone(through.prompt_tokens)?.0;
        let prefill = through.against(alone);
        let through = decode(running.api(), &args.model)?;
        let alone = engine.alone(through.prompt_tokens)?.1;
        if pair > 0 {
            prefills.push(prefill);
            decodes.push(through.against(alone));
        }
    }
    let phases = [
        ("prefill", summary(&prefills)?),
        ("decode", summary(&decodes)?),
    ];
    if args.json {
        let report = json!({"model": args.model, "threads": args.threads, "pairs": args.pairs,
            "prefill": phases[0].1, "decode": phases[1].1,
            "samples": {"prefill": prefills, "decode": decodes}});
        out::json(&report)?;
        return Ok(());
    }
    let mut table = Table::new(&[
        "PHASE",
        "SYSTEM",
        "ENGINE ALONE",
        "RATIO OF BEST",
        "OF PAIRS",
        "INSIDE",
    ]);
    for (phase, values) in &phases {
        let number = |key: &str| values[key].as_f64().unwrap_or(f64::NAN);
        table.row([
            (*phase).to_owned(),
            format!("{:.1} tok/s", number("system_best")),
            format!("{:.1} tok/s", number("engine_best")),
            format!("{:.3}", number("ratio_of_best")),
            format!("{:.3}", number("ratio_median_of_pairs")),
            format!("{:.3}", number("inside_median")),
        ]);
    }
    out::data(&table.to_string());
    Ok(())
}

fn summary(samples: &[Sample]) -> anyhow::Result<Value> {
    let at = |level: f64, value: &dyn Fn(&Sample) -> f64| {
        let values: Vec<f64> = samples.iter().map(value).collect();
        percentile(&values, level).context("no pair was measured: use --pairs 1 or more")
    };
    let (system, engine) = (at(1.0, &|s| s.system)?, at(1.0, &|s| s.engine_alone)?);
    Ok(
        json!({"system_best": system, "engine_best": engine, "ratio_of_best": system / engine,
        "ratio_median_of_pairs": at(0.5, &|s| s.system / s.engine_alone)?,
        "inside_median": at(0.5, &|s| s.inside)?}),
    )
}

/// What a request showed.
struct Through {
    tokens_per_s: f64,
    inside: f64,
    prompt_tokens: u64,
}

impl Through {
    const fn against(&self, engine_alone: f64) -> Sample {
        Sample {
            system: self.tokens_per_s,
            engine_alone,
            inside: self.inside,
        }
    }
}

fn model_file(id: &str) -> anyhow::Result<PathBuf> {
    let (manifest, cache) = (
        moe2_models::Manifest::embedded(),
        moe2_models::Cache::default_dir()?,
    );
    Ok(moe2_models::find_model(id, &manifest, &cache)?.path)
}

/// A prompt that begins differently every time, and one token of answer.
fn prefill(client: &Client, model: &str, run: usize) -> anyhow::Result<Through> {
    let fox = "The quick brown fox jumps over it. ".repeat(PROMPT_WORDS / 8);
    let body = json!({"model": model, "prompt": format!("Run {run}. {fox}"), "max_tokens": 1,
        "temperature": 0});
    let began = Instant::now();
    let reply = client.post("/v1/completions", &body)?;
    let seconds = began.elapsed().as_secs_f64();
    let prompt_tokens = count(&reply["usage"], "prompt_tokens")?;
    let own = actual(&reply, "prefill_s")?;
    Ok(Through {
        tokens_per_s: as_f64(prompt_tokens) / seconds,
        inside: own / seconds,
        prompt_tokens,
    })
}

/// Output tokens between the first and the last delta.
fn decode(client: &Client, model: &str) -> anyhow::Result<Through> {
    let question = "Write a long story about a ship, a storm and a lighthouse.";
    let body = json!({"model": model, "messages": [{"role": "user", "content": question}],
        "max_tokens": OUTPUT_TOKENS, "temperature": 0, "stream": true,
        "stream_options": {"include_usage": true}});
    let (mut first, mut last) = (None, None);
    let (mut usage, mut explained) = (Value::Null, Value::Null);
    client.stream(&body, |chunk| {
        let delta = &chunk["choices"][0]["delta"]["content"];
        if delta.as_str().is_some_and(|text| !text.is_empty()) {
            first.get_or_insert_with(Instant::now);
            last = Some(Instant::now());
        }
        if chunk["usage"].is_object() {
            usage = chunk["usage"].clone();
        }
        if chunk["moe2"].is_object() {
            explained = chunk.clone();
        }
    })?;
    let (Some(first), Some(last)) = (first, last) else {
        bail!("the answer was empty")
    };
    let seconds = last.duration_since(first).as_secs_f64();
    let tokens = as_f64(count(&usage, "completion_tokens")?);
    // The worker's seconds cover every token, the client's all but the first.
    let own = actual(&explained, "decode_s")? * (tokens - 1.0) / tokens;
    Ok(Through {
        tokens_per_s: (tokens - 1.0) / seconds,
        inside: own / seconds,
        prompt_tokens: count(&usage, "prompt_tokens")?,
    })
}

fn count(usage: &Value, key: &str) -> anyhow::Result<u64> {
    usage[key]
        .as_u64()
        .with_context(|| format!("no {key} in the reply"))
}

/// A figure of the first expert that worked on it.
fn actual(reply: &Value, key: &str) -> anyhow::Result<f64> {
    let figure = reply["moe2"]["experts"][0]["actual"][key].as_f64();
    figure.with_context(|| format!("no {key} in the reply"))
}

#[allow(clippy::cast_precision_loss)] // token counts are small
fn as_f64(tokens: u64) -> f64 {
    tokens as f64
}

/// The engine without the system.
struct Engine {
    file: PathBuf,
    threads: u32,
}

impl Engine {
    /// Prefill of that many tokens and decode after them, in tokens per second; of two runs the second,
    /// because the first reads the weights in.
    fn alone(&self, prompt_tokens: u64) -> anyhow::Result<(f64, f64)> {
        let output = binary("moe2-worker")?
            .args(["bench", "--json", "--runs", "2", "--model"])
            .arg(&self.file)
            .args(["--threads", &self.threads.to_string()])
            .args(["--prompt-tokens", &prompt_tokens.to_string()])
            .args(["--output-tokens", &OUTPUT_TOKENS.to_string()])
            .output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("the engine's benchmark failed: {why}");
        }
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let second = |key: &str| {
            let figure = report["runs"][1][key].as_f64();
            figure.with_context(|| format!("the engine's benchmark gave no {key}"))
        };
        let (prefill, decode) = ("prefill_tokens_per_second", "decode_tokens_per_second");
        Ok((second(prefill)?, second(decode)?))
    }
}
