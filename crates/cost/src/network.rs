//! The network between machines, and the cheapest way through it for a payload.
//!
//! Which way is fastest depends on what travels: a short question wants few milliseconds, a long
//! context wants bandwidth. So a link has no fixed weight; its cost is computed from the payload
//! when a path is asked for. Links are undirected, because an agent measures round trips and cannot
//! tell one direction from the other. A lost link is removed and the next question simply takes
//! another way: nothing is cached that could be stale, and a fleet's graph is small.

use std::collections::BTreeMap;

use moe2_model::{Bytes, Joules, NodeId, Seconds};
use petgraph::algo::astar;
use petgraph::stable_graph::{NodeIndex, StableUnGraph};

/// A link's numbers that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum BadLink {
    /// The bandwidth is not a finite number above 0.
    #[error("{0} bytes/s is no bandwidth: use a finite number above 0, or remove the link")]
    Bandwidth(f64),
    /// The energy is not a finite number of at least 0.
    #[error("{0} J/byte is no energy: use a finite number of at least 0")]
    Energy(f64),
}

/// One link, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    rtt: Seconds,
    bytes_per_s: f64,
    joules_per_byte: f64,
}

impl Link {
    /// A link with its round-trip time, bandwidth in bytes per second and energy in joules per byte
    /// (both ends together).
    ///
    /// # Errors
    /// [`BadLink`] for a bandwidth that is not above 0 or an energy below 0, or either not finite.
    pub fn new(rtt: Seconds, bytes_per_s: f64, joules_per_byte: f64) -> Result<Self, BadLink> {
        if !(bytes_per_s.is_finite() && bytes_per_s > 0.0) {
            return Err(BadLink::Bandwidth(bytes_per_s));
        }
        if !(joules_per_byte.is_finite() && joules_per_byte >= 0.0) {
            return Err(BadLink::Energy(joules_per_byte));
        }
        Ok(Self {
            rtt,
            bytes_per_s,
            joules_per_byte,
        })
    }

    /// One way: half a round trip, then the payload behind its first byte.
    fn delay(&self, payload: Bytes) -> f64 {
        Seconds::saturating(self.rtt.get() / 2.0 + payload.0 as f64 / self.bytes_per_s).get()
    }

    fn energy(&self, payload: Bytes) -> Joules {
        Joules::saturating(payload.0 as f64 * self.joules_per_byte)
    }
}

/// What it takes to bring a payload from one machine to another, one way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathCost {
    /// Forecast delay; every machine on the way receives all of the payload before it passes it on.
    pub delay: Seconds,
    /// Energy of the links on the way.
    pub energy: Joules,
    /// Links on the way; 0 from a machine to itself.
    pub hops: usize,
}

/// Machines and the links between them.
#[derive(Debug, Clone, Default)]
pub struct Network {
    graph: StableUnGraph<NodeId, Link>,
    index: BTreeMap<NodeId, NodeIndex>,
}

impl Network {
    /// A network without links.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the link between two machines or replaces it. A machine needs no link to itself, so
    /// `a == b` changes nothing.
    pub fn set_link(&mut self, a: &NodeId, b: &NodeId, link: Link) {
        if a == b {
            return;
        }
        let (a, b) = (self.place(a), self.place(b));
        self.graph.update_edge(a, b, link);
    }

    /// Forgets a link; says whether there was one.
    pub fn remove_link(&mut self, a: &NodeId, b: &NodeId) -> bool {
        let ends = self.index.get(a).zip(self.index.get(b));
        let edge = ends.and_then(|(&a, &b)| self.graph.find_edge(a, b));
        edge.and_then(|edge| self.graph.remove_edge(edge)).is_some()
    }

    /// Forgets a machine and all its links; says whether it was known.
    pub fn remove_node(&mut self, node: &NodeId) -> bool {
        match self.index.remove(node) {
            Some(at) => self.graph.remove_node(at).is_some(),
            None => false,
        }
    }

    /// The way with the least forecast delay for this payload; `None` when there is none.
    #[must_use]
    pub fn path(&self, from: &NodeId, to: &NodeId, payload: Bytes) -> Option<PathCost> {
        if from == to {
            return Some(PathCost {
                delay: Seconds::ZERO,
                energy: Joules::ZERO,
                hops: 0,
            });
        }
        let (&from, &to) = (self.index.get(from)?, self.index.get(to)?);
        // A* without an estimate is Dijkstra's algorithm, and it returns the way itself.
        let (delay, way) = astar(
            &self.graph,
            from,
            |at| at == to,
            |edge| edge.weight().delay(payload),
            |_| 0.0,
        )?;
        let energy = way
            .windows(2)
            .filter_map(|ends| self.graph.find_edge(ends[0], ends[1]))
            .filter_map(|edge| self.graph.edge_weight(edge))
            .map(|link| link.energy(payload))
            .sum();
        Some(PathCost {
            delay: Seconds::saturating(delay),
            energy,
            hops: way.len().saturating_sub(1),
        })
    }

