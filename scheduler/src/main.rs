//! `moe2-coordinator`: takes queries over HTTP and has a fleet of agents answer them over QUIC.
//!
//! All decisions are the engine's (`moe2_engine::coordinator`); this binary gives it sockets, a clock,
//! a database and a log. Start-up goes from the state directory to the ports, and anything that is
//! wrong ends it with one message before a port is open.

mod admin;
mod args;
mod books;
mod config;
mod driver;
mod gates;
mod handle;
mod http;
mod join;
mod peer;
mod planner;
mod profiles;
mod records;
mod reload;
mod roster;
mod sparing;
mod state;
mod store;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use axum::serve::ListenerExt;
use clap::Parser;
use moe2_engine::coordinator::Engine;
use moe2_metrics::Metrics;
use moe2_net::{Accepted, Listener, Stop, stop_signal};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use args::{Args, Command};
use books::Tenants;
use config::read::Fault;
use config::{Config, Faults};
use handle::EngineHandle;
use join::Registrar;
use records::{Recorder, Records};
use reload::Reloader;
use roster::Roster;
use sparing::Sparing;
use state::StateDir;
use store::Store;

/// Longest that writing the books up may keep this process from ending.
const BOOKS_CLOSE_WITHIN: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let args = Args::parse();
    start_log(args.log_json);
    let ran = match &args.command {
        Some(Command::Bench(bench)) => driver::bench::run(bench).map(|()| ExitCode::SUCCESS),
        None if args.check_config => check(&args),
        None => run(args).map(|()| ExitCode::SUCCESS),
    };
    ran.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::from(2)
    })
}

/// Says whether the configuration is sound; ends with 1 if it is not.
fn check(args: &Args) -> Result<ExitCode> {
    let faults = match Config::read(args.config.as_deref()) {
        Ok(_) => Vec::new(),
        Err(Faults(faults)) => faults,
    };
    let sound = faults.is_empty();
    if args.json {
        let report = serde_json::json!({"sound": sound, "faults": faults});
        writeln!(std::io::stdout(), "{report}").context("the report was not written")?;
    } else if sound {
        tracing::info!("the configuration is sound");
    }
    for Fault { key, why } in faults.iter().filter(|_| !args.json) {
        tracing::error!(key, why, "the configuration cannot be used");
    }
    Ok(ExitCode::from(u8::from(!sound)))
}

fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MOE2_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json { log.json().init() } else { log.init() }
}

