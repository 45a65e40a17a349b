//! `moe2 models list` and `moe2 models pull`.

use anyhow::{Context, bail};
use clap::Subcommand;
use moe2_models::{Cache, Manifest, ModelSpec, Origin, PullOptions, Status, pull};
use serde_json::json;

use crate::progress::Bar;
use crate::table::Table;
use crate::{BadInput, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 models list\n  moe2 models pull smollm2-135m-instruct\n  moe2 models pull --all\n  moe2 models pull gemma-3-270m --from ./gemma-3-270m-q4_k_m.gguf"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Models that are known, and which of them are here.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetch model files into the cache; each is checked against its SHA-256.
    Pull {
        /// Which.
        ids: Vec<String>,
        /// All of the list.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Take the file from here instead: a path or an http(s) address.
        #[arg(long, value_name = "PATH|URL")]
        from: Option<String>,
        /// No progress bar.
        #[arg(long)]
        quiet: bool,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (manifest, cache) = (Manifest::embedded(), Cache::default_dir()?);
    match &args.command {
        Command::List { json } => list(&manifest, &cache, *json),
        Command::Pull {
            ids,
            all,
            from,
            quiet,
        } => {
            let wanted = wanted(&manifest, ids, *all)?;
            let from = from.as_deref().map(Origin::parse);
            if from.is_some() && wanted.len() != 1 {
                bail!(BadInput("--from goes with exactly one model".to_owned()));
            }
            for spec in wanted {
                fetch(spec, &cache, from.clone(), *quiet)?;
            }
            Ok(())
        }
    }
}

fn wanted<'m>(
    manifest: &'m Manifest,
    ids: &[String],
    all: bool,
) -> anyhow::Result<Vec<&'m ModelSpec>> {
    if all {
        return Ok(manifest.models().iter().collect());
    }
    if ids.is_empty() {
        bail!(BadInput(
            "name a model or use --all; `moe2 models list` shows what there is".to_owned(),
        ));
    }
    let find = |id: &String| {
        manifest.get(id).ok_or_else(|| {
            let list = "`moe2 models list` shows what there is";
            anyhow::Error::new(BadInput(format!("no model is called {id}; {list}")))
        })
    };
    ids.iter().map(find).collect()
}

/// Fetches one model unless it is there.
pub(crate) fn fetch(
    spec: &ModelSpec,
    cache: &Cache,
    from: Option<Origin>,
    quiet: bool,
) -> anyhow::Result<()> {
    if matches!(cache.status(spec), Status::Present) {
        if !quiet {
            out::note(&format!("{} is here", spec.id));
        }
        return Ok(());
    }
    let mut bar = Bar::new(quiet);
    let path = pull(spec, cache, &PullOptions::from_env(from), &mut bar)
        .with_context(|| format!("{} was not fetched", spec.id))?;
    out::note(&format!("{} is now at {}", spec.id, path.display()));
    Ok(())
}

fn list(manifest: &Manifest, cache: &Cache, as_json: bool) -> anyhow::Result<()> {
    let state = |spec: &ModelSpec| match cache.status(spec) {
        Status::Present => "present".to_owned(),
        Status::Unverified => "not verified yet".to_owned(),
        Status::Missing { partial_bytes: 0 } => "missing".to_owned(),
        Status::Missing { partial_bytes } => {
            format!(
                "{} % fetched",
                partial_bytes.saturating_mul(100) / spec.bytes.max(1)
            )
        }
        Status::Corrupt { .. } => "corrupt".to_owned(),
    };
    if as_json {
        let all: Vec<_> = manifest
            .models()
            .iter()
            .map(|m| {
                json!({"id": m.id.as_str(), "family": m.family, "parameters": m.parameters,
                    "quantisation": m.quantisation, "bytes": m.bytes, "licence": m.licence,
                    "strengths": m.strengths, "state": state(m), "path": cache.path_of(m)})
            })
            .collect();
        return out::json(&json!({"models": all}));
    }
    let mut table = Table::new(&["MODEL", "PARAMETERS", "QUANT", "SIZE", "STATE", "GOOD AT"]);
    for m in manifest.models() {
        table.row([
            m.id.as_str().to_owned(),
            format!("{} M", m.parameters / 1_000_000),
            m.quantisation.clone(),
            format!("{} MiB", m.bytes >> 20),
            state(m),
            m.strengths.clone(),
        ]);
    }
    out::data(&table.to_string());
    Ok(())
}
