//! Who is there, what they host, and how much they have to do.
//!
//! A node is one session at a time: when a node's agent comes back before its old connection is
//! known to be dead, the new session takes its place and what the old one was doing counts as lost.
//! What has been learned about an expert's speed outlives its session.

use std::collections::{BTreeMap, BTreeSet};

use moe2_cost::ExpertCost;
use moe2_model::{
    DeviceInfo, DispatchId, ExpertId, ExpertName, ExpertOffer, ExpertState, NodeId, Seconds,
    SessionId, Time,
};

use super::breaker::Breaker;
use super::health::Health;
use super::line::{Barred, Held, Line, Waiting, Whose};
use super::residency::{LoadBudget, Memory};
use super::shares::Kind;
use super::view::{ExpertView, NodeView};

/// Most places that a node is believed to have.
const MOST_PLACES: usize = 256;

/// Places by kind of machine.
pub(crate) type Places = BTreeMap<Kind, usize>;

/// One expert of the fleet.
#[derive(Debug)]
pub(crate) struct Expert {
    pub(crate) offer: ExpertOffer,
    pub(crate) state: ExpertState,
    /// Since when it is in that state.
    pub(crate) since: Time,
    /// When it last worked, if it has since its node joined.
    pub(crate) used: Option<Time>,
    /// What its last load took.
    pub(crate) loads_in: Option<Seconds>,
    pub(crate) selected: bool,
    pub(crate) cost: ExpertCost,
    pub(crate) breaker: Breaker,
    /// Dispatches there, with when they were sent and how long each is forecast to take.
    pub(crate) in_flight: BTreeMap<DispatchId, (Time, Seconds)>,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) session: SessionId,
    pub(crate) health: Health,
    pub(crate) device: DeviceInfo,
    /// What else does the same work in the same time.
    pub(crate) kind: Kind,
    pub(crate) experts: BTreeMap<ExpertName, Expert>,
    /// What waits for it here.
    pub(crate) line: Line,
    /// What it keeps in memory.
    pub(crate) memory: Memory,
    /// Whether the last place went to work from elsewhere although something waited for it here.
    pub(crate) lent: bool,
}

impl Node {
    /// Something came from it. True if its state is another now.
    pub(crate) fn heard(&mut self, now: Time) -> bool {
        if self.experts.values().any(|e| e.state == ExpertState::Ready) {
            self.memory.works();
        }
        let loading = is_loading(&self.experts) && !self.memory.only_changes();
        self.health.heard(now, loading)
    }

    /// Whether one of its experts may be sent something, as far as its failures go; `this` may wait for it already.
    pub(crate) fn trusts(&self, expert: &Expert, now: Time, this: Option<DispatchId>) -> bool {
        let other = |job: &Waiting| Some(job.dispatch) != this;
        let of = |job: &Waiting| job.expert == expert.offer.name && other(job);
        let alone = || expert.in_flight.is_empty() && !self.line.jobs().any(of);
        expert.breaker.admits(now, false) || (expert.breaker.admits(now, true) && alone())
    }

    fn running(&self) -> usize {
        self.experts.values().map(|e| e.in_flight.len()).sum()
    }

    pub(crate) fn places(&self) -> usize {
        // An agent's word: an absurd one is not to count for a whole kind.
        (self.device.parallel as usize).clamp(1, MOST_PLACES)
    }

    /// Whether it could begin with something now.
    pub(crate) fn has_place(&self) -> bool {
        self.health.is_ready() && self.running() < self.places()
    }

    /// Whether it takes work and has something active.
    fn is_active(&self) -> bool {
        // Of what is not active who names it may still be served.
        let active = |expert: &Expert| expert.selected || !expert.in_flight.is_empty();
        let active = self.experts.values().any(active);
        self.health.is_ready() && active
    }

    /// Whether it has a free place and something in line.
    pub(crate) fn could_begin(&self) -> bool {
        !self.line.is_empty() && self.has_place()
    }

    /// Whether it has a free place that is not owed to what waits for it.
    pub(crate) fn takes_from_elsewhere(&self) -> bool {
        self.has_place() && (!self.lent || self.line.is_empty())
    }

