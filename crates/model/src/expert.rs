//! What an agent says about an expert it hosts.

use serde::{Deserialize, Serialize};

use crate::{Bytes, ExpertName, Seconds};

/// An expert as its agent offers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpertOffer {
    /// What users call it.
    pub name: ExpertName,
    /// Model family, e.g. `qwen2`.
    pub family: String,
    /// Quantisation of the weights, e.g. `Q4_K_M`.
    pub quantisation: String,
    /// Number of weights.
    pub parameters: u64,
    /// Size of the weights in memory.
    pub weights: Bytes,
    /// Key-value cache per token of context.
    pub kv_per_token: Bytes,
    /// Longest prompt plus answer, in tokens.
    pub context_tokens: u32,
    /// Requests it works on at once; more wait in its queue.
    pub slots: u32,
    /// About how long its weights take into memory; absent if it cannot leave memory by its agent's word, as the
    /// model of a server.
    pub load: Option<Seconds>,
}

impl ExpertOffer {
    /// What it keeps in memory: weights, and a full key-value cache for each slot.
    #[must_use]
    pub const fn resident(&self) -> Bytes {
        let tokens = (self.context_tokens as u64).saturating_mul(self.slots as u64);
        let cache = self.kv_per_token.0.saturating_mul(tokens);
        Bytes(self.weights.0.saturating_add(cache))
    }
}

/// Whether an expert can take work now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertState {
    /// Its weights are being loaded.
    Loading,
    /// It takes work.
    Ready,
    /// Its worker died or could not load; it is being restarted or given up.
    Failed {
        /// Why, for people.
        reason: String,
    },
    /// Hosted, but not in memory: it is loaded when it is needed.
    Unloaded,
    /// It finishes what it has, takes nothing new and leaves memory.
    Unloading,
}

impl ExpertState {
    /// Whether its worker died or could not load.
    #[must_use]
    pub const fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// A word for tables.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed { .. } => "failed",
            Self::Unloaded => "unloaded",
            Self::Unloading => "unloading",
        }
    }
}
