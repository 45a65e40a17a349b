//! What happened, for metrics, logs and audits. Pure folds turn these into figures.

use serde::{Deserialize, Serialize};

use crate::{EnergySource, ExpertId, ExpertName, Figure, Joules, NodeId, Seconds, TenantId, Usage};

/// Why a query was refused or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The named model or expert is not in the fleet.
    UnknownModel,
    /// No admissible expert can take work now.
    NoExpert,
    /// No expert is forecast to fit the budgets.
    BudgetInfeasible,
    /// Too many queries are under way.
    Overloaded,
    /// The tenant asks more than its rates allow; waiting helps.
    RateLimited,
    /// The tenant may not ask this.
    NotAllowed,
    /// No expert is forecast to answer as well as the tenant wants.
    QualityInfeasible,
    /// What is used cannot be written down.
    BooksClosed,
    /// A window of the tenant's joules is used up.
    QuotaExhausted,
    /// The prompt does not fit any admissible expert's context.
    ContextTooLong,
    /// Experts were lost after the first byte of answer.
    LostMidStream,
    /// The experts failed.
    ExpertFailed,
    /// The delay budget ran out.
    DeadlineExceeded,
}

impl RefusalKind {
    /// As metrics label it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownModel => "unknown_model",
            Self::NoExpert => "no_expert",
            Self::BudgetInfeasible => "budget_infeasible",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::NotAllowed => "not_allowed",
            Self::QualityInfeasible => "quality_infeasible",
            Self::BooksClosed => "books_closed",
            Self::QuotaExhausted => "quota_exhausted",
            Self::ContextTooLong => "context_too_long",
            Self::LostMidStream => "lost_mid_stream",
            Self::ExpertFailed => "expert_failed",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

/// Whether a forecast's upper end (p95) held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// Of the delay.
    pub delay: bool,
    /// Of the time to the first token; nothing of an answer that came in one piece.
    pub first_token: Option<bool>,
    /// Of the joules.
    pub energy: bool,
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Answered in full.
    Answered,
    /// Refused or failed with an error the client saw.
    Refused(RefusalKind),
    /// The client went away.
    Abandoned,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A query reached its one terminal outcome.
    QueryEnded {
        /// Whose.
        tenant: TenantId,
        /// How.
        outcome: Outcome,
        /// From submission.
        delay: Seconds,
        /// To the first delta, if there was one.
        first_delta: Option<Seconds>,
        /// Settled energy.
        energy: Joules,
    },
    /// Work was handed to an expert; seconds the engine took to decide.
    Dispatched {
        /// To whom.
        expert: ExpertId,
        /// Not the first attempt at its query.
        redispatch: bool,
    },
    /// Work that waited for one expert was handed to another that had come free.
    Moved {
        /// Where it waited.
        from: ExpertId,
        /// Where it begins.
        to: ExpertId,
    },
    /// An expert reported what a dispatch used.
    Used {
        /// Who.
        expert: ExpertId,
        /// How much.
        usage: Usage,
        /// Forecast mean delay at dispatch.
        forecast_delay: Seconds,
        /// Measured delay.
        delay: Seconds,
        /// Whether delay and joules stayed below their forecast (p95), of work that ran to its end.
        covered: Option<Covered>,
    },
    /// A query ended before everyone had answered, because the rest could not change the answer.
    EarlyExit {
        /// Dispatches that were cancelled.
        cancelled: usize,
    },
    /// A dispatch that an early exit cancelled reported what it had used.
    Saved {
        /// The rest of its forecast.
        energy: Joules,
    },
    /// A dispatch ended without an answer.
    DispatchFailed {
        /// Who.
        expert: ExpertId,
    },
    /// Another expert was asked as well, because one was late with the beginning of its answer.
    Hedged {
        /// Who was late.
        late: ExpertId,
        /// Who was asked as well.
        by: ExpertId,
    },
    /// Of two experts the one that was asked later began first.
    HedgeWon {
        /// Who.
        expert: ExpertId,
    },
    /// An expert failed again and again and is left alone for a while.
    LeftAlone {
        /// Who.
        expert: ExpertId,
        /// For how long.
        pause: Seconds,
    },
    /// An agent joined.
    NodeJoined {
        /// Which.
        node: NodeId,
        /// Where its joules come from.
        energy_source: EnergySource,
    },
    /// What a machine drew for no job in particular.
    Standing {
        /// Which.
        node: NodeId,
        /// How much, since it last said so.
        energy: Figure,
    },
    /// Nothing came from an agent for longer than it is used to: it gets no new work.
    NodeSuspected {
        /// Which.
        node: NodeId,
    },
    /// How far an agent's calendar is off: first, and when that changes by a second or more, once a minute at most.
    Clock {
        /// Which.
        node: NodeId,
        /// Seconds ahead of the coordinator's; below zero if it is behind.
        ahead: f64,
    },
    /// An agent was lost or left.
    NodeLost {
        /// Which.
        node: NodeId,
        /// Why, for people.
        reason: String,
    },
    /// The planner chose an active set.
    Planned {
        /// Experts chosen.
        selected: usize,
        /// Experts to choose from.
        offered: usize,
        /// Value of the set.
        objective: f64,
        /// Proven upper bound.
        bound: f64,
        /// How long the solver took.
        took: Seconds,
        /// Why no set keeps the limits, if none does; the set from before stays.
        infeasible: Option<String>,
        /// Tenants whose budgets no expert keeps on any prompt.
        unserved: Vec<TenantId>,
    },
    /// What a joule and a second are worth to a tenant's queries has changed.
    Priced {
        /// Whose.
        tenant: TenantId,
        /// Quality per joule, if joules have a mean budget.
        per_joule: Option<f64>,
        /// Quality per second, if seconds have one.
        per_second: Option<f64>,
        /// Quality per second to the first token of streamed answers, if that has one.
        per_first_token_second: Option<f64>,
        /// Quality that being late costs, if there is a budget on a percentile of the delay.
        per_late: Option<f64>,
    },
    /// A machine that hosts more than it holds was told to load an expert.
    Loads {
        /// Where.
        node: NodeId,
        /// Which.
        expert: ExpertName,
        /// Work waits for it; else it is loaded ahead of need.
        needed: bool,
    },
    /// A problem could not be made or solved; the set from before stays.
    PlanFailed {
        /// Why, for people.
        reason: String,
    },
    /// The active set is another one, planned or for the time until it is.
    ActiveSet {
        /// Experts in it.
        selected: usize,
        /// Experts to choose from.
        offered: usize,
    },
}
