//! `moe2`: the operator's and user's tool.
//!
//! Every command is a file; what they share is the way to a coordinator (`client`), tables and
//! progress bars. Output that is data goes to standard output, everything else to standard error, and
//! `--json` turns tables into JSON.

mod ask;
mod bench;

mod chat;
mod client;
mod duration;
mod explain;
mod fleet;
mod gate;
mod input;
mod join_token;
mod models;
mod number;
mod out;
mod paths;
mod plan;
mod plot;
mod price;
mod progress;
mod solve;
mod table;
mod tenant;
mod threads;
mod up;
mod usage;
mod verify;
mod zstd;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// LLM answers from a fleet of unequal machines, inside budgets of delay and energy.
#[derive(Debug, Parser)]
#[command(
    name = "moe2",
    version,
    about,
    after_help = "Start with `moe2 up`; then `moe2 ask \"…\"`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a coordinator and three agents with real models on this machine.
    Up(up::Args),
    /// Ask one question.
    Ask(ask::Args),
    /// Talk, line by line.
    Chat(chat::Args),
    /// Show nodes, experts and what they are doing.
    Fleet(fleet::Args),
    /// Show why a query went where it went, and replay the choice.
    Explain(explain::Args),
    /// Show the active set, its certificate and what would change it.
    Plan(plan::Args),
    /// Choose the best set of experts under limits, with a proof.
    Solve(solve::Args),
    /// Check a proof that a set is the best one.
    Verify(verify::Args),
    /// Route prompts under budgets on the mean, with prices.
    Price(price::Args),
    /// Collect outcomes, train a gate, and judge it.
    Gate(gate::Args),
    /// List and fetch model files.
    Models(models::Args),
    /// Let a machine join the fleet.
    JoinToken(join_token::Args),
    /// Make and change tenants: keys, budgets, rates.
    Tenant(tenant::Args),
    /// Show what was used, by tenant, expert, day or source of joules.
    Usage(usage::Args),
    /// Measure speed on this machine.
    Bench(bench::Args),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Input that no attempt can succeed with: exit code 2, as for a wrong flag.
#[derive(Debug)]
struct BadInput(String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Limits or budgets that cannot be kept: exit code 3.
#[derive(Debug)]
struct Infeasible(String);

impl std::fmt::Display for Infeasible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Infeasible {}

/// 1 failed, 2 bad input, 3 infeasible.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Infeasible>() {
        3
    } else if error.is::<BadInput>() {
        2
    } else {
        1
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(args) => up::run(&args),
        Command::Ask(args) => ask::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Fleet(args) => fleet::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Solve(args) => solve::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Price(args) => price::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Models(args) => models::run(&args),
        Command::JoinToken(args) => join_token::run(&args),
        Command::Tenant(args) => tenant::run(&args),
        Command::Usage(args) => usage::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "moe2", &mut std::io::stdout());
            Ok(())
        }
    };
    match done {
        Ok(()) => match out::lost() {
            Some(why) => {
                out::note(&format!("moe2: the output is not complete: {why}"));
                ExitCode::from(1)
            }
            None => ExitCode::SUCCESS,
        },
        Err(error) => {
            out::note(&format!("moe2: {error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}
