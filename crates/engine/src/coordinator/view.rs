//! A snapshot of the fleet for people, `/v1/models` and `moe2 fleet`.

use moe2_model::{DeviceInfo, ExpertId, ExpertOffer, ExpertState, NodeId, Seconds};
use serde::{Deserialize, Serialize};

/// How the coordinator sees a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Connected and heard from lately.
    Ready,
    /// Connected, but its heartbeats are late: it gets no new work.
    Suspect,
    /// Finishing what it has.
    Draining,
    /// Lost or left; shown for a while.
    Gone,
}

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
    /// In the active set the planner chose.
    pub selected: bool,
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
    /// Experts that can take work now.
    pub fn ready_experts(&self) -> impl Iterator<Item = &ExpertView> {
        self.nodes
            .iter()
            .filter(|n| n.state == NodeState::Ready)
            .flat_map(|n| &n.experts)
            .filter(|e| e.state == ExpertState::Ready)
    }

    /// Those of them that are in the active set: who gets queries for `auto`.
    pub fn active_experts(&self) -> impl Iterator<Item = &ExpertView> {
        self.ready_experts().filter(|e| e.selected)
    }
}
