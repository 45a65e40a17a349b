//! A query after the HTTP boundary: valid, and independent of how it came in.

use serde::{Deserialize, Serialize};

use crate::{ExpertId, ExpertName, Joules, Prompt, Seconds, TenantId};

/// How text is sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Most tokens of answer.
    pub max_tokens: u32,
    /// 0 picks the most likely token each time.
    pub temperature: f32,
    /// Nucleus mass in (0, 1].
    pub top_p: f32,
    /// Seed of the sampler.
    pub seed: u32,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
}

/// What kind of answer is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// Free text.
    Generate(Sampling),
    /// Exactly one of these options; experts return a log-probability for each.
    Choice {
        /// At least one, all different, none empty.
        options: Vec<String>,
    },
}

/// Who may answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The router decides (`"model": "auto"`).
    Auto,
    /// Any node's deployment of this model.
    Model(ExpertName),
    /// This deployment only.
    Expert(ExpertId),
}

impl Target {
    /// Whether an expert is admissible.
    #[must_use]
    pub fn admits(&self, expert: &ExpertId) -> bool {
        match self {
            Self::Auto => true,
            Self::Model(name) => expert.name == *name,
            Self::Expert(id) => expert == id,
        }
    }
}

/// How many experts work on it and how their answers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One expert unless fusion is forecast to pay.
    #[default]
    Auto,
    /// One expert.
    Single,
    /// Several experts, fused.
    Fuse,
    /// The cheapest expert first, and others only if its confidence makes that worth it.
    Cascade,
}

/// Budgets of one request; they tighten a tenant's, never loosen them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Budgets {
    /// End-to-end delay.
    pub delay: Option<Seconds>,
    /// Time to the first token of an answer that is streamed.
    #[serde(default)]
    pub first_token: Option<Seconds>,
    /// Energy of all experts together.
    pub energy: Option<Joules>,
}

impl Budgets {
    /// Both budgets at once: the smaller of each.
    #[must_use]
    pub fn tightened(self, other: Self) -> Self {
        Self {
            delay: smaller(self.delay, other.delay, Seconds::get),
            first_token: smaller(self.first_token, other.first_token, Seconds::get),
            energy: smaller(self.energy, other.energy, Joules::get),
        }
    }
}

fn smaller<T: Copy>(a: Option<T>, b: Option<T>, get: impl Fn(T) -> f64) -> Option<T> {
    let both = [a, b].into_iter().flatten();
    both.min_by(|a, b| get(*a).total_cmp(&get(*b)))
}

/// A valid query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// Who pays.
    pub tenant: TenantId,
    /// What is asked.
    pub prompt: Prompt,
    /// What kind of answer is wanted.
    pub task: Task,
    /// Who may answer.
    pub target: Target,
    /// What it may cost.
    pub budgets: Budgets,
    /// Most experts at once; at least 1.
    pub max_experts: u32,
    /// How many experts work on it.
    pub mode: Mode,
    /// Deltas are wanted as they come.
    pub stream: bool,
}

impl Query {
    /// Whether its answer comes in one piece, with nothing to send on before it is whole: one of given options,
    /// or one that others may still change.
    #[must_use]
    pub fn in_one_piece(&self) -> bool {
        matches!(self.task, Task::Choice { .. }) || matches!(self.mode, Mode::Fuse | Mode::Cascade)
    }
}
