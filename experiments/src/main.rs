//! `moe2-experiments`: declared experiments, their records, and the instances they are made of.
//!
//! An experiment is a row of a table (`experiment`) with a name and what it measures; a run verifies what
//! it measures and writes the raw samples with the machine and the time to `experiments/record/`.

mod batching;
mod chaos;
mod experiment;
mod fleet;
mod gate;
mod instance;
mod live;
mod record;
mod scale;
mod sim;
mod soak;
mod solver;
mod strangers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use moe2_gate::Embedder;
use serde_json::Value;

use experiment::{Action, EXPERIMENTS};
use instance::real::{Testbed, Tightness};
use instance::synthetic::{Family, Spec};
use instance::{outcomes, profiles};

/// Runs moe2's experiments and keeps their records.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:\n  moe2-experiments run solver-targets\n  moe2-experiments run solver-real --data DIR\n  moe2-experiments instance graded --experts 48 --rows 3000 --budgets 0.15 > graded.json\n  moe2-experiments mmlu --data DIR --devices 4 --standing 0.1 > mmlu.json"
)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Show the experiments.
    List,
    /// Run one and write its record.
    Run {
        /// Which.
        name: String,
        /// Where records go.
        #[arg(long, default_value = "experiments/record")]
        record: PathBuf,
        /// Folder with the public data sets that some experiments need.
        #[arg(long, env = "MOE2_DATA", value_name = "DIR")]
        data: Option<PathBuf>,
        /// Folder with the files of text encoders, a folder each; without it only hashed n-grams are there.
        #[arg(long, env = "MOE2_ENCODERS", value_name = "DIR")]
        encoders: Option<PathBuf>,
        /// Folder with moe2's programs, for experiments on a running system; by default that of this one.
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// Rounds of experiments that have them.
        #[arg(long)]
        rounds: Option<usize>,
        /// Seed of experiments that draw what they do.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Small sizes, to see that it runs.
        #[arg(long)]
        smoke: bool,
        /// Most minutes, of experiments that can stop early; what was done by then is in the record.
        #[arg(long)]
        minutes: Option<f64>,
        /// Print the record, not where it is.
        #[arg(long)]
        json: bool,
    },
    /// Print a synthetic selection instance.
    Instance {
        /// Which family.
        family: Family,
        /// Number of experts.
        #[arg(long, default_value_t = 48)]
        experts: usize,
        /// Number of calibration rows.
        #[arg(long, default_value_t = 3_000)]
        rows: usize,
        /// Seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many experts answer one row.
        #[arg(long, default_value_t = 1)]
        k: usize,
        /// Limits of the budget rows, as shares of the sum of all costs.
        #[arg(long, value_delimiter = ',', default_value = "0.15")]
        budgets: Vec<f64>,
        /// Better experts do not cost more.
        #[arg(long)]
        flat: bool,
    },
    /// Print a selection instance from MMLU-Pro answers and device profiles.
    Mmlu {
        /// Folder with the public data sets.
        #[arg(long, env = "MOE2_DATA", value_name = "DIR")]
        data: PathBuf,
        /// Devices, 1 to 4: RTX 4090, Orin AGX MAXN, Orin AGX 30 W, laptop CPU.
        #[arg(long, default_value_t = 4)]
        devices: usize,
        /// Standing power as a share of that of everything.
        #[arg(long, default_value_t = 0.1)]
        standing: f64,
        /// Delay limits as a quantile of the deployments' worst cases.
        #[arg(long, default_value_t = 0.8)]
        delay: f64,
        /// How many experts answer one prompt.
        #[arg(long, default_value_t = 1)]
        k: usize,
    },
}

/// What a measurement is given.
#[derive(Debug)]
pub(crate) struct Setting {
    data: Option<PathBuf>,
    encoders: Option<PathBuf>,
    bin: Option<PathBuf>,
    pub(crate) rounds: Option<usize>,
    pub(crate) seed: u64,
    pub(crate) smoke: bool,
    /// What is being done then is finished.
    until: Option<Instant>,
    quiet: bool,
}

impl Setting {
    /// The folder with the public data sets.
    pub(crate) fn data(&self) -> anyhow::Result<&Path> {
        self.data
            .as_deref()
            .context("this needs public data sets: name their folder with --data")
    }

