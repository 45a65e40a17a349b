//! `moe2 bench`: what the system costs on top of the engine, measured on this machine.
//!
//! Each starts what it measures and stops it. Figures are ratios or medians of one run on
//! one machine, and the raw samples are in the JSON output.

mod admission;
mod overhead;
mod throughput;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Subcommand;

use crate::up::processes::{Fleet, Plan};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 bench throughput --model smollm2-135m-instruct\n  moe2 bench overhead --rate 500 --seconds 20 --json"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tokens per second through coordinator, QUIC and agent, against the engine alone.
    Throughput(throughput::Args),
    /// The coordinator's admission and ledger alone, without sockets, per request.
    Admission(admission::Args),
    /// The coordinator's own time per request, with stub experts under steady load.
    Overhead(overhead::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Throughput(args) => throughput::run(args),
        Command::Admission(args) => admission::run(args),
        Command::Overhead(args) => overhead::run(args),
    }
}

/// A fleet on free ports with one agent for each of these experts.
fn fleet(name: &str, experts: Vec<String>, threads: u32) -> anyhow::Result<Fleet> {
    let state: PathBuf =
        std::env::temp_dir().join(format!("moe2-bench-{name}-{}", std::process::id()));
    let free = "127.0.0.1:0".to_owned();
    let plan = Plan {
        state,
        http: free.clone(),
        quic: free,
        threads,
        experts,
    };
    Fleet::start(&plan, &AtomicBool::new(false))
}
