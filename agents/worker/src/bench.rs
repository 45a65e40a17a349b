//! The engine alone, without pipes: the baseline that the whole system is compared with.
//!
//! Same engine code, same batch, same greedy choice as in a real answer; only the end of an answer
//! is ignored, so that every run has the tokens asked for.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use llama_cpp_2::token::LlamaToken;
use serde::Serialize;

use crate::args::BenchArgs;
use crate::engine::Engine;
use crate::generate::most_likely;
use crate::load::{Loaded, load};
use crate::memory;
use crate::queue::Cancel;

/// Ordinary text; repeated until the prompt is long enough.
const TEXT: &str = "The river rises in the hills north of the town and reaches the sea after forty \
                    miles. Its mills once ground corn for the whole county; today two of them are \
                    museums. ";

/// Rates of one run, tokens per second.
#[derive(Debug, Clone, Copy, Serialize)]
struct Rates {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    threads: u16,
    batch: u16,
    prompt_tokens: u32,
    output_tokens: u32,
    runs: Vec<Rates>,
    median: Rates,
    load_seconds: f64,
    /// Most memory that was resident; absent where the system does not say.
    peak_resident_bytes: Option<u64>,
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let wanted = args.prompt_tokens + args.output_tokens;
    let loaded = load(&args.engine, wanted)?;
    anyhow::ensure!(
        loaded.context_tokens == wanted,
        "{wanted} tokens do not fit the model's context of {}; ask for fewer",
        loaded.context_tokens
    );
    let mut engine = Engine::open(&loaded, &args.engine)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let prompt = prompt(&loaded, args.prompt_tokens as usize);
    once(&mut engine, &prompt, args.output_tokens)?;
    let mut runs = Vec::new();
    for _ in 0..args.runs {
        runs.push(once(&mut engine, &prompt, args.output_tokens)?);
    }
    let report = Report {
        model: args.engine.model.display().to_string(),
        threads: args.engine.threads,
        batch: args.engine.batch,
        prompt_tokens: args.prompt_tokens,
        output_tokens: args.output_tokens,
        median: Rates {
            prefill_tokens_per_second: median(&runs, |run| run.prefill_tokens_per_second),
            decode_tokens_per_second: median(&runs, |run| run.decode_tokens_per_second),
        },
        runs,
        load_seconds,
        peak_resident_bytes: memory::resident().map(|bytes| bytes.0),
    };
    print(&report, args.json).context("cannot write the result")?;
    Ok(ExitCode::SUCCESS)
}

fn prompt(loaded: &Loaded, tokens: usize) -> Vec<LlamaToken> {
    let text = loaded.model.vocab().tokenize(TEXT.as_bytes(), false, false);
    text.into_iter().cycle().take(tokens).collect()
}

fn once(engine: &mut Engine<'_>, prompt: &[LlamaToken], output: u32) -> anyhow::Result<Rates> {
    let never = Cancel::default();
    let start = Instant::now();
    engine.prefill(prompt, &never)?;
    let prefill = start.elapsed();
    let start = Instant::now();
    // As in an answer: the first token comes from the prompt's logits, the last is not processed.
    for _ in 1..output {
        let token = most_likely(engine.logits());
        engine.append(token)?;
    }
    most_likely(engine.logits());
    let decode = start.elapsed();
    let prompt = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
    Ok(Rates {
        prefill_tokens_per_second: f64::from(prompt) / prefill.as_secs_f64(),
        decode_tokens_per_second: f64::from(output) / decode.as_secs_f64(),
    })
}

fn median(runs: &[Rates], of: impl Fn(&Rates) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

fn print(report: &Report, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        return writeln!(out);
    }
    writeln!(out, "model    {}", report.model)?;
    writeln!(
        out,
        "prefill  {:.1} tokens/s ({} tokens)",
        report.median.prefill_tokens_per_second, report.prompt_tokens
    )?;
    writeln!(
        out,
        "decode   {:.1} tokens/s ({} tokens)",
        report.median.decode_tokens_per_second, report.output_tokens
    )
}
