//! The connection to the coordinator: hello, heartbeats, and coming back.

use std::time::Duration;

use moe2_model::{ExpertOffer, ExpertState, Time};
use moe2_wire::{FromAgent, PROTOCOL_VERSION, ToAgent};

use super::backoff::Backoff;
use super::{Engine, Output, RECONNECT_MAX, Timer};

/// First delay before reconnecting.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
/// Delay after the coordinator refused this agent: only an upgrade or a new config helps.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

/// Heartbeats after which a session counts as settled, and the next loss is answered at once again.
/// Resetting at the welcome would let two agents with one identity throw each other out for ever.
const SETTLED: u64 = 20;

#[derive(Debug)]
pub(super) struct Session {
    up: bool,
    refused: bool,
    heartbeat: Option<Duration>,
    sequence: u64,
    /// What the calendar said, and when.
    calendar: Option<(Time, u64)>,
    backoff: Backoff,
}

impl Session {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            up: false,
            refused: false,
            heartbeat: None,
            sequence: 0,
            calendar: None,
            backoff: Backoff::new(RECONNECT_MIN, RECONNECT_MAX, seed),
        }
    }

    /// The calendar was read.
    pub(super) fn calendar(&mut self, now: Time, micros: u64) {
        self.calendar = Some((now, micros));
    }

    /// What it says now, in microseconds since 1970.
    fn clock(&self, now: Time) -> Option<u64> {
        let (at, micros) = self.calendar?;
        let since = now.as_micros().saturating_sub(at.as_micros());
        Some(micros.saturating_add(since))
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }
}

impl Engine {
    pub(super) fn connected(&mut self, _now: Time) {
        self.session.up = true;
        self.session.sequence = 0;
        self.keep_what_is_there();
        let experts: Vec<(ExpertOffer, ExpertState)> = self
            .config
            .experts
            .iter()
            .zip(&self.workers)
            .map(|(offer, worker)| (offer.clone(), worker.state.clone()))
            .collect();
        self.outputs.push_back(Output::Control(FromAgent::Hello {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.config.device.clone(),
            experts,
        }));
        for (offer, worker) in self.config.experts.iter().zip(&self.workers) {
            if let Some(took) = worker.took {
                let name = offer.name.clone();
                let message = FromAgent::Loaded { name, took };
                self.outputs.push_back(Output::Control(message));
            }
        }
        if self.draining {
            self.outputs.push_back(Output::Control(FromAgent::Draining));
        }
    }

    pub(super) fn disconnected(&mut self, now: Time) {
        self.session.up = false;
        self.session.heartbeat = None;
        self.timers.disarm(Timer::Heartbeat);
        self.cancel_all(now);
        // Nobody may have any work left.
        self.settle(now);
        let wait = if std::mem::take(&mut self.session.refused) {
            REFUSED_RETRY
        } else {
            self.session.backoff.next()
        };
        self.timers.arm(Timer::Reconnect, now + wait);
    }

    pub(super) fn control(&mut self, now: Time, message: ToAgent) {
        match message {
            ToAgent::Welcome { heartbeat_ms, .. } => {
                // A floor, so that a wrong setting cannot make the agent spin.
                let every = Duration::from_millis(u64::from(heartbeat_ms.max(50)));
                self.session.heartbeat = Some(every);
                self.timers.arm(Timer::Heartbeat, now + every);
            }
            ToAgent::Refused(_) => self.session.refused = true,
            ToAgent::Keep { experts } => self.keep(now, &experts),
        }
    }

    pub(super) fn beat(&mut self, now: Time) {
        let Some(every) = self.session.heartbeat else {
            return;
        };
        self.session.sequence += 1;
        if self.session.sequence == SETTLED {
            self.session.backoff.reset();
        }
        let beat = FromAgent::Heartbeat {
            sequence: self.session.sequence,
            standing: self.accountant.take_standing(),
            clock: self.session.clock(now),
        };
        self.outputs.push_back(Output::Control(beat));
        self.timers.arm(Timer::Heartbeat, now + every);
    }

    pub(super) fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        if self.session.is_up() {
            self.outputs.push_back(Output::Control(FromAgent::Draining));
        }
        self.drained_if_idle();
    }

    pub(super) fn drained_if_idle(&mut self) {
        if self.draining && self.jobs() == 0 {
            self.outputs.push_back(Output::Drained);
        }
    }
}
