//! The coarse level: which experts form the active set S (MATH 2.1).
//!
//! The instance is built from what is known without queries: the gate's forecast for one typical
//! prompt per topic, and one `sum` row per device for its memory. Solving may take long, so the
//! engine only hands the instance out; the driver solves it on a worker and returns the set, and a
//! result for an older fleet is dropped. The solver may leave out experts that add nothing to the
//! objective; some optimum is a maximal feasible set, so those that still fit are added back: a spare
//! expert shortens queues and stands in when another is lost.

use std::collections::{BTreeMap, BTreeSet};

use moe2_gate::{Gate, QueryFeatures};
use moe2_model::{
    Budgets, ExpertId, ExpertState, Message, Mode, NodeId, Prompt, Query, Role, Sampling, Target,
    Task, TenantId,
};
use moe2_solve::{
    Constraint, FEASIBILITY_TOLERANCE, Kind, Problem, ProblemError, ProblemParts, load,
};

use super::fleet::{Expert, Fleet};

/// A selection problem with the experts its columns stand for.
#[derive(Debug, Clone)]
pub struct PlanRequest {
    /// Counts fleets; a result is used only for the latest.
    pub generation: u64,
    /// The instance.
    pub problem: Problem,
    /// Expert of each column.
    pub experts: Vec<ExpertId>,
}

/// One prompt per kind of work; a stand-in for a tenant's own mix until one is measured.
const TYPICAL: [&str; 4] = [
    "Write a Python function that reverses a string.",
    "What is 17 times 23?",
    "Hello, how are you today?",
    "The history of the city begins in",
];

/// The instance for this fleet; `None` when there is no ready expert.
pub(crate) fn request(fleet: &Fleet, gate: &Gate, generation: u64) -> Option<PlanRequest> {
    let ready: Vec<_> = fleet
        .experts()
        .filter(|(_, _, expert)| expert.state == ExpertState::Ready)
        .collect();
    if ready.is_empty() {
        return None;
    }
    let names: Vec<_> = ready.iter().map(|(id, _, _)| id.name.clone()).collect();
    let utility = TYPICAL
        .iter()
        .map(|text| {
            let features = QueryFeatures::of(&typical(text));
            gate.forecast(&features, &names)
                .into_iter()
                .map(|q| q.probability)
                .collect()
        })
        .collect();
    let experts: Vec<ExpertId> = ready.iter().map(|(id, _, _)| id.clone()).collect();
    let mut memory: BTreeMap<&NodeId, f64> = BTreeMap::new();
    for (id, node, _) in &ready {
        memory.insert(&id.node, as_f64(node.device.memory.0));
    }
    let constraints = memory
        .into_iter()
        .map(|(node, limit)| Constraint {
            name: format!("memory_bytes/{node}"),
            limit,
            kind: Kind::Sum {
                cost: ready
                    .iter()
                    .map(|(id, _, e)| {
                        if id.node == *node {
                            resident_bytes(e)
                        } else {
                            0.0
                        }
                    })
                    .collect(),
            },
        })
        .collect();
    let parts = ProblemParts {
        experts: experts.iter().map(ToString::to_string).collect(),
        utility,
        weights: None,
        k: 1,
        constraints,
    };
    into_request(parts, experts, generation).ok()
}

fn into_request(
    parts: ProblemParts,
    experts: Vec<ExpertId>,
    generation: u64,
) -> Result<PlanRequest, ProblemError> {
    Ok(PlanRequest {
        generation,
        problem: Problem::new(parts)?,
        experts,
    })
}

/// The chosen experts, with every other one that still fits added in order.
pub(crate) fn maximal(request: &PlanRequest, selected: &[usize]) -> BTreeSet<ExpertId> {
    let mut members = selected.to_vec();
    for extra in 0..request.experts.len() {
        if members.contains(&extra) {
            continue;
        }
        members.push(extra);
        let fits = request
            .problem
            .constraints()
            .iter()
            .all(|row| load(row, &members) <= row.limit * (1.0 + FEASIBILITY_TOLERANCE));
        if !fits {
            members.pop();
        }
    }
    members
        .into_iter()
        .filter_map(|n| request.experts.get(n).cloned())
        .collect()
}

/// Weights plus a full key-value cache for each slot.
fn resident_bytes(expert: &Expert) -> f64 {
    let offer = &expert.offer;
    let cache =
        as_f64(offer.kv_per_token.0) * f64::from(offer.context_tokens) * f64::from(offer.slots);
    as_f64(offer.weights.0) + cache
}

#[allow(clippy::cast_precision_loss)] // exact below 2^53 bytes
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

fn typical(text: &str) -> Query {
    Query {
        tenant: TenantId::new("planner").expect("a literal name is valid"),
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content: text.to_owned(),
        }]),
        task: Task::Generate(Sampling {
            max_tokens: 128,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: Budgets::default(),
        max_experts: 1,
        mode: Mode::Auto,
        stream: false,
    }
}
