//! `moe2 up`: a whole fleet on this machine, for a first look and for development.
//!
//! It fetches the models, starts the coordinator and three agents as real processes that join over
//! QUIC exactly as remote ones do, shows a few answers and waits. Every child ends when its standard
//! input closes, so nothing is left behind however this process ends.

mod demo;
pub(crate) mod processes;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use moe2_models::{Cache, Manifest};

use crate::{models, out, paths};
use processes::Fleet;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 up\n  moe2 up --once\n  moe2 up --no-questions --http 127.0.0.1:9000"
)]
pub(crate) struct Args {
    /// Stop after the answers.
    #[arg(long)]
    once: bool,
    /// Ask nothing.
    #[arg(long)]
    no_questions: bool,
    /// Where clients connect; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8077")]
    http: String,
    /// Where agents connect; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7077")]
    quic: String,
    /// Certificates, keys, logs; by default `$MOE2_STATE` or the user's state directory.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Threads of each expert; by default the machine's, shared among the three.
    #[arg(long)]
    threads: Option<u32>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (manifest, cache) = (Manifest::embedded(), Cache::default_dir()?);
    for spec in manifest.models() {
        models::fetch(spec, &cache, None, false)?;
    }
    // From here on there are children to stop; before, a signal may end this process at once.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let state = args.state_dir.clone().unwrap_or_else(paths::local_state);
    let plan = processes::Plan {
        state,
        http: args.http.clone(),
        quic: args.quic.clone(),
        threads: args
            .threads
            .unwrap_or_else(|| share_of_threads(manifest.models().len())),
        experts: manifest
            .models()
            .iter()
            .map(|m| format!("model = {:?}", m.id.as_str()))
            .collect(),
    };
    let fleet = Fleet::start(&plan, &interrupted)?;
    let shown = if args.no_questions {
        Ok(())
    } else {
        demo::show(&fleet, &interrupted)
    };
    if shown.is_ok() && !args.once && !interrupted.load(Ordering::Relaxed) {
        out::note(&demo::invitation(&fleet));
        wait(&fleet, &interrupted)?;
    }
    out::note("stopping…");
    fleet.stop();
    shown.context("the questions were not all answered")
}

/// Waits for a signal, or for a child that ends by itself.
fn wait(fleet: &Fleet, interrupted: &AtomicBool) -> anyhow::Result<()> {
    while !interrupted.load(Ordering::Relaxed) {
        fleet.check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Experts of different agents share this machine's cores, and their threads spin while they wait
/// for each other: together they must not have more threads than there are cores.
fn share_of_threads(experts: usize) -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(threads / experts.max(1)).unwrap_or(1).max(1)
}
