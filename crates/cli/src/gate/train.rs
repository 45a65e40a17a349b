//! `moe2 gate train`: from outcome files to a gate file.

use std::path::PathBuf;

use anyhow::Context;
use moe2_gate::{Gate, Provenance, TrainError, Trained, Training};
use serde_json::json;

use super::files::{self, Data, Encoders};
use crate::progress::Count;
use crate::table::Table;
use crate::threads::Threads;
use crate::{BadInput, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 gate train --data outcomes.jsonl --out gate.json\n  moe2 gate train --data record.jsonl --questions questions.jsonl.zst --out gate.json\n  moe2 gate train --data newcomer.jsonl --onto gate.json --out larger.json\n\nThe result depends on the data and the seed only, not on the number of threads. Give the file to a\ncoordinator with `gate = \"gate.json\"` in its configuration; judge it first with `moe2 gate eval`."
)]
pub(crate) struct Args {
    #[command(flatten)]
    data: Data,
    /// Gate file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Add the data's new experts to this gate and leave its encoder and heads as they are.
    #[arg(long, value_name = "GATE")]
    onto: Option<PathBuf>,
    /// What reads questions: `hashed` n-grams, which need no files, `static` token vectors, or `minilm`, a
    /// small BERT, where this program was built with it.
    #[arg(long, default_value = files::HASHED, conflicts_with = "onto", value_name = "NAME")]
    encoder: String,
    #[command(flatten)]
    encoders: Encoders,
    /// Take stated priors for free text and unknown experts from this gate instead of the built-in one.
    #[arg(long, value_name = "GATE")]
    priors: Option<PathBuf>,
    /// Decides the folds.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads; by default as many as the machine has.
    #[arg(long)]
    threads: Option<usize>,
    /// Print a summary as JSON.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (items, data) = args.data.read()?;
    let questions = items.len();
    let base = args.onto.as_deref().map(|path| args.encoders.gate(path));
    let base = base.transpose()?;
    let priors = match &args.priors {
        Some(path) => args.encoders.gate(path)?.0,
        None => Gate::builtin(),
    };
    let prepared = match base {
        None => match args.encoders.named(&args.encoder)? {
            None => Training::new(items, args.seed),
            Some(embedder) => Training::with_embedder(items, args.seed, embedder),
        }
        .map(|t| (t, None)),
        Some((base, _)) => {
            let (Some(trained), Some(provenance)) = (base.trained(), base.training()) else {
                return Err(BadInput("--onto: that gate was not trained".to_owned()).into());
            };
            let provenance = (provenance.clone(), base.priors().clone());
            Training::onto(trained.clone(), items, args.seed).map(|t| (t, Some(provenance)))
        }
    };
    let (training, onto) = prepared.map_err(|error| BadInput(advise(&error)))?;
    let folds = training.folds();
    let bar = Count::new("training", training.jobs(), args.quiet);
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let trained = training.run(&Threads(threads), || bar.step(String::new));
    bar.finish();
    let (mut provenance, priors) = match onto {
        Some(onto) => onto,
        None => (
            Provenance {
                seed: args.seed,
                folds,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Provenance::default()
            },
            priors.priors().clone(),
        ),
    };
    provenance.data.extend(data);
    provenance.summary = summary(&trained, &provenance);
    let gate = Gate::from_trained(trained, provenance, priors).context("the priors")?;
    let bytes = gate.to_bytes();
    files::write(&args.out, &bytes)?;
    report(args, &gate, questions, bytes.len())
}

fn advise(error: &TrainError) -> String {
    match error {
        TrainError::NoText { .. } => format!("{error} (--questions FILE)"),
        TrainError::TooFew { .. } | TrainError::NothingNew => error.to_string(),
    }
}

fn summary(trained: &Trained, provenance: &Provenance) -> String {
    let questions: usize = provenance.data.iter().map(|file| file.questions).sum();
    format!(
        "trained on {questions} questions with outcomes of {} experts",
        trained.heads.len()
    )
}

fn report(args: &Args, gate: &Gate, questions: usize, bytes: usize) -> anyhow::Result<()> {
    let Some(trained) = gate.trained() else {
        return Ok(());
    };
    if args.json {
        return out::json(&json!({
            "questions": questions, "bytes": bytes, "trust": trained.trust, "heads": trained.heads,
        }));
    }
    out::data(&format!(
        "{}\n{questions} questions; {bytes} bytes in {}",
        heads(trained),
        args.out.display()
    ));
    Ok(())
}

/// What every head was chosen by.
pub(super) fn heads(trained: &Trained) -> Table {
    let mut table = Table::new(&[
        "EXPERT", "OUTCOMES", "MEAN", "LOSS", "OF MEAN", "PENALTY", "NETWORK", "OPTIONS",
    ]);
    for (expert, head) in &trained.heads {
        table.row([
            expert.to_string(),
            head.outcomes.to_string(),
            format!("{:.3}", head.mean),
            format!("{:.4}", head.held_out),
            format!("{:.4}", head.held_out_constant),
            head.penalty
                .map_or_else(|| "pooled".to_owned(), |p| p.to_string()),
            if head.has_network() { "yes" } else { "" }.to_owned(),
            format!(
                "length^{}, ×{:.2}",
                head.options.length, head.options.sharpness
            ),
        ]);
    }
    table
}