    /// Experts that could not begin with anything now.
    pub(crate) fn full(&self) -> BTreeSet<ExpertName> {
        let full = self.experts.iter().filter(|(_, expert)| {
            !self.holds(expert) || expert.in_flight.len() >= expert.offer.slots.max(1) as usize
        });
        full.map(|(name, _)| name.clone()).collect()
    }

    /// Until a place is forecast to be free, for an expert of this node.
    pub(crate) fn next_place(&self, expert: &Expert, now: Time) -> Seconds {
        let soonest = |works: &mut dyn Iterator<Item = &(Time, Seconds)>| {
            let left = works.map(|(sent, busy)| left_of(*busy, now.seconds_since(*sent)));
            left.min_by(|a, b| a.get().total_cmp(&b.get()))
                .unwrap_or(Seconds::ZERO)
        };
        let mut wait = Seconds::ZERO;
        if self.running() >= self.places() {
            let mut all = self.experts.values().flat_map(|e| e.in_flight.values());
            wait = wait.max(soonest(&mut all));
        }
        if expert.in_flight.len() >= expert.offer.slots.max(1) as usize {
            wait = wait.max(soonest(&mut expert.in_flight.values()));
        }
        wait
    }

    /// How long work that keeps an expert `busy` for so long has to wait for it, or has still to wait if it does.
    pub(crate) fn wait(
        &self,
        now: Time,
        expert: &Expert,
        (whose, held): (Whose<'_>, &Held),
        busy: Seconds,
    ) -> Seconds {
        // As many at once as work now: places that nobody uses do not shorten a line.
        let at_once = self.running().clamp(1, self.places()) as f64;
        let line = self.line.ahead(whose, busy, held);
        self.next_place(expert, now) + line * (1.0 / at_once)
    }
}

/// What is left of work that was forecast to take `busy`, after `elapsed`. Lengths of answers have long tails:
/// work that should be over is as likely to go on, and a node that is late must not look free.
fn left_of(busy: Seconds, elapsed: Seconds) -> Seconds {
    (busy - elapsed).max(busy * 0.5)
}

/// Whether there are experts, and all of them load or wait until they may.
fn is_loading(experts: &BTreeMap<ExpertName, Expert>) -> bool {
    let mut states = experts.values().map(|expert| &expert.state);
    let waits = [ExpertState::Loading, ExpertState::Unloaded];
    !experts.is_empty() && states.all(|state| waits.contains(state))
}

/// By what is said of the machine: whoever says the same is taken to be alike.
fn kind_of(device: &DeviceInfo) -> Kind {
    let gpus = device.gpus.iter().map(|gpu| gpu.name.as_str());
    let names: Vec<&str> = std::iter::once(device.model.as_str()).chain(gpus).collect();
    Kind::from(names.join(" + "))
}

/// All nodes by name.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    nodes: BTreeMap<NodeId, Node>,
    sessions: BTreeMap<SessionId, NodeId>,
}

impl Fleet {
    /// Lets a node in. Returns the session it replaces, if one is still open.
    pub(crate) fn join(
        &mut self,
        now: Time,
        (session, node): (SessionId, NodeId),
        device: DeviceInfo,
        offers: Vec<(ExpertOffer, ExpertState)>,
    ) -> Option<SessionId> {
        let mut old = self.nodes.remove(&node);
        let replaced = old
            .as_ref()
            .filter(|n| !n.health.is_gone())
            .map(|n| n.session);
        if let Some(replaced) = replaced {
            self.sessions.remove(&replaced);
        }
        let mut past = old.as_ref().map(|n| n.health.past()).unwrap_or_default();
        if replaced.is_some() {
            past.lost(now);
        }
        let experts: BTreeMap<ExpertName, Expert> = offers
            .into_iter()
            .map(|(offer, state)| {
                let known = old.as_mut().and_then(|o| o.experts.remove(&offer.name));
                let known = known.filter(|known| known.offer == offer);
                let loads_in = known.as_ref().and_then(|known| known.loads_in);
                let cost = known.map(|known| known.cost);
                let cost = cost.unwrap_or_else(|| ExpertCost::new(&offer, &device));
                let expert = Expert {
                    offer,
                    state,
                    since: now,
                    used: None,
                    loads_in,
                    // Until the plan has room for it.
                    selected: false,
                    cost,
                    breaker: Breaker::default(),
                    in_flight: BTreeMap::new(),
                };
                (expert.offer.name.clone(), expert)
            })
            .collect();
        let budget = old.as_ref().map(|old| old.memory.budget());
        let budget = budget.unwrap_or(LoadBudget::new(now));
        let memory = Memory::new(device.memory.0, &experts, budget);
        self.sessions.insert(session, node.clone());
        self.nodes.insert(
            node,
            Node {
                session,
                health: Health::new(now, past, is_loading(&experts)),
                kind: kind_of(&device),
                device,
                experts,
                line: Line::default(),
                memory,
                lent: false,
            },
        );
        replaced
    }

