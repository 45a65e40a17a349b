//! Agents coming, going and falling silent.

use moe2_gate::Gate;
use moe2_model::{
    DeviceInfo, DispatchId, Event, ExpertOffer, ExpertState, NodeId, SessionId, Time,
};
use moe2_wire::{FromAgent, PROTOCOL_VERSION, RefusedAgent, ToAgent};

use super::fleet::Node;
use super::health::{NodeState, Silence};
use super::{Engine, Output, Timer};

/// Experts one agent may offer; bounds what one certificate can make the coordinator remember.
const MAX_EXPERTS_PER_NODE: usize = 64;

impl Engine {
    /// Judges by another gate from now on. It hears of the fleet's experts first, so that none is a
    /// stranger to it for a moment.
    pub(super) fn take_gate(&mut self, now: Time, mut gate: Gate) {
        for (_, _, expert) in self.fleet.experts() {
            gate.introduce(&expert.offer);
        }
        self.fleet.believe(&gate);
        self.gate = gate;
        self.replan(now);
    }

    pub(super) fn agent_said(
        &mut self,
        now: Time,
        session: SessionId,
        node: NodeId,
        message: FromAgent,
    ) {
        if self.fleet.node_of(session).is_none() {
            self.first_message(now, session, node, message);
            return;
        }
        let heard = |known: &mut Node| {
            if matches!(message, FromAgent::Heartbeat { .. }) {
                known.health.beat(now, self.config.heartbeat);
            }
            known.heard(now)
        };
        // Only what changes somebody's choice is looked at again: agents may say much.
        let Some(mut news) = self.fleet.with_session(session, heard) else {
            return;
        };
        match message {
            FromAgent::Heartbeat {
                standing, clock, ..
            } => {
                if !standing.is_none() {
                    let (node, energy) = (node.clone(), standing);
                    self.event(Event::Standing { node, energy });
                }
                if let Some(clock) = clock {
                    self.compare_clocks(now, session, clock);
                }
            }
            FromAgent::Expert { name, state } => {
                let state = short_reason(state);
                let ready = state == ExpertState::Ready;
                let says = |known: &mut Node| known.says(now, &name, state.clone());
                if let Some(Some(before)) = self.fleet.with_session(session, says) {
                    news = true;
                    // Where experts come into memory and leave it, what waits for one does so on purpose, and the
                    // plan knows.
                    let tight = self.fleet.node(&node).is_some_and(|n| n.memory.is_tight());
                    let planned = tight && !state.is_failed() && !before.is_failed();
                    if !ready && !planned {
                        let waiting = self.withdraw(now, &node, Some(&name));
                        self.reroute(now, waiting);
                    }
                    if !planned {
                        self.replan(now);
                    }
                }
            }
            FromAgent::Loaded { name, took } => {
                self.fleet.with_session(session, |known| {
                    if let Some(expert) = known.experts.get_mut(&name) {
                        let beyond = expert.loaded_in(took);
                        known.memory.took_longer(now, beyond);
                    }
                });
            }
            FromAgent::Draining => {
                self.fleet
                    .with_session(session, |known| known.health.drains());
                let waiting = self.withdraw(now, &node, None);
                self.reroute(now, waiting);
                self.replan(now);
            }
            FromAgent::Hello { .. } => {
                // Nothing is sent to it while its connection closes.
                let reason = "a second hello in one session";
                self.outputs.push_back(Output::CloseAgent {
                    session,
                    reason: reason.to_owned(),
                });
                self.agent_lost(now, session, reason);
                return;
            }
        }
        self.watch(session);
        if news {
            self.freed(now, &node);
        } else {
            self.pump(now, &node);
        }
    }

    /// What a node's calendar says beside ours; the message took its way, so it seems that much behind.
    fn compare_clocks(&mut self, now: Time, session: SessionId, theirs: u64) {
        let ours = self.config.epoch.saturating_add(now.as_micros());
        let ahead = (i128::from(theirs) - i128::from(ours)) as f64 / 1e6;
        let news = |known: &mut Node| known.calendar.note(now, ahead);
        if self.fleet.with_session(session, news) == Some(true)
            && let Some(node) = self.fleet.node_of(session).cloned()
        {
            self.event(Event::Clock { node, ahead });
        }
    }