    /// The encoders that there are files for; none where their folder is not named.
    pub(crate) fn embedders(&self) -> anyhow::Result<Vec<Arc<dyn Embedder>>> {
        let opened = self.encoders.as_deref().map(moe2_embed::open_all);
        Ok(opened.transpose()?.unwrap_or_default())
    }

    /// One of moe2's programs.
    ///
    /// # Errors
    /// It has not been built.
    pub(crate) fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe()?;
        let beside = own.parent().context("this program is in no folder")?;
        let path = self.bin.as_deref().unwrap_or(beside).join(name);
        if !path.is_file() {
            bail!(
                "{} is missing: build it with `make build`, or name its folder with --bin",
                path.display()
            );
        }
        Ok(path)
    }

    /// Whether there is time for more.
    pub(crate) fn goes_on(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// A line of progress.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// Where tests find the data sets, if they are there; they skip with a word otherwise.
#[cfg(test)]
pub(crate) fn data() -> Option<PathBuf> {
    let named = std::env::var_os("MOE2_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let found = named
        .into_iter()
        .chain([beside])
        .find(|dir| dir.join("device_profiles.csv").is_file());
    if found.is_none() {
        println!("skipped: no data sets; set MOE2_DATA to their folder");
    }
    found
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing else can be done about a standard error that is closed.
            let _ = writeln!(std::io::stderr(), "moe2-experiments: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Subcommands) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        Subcommands::List => {
            for experiment in EXPERIMENTS {
                let (name, needs) = (experiment.name, experiment.needs.as_str());
                writeln!(out, "{name:<28}  {needs:<8}  {}", experiment.what)?;
            }
        }
        Subcommands::Run {
            name,
            record,
            data,
            encoders,
            bin,
            rounds,
            seed,
            smoke,
            minutes,
            json,
        } => {
            let until = minutes.map(|m| Duration::try_from_secs_f64(m * 60.0));
            let until = until.transpose().context("--minutes must be above 0")?;
            let setting = Setting {
                data,
                encoders,
                bin,
                rounds,
                seed,
                smoke,
                until: until.and_then(|time| Instant::now().checked_add(time)),
                quiet: false,
            };
            let (file, missed) = measure(&name, &record, &setting)?;
            if json {
                write!(out, "{}", std::fs::read_to_string(&file)?)?;
            } else {
                writeln!(out, "{}", file.display())?;
            }
            if !missed.is_empty() {
                bail!(
                    "the record is kept, but this does not hold: {}",
                    missed.join("; ")
                );
            }
        }
        Subcommands::Instance {
            family,
            experts,
            rows,
            seed,
            k,
            budgets,
            flat,
        } => {
            let problem = instance::synthetic::instance(&Spec {
                family,
                experts,
                rows,
                seed,
                k,
                budgets: &budgets,
                dear: !flat,
            });
            writeln!(out, "{}", moe2_solve::write_instance(&problem))?;
        }
        Subcommands::Mmlu {
            data,
            devices,
            standing,
            delay,
            k,
        } => {
            let questions = outcomes::read(&data.join("mmlu_pro_29llm.jsonl.zst"))?;
            let all = profiles::devices(&data.join("device_profiles.csv"))?;
            if !(1..=all.len()).contains(&devices) {
                bail!("--devices must be from 1 to {}", all.len());
            }
            let testbed = Testbed::new(&questions, &all[..devices]);
            let problem = testbed.selection(Tightness { standing, delay, k });
            writeln!(out, "{}", moe2_solve::write_instance(&problem))?;
        }
    }
    Ok(())
}

/// Runs an experiment; returns where its record is, and what it says does not hold.
fn measure(name: &str, record: &Path, setting: &Setting) -> anyhow::Result<(PathBuf, Vec<String>)> {
    let Some(experiment) = EXPERIMENTS.iter().find(|e| e.name == name) else {
        bail!("no experiment is called {name}; `moe2-experiments list` shows them");
    };
    let result = match experiment.action {
        Action::Measure(measure) => measure(setting)?,
        Action::Moe2(arguments) => {
            moe2(&setting.program("moe2")?, arguments).with_context(|| name.to_owned())?
        }
    };
    let missed = result["missed"].as_array().into_iter().flatten();
    let missed = missed
        .filter_map(|m| m.as_str().map(str::to_owned))
        .collect();
    let file = record::write(record, name, experiment.what, result)?;
    Ok((file, missed))
}

fn moe2(program: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = Command::new(program)
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("it ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("its output is not JSON")
}
