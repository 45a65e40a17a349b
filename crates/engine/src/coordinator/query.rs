//! One query under way: the attempts made at it and what came of each.
//!
//! An attempt is one dispatch to one expert. The states carry only their own data, so a finished
//! attempt cannot be cancelled and a lost one has no usage to forget.

use std::sync::Arc;

use moe2_gate::QueryFeatures;
use moe2_model::{
    Candidate, DispatchId, ExpertId, FinishReason, Forecast, Participant, Prices, Query, Seconds,
    Time, Usage,
};

/// How far an attempt got.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// At work, or waiting at the agent.
    Active,
    /// Answered.
    Done { finish: FinishReason },
    /// Gave no answer.
    Failed { why: String },
    /// Told to stop because its answer is not needed any more.
    Cancelled,
}

/// One dispatch.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) dispatch: DispatchId,
    pub(crate) expert: ExpertId,
    pub(crate) forecast: Forecast,
    pub(crate) sent: Time,
    pub(crate) last_progress: Time,
    pub(crate) text: String,
    pub(crate) options: Option<Vec<f64>>,
    pub(crate) progress: Progress,
    /// What the expert said it used; also of work that failed.
    pub(crate) reported: Option<Usage>,
}

impl Attempt {
    pub(crate) fn is_active(&self) -> bool {
        self.progress == Progress::Active
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.progress, Progress::Done { .. })
    }

    pub(crate) fn outcome(&self) -> Option<(FinishReason, Usage)> {
        match (&self.progress, self.reported) {
            (Progress::Done { finish }, Some(usage)) => Some((*finish, usage)),
            _ => None,
        }
    }

    fn participant(&self, weight: f64) -> Participant {
        let failure = match &self.progress {
            Progress::Done { .. } => None,
            Progress::Failed { why } => Some(why.clone()),
            Progress::Cancelled => Some("cancelled: the others had decided".to_owned()),
            Progress::Active => Some("still at work".to_owned()),
        };
        Participant {
            expert: self.expert.clone(),
            weight,
            forecast: self.forecast,
            usage: self.reported,
            option_logprobs: self.options.clone(),
            failure,
        }
    }
}

/// A query under way.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) query: Arc<Query>,
    pub(crate) features: QueryFeatures,
    pub(crate) submitted: Time,
    pub(crate) first_delta: Option<Time>,
    pub(crate) prices: Prices,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) redispatches: u32,
    /// The longest context that was too short, and the prompt's tokens there.
    pub(crate) too_long: Option<(u32, u32)>,
}

impl Running {
    pub(crate) fn active(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|a| a.is_active())
    }

    pub(crate) fn attempt_mut(&mut self, dispatch: DispatchId) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|a| a.dispatch == dispatch)
    }

    /// Attempts that came to nothing.
    pub(crate) fn given_up(&self) -> usize {
        let lost =
            |a: &&Attempt| matches!(a.progress, Progress::Failed { .. } | Progress::Cancelled);
        self.attempts.iter().filter(lost).count()
    }

    pub(crate) fn tried(&self, expert: &ExpertId) -> bool {
        self.attempts.iter().any(|a| a.expert == *expert)
    }

    /// What is left of the delay budget.
    pub(crate) fn delay_left(&self, now: Time) -> Option<Seconds> {
        self.query
            .budgets
            .delay
            .map(|budget| budget - now.seconds_since(self.submitted))
    }

    /// Everyone who worked on it, with the weights of those that answered.
    pub(crate) fn participants(&self) -> Vec<Participant> {
        let total: f64 = self
            .attempts
            .iter()
            .filter(|a| a.is_done())
            .map(|a| a.forecast.quality)
            .sum();
        self.attempts
            .iter()
            .map(|a| {
                let weight = if a.is_done() && total > 0.0 {
                    a.forecast.quality / total
                } else {
                    0.0
                };
                a.participant(weight)
            })
            .collect()
    }
}
