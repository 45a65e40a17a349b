//! Many agents in one process of `moe2-agent`, for a coordinator to bear.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::processes::{Coordinator, Process, Programs};

/// Nodes that have a token and no certificate yet.
#[derive(Debug)]
pub(crate) struct Herd {
    dir: PathBuf,
    /// A folder for each.
    folders: Vec<PathBuf>,
}

impl Herd {
    /// Makes tokens for so many nodes, `herd-0` and so on, in a folder for each under `dir`.
    ///
    /// # Errors
    /// The coordinator makes none, or the disk is full.
    pub(crate) fn tokens(
        coordinator: &Coordinator,
        dir: &Path,
        nodes: usize,
    ) -> anyhow::Result<Self> {
        let mut folders = Vec::new();
        for number in 0..nodes {
            let node = format!("{}-{number}", name_of(dir));
            let folder = dir.join(&node);
            fs::create_dir_all(&folder)?;
            let token = coordinator.token(&node)?;
            fs::write(folder.join("join.token"), token)?;
            folders.push(folder);
        }
        Ok(Self {
            dir: dir.to_owned(),
            folders,
        })
    }

    /// Whether every node has its certificate.
    pub(crate) fn have_joined(&self) -> bool {
        let mut folders = self.folders.iter();
        folders.all(|folder| folder.join("identity/identity.pem").is_file())
    }

    /// Starts them, or so many connections of each that say nothing. The process ends when it is dropped.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn start(
        &self,
        programs: &Programs,
        coordinator: &Coordinator,
        silent: Option<usize>,
    ) -> anyhow::Result<Process> {
        let mut command = Command::new(&programs.agent);
        // Thousands of lines of being connected are of no use.
        command.env("MOE2_LOG", "error");
        command.args(["swarm", "--coordinator"]);
        command.arg(format!("127.0.0.1:{}", coordinator.port));
        command.arg("--nodes").arg(&self.dir);
        if let Some(connections) = silent {
            command.arg("--silent").arg(connections.to_string());
        }
        let log = self.dir.with_extension("log");
        Process::start(command, &log).context("the swarm cannot be started")
    }
}

fn name_of(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
