//! The command line, and what of it stands above the configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use crate::config::Config;
use crate::driver;

/// Routes queries to a fleet of LLM experts inside budgets of delay and energy.
///
/// The configuration file is read again when it changes and at SIGHUP; what cannot hold before a restart is
/// named in the log.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  moe2-coordinator --state-dir ./state\n  moe2-coordinator --config coordinator.toml\n  moe2-coordinator --config coordinator.toml --check-config --json\n\nExit codes: 0 ended in order, or sound; 1 --check-config found faults; 2 could not start, or bad usage."
)]
pub(crate) struct Args {
    /// Configuration file (TOML); without one, the defaults.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Read the configuration, report what is wrong, and stop.
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Report it to standard output as {"sound": BOOL, "faults": [{"key", "why"}]}.
    #[arg(long, requires = "check_config")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
    /// End when standard input closes, so that whoever started this process never leaves it behind.
    #[arg(long)]
    pub(crate) exit_on_stdin_close: bool,
    /// Log as JSON.
    #[arg(long)]
    pub(crate) log_json: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Measure what queries cost the engine's task, and stop; `moe2 bench admission` runs this.
    Bench(driver::bench::Args),
}

/// What stands above the file, whenever it is read.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Overrides {
    /// Where the CA, keys and database are kept; overrides `state_dir`.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Address for clients; overrides `http`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Address for agents; overrides `quic`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) quic: Option<SocketAddr>,
}

impl Overrides {
    /// A configuration with these in it.
    pub(crate) fn over(&self, mut config: Config) -> Config {
        if let Some(dir) = &self.state_dir {
            config.state_dir.clone_from(dir);
        }
        config.http = self.http.unwrap_or(config.http);
        config.quic = self.quic.unwrap_or(config.quic);
        config
    }
}
