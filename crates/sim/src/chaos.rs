//! Faults of the network and of whole agents.

use std::time::Duration;

use moe2_engine::agent;
use moe2_model::SessionId;

use crate::world::{Happening, World};

/// How long an agent's process stays away after a crash.
const DOWN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(6));
/// How long a node is cut off; longer than the idle timeout in some cases.
const APART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(6));

impl World<'_> {
    /// One random fault, and the time of the next.
    pub(crate) fn fault(&mut self) {
        let Some(gap) = self.scenario.fault_gap else {
            return;
        };
        if self.clients_done() {
            return;
        }
        let next = self.rng.gap(gap);
        self.after(next, Happening::Fault);
        let node = self.rng.below(self.hosts.len());
        let weights = self.scenario.faults;
        let mut draw = self.rng.between(1, weights.iter().sum::<u32>().max(1));
        let kind = weights.iter().position(|weight| {
            let hit = draw <= *weight;
            draw = draw.saturating_sub(*weight);
            hit
        });
        match kind {
            Some(0) => self.cut_node(node),
            Some(1) => self.crash(node),
            Some(2) => self.partition(node),
            Some(3) => self.tell_agent(node, agent::Input::Drain),
            _ => {}
        }
    }

    fn cut_node(&mut self, node: usize) {
        if let Some(session) = self.hosts[node].link {
            self.cut(session);
        }
    }

    /// The process is gone at once; whether its connection says goodbye is chance.
    pub(crate) fn crash(&mut self, node: usize) {
        self.hosts[node].kill();
        if let Some(session) = self.hosts[node].link.take() {
            self.cut(session);
        }
        let away = self.rng.within(DOWN);
        self.after(away, Happening::Boot { node });
    }

    fn partition(&mut self, node: usize) {
        let until = self.now + self.rng.within(APART);
        self.hosts[node].apart_until = until;
        let idle = self.scenario.idle_timeout;
        let affected: Vec<SessionId> = self
            .links
            .iter()
            .filter(|(_, link)| link.node == node && !link.dead)
            .map(|(session, _)| *session)
            .collect();
        for session in affected {
            if let Some(link) = self.links.get_mut(&session) {
                link.held_until = link.held_until.max(until);
            }
            if until.since(self.now) > idle {
                self.lose_both_ends(session, idle);
            }
        }
    }
}
