//! The way between a machine and the coordinator, and what is done to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::ground::{Ground, Machine};
use super::relay::{Relay, Weather};

/// What is added to the way of every packet, each way.
pub(crate) const DELAY: Duration = Duration::from_millis(500);
/// Share of packets that are lost, each way.
pub(crate) const LOSS: f64 = 0.2;

/// What is wrong with a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing gets through, and nobody is told.
    Cut,
    /// [`DELAY`].
    Delay,
    /// [`LOSS`].
    Loss,
}

/// One machine's way to the coordinator: a cable, or a relay, or a cable to a relay.
#[derive(Debug)]
pub(crate) struct Way {
    machine: Option<Machine>,
    relay: Option<Relay>,
    coordinator: SocketAddr,
}

impl Way {
    /// The way of the machine with this number, from 1 on.
    pub(crate) fn lay(ground: Ground, number: usize, port: u16, seed: u64) -> anyhow::Result<Self> {
        let ip = ground.address();
        let coordinator: SocketAddr = format!("{ip}:{port}").parse()?;
        let machine = ground
            .namespaces
            .then(|| Machine::make(number))
            .transpose()?;
        let relay = (!ground.netem).then(|| Relay::start(&ip, coordinator, seed));
        let relay = relay.transpose().context("no port for a relay")?;
        Ok(Self {
            machine,
            relay,
            coordinator,
        })
    }

    /// A way on which nothing will be done: loopback.
    pub(crate) fn loopback(port: u16) -> Self {
        Self {
            machine: None,
            relay: None,
            coordinator: (Ipv4Addr::LOCALHOST, port).into(),
        }
    }

    /// `host:port` that the agent dials.
    pub(crate) fn dialled(&self) -> String {
        let relay = self.relay.as_ref().map(|relay| relay.address);
        relay.unwrap_or(self.coordinator).to_string()
    }

    /// A program on the machine.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match &self.machine {
            Some(machine) => machine.command(program),
            None => Command::new(program),
        }
    }

    /// Makes it bad, or good again with `None`.
    pub(crate) fn set(&self, trouble: Option<Trouble>) -> anyhow::Result<()> {
        let cut = trouble == Some(Trouble::Cut);
        if let Some(machine) = &self.machine {
            machine.cut(cut)?;
        }
        let delay = if trouble == Some(Trouble::Delay) {
            DELAY
        } else {
            Duration::ZERO
        };
        let loss = if trouble == Some(Trouble::Loss) {
            LOSS
        } else {
            0.0
        };
        match (&self.relay, &self.machine) {
            (Some(relay), machine) => {
                let cut = cut && machine.is_none();
                relay.set(Weather { delay, loss, cut });
                Ok(())
            }
            (None, Some(machine)) => machine.netem(delay, loss),
            (None, None) => Ok(()),
        }
    }
}
