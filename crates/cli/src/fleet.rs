//! `moe2 fleet`: nodes, experts, what they are doing and where their joules come from.

use moe2_engine::coordinator::{ExpertView, FleetView, NodeView};
use moe2_model::NodeId;

use crate::BadInput;
use crate::client::{Credential, Where};
use crate::out;
use crate::table::{Table, shorten};

/// A calendar that is off by less is not spoken of.
const CLOCK_OFF_S: f64 = 1.0;

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Speeds with `~` are what was expected before the first answer; the others are measured.\n\nExamples:\n  moe2 fleet\n  moe2 fleet --json\n  moe2 fleet revoke orin-1"
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
                speed(
                    expert,
                    expert.prefill_s_per_token,
                    expert.prior_prefill_s_per_token,
                ),
                speed(
                    expert,
                    expert.decode_s_per_token,
                    expert.prior_decode_s_per_token,
                ),
                expert.samples.to_string(),
                node.device.energy_source.to_string(),
            ]);
        }
    }
    format!("{table}\n{} queries under way", fleet.queries)
}

fn state(node: &NodeView) -> String {
    let state = node.state.as_str();
    let state = match &node.reason {
        Some(reason) => format!("{state}: {}", shorten(reason, 40)),
        None => state.to_owned(),
    };
    match node.clock_ahead_s {
        Some(ahead) if ahead >= CLOCK_OFF_S => format!("{state}, clock {ahead:.0} s ahead"),
        Some(ahead) if ahead <= -CLOCK_OFF_S => format!("{state}, clock {:.0} s behind", -ahead),
        _ => state,
    }
}

fn expert_state(expert: &ExpertView) -> String {
    match expert.left_alone_for {
        Some(left) => format!("failing, left alone {:.0} s", left.get().ceil()),
        None => expert.state.as_str().to_owned(),
    }
}

/// What was measured and what was expected; before the first answer the latter only.
fn speed(expert: &ExpertView, measured: f64, expected: f64) -> String {
    let rate = |seconds_per_token: f64| {
        if seconds_per_token > 0.0 {
            format!("{:.0} tok/s", 1.0 / seconds_per_token)
        } else {
            "?".to_owned()
        }
    };
    if expert.samples == 0 {
        format!("~{}", rate(expected))
    } else {
        format!("{} (~{})", rate(measured), rate(expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expert(samples: u64) -> ExpertView {
        let view = serde_json::json!({
            "id": "smol@edge-1",
            "offer": {"name": "smol", "family": "test", "quantisation": "Q4_0", "parameters": 1, "weights": 1,
                "kv_per_token": 1, "context_tokens": 2048, "slots": 1, "load": null},
            "state": "ready", "selected": true, "in_flight": 0, "waiting": 0, "samples": samples,
            "prefill_s_per_token": 0.01, "decode_s_per_token": 0.02,
        });
        serde_json::from_value(view).expect("a view")
    }

    #[test]
    fn what_was_measured_and_what_was_expected_are_both_shown() {
        assert_eq!(speed(&expert(0), 0.01, 0.005), "~200 tok/s");
        assert_eq!(speed(&expert(1), 0.01, 0.005), "100 tok/s (~200 tok/s)");
        assert_eq!(
            speed(&expert(1), 0.01, 0.0),
            "100 tok/s (~?)",
            "of a coordinator from before"
        );
    }

    #[test]
    fn a_calendar_that_is_off_is_a_word_beside_the_state() {
        let mut node: NodeView = serde_json::from_value(serde_json::json!({
            "node": "edge-1", "state": "ready", "reason": null, "silent_for": 0.0, "experts": [],
            "device": {"kind": "cpu", "model": "cpu", "threads": 1, "parallel": 1, "memory": 0, "gpus": [],
                "cpu": null, "gpu": null, "idle_power": 0.0, "busy_power": 0.0, "energy_source": "modelled"},
        }))
        .expect("a view");
        assert_eq!(state(&node), "ready");
        node.clock_ahead_s = Some(-0.2);
        assert_eq!(state(&node), "ready");
        node.clock_ahead_s = Some(-90.4);
        assert_eq!(state(&node), "ready, clock 90 s behind");
        node.clock_ahead_s = Some(7_200.0);
        assert_eq!(state(&node), "ready, clock 7200 s ahead");
    }
}
