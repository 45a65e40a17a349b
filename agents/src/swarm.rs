//! Many agents in one process, to see how many a coordinator bears.
//!
//! Whole agents, each with its own certificate, connection and engine; only their experts are stubs and their joules
//! modelled, so that thousands fit one machine. A generator that spoke the protocol by itself would measure another
//! agent than the one that is shipped.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use moe2_engine::agent::{Config as EngineConfig, Engine};
use moe2_model::{Bytes, DeviceInfo, ExpertName, ExpertOffer, NodeId, Time};
use moe2_net::{Identity, Stop, connect};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::backend::Run;
use crate::experts::Hosted;
use crate::{driver, link, worker};

/// Between attempts of a silent node.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `host:port` of the coordinator's QUIC port.
    #[arg(long)]
    coordinator: String,
    /// A folder for each node, named like it, with its token in `join.token`; the certificate goes there, too.
    #[arg(long, value_name = "DIR")]
    nodes: PathBuf,
    /// Milliseconds between the words of an answer.
    #[arg(long, default_value_t = 5)]
    pace_ms: u64,
    /// Instead of agents, so many connections of each node that say nothing once they are admitted.
    #[arg(long, value_name = "CONNECTIONS")]
    silent: Option<usize>,
}

/// Runs them until told to stop.
pub(crate) async fn run(
    args: &Args,
    device: &DeviceInfo,
    stop: watch::Receiver<Stop>,
) -> anyhow::Result<()> {
    let mut nodes = JoinSet::new();
    for (number, folder) in folders(&args.nodes)?.iter().enumerate() {
        let dial = dial(&args.coordinator, folder)?;
        if let Some(connections) = args.silent {
            nodes.spawn(silent(dial, connections, stop.clone()));
            continue;
        }
        let pace = Duration::from_millis(args.pace_ms);
        let parts = parts(dial, (number, pace), device)?;
        nodes.spawn(driver::run(parts, stop.clone()));
    }
    tracing::info!(nodes = nodes.len(), "running");
    while nodes.join_next().await.is_some() {}
    Ok(())
}

fn folders(of: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(of).with_context(|| format!("cannot read {}", of.display()))?;
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    folders.sort();
    Ok(folders)
}

fn dial(coordinator: &str, folder: &Path) -> anyhow::Result<link::Dial> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(link::Dial {
        coordinator: coordinator.to_owned(),
        node: NodeId::new(&name).with_context(|| format!("{}", folder.display()))?,
        identity_dir: folder.join("identity"),
        join_token_file: Some(folder.join("join.token")),
    })
}

fn parts(
    dial: link::Dial,
    (number, pace): (usize, Duration),
    device: &DeviceInfo,
) -> anyhow::Result<driver::Parts> {
    let offer = ExpertOffer {
        name: ExpertName::new("stub-a")?,
        family: "stub".to_owned(),
        quantisation: "none".to_owned(),
        parameters: 1,
        weights: Bytes(1),
        kv_per_token: Bytes(1),
        context_tokens: 2_048,
        slots: 8,
        load: None,
    };
    let engine = Engine::new(
        EngineConfig {
            device: device.clone(),
            experts: vec![offer.clone()],
            queue_limit: 64,
            seed: number as u64,
        },
        Time::ZERO,
    );
    let launch = worker::Launch {
        binary: PathBuf::new(),
        model: PathBuf::new(),
        threads: 1,
        context: offer.context_tokens,
        parallel: offer.slots,
        prefixes: 0,
        plain: false,
    };
    Ok(driver::Parts {
        engine,
        zero: Instant::now(),
        dial,
        hosted: vec![Hosted {
            offer,
            run: Run::Stub { pace },
        }],
        launch,
        meter: None,
    })
}

/// Has so many connections, each of which waits to be thrown out and then comes again.
async fn silent(dial: link::Dial, connections: usize, mut stop: watch::Receiver<Stop>) {
    let all = async {
        let identity = loop {
            match link::identity(&dial).await {
                Ok(identity) => break identity,
                Err(_) => sleep(AGAIN).await,
            }
        };
        let mut each = JoinSet::new();
        for _ in 0..connections {
            each.spawn(say_nothing(dial.coordinator.clone(), identity.clone()));
        }
        each.join_all().await;
    };
    tokio::select! {
        () = all => {}
        _ = stop.wait_for(|stop| *stop != Stop::No) => {}
    }
}

async fn say_nothing(coordinator: String, identity: Identity) {
    loop {
        if let Ok(held) = connect(&coordinator, &identity, SystemTime::now()).await {
            held.closed().await;
        }
        sleep(AGAIN).await;
    }
}
