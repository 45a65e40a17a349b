//! A snapshot of the fleet for people, `/v1/models` and `moe2 fleet`.

use moe2_model::{DeviceInfo, ExpertId, ExpertOffer, ExpertState, NodeId, Seconds};
use serde::{Deserialize, Serialize};

use super::health::NodeState;

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub node: NodeId,
    /// State.
    pub state: NodeState,
    /// Why it is not ready, if it is not.
    pub reason: Option<String>,
    /// Since its last message.
    pub silent_for: Seconds,
    /// Seconds that its calendar is ahead of the coordinator's, less than nothing if it is behind, by its last
    /// heartbeat and with what that took on its way; none before the first.
    #[serde(default)]
    pub clock_ahead_s: Option<f64>,
    /// The machine.
    pub device: DeviceInfo,
    /// Its experts.
    pub experts: Vec<ExpertView>,
}

/// One expert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpertView {
    /// Who.
    pub id: ExpertId,
    /// What the agent says of it.
    pub offer: ExpertOffer,
    /// Whether it can take work.
    pub state: ExpertState,
    /// Whether it takes work, or is brought into memory if it is given some.
    #[serde(default)]
    pub servable: bool,
    /// In the active set the planner chose.
    pub selected: bool,
    /// How long it is left alone because it failed again and again, if it is.
    #[serde(default)]
    pub left_alone_for: Option<Seconds>,
    /// Dispatches under way or queued there.
    pub in_flight: usize,
    /// Work that waits for it at the coordinator.
    pub waiting: usize,
    /// Measured prompt processing in seconds per token, with its sample count; roofline when 0.
    pub prefill_s_per_token: f64,
    /// Measured generation in seconds per token.
    pub decode_s_per_token: f64,
    /// Measured requests behind the two figures.
    pub samples: u64,
    /// Prompt processing as expected before anything was measured, in seconds per token.
    #[serde(default)]
    pub prior_prefill_s_per_token: f64,
    /// Generation as expected before anything was measured, in seconds per token.
    #[serde(default)]
    pub prior_decode_s_per_token: f64,
}

/// The whole fleet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FleetView {
    /// All nodes, by name.
    pub nodes: Vec<NodeView>,
    /// Queries under way.
    pub queries: usize,
}

impl FleetView {
    /// Experts that can take work now, or would be loaded for it.
    pub fn ready_experts(&self) -> impl Iterator<Item = &ExpertView> {
        self.nodes
            .iter()
            .filter(|n| n.state == NodeState::Ready)
            .flat_map(|n| &n.experts)
            .filter(|e| e.servable)
    }

    /// Those of them that are in the active set: who gets queries for `auto`.
    pub fn active_experts(&self) -> impl Iterator<Item = &ExpertView> {
        self.ready_experts().filter(|e| e.selected)
    }
}