    fn first_message(&mut self, now: Time, session: SessionId, node: NodeId, message: FromAgent) {
        let refusal = match &message {
            FromAgent::Hello {
                min_version,
                max_version,
                ..
            } if !(*min_version..=*max_version).contains(&PROTOCOL_VERSION) => {
                Some(RefusedAgent::Version {
                    min: PROTOCOL_VERSION,
                    max: PROTOCOL_VERSION,
                })
            }
            FromAgent::Hello { experts, .. } if experts.len() > MAX_EXPERTS_PER_NODE => {
                let why = format!("{} experts, at most {MAX_EXPERTS_PER_NODE}", experts.len());
                Some(RefusedAgent::BadHello(why))
            }
            FromAgent::Hello {
                device, experts, ..
            } => too_wordy(device, experts).map(RefusedAgent::BadHello),
            _ => Some(RefusedAgent::BadHello(
                "the first message must be a hello".to_owned(),
            )),
        };
        if let Some(refusal) = refusal {
            let reason = refusal.to_string();
            let message = ToAgent::Refused(refusal);
            self.outputs.push_back(Output::ToAgent { session, message });
            self.outputs
                .push_back(Output::CloseAgent { session, reason });
            return;
        }
        let FromAgent::Hello {
            device, experts, ..
        } = message
        else {
            return;
        };
        for (offer, _) in &experts {
            self.gate.introduce(offer);
        }
        let energy_source = device.energy_source;
        let experts = experts
            .into_iter()
            .map(|(o, s)| (o, short_reason(s)))
            .collect();
        let orphans = self.dispatches_on(&node);
        let waiting = self.withdraw(now, &node, None);
        let replaced = self
            .fleet
            .join((now, &self.gate), (session, node.clone()), device, experts);
        if let Some(replaced) = replaced {
            self.timers.disarm(Timer::Silence(replaced));
            self.timers.disarm(Timer::Memory(replaced));
            let reason = "the same node opened a new session".to_owned();
            self.outputs.push_back(Output::CloseAgent {
                session: replaced,
                reason,
            });
        }
        let heartbeat_ms = u32::try_from(self.config.heartbeat.as_millis()).unwrap_or(u32::MAX);
        let message = ToAgent::Welcome {
            version: PROTOCOL_VERSION,
            heartbeat_ms,
        };
        self.outputs.push_back(Output::ToAgent { session, message });
        self.watch(session);
        self.event(Event::NodeJoined {
            node,
            energy_source,
        });
        // After the welcome: what is lost may be sent to the new session at once. A node that was
        // gone has none left.
        for dispatch in orphans {
            self.dispatch_lost(now, dispatch, "the agent reconnected");
        }
        self.reroute(now, waiting);
        self.replan(now);
    }

    pub(super) fn agent_lost(&mut self, now: Time, session: SessionId, reason: &str) {
        self.timers.disarm(Timer::Silence(session));
        self.timers.disarm(Timer::Memory(session));
        let Some(node) = self.fleet.node_of(session).cloned() else {
            return;
        };
        let orphans = self.dispatches_on(&node);
        let waiting = self.withdraw(now, &node, None);
        if self.fleet.leave(now, session, reason).is_none() {
            return;
        }
        self.timers
            .arm(Timer::Forget(session), now + self.config.remember_gone);
        self.event(Event::NodeLost {
            node,
            reason: reason.to_owned(),
        });
        for dispatch in orphans {
            self.dispatch_lost(now, dispatch, reason);
        }
        self.reroute(now, waiting);
        self.replan(now);
    }

    /// Looks at a node again when it has been silent for as long as it may be.
    fn watch(&mut self, session: SessionId) {
        let node = self.fleet.node_of(session);
        if let Some(node) = node.and_then(|node| self.fleet.node(node)) {
            let at = node.health.next_look(&self.config);
            self.timers.arm(Timer::Silence(session), at);
        }
    }

    /// A node that is silent becomes suspect, then lost; one that was heard from is looked at later.
    pub(super) fn check_silence(&mut self, now: Time, session: SessionId) {
        let look = |node: &mut Node| {
            let trusted = node.health.is_ready();
            let look = node.health.look(now, &self.config);
            let suspected = trusted && node.health.state() == NodeState::Suspect;
            (look, suspected)
        };
        let Some((look, suspected)) = self.fleet.with_session(session, look) else {
            return;
        };
        match look {
            Silence::Until(at) => {
                self.timers.arm(Timer::Silence(session), at);
                if let Some(node) = self.fleet.node_of(session).filter(|_| suspected) {
                    let node = node.clone();
                    self.event(Event::NodeSuspected { node });
                }
            }
            Silence::Lost(silence) => {
                let reason = format!("silent for {:.1} s", silence.as_secs_f64());
                self.outputs.push_back(Output::CloseAgent {
                    session,
                    reason: reason.clone(),
                });
                self.agent_lost(now, session, &reason);
            }
        }
    }

    /// Work of a node said something: whatever its heartbeats do, it is alive.
    pub(super) fn node_at_work(&mut self, now: Time, node: &NodeId) {
        let news = self.fleet.with(node, |known| known.heard(now));
        if news == Some(true) {
            self.freed(now, node);
        }
    }

    /// A node that has been gone for long is not shown any more, and what it hosted is unknown.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.fleet.forget(session);
    }

    fn dispatches_on(&self, node: &NodeId) -> Vec<DispatchId> {
        self.open
            .iter()
            .filter(|(_, o)| o.expert.node == *node)
            .map(|(d, _)| *d)
            .collect()
    }
}

/// Longest text an agent may describe something with: it is kept and shown as long as the node is.
const MAX_TEXT: usize = 512;
/// Graphics adapters one machine may list.
const MAX_GPUS: usize = 64;

/// What is too long in an agent's description, if anything is.
fn too_wordy(device: &DeviceInfo, experts: &[(ExpertOffer, ExpertState)]) -> Option<String> {
    let gpus = device.gpus.iter().flat_map(|gpu| [&gpu.name, &gpu.driver]);
    let offers = experts
        .iter()
        .flat_map(|(o, _)| [&o.family, &o.quantisation]);
    let long = gpus
        .chain(offers)
        .chain([&device.model])
        .any(|text| text.len() > MAX_TEXT);
    if device.gpus.len() > MAX_GPUS {
        return Some(format!("{} GPUs, at most {MAX_GPUS}", device.gpus.len()));
    }
    long.then(|| format!("a text is longer than {MAX_TEXT} bytes"))
}

fn short_reason(state: ExpertState) -> ExpertState {
    match state {
        ExpertState::Failed { reason } if reason.len() > MAX_TEXT => ExpertState::Failed {
            reason: reason.chars().take(MAX_TEXT / 4).collect(),
        },
        other => other,
    }
}