    fn place(&mut self, node: &NodeId) -> NodeIndex {
        if let Some(&at) = self.index.get(node) {
            return at;
        }
        let at = self.graph.add_node(node.clone());
        self.index.insert(node.clone(), at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid name")
    }

    fn link(rtt_ms: f64, bytes_per_s: f64, joules_per_byte: f64) -> Link {
        Link::new(
            Seconds::saturating(rtt_ms / 1e3),
            bytes_per_s,
            joules_per_byte,
        )
        .expect("a valid link")
    }

    /// a–c directly (short trip, thin), or a–b–c (long trip, thick).
    fn triangle() -> Network {
        let mut network = Network::new();
        network.set_link(&node("a"), &node("c"), link(2.0, 1e5, 1e-6));
        network.set_link(&node("a"), &node("b"), link(20.0, 1e8, 2e-8));
        network.set_link(&node("b"), &node("c"), link(20.0, 1e8, 3e-8));
        network
    }

    #[test]
    fn a_small_payload_takes_the_short_trip_and_a_large_one_the_bandwidth() {
        let network = triangle();
        let small = network.path(&node("a"), &node("c"), Bytes(100));
        let small = small.expect("there is a way");
        assert_eq!(small.hops, 1);
        assert!((small.delay.get() - 0.002).abs() < 1e-12);
        let large = network.path(&node("a"), &node("c"), Bytes(10_000_000));
        let large = large.expect("there is a way");
        assert_eq!(large.hops, 2);
        assert!((large.delay.get() - 0.22).abs() < 1e-12);
        assert!((large.energy.get() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_lost_link_re_routes_and_the_last_one_leaves_no_way() {
        let mut network = triangle();
        let (a, b, c) = (node("a"), node("b"), node("c"));
        assert!(network.remove_link(&c, &a), "links have no direction");
        assert!(!network.remove_link(&a, &c), "it is gone already");
        let way = network.path(&a, &c, Bytes(100)).expect("there is a way");
        assert_eq!(way.hops, 2);
        assert!(network.remove_node(&b));
        assert_eq!(network.path(&a, &c, Bytes(100)), None);
        network.set_link(&a, &b, link(1.0, 1e6, 0.0));
        assert!(network.path(&b, &a, Bytes(1)).is_some(), "it came back");
    }

    #[test]
    fn a_machine_reaches_itself_for_nothing_and_a_stranger_not_at_all() {
        let network = triangle();
        let here = network.path(&node("x"), &node("x"), Bytes(9));
        assert_eq!(here.map(|p| p.hops), Some(0));
        assert_eq!(network.path(&node("a"), &node("x"), Bytes(9)), None);
    }

    #[test]
    fn a_link_without_bandwidth_or_with_negative_energy_is_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let refused = Link::new(Seconds::ZERO, bad, 0.0);
            assert!(matches!(refused, Err(BadLink::Bandwidth(_))), "{bad}");
        }
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            let refused = Link::new(Seconds::ZERO, 1.0, bad);
            assert!(matches!(refused, Err(BadLink::Energy(_))), "{bad}");
        }
    }

    #[test]
    fn the_slowest_link_and_the_largest_payload_do_not_overflow() {
        let mut network = Network::new();
        let slow = Link::new(Seconds::saturating(f64::MAX), f64::MIN_POSITIVE, 1e300);
        let slow = slow.expect("a valid link");
        network.set_link(&node("a"), &node("b"), slow);
        network.set_link(&node("b"), &node("c"), slow);
        let way = network.path(&node("a"), &node("c"), Bytes(u64::MAX));
        assert!(way.is_some_and(|p| p.delay.get().is_finite() && p.energy.get().is_finite()));
    }

    /// The stupid way: walk every simple path.
    fn enumerate(
        links: &BTreeMap<(usize, usize), Link>,
        way: &mut Vec<usize>,
        to: usize,
        payload: Bytes,
    ) -> f64 {
        let at = way[way.len() - 1];
        if at == to {
            return way
                .windows(2)
                .map(|e| links[&(e[0].min(e[1]), e[0].max(e[1]))].delay(payload))
                .sum();
        }
        let mut best = f64::INFINITY;
        for next in 0..6 {
            if !way.contains(&next) && links.contains_key(&(at.min(next), at.max(next))) {
                way.push(next);
                best = best.min(enumerate(links, way, to, payload));
                way.pop();
            }
        }
        best
    }

    proptest! {
        #[test]
        fn the_path_is_as_fast_as_the_best_of_all_simple_paths(
            drawn in prop::collection::vec((0..6_usize, 0..6_usize, 0.0..50.0_f64, 1e3..1e8_f64), 0..14),
            payload in 0..10_000_000_u64
        ) {
            let names: Vec<NodeId> = (0..6).map(|i| node(&format!("n{i}"))).collect();
            let (mut network, mut links) = (Network::new(), BTreeMap::new());
            for (a, b, rtt, bandwidth) in drawn.into_iter().filter(|(a, b, ..)| a != b) {
                let drawn = link(rtt, bandwidth, 0.0);
                network.set_link(&names[a], &names[b], drawn);
                links.insert((a.min(b), a.max(b)), drawn);
            }
            let best = enumerate(&links, &mut vec![0], 5, Bytes(payload));
            match network.path(&names[0], &names[5], Bytes(payload)) {
                Some(found) => prop_assert!((found.delay.get() - best).abs() <= 1e-9 * best.max(1.0)),
                None => prop_assert!(best.is_infinite()),
            }
        }
    }
}
