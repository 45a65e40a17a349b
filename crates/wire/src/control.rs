//! The control conversation between an agent and the coordinator.
//!
//! The agent opens one bidirectional stream and says [`FromAgent::Hello`]; everything that is not
//! about a single query goes there. The node's name is not in it: the certificate says who it is.

use moe2_model::{DeviceInfo, ExpertName, ExpertOffer, ExpertState, Figure, Seconds};
use serde::{Deserialize, Serialize};

/// TLS application protocol of the fleet; a change that old peers cannot read gets a new one.
pub const ALPN: &[u8] = b"moe2/1";

/// Version of the messages inside [`ALPN`].
pub const PROTOCOL_VERSION: u16 = 4;

/// From an agent to the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromAgent {
    /// First message of a session.
    Hello {
        /// Lowest message version the agent speaks.
        min_version: u16,
        /// Highest message version the agent speaks.
        max_version: u16,
        /// The agent's software version, for people.
        software: String,
        /// The machine.
        device: DeviceInfo,
        /// Experts it hosts, with their states.
        experts: Vec<(ExpertOffer, ExpertState)>,
    },
    /// Still here.
    Heartbeat {
        /// Counts up within a session.
        sequence: u64,
        /// What the machine drew for no job, since the last one.
        standing: Figure,
        /// Its calendar, in microseconds since 1970 (UTC), if it has one: nothing is timed by it, but people are told
        /// when it is wrong.
        clock: Option<u64>,
    },
    /// An expert changed state.
    Expert {
        /// Which.
        name: ExpertName,
        /// Its new state.
        state: ExpertState,
    },
    /// Finishing what it has; give it nothing new.
    Draining,
    /// An expert is in memory now, and how long that took.
    Loaded {
        /// Which.
        name: ExpertName,
        /// From the start of its worker until it took work.
        took: Seconds,
    },
}

/// From the coordinator to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToAgent {
    /// The agent is in the fleet.
    Welcome {
        /// Message version of this session.
        version: u16,
        /// How often to send a heartbeat, in milliseconds.
        heartbeat_ms: u32,
    },
    /// The agent is not let in.
    Refused(RefusedAgent),
    /// What is to be in memory from now on; what else is there leaves it when its work is done. An agent never
    /// holds more than its memory does, whatever is asked of it.
    Keep {
        /// In the order in which they are needed.
        experts: Vec<ExpertName>,
    },
}

/// Why an agent is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RefusedAgent {
    /// No common version.
    #[error("the coordinator speaks message versions {min} to {max}: upgrade the older of the two")]
    Version {
        /// Lowest the coordinator speaks.
        min: u16,
        /// Highest the coordinator speaks.
        max: u16,
    },
    /// The first message was not a hello, or its content is unacceptable.
    #[error("the agent's description was not accepted: {0}")]
    BadHello(String),
}
