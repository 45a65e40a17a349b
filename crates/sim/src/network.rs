//! Connections as QUIC gives them: reliable streams that keep their own order, and none other.
//!
//! A message is never lost alone: it arrives, late, or its connection dies. The two ends learn of a
//! death separately, at once or after the idle timeout, and what was on the way then is gone. A
//! partition holds messages back, in one direction or both; an end that hears nothing for the idle timeout
//! gives the connection up.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_engine::{agent, coordinator};
use moe2_model::{DispatchId, SessionId, Time};
use moe2_wire::{FromAgent, FromExpert, ToAgent};

use crate::world::{Happening, World};

/// How long a closed connection is still read: the farewell of the real driver.
const FAREWELL: Duration = Duration::from_millis(100);

/// Towards the coordinator.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Control(FromAgent),
    Frame(DispatchId, FromExpert),
}

/// Towards an agent.
#[derive(Debug, Clone)]
pub(crate) enum Down {
    Control(ToAgent),
    Work(DispatchId, Box<agent::Work>),
    Cancel(DispatchId),
    Closed,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Up,
    Down,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// Whether it is the coordinator that hears what goes this way.
    const fn ends_at_coordinator(self) -> bool {
        matches!(self, Self::Up)
    }
}

/// Direction and stream, which together keep order; `None` is the control stream.
type Lane = (Way, Option<DispatchId>);

/// How one direction of all links of a node is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Path {
    /// Nothing passes before this.
    pub(crate) held_until: Time,
    /// What passes is late until then, by so much.
    pub(crate) slow_until: Time,
    pub(crate) late: Duration,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: usize,
    /// Nothing travels any more.
    pub(crate) dead: bool,
    /// When the coordinator's end closes or closed.
    pub(crate) coordinator_until: Option<Time>,
    last: BTreeMap<Lane, Time>,
}

impl Link {
    pub(crate) fn new(node: usize) -> Self {
        Self {
            node,
            dead: false,
            coordinator_until: None,
            last: BTreeMap::new(),
        }
    }
}

