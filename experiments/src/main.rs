//! `moe2-experiments`: declared experiments, their records and figures.
//!
//! An experiment is a row of a table with a name, what it measures and the command that runs it; a run
//! writes its raw output with the machine and the time to `experiments/record/`. So far there are the
//! speed measurements of `moe2 bench`; each issue of the road map adds its own rows.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// Runs moe2's experiments and keeps their records.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Example:\n  moe2-experiments run overhead"
)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the experiments.
    List,
    /// Run one and write its record.
    Run {
        /// Which.
        name: String,
        /// Where records go.
        #[arg(long, default_value = "experiments/record")]
        record: PathBuf,
    },
}

/// One experiment.
struct Experiment {
    name: &'static str,
    what: &'static str,
    /// Arguments of `moe2`; its output is one JSON object.
    arguments: &'static [&'static str],
}

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "overhead",
        what: "coordinator time per request at 500/s with stub experts",
        arguments: &[
            "bench",
            "overhead",
            "--rate",
            "500",
            "--seconds",
            "20",
            "--json",
        ],
    },
    Experiment {
        name: "throughput-smollm2",
        what: "tokens/s through the system against the engine alone, SmolLM2 135M, 2 threads",
        arguments: &[
            "bench",
            "throughput",
            "--model",
            "smollm2-135m-instruct",
            "--json",
        ],
    },
    Experiment {
        name: "throughput-smollm2-1-thread",
        what: "the same with 1 thread, which leaves a core of two to the rest of the system",
        arguments: &[
            "bench",
            "throughput",
            "--model",
            "smollm2-135m-instruct",
            "--threads",
            "1",
            "--json",
        ],
    },
    Experiment {
        name: "throughput-qwen",
        what: "tokens/s through the system against the engine alone, Qwen2.5-Coder 0.5B, 2 threads",
        arguments: &[
            "bench",
            "throughput",
            "--model",
            "qwen2.5-coder-0.5b-instruct",
            "--json",
        ],
    },
];

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Action::List => list(),
        Action::Run { name, record } => run(&name, &record),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing else can be done about a standard error that is closed.
            let _ = writeln!(std::io::stderr(), "moe2-experiments: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for experiment in EXPERIMENTS {
        writeln!(out, "{:<20}  {}", experiment.name, experiment.what)?;
    }
    Ok(())
}

fn run(name: &str, record: &Path) -> anyhow::Result<()> {
    let Some(experiment) = EXPERIMENTS.iter().find(|e| e.name == name) else {
        bail!("no experiment is called {name}; `moe2-experiments list` shows them");
    };
    let program = std::env::current_exe()?.with_file_name("moe2");
    let output = Command::new(&program)
        .args(experiment.arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| {
            format!(
                "cannot run {}: build it with `make build`",
                program.display()
            )
        })?;
    if !output.status.success() {
        bail!("{name} ended with {}", output.status);
    }
    let result: Value = serde_json::from_slice(&output.stdout).context("its output is not JSON")?;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let dir = record.join(format!("{unix}-{name}"));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let whole = json!({"experiment": name, "what": experiment.what, "unix_seconds": unix,
        "arguments": experiment.arguments, "machine": machine(), "result": result});
    let file = dir.join("record.json");
    fs::write(&file, serde_json::to_string_pretty(&whole)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    writeln!(std::io::stdout(), "{}", file.display())?;
    Ok(())
}

/// What a reader needs to know of the machine.
fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let threads = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({"cpu": model.map(|(_, name)| name), "threads": threads})
}

#[cfg(test)]
mod tests {
    use super::EXPERIMENTS;

    #[test]
    fn every_experiment_has_a_name_of_its_own_and_asks_for_json() {
        for (n, experiment) in EXPERIMENTS.iter().enumerate() {
            assert!(
                experiment.arguments.contains(&"--json"),
                "{}",
                experiment.name
            );
            assert!(
                EXPERIMENTS[..n]
                    .iter()
                    .all(|other| other.name != experiment.name)
            );
        }
    }
}
