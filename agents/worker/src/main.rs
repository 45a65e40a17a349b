//! One expert in a process of its own: llama.cpp behind frames on standard input and output.
//!
//! Native code can abort on a hostile file or a driver's whim, and then takes its process along.
//! So the agent starts one of these per expert and loses one expert at most. One thread
//! computes, a batch after the other for all that is asked for at once; a second one only reads, so
//! that a cancel is seen between two batches and the end of input ends the process whatever the engine is doing. Linking it
//! into the agent would save a pipe, and cost the agent its life at the first abort.

mod args;
mod bench;
mod choice;
mod engine;
mod failure;
mod generate;
mod load;
mod memory;
mod pipe;
mod prefix;
mod prompt;
mod queue;
#[cfg(test)]
mod real_weights;
mod running;
mod serve;
mod text;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

fn main() -> anyhow::Result<ExitCode> {
    let args = args::Args::parse();
    match (args.command, args.engine, args.serve) {
        (Some(args::Command::Bench(bench)), ..) => bench::run(&bench),
        (None, Some(engine), Some(serve)) => Ok(serve::run(&engine, &serve)),
        (None, ..) => args::Args::command()
            .error(
                clap::error::ErrorKind::MissingRequiredArgument,
                "--model, --threads and --context are required",
            )
            .exit(),
    }
}