impl World<'_> {
    pub(crate) fn send_up(&mut self, session: SessionId, packet: Up) {
        let stream = match &packet {
            Up::Control(_) => None,
            Up::Frame(dispatch, _) => Some(*dispatch),
        };
        if let Some(at) = self.due(session, (Way::Up, stream)) {
            self.at(at, Happening::Up { session, packet });
        }
    }

    pub(crate) fn send_down(&mut self, session: SessionId, packet: Down) {
        let open = self
            .links
            .get(&session)
            .is_some_and(|link| link.coordinator_until.is_none());
        let stream = match &packet {
            Down::Control(_) | Down::Closed => None,
            Down::Work(dispatch, _) | Down::Cancel(dispatch) => Some(*dispatch),
        };
        if open && let Some(at) = self.due(session, (Way::Down, stream)) {
            self.at(at, Happening::Down { session, packet });
        }
    }

    fn due(&mut self, session: SessionId, lane: Lane) -> Option<Time> {
        let now = self.now;
        let link = self.links.get_mut(&session).filter(|link| !link.dead)?;
        let host = &mut self.hosts[link.node];
        let mut delay = host.rng.within(self.case.scenario.latency);
        let path = host.paths[lane.0 as usize];
        if path.slow_until > now {
            delay += path.late.mul_f64(0.5 + host.rng.unit());
        }
        let last = link.last.entry(lane).or_default();
        *last = (now.max(path.held_until) + delay).max(*last);
        Some(*last)
    }

    /// When a message that is due now may pass, if that is later.
    fn held(&self, session: SessionId, way: Way) -> Option<Time> {
        let link = self.links.get(&session).filter(|link| !link.dead)?;
        let until = self.hosts[link.node].paths[way as usize].held_until;
        (until > self.now).then_some(until)
    }

    pub(crate) fn arrive_up(&mut self, session: SessionId, packet: Up) {
        if let Some(at) = self.held(session, Way::Up) {
            self.put_off(at, Happening::Up { session, packet });
            return;
        }
        let Some(link) = self.links.get(&session).filter(|link| !link.dead) else {
            return;
        };
        if link.coordinator_until.is_some_and(|until| until < self.now) {
            return;
        }
        let node = self.hosts[link.node].node.clone();
        match packet {
            Up::Control(message) => self.tell_coordinator(coordinator::Input::Agent {
                session,
                node,
                message,
            }),
            Up::Frame(dispatch, frame) => {
                self.tell_coordinator(coordinator::Input::Work { dispatch, frame });
            }
        }
    }

    pub(crate) fn arrive_down(&mut self, session: SessionId, packet: Down) {
        if let Some(at) = self.held(session, Way::Down) {
            self.put_off(at, Happening::Down { session, packet });
            return;
        }
        let Some(node) = self.agent_end(session) else {
            return;
        };
        let input = match packet {
            Down::Control(message) => {
                self.hosts[node].welcome |= matches!(message, ToAgent::Welcome { .. });
                agent::Input::Control(message)
            }
            Down::Work(dispatch, work) => {
                self.hosts[node].frames.insert(dispatch, false);
                agent::Input::Work { dispatch, work }
            }
            Down::Cancel(dispatch) => agent::Input::Cancel { dispatch },
            Down::Closed => {
                self.end_at_agent(session);
                return;
            }
        };
        self.tell_agent(node, input);
    }

    /// The node at the agent's end, while that end is open and the connection lives.
    fn agent_end(&self, session: SessionId) -> Option<usize> {
        let link = self.links.get(&session).filter(|link| !link.dead)?;
        (self.hosts[link.node].link == Some(session)).then_some(link.node)
    }

    /// Connections of a node that live.
    pub(crate) fn links_of(&self, node: usize) -> Vec<SessionId> {
        let links = self.links.iter();
        let own = links.filter(|(_, link)| link.node == node && !link.dead);
        own.map(|(session, _)| *session).collect()
    }

    /// The connection dies now; each end learns of it at once or by the idle timeout.
    pub(crate) fn cut(&mut self, session: SessionId) {
        let Some(link) = self.links.get_mut(&session) else {
            return;
        };
        link.dead = true;
        let node = link.node;
        let idle = self.case.scenario.idle_timeout;
        let soon = (Duration::from_micros(10), Duration::from_millis(5));
        for way in Way::BOTH {
            let rng = &mut self.hosts[node].rng;
            let notice = if rng.chance(0.5) {
                rng.within(soon)
            } else {
                idle
            };
            self.after(notice, end(way, session));
        }
    }

    /// Nothing passes one way until then. Who hears nothing for the idle timeout gives up.
    pub(crate) fn hold(&mut self, node: usize, way: Way, until: Time) {
        let path = &mut self.hosts[node].paths[way as usize];
        path.held_until = path.held_until.max(until);
        let idle = self.case.scenario.idle_timeout;
        if until.since(self.now) > idle {
            for session in self.links_of(node) {
                self.after(idle, end(way, session));
            }
        }
    }

    /// The agent's process is gone without a word.
    pub(crate) fn end_at_coordinator(&mut self, session: SessionId) {
        let Some(link) = self.links.get_mut(&session) else {
            return;
        };
        let node = link.node;
        if link.coordinator_until.is_none() {
            link.coordinator_until = Some(self.now);
            // The other end hears nothing any more.
            let idle = self.case.scenario.idle_timeout;
            self.after(idle, end(Way::Down, session));
        }
        // Streams may report their end before the connection does.
        for dispatch in self.judge.open_on(session) {
            if self.hosts[node].rng.chance(0.3) {
                let reason = "the stream was reset".to_owned();
                self.tell_coordinator(coordinator::Input::WorkLost { dispatch, reason });
            }
        }
        let reason = "the connection was lost".to_owned();
        self.tell_coordinator(coordinator::Input::AgentLost { session, reason });
    }

    /// The coordinator closes a connection; what it said before still leaves.
    pub(crate) fn close_at_coordinator(&mut self, session: SessionId) {
        self.send_down(session, Down::Closed);
        let Some(link) = self.links.get_mut(&session) else {
            return;
        };
        let rng = &mut self.hosts[link.node].rng;
        let farewell = rng.within((Duration::ZERO, FAREWELL));
        link.coordinator_until.get_or_insert(self.now + farewell);
        self.after(farewell, end(Way::Up, session));
        // If the farewell does not get through, silence tells the agent.
        let idle = self.case.scenario.idle_timeout;
        self.after(idle, end(Way::Down, session));
    }

    pub(crate) fn end_at_agent(&mut self, session: SessionId) {
        let Some(link) = self.links.get(&session) else {
            return;
        };
        let node = link.node;
        if self.hosts[node].link != Some(session) {
            return;
        }
        self.hosts[node].hangs_up();
        let reason = "the connection was lost".to_owned();
        self.tell_agent(node, agent::Input::Disconnected { reason });
        // The other end hears of it too, if it did not close the connection itself.
        self.after(self.case.scenario.idle_timeout, end(Way::Up, session));
    }

    /// The coordinator's process is gone: its ends are, and agents hear at once or never again.
    pub(crate) fn lose_coordinator(&mut self) {
        let idle = self.case.scenario.idle_timeout;
        let living: Vec<SessionId> = self
            .links
            .iter()
            .filter(|(_, link)| !link.dead)
            .map(|(session, _)| *session)
            .collect();
        for session in living {
            let Some(link) = self.links.get_mut(&session) else {
                continue;
            };
            link.dead = true;
            link.coordinator_until.get_or_insert(self.now);
            let rng = &mut self.hosts[link.node].rng;
            let notice = rng.within((Duration::from_millis(1), idle));
            self.after(notice, end(Way::Down, session));
        }
    }
}

/// Who hears what goes this way learns that the connection is over.
fn end(way: Way, session: SessionId) -> Happening {
    if way.ends_at_coordinator() {
        Happening::EndAtCoordinator { session }
    } else {
        Happening::EndAtAgent { session }
    }
}
