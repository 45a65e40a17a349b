//! What goes wrong, and what is done about it.

use moe2_model::{Event, ExpertId};
use prometheus::{Error, GaugeVec, IntCounterVec, Opts, Registry};

use crate::counts;

/// Nodes that come and go, work that is lost, moved or given to a second expert.
#[derive(Debug, Clone)]
pub(crate) struct Troubles {
    moves: IntCounterVec,
    dispatch_failures: IntCounterVec,
    openings: IntCounterVec,
    hedges: IntCounterVec,
    hedges_won: IntCounterVec,
    loads: IntCounterVec,
    nodes_joined: IntCounterVec,
    nodes_suspected: IntCounterVec,
    nodes_lost: IntCounterVec,
    clock_ahead: GaugeVec,
}

impl Troubles {
    pub(crate) fn new() -> Result<Self, Error> {
        let by_expert = |name: &str, help: &str| counts(name, help, &["expert"]);
        Ok(Self {
            moves: by_expert(
                "moe2_moves_total",
                "Work taken over from another node's line, by who took it.",
            )?,
            dispatch_failures: by_expert(
                "moe2_dispatch_failures_total",
                "Work that came to nothing.",
            )?,
            openings: by_expert(
                "moe2_breaker_openings_total",
                "Times an expert was left alone for a while because it failed again and again.",
            )?,
            hedges: by_expert(
                "moe2_hedges_total",
                "Work sent to a second expert because the first was late, by the second.",
            )?,
            hedges_won: by_expert(
                "moe2_hedges_won_total",
                "Second experts that began their answer first.",
            )?,
            loads: counts(
                "moe2_loads_total",
                "Experts loaded where a node hosts more than its memory holds, for work that waited or ahead of it.",
                &["node", "cause"],
            )?,
            nodes_joined: counts(
                "moe2_nodes_joined_total",
                "Sessions opened.",
                &["node", "source"],
            )?,
            nodes_suspected: counts(
                "moe2_nodes_suspected_total",
                "Times nothing came from a node for longer than it is used to.",
                &["node"],
            )?,
            nodes_lost: counts("moe2_nodes_lost_total", "Sessions lost.", &["node"])?,
            clock_ahead: GaugeVec::new(
                Opts::new(
                    "moe2_node_clock_ahead_seconds",
                    "How far a node's calendar is ahead of the coordinator's; below zero if behind.",
                ),
                &["node"],
            )?,
        })
    }

    fn all(&self) -> [&IntCounterVec; 9] {
        [
            &self.moves,
            &self.dispatch_failures,
            &self.openings,
            &self.hedges,
            &self.hedges_won,
            &self.loads,
            &self.nodes_joined,
            &self.nodes_suspected,
            &self.nodes_lost,
        ]
    }

    pub(crate) fn register(&self, registry: &Registry) -> Result<(), Error> {
        registry.register(Box::new(self.clock_ahead.clone()))?;
        let mut all = self.all().into_iter();
        all.try_for_each(|family| registry.register(Box::new(family.clone())))
    }

    /// Takes note of one of these events; others are none of it.
    pub(crate) fn fold(&self, event: &Event) {
        let count = |family: &IntCounterVec, expert: &ExpertId| {
            let expert = expert.to_string();
            family.with_label_values(&[expert.as_str()]).inc();
        };
        match event {
            Event::Moved { to, .. } => count(&self.moves, to),
            Event::DispatchFailed { expert } => count(&self.dispatch_failures, expert),
            Event::LeftAlone { expert, .. } => count(&self.openings, expert),
            Event::Hedged { by, .. } => count(&self.hedges, by),
            Event::HedgeWon { expert } => count(&self.hedges_won, expert),
            Event::NodeJoined {
                node,
                energy_source,
            } => {
                let labels = [node.as_str(), energy_source.as_str()];
                self.nodes_joined.with_label_values(&labels).inc();
            }
            Event::Loads { node, needed, .. } => {
                let cause = if *needed { "need" } else { "plan" };
                let labels = [node.as_str(), cause];
                self.loads.with_label_values(&labels).inc();
            }
            Event::NodeSuspected { node } => {
                let node = node.as_str();
                self.nodes_suspected.with_label_values(&[node]).inc();
            }
            Event::Clock { node, ahead } => {
                let clock = self.clock_ahead.with_label_values(&[node.as_str()]);
                clock.set(*ahead);
            }
            Event::NodeLost { node, .. } => {
                self.nodes_lost.with_label_values(&[node.as_str()]).inc();
                // Of a clock that nobody reads any more nothing is known; there may be none.
                let _ = self.clock_ahead.remove_label_values(&[node.as_str()]);
            }
            _ => {}
        }
    }
}
