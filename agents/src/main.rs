//! `moe2-agent`: offers this machine's experts to a coordinator and does their work.
//!
//! It dials out, keeps one worker process per expert, and measures energy where the machine can. All
//! decisions are the engine's (`moe2_engine::agent`); this binary is its driver.

mod backend;
mod config;
mod driver;
mod experts;
mod link;
mod meter;
mod probe;
mod stub;
mod swarm;
mod upstream;
mod worker;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use moe2_engine::agent::{Config as EngineConfig, Engine};
use moe2_model::{Bytes, DeviceInfo, EnergySource, Time, Watts};
use moe2_models::Cache;
use moe2_net::stop_signal;

use config::Config;

/// How long `probe` watches each meter: rails and counters move many times in it.
const PROBE_METERS_FOR: Duration = Duration::from_secs(2);

/// Hosts experts for a moe2 coordinator.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:\n  moe2-agent --config agent.toml\n  moe2-agent --config agent.toml --check-config\n  moe2-agent probe --json"
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the configuration and the experts' files, report every problem, and stop.
    #[arg(long)]
    check_config: bool,
    /// End when standard input closes, so that whoever started this process never leaves it behind.
    #[arg(long, global = true)]
    exit_on_stdin_close: bool,
    /// Log as JSON.
    #[arg(long)]
    log_json: bool,
    /// NVIDIA's management library, by path or by a name that the loader knows.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MOE2_NVML",
        default_value = "libnvidia-ml.so.1"
    )]
    nvml: OsString,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Describe this machine: CPU, memory, GPUs, sensors, bandwidth and arithmetic.
    Probe {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Threads to measure with; by default all.
        #[arg(long)]
        threads: Option<u32>,
        /// Do not measure.
        #[arg(long)]
        skip: bool,
    },
    /// Many agents with stub experts in this process, for tests of a coordinator.
    #[command(hide = true)]
    Swarm(swarm::Args),
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    start_log(args.log_json);
    let place = meter::Place {
        root: PathBuf::from("/"),
        nvml: args.nvml.clone(),
    };
    let done = match args.command {
        Some(Command::Probe {
            json,
            threads,
            skip,
        }) => print_probe(json, threads, skip, &place),
        Some(Command::Swarm(ref swarm)) => run_swarm(swarm, args.exit_on_stdin_close),
        None => run(&args, place),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            std::process::ExitCode::from(2)
        }
    }
}

fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MOE2_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("info,wgpu_hal=error,wgpu_core=error")
    });
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json { log.json().init() } else { log.init() }
}

fn run(args: &Args, place: meter::Place) -> anyhow::Result<()> {
    let path = args
        .config
        .as_deref()
        .context("name the configuration with --config FILE")?;
    let config = Config::read(path)?;
    let cache = Cache::default_dir()?;
    let hosted = experts::prepare(&config, &cache)?;
    if args.check_config {
        tracing::info!(experts = hosted.len(), "the configuration is sound");
        return Ok(());
    }
    let threads = config.threads.unwrap_or_else(hardware_threads);
    let mut chain = meter::Chain::new(place, config.meter);
    let meter = chain.next_meter();
    let mut device = describe(&config, threads, &cache);
    device.parallel = parallel(&config, &hosted);
    if let Some(meter) = &meter {
        device.energy_source = meter.source();
    } else {
        let (idle, busy) = (device.idle_power.get(), device.busy_power.get());
        tracing::warn!(
            idle,
            busy,
            "no energy sensor is used: joules are modelled from these watts"
        );
    }
    let zero = Instant::now();
    let meter = meter
        .map(|meter| meter::Sampler::start(meter, chain, zero))
        .transpose()?;
    let engine = Engine::new(
        EngineConfig {
            device,
            experts: hosted.iter().map(|h| h.offer.clone()).collect(),
            queue_limit: config.queue,
            seed: u64::from(std::process::id()),
        },
        Time::ZERO,
    );
    let binary = std::env::current_exe()?.with_file_name("moe2-worker");
    let launch = worker::Launch {
        binary,
        model: PathBuf::new(),
        threads,
        context: 0,
        parallel: 1,
        prefixes: 0,
        plain: false,
    };
    let dial = link::Dial {
        coordinator: config.coordinator.clone(),
        node: config.node.clone(),
        identity_dir: config.state_dir.join("identity"),
        join_token_file: config.join_token_file.clone(),
    };
    let parts = driver::Parts {
        engine,
        zero,
        dial,
        hosted,
        launch,
        meter,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        let stop = stop_signal(args.exit_on_stdin_close)?;
        driver::run(parts, stop).await;
        Ok(())
    });
    // Reading standard input cannot be interrupted; waiting for that thread would never end.
    runtime.shutdown_background();
    done
}

