//! Faults of the network and of whole processes, as the script has them.

use std::time::Duration;

use moe2_engine::agent;
use moe2_model::{ExpertState, SessionId};
use moe2_wire::FromAgent;

use crate::fault::{Fault, Kind};
use crate::network::{Link, Up, Way};
use crate::world::{Happening, World};

/// By how many times a slow machine is slower.
const SLOWER: (f64, f64) = (10.0, 50.0);
/// By how much a slow link is late, in the mean.
const LATE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(3));

impl World<'_> {
    pub(crate) fn fault(&mut self, fault: Fault) {
        let Fault {
            kind,
            node,
            lasting,
            mut rng,
            ..
        } = fault;
        self.judge.report.faults += 1;
        let until = self.now + lasting;
        let host = &mut self.hosts[node];
        match kind {
            Kind::Cut => {
                if let Some(session) = host.link {
                    self.cut(session);
                }
            }
            Kind::Crash => self.crash(node, lasting),
            Kind::Drain => self.tell_agent(node, agent::Input::Drain),
            Kind::Partition => Way::BOTH
                .iter()
                .for_each(|way| self.hold(node, *way, until)),
            Kind::Deaf => self.hold(node, Way::Down, until),
            Kind::Mute => self.hold(node, Way::Up, until),
            Kind::SlowLink => {
                let way = *rng.pick(&Way::BOTH);
                let path = &mut host.paths[way as usize];
                path.slow_until = path.slow_until.max(until);
                path.late = rng.within(LATE);
            }
            Kind::Slow => {
                let times = SLOWER.0 + (SLOWER.1 - SLOWER.0) * rng.unit();
                host.slow = (times, until);
            }
            Kind::Stall => self.stall(node, lasting),
            Kind::CoordinatorStall => {
                let still = &mut self.coordinator.stalled_until;
                *still = (*still).max(until);
            }
            Kind::Lie => self.lie(node, until, rng),
            Kind::Twin => self.twin(node, lasting),
            Kind::Restart => self.restart(lasting),
            Kind::DiskFull => self.fill_disk(lasting),
        }
    }

    /// The process is gone at once; whether its connection says goodbye is chance.
    pub(crate) fn crash(&mut self, node: usize, away: Duration) {
        self.hosts[node].kill();
        if let Some(session) = self.hosts[node].link.take() {
            self.cut(session);
        }
        self.after(away, Happening::Boot { node });
    }

    /// Neither reads nor writes nor fires timers, and then goes on where it was. Who is at the other end
    /// hears nothing; the machine itself learns when it wakes how long that was.
    fn stall(&mut self, node: usize, lasting: Duration) {
        let until = self.now + lasting;
        self.hosts[node].stalled_until = self.hosts[node].stalled_until.max(until);
        let idle = self.case.scenario.idle_timeout;
        if lasting > idle {
            for session in self.links_of(node) {
                self.after(idle, Happening::EndAtCoordinator { session });
                self.at(until, Happening::EndAtAgent { session });
            }
        }
    }

    /// Somebody else with a copy of a node's certificate says hello.
    fn twin(&mut self, node: usize, lasting: Duration) {
        if self.coordinator.is_away(self.now) {
            return;
        }
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.links.insert(session, Link::new(node));
        let hello = self.hosts[node].hello();
        self.send_up(session, Up::Control(hello));
        let name = self.hosts[node].config.experts[0].name.clone();
        let state = ExpertState::Ready;
        self.send_up(session, Up::Control(FromAgent::Expert { name, state }));
        self.after(lasting, Happening::EndAtCoordinator { session });
    }

    /// The disk takes nothing for a while; the coordinator learns of it by a write that fails.
    fn fill_disk(&mut self, lasting: Duration) {
        self.coordinator.disk.full = true;
        self.after(lasting, Happening::DiskEmptied);
    }
}
