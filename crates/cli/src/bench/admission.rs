//! What a query costs the coordinator's engine and ledger, measured inside of it.
//!
//! The coordinator does it, because its parts are private to it and a figure from outside would have
//! sockets, an agent and a load generator in it; `overhead` has those.

use std::path::PathBuf;

use anyhow::bail;

use crate::up::processes::binary;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Queries per second.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// How long.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Experts, each on a node of its own.
    #[arg(long, default_value_t = 3)]
    experts: u32,
    /// Where the books are written meanwhile; by default the folder for temporary files, which may be in memory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON, with the counts of all samples by microsecond.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut command = binary("moe2-coordinator")?;
    command
        .arg("bench")
        .args(["--rate", &args.rate.to_string()])
        .args(["--seconds", &args.seconds.to_string()])
        .args(["--experts", &args.experts.to_string()]);
    if let Some(dir) = &args.dir {
        command.arg("--dir").arg(dir);
    }
    if args.json {
        command.arg("--json");
    }
    if !command.status()?.success() {
        bail!("the coordinator's benchmark failed");
    }
    Ok(())
}
