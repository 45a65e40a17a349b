//! `moe2 gate`: outcomes in, a gate out, and what it is worth.

mod collect;
mod eval;
mod files;
mod held;
mod inspect;
mod live;
mod split;
mod train;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask every expert of a fleet questions and keep what came of it.
    Collect(collect::Args),
    /// Keep some outcomes apart to judge a gate by.
    Split(split::Args),
    /// Train a gate on outcomes.
    Train(train::Args),
    /// Judge a gate on outcomes it has not seen, beside simpler ones.
    Eval(eval::Args),
    /// Ask a fleet held-out questions and compare it with what the gate does on paper.
    Live(live::Args),
    /// Show what is in a gate file.
    Inspect(inspect::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Collect(args) => collect::run(args),
        Command::Split(args) => split::run(args),
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Live(args) => live::run(args),
        Command::Inspect(args) => inspect::run(args),
    }
}