    /// Marks a session's node as gone. `None` if the session is not the node's current one.
    pub(crate) fn leave(&mut self, now: Time, session: SessionId, reason: &str) -> Option<NodeId> {
        let name = self.sessions.remove(&session)?;
        let node = self.nodes.get_mut(&name)?;
        node.health.lost(now, reason);
        for expert in node.experts.values_mut() {
            expert.in_flight.clear();
        }
        Some(name)
    }

    /// Drops a node that is gone since this session.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.nodes
            .retain(|_, node| node.session != session || !node.health.is_gone());
    }

    pub(crate) fn node_of(&self, session: SessionId) -> Option<&NodeId> {
        self.sessions.get(&session)
    }

    pub(crate) fn node_mut(&mut self, session: SessionId) -> Option<&mut Node> {
        self.nodes.get_mut(self.sessions.get(&session)?)
    }

    pub(crate) fn node(&self, node: &NodeId) -> Option<&Node> {
        self.nodes.get(node)
    }

    /// Takes what a node should begin with next out of its line, if it can begin with anything.
    /// These tenants get nothing there.
    pub(crate) fn next_job(&mut self, node: &NodeId, held: Held) -> Option<Waiting> {
        let node = self.nodes.get_mut(node)?;
        let barred = Barred {
            experts: node.full(),
            tenants: held,
        };
        node.line.next(&barred)
    }

    /// Places of all nodes of a kind that take work and have something active.
    pub(crate) fn places(&self, kind: &str) -> usize {
        let alike = self.nodes.values();
        let alike = alike.filter(|n| *n.kind == *kind && n.is_active());
        alike.map(Node::places).sum()
    }

    /// The same of all kinds.
    pub(crate) fn places_by_kind(&self) -> Places {
        let mut places = Places::new();
        for node in self.nodes.values().filter(|node| node.is_active()) {
            *places.entry(node.kind.clone()).or_default() += node.places();
        }
        places
    }

    /// Nodes of a kind that have both a free place and something in line.
    pub(crate) fn could_begin(&self, kind: &str) -> Vec<NodeId> {
        let could = |n: &Node| *n.kind == *kind && n.could_begin();
        let nodes = self.nodes.iter().filter(|(_, n)| could(n));
        nodes.map(|(name, _)| name.clone()).collect()
    }

    /// Machines that host more than they hold.
    pub(crate) fn tight(&self) -> Vec<NodeId> {
        let tight = |n: &Node| n.memory.is_tight() && !n.health.is_gone();
        let nodes = self.nodes.iter().filter(|(_, n)| tight(n));
        nodes.map(|(name, _)| name.clone()).collect()
    }

    /// Whether there are any.
    pub(crate) fn is_tight(&self) -> bool {
        let tight = |n: &Node| n.memory.is_tight() && !n.health.is_gone();
        self.nodes.values().any(tight)
    }

    /// A node, to change it.
    pub(crate) fn named(&mut self, node: &NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(node)
    }

    /// What waits for a node; nothing of a node that is not there.
    pub(crate) fn line_mut(&mut self, node: &NodeId) -> Option<&mut Line> {
        self.named(node).map(|node| &mut node.line)
    }

    pub(crate) fn expert(&self, id: &ExpertId) -> Option<&Expert> {
        self.nodes.get(&id.node)?.experts.get(&id.name)
    }

    pub(crate) fn expert_mut(&mut self, id: &ExpertId) -> Option<&mut Expert> {
        self.nodes.get_mut(&id.node)?.experts.get_mut(&id.name)
    }

    /// Experts of one node.
    pub(crate) fn experts_on(&self, node: &NodeId) -> impl Iterator<Item = ExpertId> {
        let known = self.nodes.get_key_value(node).into_iter();
        known.flat_map(|(node, known)| {
            known.experts.keys().map(|name| ExpertId {
                name: name.clone(),
                node: node.clone(),
            })
        })
    }

    /// All nodes.
    pub(crate) fn names(&self) -> Vec<NodeId> {
        self.nodes.keys().cloned().collect()
    }

    /// All experts of nodes that are not gone, in a fixed order.
    pub(crate) fn experts(&self) -> impl Iterator<Item = (ExpertId, &Node, &Expert)> {
        self.experts_at(|_| true)
    }

    /// The same of some nodes.
    pub(crate) fn experts_at(
        &self,
        admits: impl Fn(&NodeId) -> bool,
    ) -> impl Iterator<Item = (ExpertId, &Node, &Expert)> {
        self.nodes
            .iter()
            .filter(move |(name, node)| !node.health.is_gone() && admits(name))
            .flat_map(|(name, node)| {
                node.experts.values().map(move |expert| {
                    let id = ExpertId {
                        name: expert.offer.name.clone(),
                        node: name.clone(),
                    };
                    (id, node, expert)
                })
            })
    }

    /// Whether any node, even a lost one, was ever seen to host an expert that `admits` accepts.
    pub(crate) fn knows(&self, admits: impl Fn(&ExpertId) -> bool) -> bool {
        self.nodes.iter().any(|(node, n)| {
            n.experts.keys().any(|name| {
                admits(&ExpertId {
                    name: name.clone(),
                    node: node.clone(),
                })
            })
        })
    }

    /// Marks exactly these experts as the active set.
    pub(crate) fn select(&mut self, chosen: &BTreeSet<ExpertId>) {
        for (name, node) in &mut self.nodes {
            for (expert_name, expert) in &mut node.experts {
                let id = ExpertId {
                    name: expert_name.clone(),
                    node: name.clone(),
                };
                expert.selected = chosen.contains(&id);
            }
        }
    }

    /// A snapshot for people.
    pub(crate) fn view(&self, now: Time) -> Vec<NodeView> {
        self.nodes
            .iter()
            .map(|(name, node)| NodeView {
                node: name.clone(),
                state: node.health.state(),
                reason: node.health.reason().map(str::to_owned),
                silent_for: now.seconds_since(node.health.last_heard()),
                device: node.device.clone(),
                experts: node
                    .experts
                    .values()
                    .map(|e| expert_view(now, (name, node), e))
                    .collect(),
            })
            .collect()
    }
}

