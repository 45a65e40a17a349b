//! `moe2 join-token create`: a one-time credential for one machine.

use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use crate::client::{Credential, Where};
use crate::duration::duration;
use crate::out;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  moe2 join-token create --node orin-1 --ttl 1h > orin-1.token")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token; it is shown once and good for one use.
    Create {
        /// The machine's name in the fleet.
        #[arg(long)]
        node: String,
        /// How long it is good for: a number with s, m, h or d.
        #[arg(long, default_value = "1h", value_parser = duration)]
        ttl: Duration,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Where,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let Command::Create {
        node,
        ttl,
        json,
        place,
    } = &args.command;
    let made = place.client(Credential::Admin)?.post(
        "/admin/v1/join-tokens",
        &json!({"node": node, "ttl_seconds": ttl.as_secs()}),
    )?;
    if *json {
        out::json(&made)?;
        return Ok(());
    }
    let token = made["token"]
        .as_str()
        .context("the coordinator sent no token")?;
    out::data(token);
    let address = made["coordinator"].as_str().unwrap_or("?");
    out::note(&format!(
        "On {node}: save it to a file and set, in the agent's configuration,\n  coordinator = \"{address}\"\n  node = \"{node}\"\n  join_token_file = \"…\""
    ));
    Ok(())
}
