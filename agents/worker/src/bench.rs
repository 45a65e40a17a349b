//! The engine alone, without pipes: the baseline that the whole system is compared with.
//!
//! Same engine code, same batches, same greedy choice as in real answers; only the end of an answer
//! is ignored, so that every run has the tokens asked for. Several streams in one batch are measured
//! against the same ones one after the other, and prompts whose beginning is in the cache against
//! those whose beginning is not, in pairs: a shared machine changes speed from second to second, and
//! ratios of what was measured side by side say more than either figure.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use llama_cpp_2::token::LlamaToken;
use serde::Serialize;

use crate::args::BenchArgs;
use crate::engine::{Engine, Sequence};
use crate::generate::most_likely;
use crate::load::{Loaded, load};
use crate::memory;

/// Ordinary text; repeated until the prompt is long enough.
const TEXT: &str = "The river rises in the hills north of the town and reaches the sea after forty \
                    miles. Its mills once ground corn for the whole county; today two of them are \
                    museums. ";

/// Tokens of question after a shared beginning.
const QUESTION: u32 = 24;

/// Rates of one run, tokens per second.
#[derive(Debug, Clone, Copy, Serialize)]
struct Rates {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

/// So many answers in one batch, and one after the other.
#[derive(Debug, Serialize)]
struct Streams {
    streams: u16,
    runs: Vec<Pair>,
    /// How many times as fast the batch is; median of the pairs' ratios.
    speedup: f64,
    /// Medians of tokens of answer per second, prompts included.
    one_by_one_tokens_per_second: f64,
    batched_tokens_per_second: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Pair {
    one_by_one_seconds: f64,
    batched_seconds: f64,
    /// The longest step that an answer waited for.
    longest_step_seconds: f64,
}

/// Time to the first token of a prompt whose beginning is in the cache or not.
#[derive(Debug, Serialize)]
struct Shared {
    system_tokens: u32,
    question_tokens: u32,
    /// Tokens that were taken over, in every run.
    reused_tokens: usize,
    runs: Vec<FirstToken>,
    /// How many times as fast it is with them; median of the pairs' ratios.
    speedup: f64,
    computed_seconds: f64,
    reused_seconds: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct FirstToken {
    computed_seconds: f64,
    reused_seconds: f64,
}

/// What one answer takes beside ended sequences that nobody needs.
#[derive(Debug, Serialize)]
struct Crowded {
    prefixes: u16,
    /// Their tokens, which are all that the cache holds but for the answer.
    kept_tokens: usize,
    runs: Vec<Beside>,
    /// How many times as long it takes; median of the pairs' ratios.
    slowdown: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Beside {
    empty_seconds: f64,
    full_seconds: f64,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    streams: Vec<Streams>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<Shared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crowded: Option<Crowded>,
    load_seconds: f64,
    /// Most memory that was resident; absent where the system does not say.
    peak_resident_bytes: Option<u64>,
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let shared = args.system_tokens.map_or(0, |tokens| tokens + QUESTION + 1);
    let wanted = shared.max(args.prompt_tokens + args.output_tokens);
    let most = args.streams.iter().copied().max().unwrap_or(1);
    let loaded = load(&args.engine, (wanted, most))?;
    anyhow::ensure!(
        loaded.context_tokens == wanted,
        "{wanted} tokens do not fit the model's context of {}; ask for fewer",
        loaded.context_tokens
    );
    let mut options = args.engine.clone();
    if args.system_tokens.is_some() {
        options.prefixes = options.prefixes.max(1);
    }
    let mut engine = Engine::open(&loaded, &options)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let text = text(&loaded);
    once(&mut engine, &text, args)?;
    let mut runs = Vec::new();
    for _ in 0..args.runs {
        runs.push(once(&mut engine, &text, args)?);
    }
    let mut streams = Vec::new();
    for &count in &args.streams {
        streams.push(side_by_side(&mut engine, &text, (args, count))?);
    }
    let shared = args
        .system_tokens
        .map(|tokens| shared_beginning(&mut engine, &text, (tokens, args.runs)))
        .transpose()?;
    engine.clear([]);
    let peak_resident_bytes = memory::resident().map(|bytes| bytes.0);
    let crowded = (args.engine.prefixes > 0)
        .then(|| crowded(&mut engine, &loaded, (&text, args)))
        .transpose()?;
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
        streams,
        shared,
        crowded,
        load_seconds,
        peak_resident_bytes,
    };
    print(&report, args.json).context("cannot write the result")?;
    Ok(ExitCode::SUCCESS)
}

fn text(loaded: &Loaded) -> Vec<LlamaToken> {
    let vocab = loaded.model.vocab();
    vocab.tokenize(TEXT.as_bytes(), false, false)
}

/// So many tokens of text from one of its words on: no two begin alike that begin at different ones.
fn prompt(text: &[LlamaToken], from: usize, tokens: u32) -> Vec<LlamaToken> {
    let all = text.iter().copied().cycle();
    all.skip(from % text.len()).take(tokens as usize).collect()
}

/// What answers to some prompts took.
struct Took {
    whole: f64,
    /// Until the first of them had its first token.
    first: f64,
    longest_step: f64,
}

/// Answers all of `prompts` in one batch; nothing of them is in the cache before or after.
fn answer(
    engine: &mut Engine<'_>,
    prompts: Vec<Vec<LlamaToken>>,
    output: u32,
) -> anyhow::Result<Took> {
    let mut sequences: Vec<(Sequence, u32)> = prompts
        .into_iter()
        .map(|prompt| (engine.begin(prompt), 0))
        .collect();
    let start = Instant::now();
    let (mut first, mut longest_step) = (None, 0.0_f64);
    loop {
        let unfinished = sequences
            .iter_mut()
            .filter(|(_, written)| *written < output);
        let mut batch: Vec<_> = unfinished.map(|(sequence, _)| sequence).collect();
        if batch.is_empty() {
            break;
        }
        let step = Instant::now();
        engine.step(&mut batch)?;
        if first.is_some() {
            longest_step = longest_step.max(step.elapsed().as_secs_f64());
        }
        // As in an answer: the first token comes from the prompt's logits, the last is not processed.
        for (sequence, written) in &mut sequences {
            if sequence.seen().is_empty() || *written == output {
                continue;
            }
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
            let token = most_likely(engine.logits(sequence, sequence.len() - 1));
            *written += 1;
            if *written < output {
                sequence.push(token);
            }
        }
    }
    let whole = start.elapsed().as_secs_f64();
    for (sequence, _) in sequences {
        engine.discard(sequence);
    }
    Ok(Took {
        whole,
        first: first.unwrap_or(whole),
        longest_step,
    })
}

fn once(engine: &mut Engine<'_>, text: &[LlamaToken], args: &BenchArgs) -> anyhow::Result<Rates> {
    let prompt = prompt(text, 0, args.prompt_tokens);
    let took = answer(engine, vec![prompt], args.output_tokens)?;
    Ok(Rates {
        prefill_tokens_per_second: f64::from(args.prompt_tokens) / took.first,
        decode_tokens_per_second: f64::from(args.output_tokens) / (took.whole - took.first),
    })
}

fn side_by_side(
    engine: &mut Engine<'_>,
    text: &[LlamaToken],
    (args, streams): (&BenchArgs, u16),
) -> anyhow::Result<Streams> {
    let prompts = (0..usize::from(streams)).map(|n| prompt(text, n * 5, args.prompt_tokens));
    let prompts: Vec<_> = prompts.collect();
    let output = args.output_tokens;
    let one_by_one = |engine: &mut Engine<'_>| {
        let each = prompts.iter().cloned();
        let each = each.map(|prompt| answer(engine, vec![prompt], output).map(|took| took.whole));
        each.sum::<anyhow::Result<f64>>()
    };
    let mut runs = Vec::new();
    for run in 0..args.runs {
        // In turn, so that a machine that gets slower or faster favours neither.
        let before = (run % 2 == 0).then(|| one_by_one(engine)).transpose()?;
        let batched = answer(engine, prompts.clone(), output)?;
        runs.push(Pair {
            one_by_one_seconds: before.map_or_else(|| one_by_one(engine), Ok)?,
            batched_seconds: batched.whole,
            longest_step_seconds: batched.longest_step,
        });
    }
    let tokens = f64::from(streams) * f64::from(output);
    Ok(Streams {
        streams,
        speedup: median(&runs, |run| run.one_by_one_seconds / run.batched_seconds),
        one_by_one_tokens_per_second: tokens / median(&runs, |run| run.one_by_one_seconds),
        batched_tokens_per_second: tokens / median(&runs, |run| run.batched_seconds),
        runs,
    })
}

fn shared_beginning(
    engine: &mut Engine<'_>,
    text: &[LlamaToken],
    (system_tokens, pairs): (u32, u32),
) -> anyhow::Result<Shared> {
    let asked = |from: usize| {
        let mut whole = prompt(text, 0, system_tokens);
        whole.extend(prompt(text, from, QUESTION));
        whole
    };
    let mut reused_tokens = usize::MAX;
    let mut runs = Vec::new();
    for pair in 0..pairs as usize {
        engine.clear([]);
        let (computed_seconds, none) = first_token(engine, asked(11 + 2 * pair))?;
        anyhow::ensure!(none == 0, "an empty cache was of use");
        let (reused_seconds, reused) = first_token(engine, asked(12 + 2 * pair))?;
        reused_tokens = reused_tokens.min(reused);
        runs.push(FirstToken {
            computed_seconds,
            reused_seconds,
        });
    }
    Ok(Shared {
        system_tokens,
        question_tokens: QUESTION,
        reused_tokens,
        speedup: median(&runs, |run| run.computed_seconds / run.reused_seconds),
        computed_seconds: median(&runs, |run| run.computed_seconds),
        reused_seconds: median(&runs, |run| run.reused_seconds),
        runs,
    })
}

/// One engine is empty, the other full, since filling one takes longer than all that is measured.
fn crowded(
    empty: &mut Engine<'_>,
    loaded: &Loaded,
    (text, args): (&[LlamaToken], &BenchArgs),
) -> anyhow::Result<Crowded> {
    let mut full = Engine::open(loaded, &args.engine)?;
    let prefixes = args.engine.prefixes;
    let own = args.prompt_tokens + args.output_tokens;
    let cells = loaded.context_tokens * u32::from(loaded.slots);
    let each = (cells.saturating_sub(own) / u32::from(prefixes)).min(loaded.context_tokens);
    anyhow::ensure!(
        each > 0,
        "the context has no room beside the answer; ask for more --streams"
    );
    for n in 1..=usize::from(prefixes) {
        // Begins like none of the others, nor like the answer's.
        first_token(&mut full, prompt(text, n, each))?;
    }
    let asked = |engine: &mut Engine<'_>| {
        answer(
            engine,
            vec![prompt(text, 0, args.prompt_tokens)],
            args.output_tokens,
        )
        .map(|took| took.whole)
    };
    let mut runs = Vec::new();
    for run in 0..args.runs {
        let before = (run % 2 == 0).then(|| asked(empty)).transpose()?;
        let full_seconds = asked(&mut full)?;
        runs.push(Beside {
            empty_seconds: before.map_or_else(|| asked(empty), Ok)?,
            full_seconds,
        });
    }
    Ok(Crowded {
        prefixes,
        kept_tokens: full.kept_tokens(),
        slowdown: median(&runs, |run| run.full_seconds / run.empty_seconds),
        runs,
    })
}

/// Seconds to the first token, and how many tokens of the prompt were in the cache. It is kept.
fn first_token(engine: &mut Engine<'_>, prompt: Vec<LlamaToken>) -> anyhow::Result<(f64, usize)> {
    let start = Instant::now();
    let mut sequence = engine.begin(prompt);
    while sequence.waiting() > 0 {
        engine.step(&mut [&mut sequence])?;
    }
    most_likely(engine.logits(&sequence, sequence.len() - 1));
    let took = start.elapsed().as_secs_f64();
    let reused = sequence.reused();
    engine.end(sequence);
    Ok((took, reused))
}

fn median<T>(runs: &[T], of: impl Fn(&T) -> f64) -> f64 {
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
    )?;
    for streams in &report.streams {
        writeln!(
            out,
            "{:<2} at once  {:.1} tokens/s, {:.2} times {:.1} tokens/s one after the other",
            streams.streams,
            streams.batched_tokens_per_second,
            streams.speedup,
            streams.one_by_one_tokens_per_second
        )?;
    }
    if let Some(shared) = &report.shared {
        writeln!(
            out,
            "first token after {} + {} tokens  {:.3} s, {:.3} s if {} are in the cache",
            shared.system_tokens,
            shared.question_tokens,
            shared.computed_seconds,
            shared.reused_seconds,
            shared.reused_tokens
        )?;
    }
    if let Some(crowded) = &report.crowded {
        writeln!(
            out,
            "beside {} tokens of {} that have ended  {:.2} times as long",
            crowded.kept_tokens, crowded.prefixes, crowded.slowdown
        )?;
    }
    Ok(())
}