fn run_swarm(args: &swarm::Args, exit_on_stdin_close: bool) -> anyhow::Result<()> {
    let device = machine(1, true, None);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        let stop = stop_signal(exit_on_stdin_close)?;
        swarm::run(args, &device, stop).await
    });
    // As above.
    runtime.shutdown_background();
    done
}

/// Only workers need to take turns; stubs do no arithmetic, and a server has its own order. A worker that
/// is alone may have all of its slots busy; several share the cores best when one works at a time.
fn parallel(config: &Config, hosted: &[experts::Hosted]) -> u32 {
    let computes = |h: &&experts::Hosted| matches!(h.run, backend::Run::Worker { .. });
    let mut workers = hosted.iter().filter(computes);
    let usual = match (workers.next(), workers.next()) {
        (None, _) => u32::MAX,
        (Some(alone), None) => alone.offer.slots,
        (Some(_), Some(_)) => 1,
    };
    let parallel = config.parallel.unwrap_or(usual);
    for hosted in hosted.iter().filter(|h| computes(h)) {
        let (expert, slots) = (&hosted.offer.name, hosted.offer.slots);
        if slots > parallel {
            tracing::warn!(%expert, slots, parallel, "it has more slots than the agent works on at once: set the agent's `parallel`");
        }
    }
    parallel
}

fn hardware_threads() -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(threads).unwrap_or(1)
}

fn describe(config: &Config, threads: u32, cache: &Cache) -> DeviceInfo {
    // In the user's cache, not the agent's state: agents of one machine then measure it once, in turn.
    let file = cache.root().join("probe.json");
    let mut device = machine(threads, !config.probe, Some(file));
    if let Some(mb) = config.memory_mb {
        let given = Bytes(mb.saturating_mul(1 << 20));
        // A machine that does not know how much it has takes the operator's word.
        device.memory = match device.memory {
            Bytes(0) => given,
            found => found.min(given),
        };
    }
    if let Some(watts) = config.idle_watts {
        device.idle_power = Watts::saturating(watts);
    }
    if let Some(watts) = config.busy_watts {
        device.busy_power = Watts::saturating(watts);
    }
    device
}

fn machine(threads: u32, skip: bool, cache: Option<PathBuf>) -> DeviceInfo {
    let options = probe::ProbeOptions {
        skip,
        root: PathBuf::from("/"),
        threads,
        cache,
    };
    let found = probe::describe(&options);
    let (idle_power, busy_power) = meter::default_power(found.kind, threads);
    DeviceInfo {
        kind: found.kind,
        model: found.model,
        threads: found.threads,
        parallel: 1,
        memory: found.memory,
        gpus: found.gpus,
        cpu: found.cpu,
        gpu: found.gpu,
        energy_source: EnergySource::Modelled,
        idle_power,
        busy_power,
    }
}

#[allow(clippy::print_stdout)] // the command's output
fn print_probe(
    json: bool,
    threads: Option<u32>,
    skip: bool,
    place: &meter::Place,
) -> anyhow::Result<()> {
    let mut device = machine(threads.unwrap_or_else(hardware_threads), skip, None);
    let mut chain = meter::Chain::new(place.clone(), meter::Choice::Auto);
    if let Some(meter) = chain.next_meter() {
        device.energy_source = meter.source();
    }
    let watched = if skip { None } else { Some(PROBE_METERS_FOR) };
    let meters = meter::survey(place, watched);
    if json {
        let mut described = serde_json::to_value(&device)?;
        described["meters"] = serde_json::to_value(&meters)?;
        println!("{described}");
    } else {
        println!("{}", probe::table(&device));
        for meter in &meters {
            println!("{:<10}{meter}", "meter");
        }
    }
    Ok(())
}
