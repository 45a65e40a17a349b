//! What a piece of work used.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Joules, Seconds};

/// Where a figure in joules comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EnergySource {
    /// Jetson power monitor (module rails).
    #[serde(rename = "measured:ina3221")]
    Ina3221,
    /// NVIDIA management library (GPU board).
    #[serde(rename = "measured:nvml")]
    Nvml,
    /// Running average power limit counters (CPU package).
    #[serde(rename = "measured:rapl")]
    Rapl,
    /// No sensor: power of the phase times its seconds.
    #[serde(rename = "modelled")]
    Modelled,
}

impl EnergySource {
    /// As it is written in replies, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ina3221 => "measured:ina3221",
            Self::Nvml => "measured:nvml",
            Self::Rapl => "measured:rapl",
            Self::Modelled => "modelled",
        }
    }
}

impl fmt::Display for EnergySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why an expert stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// It was done, or met a stop string.
    Stop,
    /// It met the token limit.
    Length,
    /// It was told to stop.
    Cancelled,
}

impl FinishReason {
    /// As OpenAI writes it; a cancelled answer never reaches a client.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What one expert used for one dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of prompt.
    pub prompt_tokens: u32,
    /// Tokens of answer (for a choice: tokens scored).
    pub output_tokens: u32,
    /// Waited in the agent's queue.
    pub queue: Seconds,
    /// Processing the prompt.
    pub prefill: Seconds,
    /// Producing the answer.
    pub decode: Seconds,
    /// Energy attributed to it.
    pub energy: Joules,
    /// How that energy is known.
    pub energy_source: EnergySource,
}
