//! The command line. The agent writes it; a person only when debugging or measuring.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Hosts one expert; speaks frames on standard input and output.
#[derive(Debug, Parser)]
#[command(
    name = "moe2-worker",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  moe2-worker --model qwen.gguf --threads 2 --context 2048\n  \
                  moe2-worker bench --model qwen.gguf --threads 2 --json"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) engine: Option<EngineArgs>,
    #[command(flatten)]
    pub(crate) serve: Option<ServeArgs>,
}

/// What to do other than serve.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure the engine alone: tokens per second of prefill and decode, without pipes.
    #[command(
        after_help = "Examples:\n  moe2-worker bench --model qwen.gguf --threads 2 --json\n  \
                      moe2-worker bench --model qwen.gguf --threads 2 --streams 1,2,4 --system-tokens 500"
    )]
    Bench(BenchArgs),
}

/// Where the model is and how it may be run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EngineArgs {
    /// GGUF file of the model.
    #[arg(long, value_name = "PATH")]
    pub(crate) model: PathBuf,
    /// Threads the engine may use.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Most prompt tokens per step, fewer beside answers; a cancel is seen between two steps.
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=8192))]
    pub(crate) batch: u16,
    /// Ended sequences to keep in the cache for prompts that begin alike; 0 reuses nothing, so that
    /// no answer depends on what others asked.
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) prefixes: u16,
    /// Let the engine log to standard error.
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// Arguments of the worker proper, besides [`EngineArgs`]; clap cannot have both in one optional
/// group.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServeArgs {
    /// Tokens of prompt and answer together; capped at what the model was trained for.
    #[arg(long, value_name = "TOKENS")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=16_777_216))]
    pub(crate) context: u32,
    /// Requests to work on at once, each with a context of its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) parallel: u16,
    /// How chats become text; a model without a template is always asked plainly.
    #[arg(long, value_enum, default_value_t = Chat::Template)]
    pub(crate) chat: Chat,
}

/// How chats become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Chat {
    /// The model's own chat template.
    Template,
    /// `Question:` and `Answer:` turns, for models without chat tuning.
    Plain,
}

/// Arguments of `bench`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Tokens of prompt.
    #[arg(long, default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) prompt_tokens: u32,
    /// Tokens of answer.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub(crate) output_tokens: u32,
    /// Repetitions, after one that warms up.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// Also measure so many answers in one batch against one after the other.
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) streams: Vec<u16>,
    /// Also measure the time to the first token after a beginning of so many tokens, in the cache
    /// and not.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub(crate) system_tokens: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serving_needs_no_subcommand_and_measuring_needs_no_context() {
        let serve =
            Args::try_parse_from(["w", "--model", "m", "--threads", "2", "--context", "64"]);
        let serve = serve.unwrap();
        assert!(
            serve
                .engine
                .is_some_and(|engine| engine.threads == 2 && engine.batch == 256)
        );
        assert!(serve.serve.is_some_and(|serve| serve.context == 64));
        let bench = Args::try_parse_from(["w", "bench", "--model", "m", "--threads", "2"]);
        assert!(bench.unwrap().command.is_some());
        assert!(Args::try_parse_from(["w", "--model", "m", "--context", "64"]).is_err());
    }
}
