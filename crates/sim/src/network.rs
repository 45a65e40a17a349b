//! Connections as QUIC gives them: reliable streams that keep their own order, and none other.
//!
//! A message is never lost alone: it arrives, late, or its connection dies. The two ends learn of a
//! death separately, at once or after the idle timeout, and what was on the way then is gone. A
//! partition holds messages back; one longer than the idle timeout kills the connection.

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

/// Direction and stream, which together keep order; `None` is the control stream.
type Lane = (bool, Option<DispatchId>);

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: usize,
    /// Nothing travels any more.
    pub(crate) dead: bool,
    /// When the coordinator's end closes or closed.
    pub(crate) coordinator_until: Option<Time>,
    pub(crate) held_until: Time,
    last: BTreeMap<Lane, Time>,
}

impl Link {
    pub(crate) fn new(node: usize, held_until: Time) -> Self {
        Self {
            node,
            dead: false,
            coordinator_until: None,
            held_until,
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
        if let Some(at) = self.due(session, (true, stream)) {
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
        if open && let Some(at) = self.due(session, (false, stream)) {
            self.at(at, Happening::Down { session, packet });
        }
    }

    fn due(&mut self, session: SessionId, lane: Lane) -> Option<Time> {
        let delay = self.rng.within(self.scenario.latency);
        let now = self.now;
        let link = self.links.get_mut(&session).filter(|link| !link.dead)?;
        let last = link.last.entry(lane).or_default();
        *last = (now.max(link.held_until) + delay).max(*last);
        Some(*last)
    }

    /// When a message that is due now may pass, if that is later.
    fn held(&self, session: SessionId) -> Option<Time> {
        let link = self.links.get(&session)?;
        (!link.dead && link.held_until > self.now).then_some(link.held_until)
    }

    pub(crate) fn arrive_up(&mut self, session: SessionId, packet: Up) {
        if let Some(at) = self.held(session) {
            // Later messages of the same stream come after it: equal times keep their order.
            self.at(at, Happening::Up { session, packet });
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
        if let Some(at) = self.held(session) {
            self.at(at, Happening::Down { session, packet });
            return;
        }
        let Some(node) = self.agent_end(session) else {
            return;
        };
        let input = match packet {
            Down::Control(message) => agent::Input::Control(message),
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

    /// The connection dies now; each end learns of it at once or by the idle timeout.
    pub(crate) fn cut(&mut self, session: SessionId) {
        if let Some(link) = self.links.get_mut(&session) {
            link.dead = true;
        }
        let idle = self.scenario.idle_timeout;
        let soon = (Duration::from_micros(10), Duration::from_millis(5));
        for coordinator in [true, false] {
            let notice = if self.rng.chance(0.5) {
                self.rng.within(soon)
            } else {
                idle
            };
            self.after(notice, end(coordinator, session));
        }
    }

    /// The connection dies of silence after `idle`.
    pub(crate) fn lose_both_ends(&mut self, session: SessionId, idle: Duration) {
        self.after(idle, Happening::Die { session });
        for coordinator in [true, false] {
            let late = self.rng.within((Duration::ZERO, idle / 4));
            self.after(idle + late, end(coordinator, session));
        }
    }

    /// The coordinator's driver learns that a connection is gone.
    pub(crate) fn end_at_coordinator(&mut self, session: SessionId) {
        let Some(link) = self.links.get_mut(&session) else {
            return;
        };
        if link.coordinator_until.is_none() {
            link.dead = true;
            link.coordinator_until = Some(self.now);
        }
        // Streams may report their end before the connection does.
        for dispatch in self.judge.open_on(session) {
            if self.rng.chance(0.3) {
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
        let farewell = self.rng.within((Duration::ZERO, FAREWELL));
        let until = self.now + farewell;
        if let Some(link) = self.links.get_mut(&session) {
            link.coordinator_until.get_or_insert(until);
        }
        self.after(farewell, end(true, session));
        // If the farewell does not get through, silence tells the agent.
        let idle = self.scenario.idle_timeout;
        self.after(idle, end(false, session));
    }

    pub(crate) fn end_at_agent(&mut self, session: SessionId) {
        let Some(link) = self.links.get(&session) else {
            return;
        };
        let node = link.node;
        if self.hosts[node].link != Some(session) {
            return;
        }
        self.hosts[node].link = None;
        let reason = "the connection was lost".to_owned();
        self.tell_agent(node, agent::Input::Disconnected { reason });
        // The other end hears of it too, if it did not close the connection itself.
        self.after(self.scenario.idle_timeout, end(true, session));
    }
}

fn end(coordinator: bool, session: SessionId) -> Happening {
    if coordinator {
        Happening::EndAtCoordinator { session }
    } else {
        Happening::EndAtAgent { session }
    }
}
