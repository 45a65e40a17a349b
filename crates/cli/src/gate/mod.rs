//! `moe2 gate`: outcomes in, a gate out, and what it is worth.

mod collect;
mod files;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask every expert of a fleet questions and keep what came of it.
    Collect(collect::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Collect(args) => collect::run(args),
    }
}
