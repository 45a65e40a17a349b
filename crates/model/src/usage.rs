//! What a piece of work used.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

use crate::{Joules, Seconds};

/// Where a figure in joules comes from.
///
/// The order of the variants is that of their numbers on the wire and means nothing else; how far to
/// trust a source is [`EnergySource::rank`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ina3221, Self::Nvml, Self::Rapl, Self::Modelled];

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

    /// Its place in trust, 0 first: by how much of the machine's draw it sees. A module's rails have
    /// everything but the carrier board, a GPU board the part that does the work, processor packages
    /// what is left of it, a model nothing.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Ina3221 => 0,
            Self::Nvml => 1,
            Self::Rapl => 2,
            Self::Modelled => 3,
        }
    }

    /// The one to trust less, which names a sum of both.
    #[must_use]
    pub const fn weaker(self, other: Self) -> Self {
        if other.rank() > self.rank() {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for EnergySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Joules, how far they may be off and how they are known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// How many.
    pub joules: Joules,
    /// The most by which the truth may differ, in either direction.
    pub error: Joules,
    /// How they are known.
    pub source: EnergySource,
}

impl Figure {
    /// No joules, and nothing to be wrong about.
    pub const NONE: Self = Self {
        joules: Joules::ZERO,
        error: Joules::ZERO,
        source: EnergySource::Modelled,
    };

    /// Whether it says that there was nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.joules == Joules::ZERO && self.error == Joules::ZERO
    }
}

impl Add for Figure {
    type Output = Self;

    /// Errors add up as they are, because those of one sensor have one cause and do not cancel; the
    /// sum is named after its weaker source. Nothing added to a figure leaves its name alone.
    fn add(self, other: Self) -> Self {
        let source = if self.is_none() {
            other.source
        } else if other.is_none() {
            self.source
        } else {
            self.source.weaker(other.source)
        };
        Self {
            joules: self.joules + other.joules,
            error: self.error + other.error,
            source,
        }
    }
}

impl AddAssign for Figure {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Figure {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::NONE, Add::add)
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
    /// How many of them were in the expert's cache already, and not processed.
    #[serde(default)]
    pub cached_tokens: u32,
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
    /// The most by which that energy may be off, in either direction.
    pub energy_error: Joules,
}

impl Usage {
    /// Tokens of prompt that were processed, of which its seconds and joules follow.
    #[must_use]
    pub const fn computed_tokens(&self) -> u32 {
        self.prompt_tokens.saturating_sub(self.cached_tokens)
    }

    /// Its energy with all that is known about it.
    #[must_use]
    pub const fn figure(&self) -> Figure {
        Figure {
            joules: self.energy,
            error: self.energy_error,
            source: self.energy_source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(joules: f64, error: f64, source: EnergySource) -> Figure {
        Figure {
            joules: Joules::saturating(joules),
            error: Joules::saturating(error),
            source,
        }
    }

    #[test]
    fn no_two_sources_are_trusted_alike_and_a_model_least() {
        let mut ranks = EnergySource::ALL.map(EnergySource::rank);
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1, 2, 3]);
        for source in EnergySource::ALL {
            assert_eq!(
                source.weaker(EnergySource::Modelled),
                EnergySource::Modelled
            );
            assert_eq!(EnergySource::Ina3221.weaker(source), source);
        }
    }

    #[test]
    fn a_sum_adds_errors_up_and_is_named_after_its_weakest_part() {
        let parts = [
            figure(10.0, 0.5, EnergySource::Ina3221),
            figure(4.0, 0.4, EnergySource::Rapl),
            figure(2.0, 0.1, EnergySource::Nvml),
            Figure::NONE,
        ];
        let forwards: Figure = parts.into_iter().sum();
        let backwards: Figure = parts.into_iter().rev().sum();
        assert_eq!(forwards, figure(16.0, 1.0, EnergySource::Rapl));
        assert_eq!(forwards.source, backwards.source);
    }

    #[test]
    fn an_unknown_amount_does_weaken_a_sum() {
        let lost = figure(0.0, 3.0, EnergySource::Modelled);
        let sum = figure(10.0, 0.5, EnergySource::Ina3221) + lost;
        assert_eq!(sum, figure(10.0, 3.5, EnergySource::Modelled));
    }
}
