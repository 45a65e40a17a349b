//! `moe2 fleet`: nodes, experts, what they are doing and where their joules come from.

use moe2_engine::coordinator::{ExpertView, FleetView, NodeView};
use moe2_model::NodeId;

use crate::BadInput;
use crate::client::{Credential, Where};
use crate::out;
use crate::table::{Table, shorten};

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  moe2 fleet\n  moe2 fleet --json\n  moe2 fleet revoke orin-1"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Take a machine's certificates and unused join tokens back: it is cut off, and comes back with a new token
    /// only.
    Revoke {
        /// The machine's name in the fleet.
        node: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Where,
    },
}

fn revoke(node: &str, json: bool, place: &Where) -> anyhow::Result<()> {
    // It becomes a part of the path.
    let node = NodeId::new(node).map_err(|error| BadInput(error.to_string()))?;
    let client = place.client(Credential::Admin)?;
    let path = format!("/admin/v1/fleet/{node}/revoke");
    let taken = client.post(&path, &serde_json::json!({}))?;
    if json {
        out::json(&taken)?;
        return Ok(());
    }
    let (certificates, tokens) = (&taken["certificates"], &taken["tokens"]);
    out::data(&format!(
        "{node}: certificates taken back: {certificates}, unused join tokens: {tokens}"
    ));
    out::note(&format!(
        "To let it in again: moe2 join-token create --node {node}"
    ));
    Ok(())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(Command::Revoke { node, json, place }) = &args.command {
        return revoke(node, *json, place);
    }
    let client = args.place.client(Credential::Admin)?;
    let fleet = client.get("/admin/v1/fleet")?;
    if args.json {
        out::json(&fleet)?;
        return Ok(());
    }
    let fleet: FleetView = serde_json::from_value(fleet)?;
    out::data(&render(&fleet));
    Ok(())
}

fn render(fleet: &FleetView) -> String {
    if fleet.nodes.is_empty() {
        return "no node has joined yet".to_owned();
    }
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        "EXPERT",
        "EXPERT STATE",
        "BUSY",
        "WAITING",
        "PREFILL",
        "DECODE",
        "SAMPLES",
        "ENERGY",
    ]);
    for node in &fleet.nodes {
        for expert in &node.experts {
            table.row([
                node.node.to_string(),
                state(node),
                expert.id.name.to_string(),
                expert_state(expert),
                expert.in_flight.to_string(),
                expert.waiting.to_string(),
                rate(expert.prefill_s_per_token),
                rate(expert.decode_s_per_token),
                expert.samples.to_string(),
                node.device.energy_source.to_string(),
            ]);
        }
    }
    format!("{table}\n{} queries under way", fleet.queries)
}

fn state(node: &NodeView) -> String {
    let state = node.state.as_str();
    match &node.reason {
        Some(reason) => format!("{state}: {}", shorten(reason, 40)),
        None => state.to_owned(),
    }
}

fn expert_state(expert: &ExpertView) -> String {
    match expert.left_alone_for {
        Some(left) => format!("failing, left alone {:.0} s", left.get().ceil()),
        None => expert.state.as_str().to_owned(),
    }
}

fn rate(seconds_per_token: f64) -> String {
    if seconds_per_token > 0.0 {
        format!("{:.0} tok/s", 1.0 / seconds_per_token)
    } else {
        "?".to_owned()
    }
}