fn expert_view(now: Time, (name, node): (&NodeId, &Node), expert: &Expert) -> ExpertView {
    let of = |job: &&Waiting| job.expert == expert.offer.name;
    ExpertView {
        id: ExpertId {
            name: expert.offer.name.clone(),
            node: name.clone(),
        },
        offer: expert.offer.clone(),
        state: expert.state.clone(),
        servable: node.load(now, expert).is_some(),
        selected: expert.selected,
        left_alone_for: expert.breaker.open_for(now).map(Seconds::from_duration),
        in_flight: expert.in_flight.len(),
        waiting: node.line.jobs().filter(of).count(),
        prefill_s_per_token: expert.cost.prefill_s_per_token(),
        decode_s_per_token: expert.cost.decode_s_per_token(),
        samples: expert.cost.samples(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{Bytes, DeviceKind, EnergySource, GpuInfo, Watts};

    #[test]
    fn machines_are_alike_by_processor_and_graphics() {
        let with = |gpus: &[&str]| DeviceInfo {
            kind: DeviceKind::Gpu,
            model: "cpu".to_owned(),
            threads: 1,
            parallel: 1,
            memory: Bytes(0),
            gpus: gpus
                .iter()
                .map(|name| GpuInfo {
                    name: (*name).to_owned(),
                    driver: "any".to_owned(),
                    software: false,
                })
                .collect(),
            cpu: None,
            gpu: None,
            energy_source: EnergySource::Modelled,
            idle_power: Watts::ZERO,
            busy_power: Watts::ZERO,
        };
        assert_eq!(kind_of(&with(&["a"])), kind_of(&with(&["a"])));
        assert_ne!(kind_of(&with(&["a"])), kind_of(&with(&["b"])));
        assert_ne!(kind_of(&with(&["a"])), kind_of(&with(&[])));
    }
}
