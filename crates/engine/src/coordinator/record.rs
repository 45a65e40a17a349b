//! How a query went, for whoever asks why. Holds no word of prompt or answer.

use moe2_model::{
    Budgets, EnergySource, Joules, Mode, Participant, Query, QueryId, RefusalKind, Seconds, Target,
    TenantId,
};
use serde::{Deserialize, Serialize};

use super::Output;
use super::answer::energy;
use super::decision::Decision;
use super::query::Running;
use super::reply::{Answer, Refusal};

/// How a query ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ending {
    /// With an answer.
    Answered {
        /// The expert that answered, `model@node`, or all of them joined by `+` when fused.
        model: String,
        /// How the answer was made.
        fusion: String,
    },
    /// Without one.
    Refused {
        /// Why.
        reason: RefusalKind,
        /// As the client was told.
        message: String,
    },
    /// The client went away.
    Abandoned,
}

impl From<&Refusal> for Ending {
    fn from(refusal: &Refusal) -> Self {
        Self::Refused {
            reason: refusal.kind,
            message: refusal.message.clone(),
        }
    }
}

impl From<&Answer> for Ending {
    fn from(answer: &Answer) -> Self {
        Self::Answered {
            model: answer.model.clone(),
            fusion: answer.explanation.fusion.clone(),
        }
    }
}

/// How one query went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryRecord {
    /// Which.
    pub query: QueryId,
    /// Whose.
    pub tenant: TenantId,
    /// Who might have answered.
    pub target: Target,
    /// How many experts were wanted.
    pub mode: Mode,
    /// What it was about, as the gate saw it; nothing of a query that was not looked at.
    pub topic: Option<String>,
    /// Its own budgets and its tenant's, whichever are tighter.
    pub budgets: Budgets,
    /// Every choice of experts, in order.
    pub decisions: Vec<Decision>,
    /// Those that worked on it, in order of dispatch. Weights are those of the answer.
    pub participants: Vec<Participant>,
    /// How it ended.
    pub ending: Ending,
    /// From submission to the end.
    pub delay: Seconds,
    /// All experts together, as far as they had reported when the query ended.
    pub energy: Joules,
    /// The weakest source among the energies added up.
    pub energy_source: EnergySource,
    /// The most by which that energy may be off.
    pub energy_error: Joules,
}

impl QueryRecord {
    /// What files with a record begin with.
    pub const FORMAT: &str = "moe2-explanation/3";

    /// Of a query that was refused before it was looked at.
    pub(super) fn unadmitted(id: QueryId, query: &Query, refusal: &Refusal) -> Self {
        Self {
            query: id,
            tenant: query.tenant.clone(),
            target: query.target.clone(),
            mode: query.mode,
            topic: None,
            budgets: query.budgets,
            decisions: Vec::new(),
            participants: Vec::new(),
            ending: Ending::from(refusal),
            delay: Seconds::ZERO,
            energy: Joules::ZERO,
            energy_source: EnergySource::Modelled,
            energy_error: Joules::ZERO,
        }
    }

    /// Of a query that was looked at. Takes what the query kept for this.
    pub(super) fn of(
        query: QueryId,
        running: &mut Running,
        ending: Ending,
        (delay, participants): (Seconds, Vec<Participant>),
    ) -> Self {
        let energy = energy(running);
        Self {
            query,
            tenant: running.query.tenant.clone(),
            target: running.query.target.clone(),
            mode: running.query.mode,
            topic: Some(running.features.topic().as_str().to_owned()),
            budgets: running.query.budgets,
            decisions: running.choices.take(),
            participants,
            ending,
            delay,
            energy: energy.joules,
            energy_source: energy.source,
            energy_error: energy.error,
        }
    }

    pub(super) fn output(self) -> Output {
        Output::Ended(Box::new(self))
    }
}
