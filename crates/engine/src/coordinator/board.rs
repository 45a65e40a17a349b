//! The fleet at a glance: what a choice asks about every expert, side by side.
//!
//! A choice looks at all experts. As they are kept, by node and by name and with all that was learnt of them, each
//! is spread over dozens of places in memory, and reading those takes longer than all arithmetic on them. So what
//! choices need of it stands here once more, in one table in the order of the experts' ids, with what is counted by
//! kind of machine. Nothing is decided here, and nothing is known here only: a node's rows are written anew after
//! every change of it, for which [`Fleet`](super::fleet::Fleet) lends nodes only until the change is made.

use std::collections::{BTreeMap, BTreeSet};

use moe2_cost::Speed;
use moe2_gate::Belief;
use moe2_model::{ExpertId, ExpertName, NodeId};

use super::admit::takes_work;
use super::fleet::{Expert, Node};
use super::shares::Kind;

/// One expert, also of a node that is gone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: ExpertId,
    /// The place of what it is called among the names.
    pub(crate) name: usize,
    /// The place of its machine's kind among the kinds.
    pub(crate) kind: usize,
    pub(crate) now: State,
}

/// How it is with an expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct State {
    pub(crate) takes_work: bool,
    /// Whether it would be brought into memory if it is given some.
    pub(crate) may_load: bool,
    pub(crate) selected: bool,
    /// Whether nothing waits for its node and work would begin there at once.
    pub(crate) free: bool,
    /// Whether its breaker is closed.
    pub(crate) trusted: bool,
    pub(crate) context_tokens: u32,
    pub(crate) speed: Speed,
}

impl State {
    fn of(node: &Node, expert: &Expert) -> Self {
        Self {
            takes_work: takes_work(node, expert),
            may_load: node.may_load(expert),
            selected: expert.selected,
            free: node.line.is_empty() && node.has_room_for(expert),
            trusted: expert.breaker.is_closed(),
            context_tokens: expert.offer.context_tokens,
            speed: expert.cost.speed(),
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq)]
struct Spot {
    name: NodeId,
    kind: usize,
    /// Its experts' places among the rows, in the order of their names.
    rows: Vec<usize>,
    /// Its places, if it takes work and has something active.
    places: usize,
}

/// All machines of one kind.
#[derive(Debug, Clone, PartialEq)]
struct Alike {
    kind: Kind,
    /// Places of those that take work and have something active.
    places: usize,
    /// Those that have both a free place and something in line.
    could_begin: BTreeSet<usize>,
}

/// The table, with what is counted beside it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Board {
    /// In the order of ids.
    rows: Vec<Row>,
    /// In the order of names; so are all below.
    nodes: Vec<Spot>,
    kinds: Vec<Alike>,
    names: Vec<(ExpertName, Belief)>,
}

impl Board {
    /// Of nodes whose places are their order. `believed` is asked of each name, in order.
    pub(crate) fn of(
        nodes: &BTreeMap<NodeId, Node>,
        mut believed: impl FnMut(&ExpertName) -> Belief,
    ) -> Self {
        let experts = nodes.iter().flat_map(|(id, node)| {
            node.experts
                .iter()
                .map(move |(name, e)| (name, id, node, e))
        });
        let mut experts: Vec<_> = experts.collect();
        experts.sort_by_key(|(name, id, ..)| (*name, *id));
        let kinds: BTreeSet<&Kind> = nodes.values().map(|node| &node.kind).collect();
        let alike = |kind: &&Kind| Alike {
            kind: Kind::clone(kind),
            places: 0,
            could_begin: BTreeSet::new(),
        };
        let mut board = Self {
            rows: Vec::with_capacity(experts.len()),
            nodes: Vec::with_capacity(nodes.len()),
            kinds: kinds.iter().map(alike).collect(),
            names: Vec::new(),
        };
        for (id, node) in nodes {
            let kind = board
                .kinds
                .binary_search_by(|alike| alike.kind.cmp(&node.kind));
            board.nodes.push(Spot {
                name: id.clone(),
                kind: kind.unwrap_or_else(|place| place),
                rows: Vec::with_capacity(node.experts.len()),
                places: 0,
            });
        }
        for (name, id, node, expert) in experts {
            if board.names.last().is_none_or(|(last, _)| last != name) {
                board.names.push((name.clone(), believed(name)));
            }
            let spot = &mut board.nodes[node.place];
            spot.rows.push(board.rows.len());
            let id = ExpertId {
                name: name.clone(),
                node: id.clone(),
            };
            board.rows.push(Row {
                id,
                name: board.names.len() - 1,
                kind: spot.kind,
                now: State::of(node, expert),
            });
        }
        nodes.values().for_each(|node| board.count(node));
        board
    }

    /// Takes over how a node is now; who it hosts is as before.
    pub(crate) fn note(&mut self, node: &Node) {
        let Some(spot) = self.nodes.get(node.place) else {
            debug_assert!(false, "a node has its place on the board");
            return;
        };
        for (place, expert) in spot.rows.iter().zip(node.experts.values()) {
            self.rows[*place].now = State::of(node, expert);
        }
        self.count(node);
    }

    /// Counts a node among its kind as it is now, and not as it was.
    fn count(&mut self, node: &Node) {
        let spot = &mut self.nodes[node.place];
        let alike = &mut self.kinds[spot.kind];
        let places = if node.is_active() { node.places() } else { 0 };
        alike.places = alike.places + places - spot.places;
        spot.places = places;
        if node.could_begin() {
            alike.could_begin.insert(node.place);
        } else {
            alike.could_begin.remove(&node.place);
        }
    }

    /// Believes something else of each name.
    pub(crate) fn believe(&mut self, believed: impl Fn(&ExpertName) -> Belief) {
        for (name, belief) in &mut self.names {
            *belief = believed(name);
        }
    }

    /// What is believed of each name.
    pub(crate) fn beliefs(&self) -> impl Iterator<Item = &(ExpertName, Belief)> {
        self.names.iter()
    }

    /// What is believed of a row's expert.
    pub(crate) fn belief_of(&self, row: &Row) -> &Belief {
        &self.names[row.name].1
    }

    /// All experts.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Places of a node's experts among the rows.
    pub(crate) fn rows_of(&self, node: &Node) -> &[usize] {
        self.nodes.get(node.place).map_or(&[], |spot| &spot.rows)
    }

    fn alike(&self, kind: &str) -> Option<&Alike> {
        let place = self.kinds.binary_search_by(|alike| (*alike.kind).cmp(kind));
        place.ok().map(|place| &self.kinds[place])
    }

    /// How many kinds of machines there are.
    pub(crate) fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// A row's kind of machine, with the places of all nodes of it that take work and have something active.
    pub(crate) fn kind_of(&self, row: &Row) -> (&str, usize) {
        let alike = &self.kinds[row.kind];
        (&*alike.kind, alike.places)
    }

    /// Places of all nodes of a kind that take work and have something active.
    pub(crate) fn places(&self, kind: &str) -> usize {
        self.alike(kind).map_or(0, |alike| alike.places)
    }

    /// Nodes of a kind that have both a free place and something in line, in order.
    pub(crate) fn could_begin(&self, kind: &str) -> Vec<NodeId> {
        let alike = self.alike(kind).into_iter();
        let places = alike.flat_map(|alike| &alike.could_begin);
        places
            .map(|place| self.nodes[*place].name.clone())
            .collect()
    }
}