fn run(args: Args) -> Result<()> {
    let read = Config::read(args.config.as_deref());
    let (config, text) = read.with_context(|| match &args.config {
        Some(path) => path.display().to_string(),
        None => "without a file".to_owned(),
    })?;
    let config = args.overrides.over(config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(serve(config, (args, text)));
    // Reading standard input cannot be interrupted; waiting for that thread would never end.
    runtime.shutdown_background();
    done
}

async fn serve(config: Config, (args, text): (Args, String)) -> Result<()> {
    let state = StateDir::open(&config.state_dir)?;
    let store = Store::open(&state.database())
        .with_context(|| format!("cannot open the database {}", state.database().display()))?;
    let authority = state.authority()?;
    let admin_key = state.secret("admin.key")?;
    let books = open_books(&config, &state)?;
    let fixed = roster::fixed(&config, &state)?;
    let roster = Arc::new(Roster::new(fixed, Tenants::new(&state.database()))?);
    let keys = roster.keys.clone();

    let http_listener = TcpListener::bind(config.http).await.with_context(|| {
        format!(
            "cannot listen on {} for clients: choose another with --http or `http`",
            config.http
        )
    })?;
    let registrar = Arc::new(Registrar::new(authority, store, config.certificate_life())?);
    let quic_listener = registrar.listen(config.quic)?;
    let (http_addr, quic_addr) = (http_listener.local_addr()?, quic_listener.local_addr());
    let advertise = config
        .advertise
        .clone()
        .unwrap_or_else(|| dialable(quic_addr));

    let metrics = Metrics::new()?;
    let recorder = recorder(&config, &state, &metrics)?;
    let records = recorder.is_some().then(|| Records::new(&state.records()));
    let told = (metrics.clone(), recorder);
    let (engine, driver) = start_engine(&config, &roster, books, told)?;
    let around = reload::Surroundings {
        roster: roster.clone(),
        state: state.clone(),
        engine: engine.clone(),
        metrics: metrics.clone(),
    };
    if let Some(path) = args.config {
        let file = Reloader::new((path, text), (config.clone(), args.overrides), around);
        let hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        tokio::spawn(file.watch(hangups));
    }
    tokio::spawn(accept_agents(
        quic_listener,
        engine.clone(),
        registrar.clone(),
    ));

    let api = http::Api {
        engine: engine.clone(),
        keys,
        limits: http::Limits {
            max_body: config.limits.body_bytes,
            max_output_tokens: config.limits.output_tokens,
            ..http::Limits::default()
        },
        started: SystemTime::now(),
    };
    let counted = metrics.clone();
    let admin = admin::Admin {
        engine,
        registrar,
        metrics,
        key_sha256: state::hash(&admin_key),
        advertise: advertise.clone(),
        roster,
        database: state.database(),
        records,
    };
    let books = admin.engine.clone();
    let router = http::router(api).merge(http::error::wrap(admin::router(admin)));
    state.write_endpoints(&serde_json::json!({
        "http": http_addr, "quic": quic_addr, "advertise": advertise, "pid": std::process::id(),
    }))?;
    tracing::info!(http = %http_addr, quic = %quic_addr, "ready for clients and agents");
    // Tokens are small writes; without this each would wait for the one before to be acknowledged.
    let http_listener = http_listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let bounds = config.limits.connections();
    let bounds = bounds.within_descriptors(config.limits.queries);
    let stop = stop_signal(args.exit_on_stdin_close).context("cannot listen for signals")?;
    let done = tokio::select! {
        () = http::server::serve(http_listener, router, bounds, stop.clone(), counted) => Ok(()),
        _ = driver => Err(anyhow::anyhow!("the engine's task ended")),
        () = stopped(stop, books.clone(), config.drain()) => Ok(()),
    };
    books.close_books(BOOKS_CLOSE_WITHIN).await;
    done
}

fn open_books(config: &Config, state: &StateDir) -> Result<books::Opened> {
    let books = books::open(&state.database(), books::now(), config.keep_usage())
        .with_context(|| format!("cannot open the books in {}", state.database().display()))?;
    for (tenant, joules) in &books.crashed {
        tracing::warn!(%tenant, joules, "charged for work under way when the process before ended");
    }
    Ok(books)
}

/// What keeps how queries went, if it is to be kept.
fn recorder(config: &Config, state: &StateDir, metrics: &Metrics) -> Result<Option<Recorder>> {
    if config.explanations_mb == 0 {
        return Ok(None);
    }
    let (path, most) = (state.records(), u64::from(config.explanations_mb) << 20);
    let recorder = Recorder::start(&path, most, metrics.clone());
    let recorder = recorder.with_context(|| format!("cannot record to {}", path.display()))?;
    Ok(Some(recorder))
}

/// The engine's task, and what reads its gate again when the file changes.
fn start_engine(
    config: &Config,
    roster: &Roster,
    books: books::Opened,
    told: (Metrics, Option<Recorder>),
) -> Result<(EngineHandle, tokio::task::JoinHandle<()>)> {
    let embedders = gates::embedders(config.encoders.as_deref())?;
    let mut settings = config.engine();
    settings.plan.tenants = roster.limits();
    settings.past = books.past;
    if let Some(path) = &config.profiles {
        settings.profiles = profiles::read(path)?;
        tracing::info!(
            rows = settings.profiles.len(),
            "read the table of speeds measured elsewhere"
        );
    }
    let first = settings.first_dispatch;
    settings.plan.closed = true;
    let gate = gates::first(config.gate.as_deref(), &embedders)?;
    // Reading a gate takes a while, and the engine's clock begins now.
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    settings.epoch = u64::try_from(since_epoch.as_micros()).unwrap_or(0);
    let engine = Engine::new(settings, gate);
    let database = (books.database, config.keep_usage());
    let (engine, driver) = driver::spawn(engine, told, (first, Some(database)))
        .context("cannot start the thread that writes the books")?;
    if let Some(path) = config.gate.clone() {
        tokio::spawn(gates::watch(path, embedders, engine.clone()));
    }
    Ok((engine, driver))
}

/// An address that agents can dial: `0.0.0.0` is none, and on the same machine loopback is.
fn dialable(quic: SocketAddr) -> String {
    if !quic.ip().is_unspecified() {
        return quic.to_string();
    }
    tracing::warn!(
        "agents on other machines need an address to dial: set `advertise` to this machine's"
    );
    format!("127.0.0.1:{}", quic.port())
}

async fn accept_agents(mut listener: Listener, engine: EngineHandle, registrar: Arc<Registrar>) {
    let unheard = peer::unheard();
    let sparing = Sparing::new(Instant::now());
    while let Some(accepted) = listener.accept().await {
        match accepted {
            Accepted::Agent(connection) => {
                tokio::spawn(peer::serve(connection, engine.clone(), unheard.clone()));
            }
            Accepted::Join(connection) => {
                tokio::spawn(registrar.clone().serve(connection));
            }
            Accepted::Rejected { remote, reason } => {
                if let Some(unsaid) = sparing.line(Instant::now()) {
                    tracing::warn!(%remote, reason, unsaid, "connection refused");
                }
            }
        }
    }
}

/// Resolves when what is still under way has had its time.
async fn stopped(mut stop: watch::Receiver<Stop>, engine: EngineHandle, patience: Duration) {
    let told = stop.wait_for(|stop| *stop != Stop::No).await;
    let drained = told.is_ok_and(|stop| *stop == Stop::Drained);
    if drained {
        let queries = engine.fleet().queries;
        tracing::info!(queries, "finishing what is under way");
        tokio::select! {
            _ = stop.wait_for(|stop| *stop == Stop::Now) => {}
            () = tokio::time::sleep(patience) => {
                tracing::warn!("queries that are still under way are cut off");
            }
        }
    }
}
