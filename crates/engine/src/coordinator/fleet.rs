//! Who is there, what they host, and how much they have to do.
//!
//! A node is one session at a time: when a node's agent comes back before its old connection is
//! known to be dead, the new session takes its place and what the old one was doing counts as lost.
//! What has been learned about an expert's speed outlives its session.

use std::collections::{BTreeMap, BTreeSet};

use moe2_cost::{ExpertCost, Profiles};
use moe2_gate::{Belief, Gate};
use moe2_model::{
    DeviceInfo, DispatchId, ExpertId, ExpertName, ExpertOffer, ExpertState, NodeId, Seconds,
    SessionId, Time,
};

use super::board::{Board, Row};
use super::breaker::Breaker;
use super::calendar::Calendar;
use super::health::Health;
use super::line::{Barred, Held, Line, Waiting, Whose};
use super::residency::{LoadBudget, Memory};
use super::shares::Kind;
use super::view::{ExpertView, NodeView};

/// Most places that a node is believed to have.
const MOST_PLACES: usize = 256;

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

impl Expert {
    /// Whether it works on as much at once as it can.
    fn is_full(&self) -> bool {
        self.in_flight.len() >= self.offer.slots.max(1) as usize
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its place on the board.
    pub(crate) place: usize,
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
    /// How far its calendar is off.
    pub(crate) calendar: Calendar,
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

    /// Its agent says how one of its experts is. The state before, if that was another.
    pub(crate) fn says(
        &mut self,
        now: Time,
        expert: &ExpertName,
        state: ExpertState,
    ) -> Option<ExpertState> {
        let expert = self.experts.get_mut(expert);
        let expert = expert.filter(|expert| expert.state != state)?;
        let before = std::mem::replace(&mut expert.state, state);
        expert.since = now;
        self.heard(now);
        Some(before)
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

    /// Whether one of its experts could begin with something now, as far as places go.
    pub(crate) fn has_room_for(&self, expert: &Expert) -> bool {
        self.running() < self.places() && !expert.is_full()
    }

    /// Whether it takes work and has something active.
    pub(crate) fn is_active(&self) -> bool {
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
        let full = self
            .experts
            .iter()
            .filter(|(_, expert)| !self.holds(expert) || expert.is_full());
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
        if expert.is_full() {
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
    /// What choices read of the nodes.
    board: Board,
    /// Speeds measured elsewhere.
    profiles: Profiles,
}

impl Fleet {
    /// An empty one, whose experts begin with speeds of this table where it has a row for them.
    pub(crate) fn expecting(profiles: Profiles) -> Self {
        Self {
            profiles,
            ..Self::default()
        }
    }

    /// Lets a node in, whose experts the gate has heard of. Returns the session it replaces, if one is still open.
    pub(crate) fn join(
        &mut self,
        (now, gate): (Time, &Gate),
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
                let cost =
                    cost.unwrap_or_else(|| ExpertCost::new(&self.profiles.prior(&offer, &device)));
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
        let new: BTreeSet<ExpertName> = experts.keys().cloned().collect();
        self.sessions.insert(session, node.clone());
        self.nodes.insert(
            node,
            Node {
                place: 0,
                session,
                health: Health::new(now, past, is_loading(&experts)),
                kind: kind_of(&device),
                device,
                experts,
                line: Line::default(),
                memory,
                lent: false,
                calendar: Calendar::default(),
            },
        );
        self.set_up(|name, known| match known {
            Some(known) if !new.contains(name) => known,
            _ => gate.belief(name),
        });
        replaced
    }

    /// Makes the board anew, after nodes have come or gone for good, with what is believed of names that were on it or
    /// were not.
    fn set_up(&mut self, believed: impl Fn(&ExpertName, Option<Belief>) -> Belief) {
        for (place, node) in self.nodes.values_mut().enumerate() {
            node.place = place;
        }
        let before = std::mem::take(&mut self.board);
        let mut beliefs = before.beliefs().peekable();
        self.board = Board::of(&self.nodes, |name| {
            // Both are in order.
            while beliefs.next_if(|(known, _)| known < name).is_some() {}
            let known = beliefs.next_if(|(known, _)| known == name);
            believed(name, known.map(|(_, belief)| *belief))
        });
    }

    /// Takes over what another gate believes.
    pub(crate) fn believe(&mut self, gate: &Gate) {
        self.board.believe(|name| gate.belief(name));
    }

    /// Changes a node. `None` if it is not there.
    pub(crate) fn with<R>(
        &mut self,
        node: &NodeId,
        change: impl FnOnce(&mut Node) -> R,
    ) -> Option<R> {
        let node = self.nodes.get_mut(node)?;
        let result = change(node);
        self.board.note(node);
        Some(result)
    }

    /// Changes the node of a session. `None` if it has none.
    pub(crate) fn with_session<R>(
        &mut self,
        session: SessionId,
        change: impl FnOnce(&mut Node) -> R,
    ) -> Option<R> {
        let node = self.sessions.get(&session)?.clone();
        self.with(&node, change)
    }

    /// Changes an expert. `None` if it is not there.
    pub(crate) fn with_expert<R>(
        &mut self,
        id: &ExpertId,
        change: impl FnOnce(&mut Expert) -> R,
    ) -> Option<R> {
        let expert = |node: &mut Node| node.experts.get_mut(&id.name).map(change);
        self.with(&id.node, expert).flatten()
    }

    /// Marks a session's node as gone. `None` if the session is not the node's current one.
    pub(crate) fn leave(&mut self, now: Time, session: SessionId, reason: &str) -> Option<NodeId> {
        let name = self.sessions.remove(&session)?;
        self.with(&name, |node| {
            node.health.lost(now, reason);
            for expert in node.experts.values_mut() {
                expert.in_flight.clear();
            }
        })?;
        Some(name)
    }

    /// Drops a node that is gone since this session.
    pub(crate) fn forget(&mut self, session: SessionId) {
        let gone = |node: &Node| node.session == session && node.health.is_gone();
        if self.nodes.extract_if(.., |_, node| gone(node)).count() > 0 {
            self.set_up(|_, known| known.expect("whoever stays was on the board"));
        }
    }

    pub(crate) fn node_of(&self, session: SessionId) -> Option<&NodeId> {
        self.sessions.get(&session)
    }

    pub(crate) fn node(&self, node: &NodeId) -> Option<&Node> {
        self.nodes.get(node)
    }

    /// Takes what a node should begin with next out of its line, if it can begin with anything.
    /// These tenants get nothing there.
    pub(crate) fn next_job(&mut self, node: &NodeId, held: Held) -> Option<Waiting> {
        let next = |node: &mut Node| {
            let barred = Barred {
                experts: node.full(),
                tenants: held,
            };
            node.line.next(&barred)
        };
        self.with(node, next).flatten()
    }

    /// What choices read.
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// The rows of experts that are asked, by their places: those on some nodes, or all.
    pub(crate) fn rows(&self, nodes: Option<[&NodeId; 2]>) -> impl Iterator<Item = &Row> + Clone {
        let on = |nodes: [&NodeId; 2]| {
            let nodes = nodes.into_iter().filter_map(|name| self.nodes.get(name));
            let rows = nodes.flat_map(|node| self.board.rows_of(node).iter().copied());
            // In order, and each once.
            let rows: BTreeSet<usize> = rows.collect();
            rows.into_iter().collect::<Vec<usize>>()
        };
        let all = if nodes.is_none() {
            self.board.rows()
        } else {
            &[]
        };
        let some = nodes.map(on).unwrap_or_default();
        let some = some.into_iter().map(|place| &self.board.rows()[place]);
        some.chain(all)
    }

    /// Places of all nodes of a kind that take work and have something active.
    pub(crate) fn places(&self, kind: &str) -> usize {
        self.board.places(kind)
    }

    /// Nodes of a kind that have both a free place and something in line.
    pub(crate) fn could_begin(&self, kind: &str) -> Vec<NodeId> {
        self.board.could_begin(kind)
    }

    /// Machines that host more than they hold.
    pub(crate) fn tight(&self) -> impl Iterator<Item = &NodeId> {
        let tight = |n: &Node| n.memory.is_tight() && !n.health.is_gone();
        let nodes = self.nodes.iter().filter(move |(_, n)| tight(n));
        nodes.map(|(name, _)| name)
    }

    /// Whether there are any.
    pub(crate) fn is_tight(&self) -> bool {
        self.tight().next().is_some()
    }

    pub(crate) fn expert(&self, id: &ExpertId) -> Option<&Expert> {
        self.hosted(id).map(|(_, expert)| expert)
    }

    /// An expert, with its node.
    pub(crate) fn hosted(&self, id: &ExpertId) -> Option<(&Node, &Expert)> {
        let node = self.nodes.get(&id.node)?;
        Some((node, node.experts.get(&id.name)?))
    }

    /// Panics if the board is not as the nodes are.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn compare_with_the_board(&self) {
        let mut beliefs = self.board.beliefs();
        let belief = |_: &ExpertName| beliefs.next().expect("all names are there").1;
        assert_eq!(self.board, Board::of(&self.nodes, belief));
    }

    /// [`Self::places`] as it is without the board.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn places_one_by_one(&self, kind: &str) -> usize {
        let alike = self.nodes.values();
        let alike = alike.filter(|n| *n.kind == *kind && n.is_active());
        alike.map(Node::places).sum()
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
        let nodes = self.nodes.iter();
        let nodes = nodes.filter(|(_, node)| !node.health.is_gone());
        nodes.flat_map(|(name, node)| {
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
            self.board.note(node);
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
                clock_ahead_s: node.calendar.ahead(),
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
        prior_prefill_s_per_token: expert.cost.prior_prefill_s_per_token(),
        prior_decode_s_per_token: expert.cost.prior_decode_s_per_token(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{
        Bytes, DeviceKind, EnergySource, GpuInfo, Joules, QueryId, TenantId, Usage, Watts,
    };
    use proptest::prelude::*;

    fn device(gpus: &[&str]) -> DeviceInfo {
        DeviceInfo {
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
        }
    }

    #[test]
    fn machines_are_alike_by_processor_and_graphics() {
        assert_eq!(kind_of(&device(&["a"])), kind_of(&device(&["a"])));
        assert_ne!(kind_of(&device(&["a"])), kind_of(&device(&["b"])));
        assert_ne!(kind_of(&device(&["a"])), kind_of(&device(&[])));
    }

    fn offer(n: usize) -> (ExpertOffer, ExpertState) {
        let offer = ExpertOffer {
            name: ExpertName::new(&format!("m{n}")).expect("a valid name"),
            family: String::new(),
            quantisation: String::new(),
            parameters: 1 << n,
            weights: Bytes(1),
            kv_per_token: Bytes(1),
            context_tokens: 64,
            slots: 1,
            load: None,
        };
        (offer, ExpertState::Ready)
    }

    fn node(n: usize) -> NodeId {
        NodeId::new(&format!("n{n}")).expect("a valid name")
    }

    /// Something that happens to a node, an expert there and a piece of work.
    fn happens(fleet: &mut Fleet, step: u64, what: usize, (at, of, job): (usize, usize, u64)) {
        let (now, dispatch) = (Time::from_micros(step * 100_000), DispatchId(job));
        let gate = Gate::builtin();
        let id = ExpertId {
            name: offer(of).0.name,
            node: node(at),
        };
        let session = fleet.node(&node(at)).map(|node| node.session);
        match what {
            0 => {
                let offers = (of..3).map(offer).collect();
                let machine = device(if at == 0 { &["a"] } else { &[] });
                let session = SessionId(step);
                fleet.join((now, &gate), (session, node(at)), machine, offers);
            }
            1 => drop(session.and_then(|session| fleet.leave(now, session, "it left"))),
            2 => session.into_iter().for_each(|s| fleet.forget(s)),
            3 => drop(fleet.with(&node(at), |node| node.heard(now))),
            4 => drop(fleet.with(&node(at), |known| {
                let waiting = Waiting {
                    dispatch,
                    query: QueryId(job),
                    expert: id.name.clone(),
                    busy: Seconds::saturating(1.0),
                };
                let tenant = TenantId::new("t").expect("a valid name");
                known.line.push(&tenant, 1.0, waiting);
            })),
            5 => drop(fleet.next_job(&node(at), Held::new())),
            6 => drop(fleet.with_expert(&id, |expert| {
                expert.in_flight.insert(dispatch, (now, Seconds::ZERO))
            })),
            7 => drop(fleet.with_expert(&id, |expert| expert.in_flight.remove(&dispatch))),
            8 => drop(fleet.with_expert(&id, |expert| expert.breaker.failed(now, now))),
            9 => drop(fleet.with_expert(&id, |expert| {
                expert.cost.observe(&Usage {
                    prompt_tokens: 5,
                    cached_tokens: 0,
                    output_tokens: 5,
                    queue: Seconds::ZERO,
                    prefill: Seconds::saturating(1.0),
                    decode: Seconds::saturating(job as f64),
                    energy: Joules::ZERO,
                    energy_source: EnergySource::Modelled,
                    energy_error: Joules::ZERO,
                });
            })),
            10 => drop(fleet.with(&node(at), |node| {
                node.says(now, &id.name, ExpertState::Loading)
            })),
            _ => {
                let chosen = fleet.experts().map(|(id, ..)| id).skip(of).collect();
                fleet.select(&chosen);
            }
        }
    }

    proptest! {
        #[test]
        fn the_board_is_as_the_nodes_are_whatever_happens(
            steps in prop::collection::vec((0..12_usize, 0..3_usize, 0..3_usize, 0..3_u64), 1..60),
        ) {
            let mut fleet = Fleet::default();
            for (step, (what, at, of, job)) in steps.into_iter().enumerate() {
                happens(&mut fleet, step as u64, what, (at, of, job));
                fleet.compare_with_the_board();
                for kind in ["cpu", "cpu + a"] {
                    prop_assert_eq!(fleet.places(kind), fleet.places_one_by_one(kind));
                    let could = fleet.nodes.iter().filter(|(_, n)| *n.kind == *kind && n.could_begin());
                    let could: Vec<NodeId> = could.map(|(name, _)| name.clone()).collect();
                    prop_assert_eq!(fleet.could_begin(kind), could);
                }
                let rows: Vec<&ExpertId> = fleet.rows(Some([&node(1), &node(0)])).map(|row| &row.id).collect();
                let all = fleet.rows(None).map(|row| &row.id);
                let here: Vec<&ExpertId> = all.filter(|id| id.node != node(2)).collect();
                prop_assert_eq!(rows, here);
            }
        }
    }
}
