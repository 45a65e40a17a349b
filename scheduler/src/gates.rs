//! The gate in force: the shipped one, or a file that is read again whenever it changes.
//!
//! A new file is read and checked beside the old gate, which stays if anything is wrong with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use moe2_engine::coordinator::Input;
use moe2_gate::{Embedder, Gate};

use crate::handle::EngineHandle;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// Encoders from outside, for gates that need one.
pub(crate) type Embedders = Vec<Arc<dyn Embedder>>;

/// Opens the encoders in a folder, if one is named.
///
/// # Errors
/// It has none, or one with a file that is missing or not the one expected.
pub(crate) fn embedders(dir: Option<&Path>) -> anyhow::Result<Embedders> {
    let opened = dir.map(moe2_embed::open_all).transpose();
    Ok(opened.context("encoders")?.unwrap_or_default())
}

/// The gate to start with.
///
/// # Errors
/// The file cannot be read or is no gate.
pub(crate) fn first(path: Option<&Path>, embedders: &Embedders) -> anyhow::Result<Gate> {
    let gate = match path {
        Some(path) => read(path, embedders)?,
        None => Gate::shipped(),
    };
    tracing::info!(kind = gate.kind(), from = gate.provenance(), "gate");
    Ok(gate)
}

fn read(path: &Path, embedders: &Embedders) -> anyhow::Result<Gate> {
    let whose = || format!("the gate {}", path.display());
    let file = std::fs::File::open(path).with_context(whose)?;
    let (gate, _) = Gate::from_reader(file, embedders).with_context(whose)?;
    Ok(gate)
}

/// What tells one state of a file from another without reading it.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// Loads the file again when it changes, until the engine is gone.
pub(crate) async fn watch(path: PathBuf, embedders: Embedders, engine: EngineHandle) {
    let mut known = stamp(&path);
    loop {
        tokio::time::sleep(EVERY).await;
        let now = stamp(&path);
        if now == known || now.is_none() {
            continue;
        }
        known = now;
        let (from, embedders) = (path.clone(), embedders.clone());
        // Large files take a while to check, and the runtime has other work.
        let loaded = tokio::task::spawn_blocking(move || read(&from, &embedders)).await;
        match loaded {
            Ok(Ok(gate)) => {
                tracing::info!(kind = gate.kind(), from = gate.provenance(), "gate loaded");
                if engine
                    .input(Input::GateLoaded(Box::new(gate)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Ok(Err(error)) => tracing::warn!("the old gate stays: {error:#}"),
            Err(error) => tracing::warn!("the old gate stays: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_gate_is_refused_with_its_path() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("gate.json");
        let none = Embedders::new();
        let refused = |text: &str| {
            std::fs::write(&path, text).expect("the file is written");
            format!(
                "{:#}",
                first(Some(&path), &none).expect_err("it is no gate")
            )
        };
        assert!(refused("hello").contains("gate.json: not a gate file"));
        assert!(refused(r#"{"format": "moe2-gate/2"}"#).contains("version 2"));
        std::fs::write(&path, Gate::builtin().to_bytes()).expect("the file is written");
        assert_eq!(
            first(Some(&path), &none).expect("it is a gate").kind(),
            "priors"
        );
        assert_eq!(first(None, &none).expect("one ships").kind(), "trained");
    }
}
