//! `moe2 gate inspect`: what is in a gate file.

use std::path::PathBuf;

use serde_json::json;

use super::files::Encoders;
use super::train;
use crate::out;
use crate::table::Table;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 gate inspect gate.json\n  moe2 gate inspect gate.json --json"
)]
pub(crate) struct Args {
    /// Gate file.
    file: PathBuf,
    #[command(flatten)]
    encoders: Encoders,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (gate, bytes) = args.encoders.gate(&args.file)?;
    let trained = gate.trained();
    if args.json {
        return out::json(&json!({
            "kind": gate.kind(),
            "bytes": bytes,
            "summary": gate.provenance(),
            "training": gate.training(),
            "encoder": trained.map(|t| t.encoder()),
            "topics": trained.map(|t| t.topics()),
            "trust": trained.map(|t| t.trust),
            "fusion_gain": trained.map(|t| t.fusion_gains()),
            "heads": trained.map(|t| &t.heads),
            "priors": gate.priors(),
        }));
    }
    let mut text = format!(
        "{} gate, {bytes} bytes: {}\n",
        gate.kind(),
        gate.provenance()
    );
    if let (Some(trained), Some(training)) = (trained, gate.training()) {
        for file in &training.data {
            text += &format!(
                "  {} ({} questions, SHA-256 {})\n",
                file.name, file.questions, file.sha256
            );
        }
        text += &format!(
            "  seed {}, {} folds, moe2 {}\n",
            training.seed, training.folds, training.version
        );
        text += &format!("encoder: {}\n", trained.encoder());
        text += &format!("topics: {}\n", trained.topics().join(", "));
        text += &format!("trust in heads beyond their means: {}\n", trained.trust);
        for (k, (gain, error)) in (2..).zip(trained.fusion_gains()) {
            text += &format!("fusing {k} gains {gain:+.4} ± {error:.4} over the best of them\n");
        }
        text += &format!("\n{}\n", train::heads(trained));
    }
    let mut priors = Table::new(&["STATED PRIOR OF", "TOPIC", "MEAN", "TOKENS"]);
    for (expert, head) in &gate.priors().experts {
        for (topic, prior) in &head.topics {
            let mean = prior.alpha / (prior.alpha + prior.beta);
            let tokens = format!("{:.0}", prior.output_tokens);
            priors.row([
                expert.to_string(),
                topic.to_string(),
                format!("{mean:.2}"),
                tokens,
            ]);
        }
    }
    out::data(&format!("{text}\n{priors}"));
    Ok(())
}
