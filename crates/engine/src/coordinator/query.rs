//! One query under way: its rounds, the attempts made at it and what came of each.
//!
//! An attempt is one dispatch to one expert. The states carry only their own data, so a finished
//! attempt cannot be cancelled and a lost one has no usage to forget.

use std::sync::Arc;
use std::time::Duration;

use moe2_gate::QueryFeatures;
use moe2_model::{
    Cascade, DispatchId, ExpertId, FinishReason, Forecast, Job, Joules, Mode, Participant, Prices,
    Query, Seconds, Task, Time, Usage,
};

use super::decision::Choices;
use super::route::Punctual;

/// How long a query without any budget of time may take before others' are less pressing.
const UNHURRIED: Seconds = Seconds::saturating(60.0);

/// How far an attempt got.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// At work, or waiting for it.
    Active,
    /// Answered.
    Done { finish: FinishReason },
    /// Gave no answer.
    Failed { why: String },
    /// Told to stop because its answer is not needed any more.
    Cancelled,
}

/// What is being waited for; each round begins when all of the one before have answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// A cascade's first answer, after which others may be asked.
    First,
    /// Answers.
    Answers,
    /// Scores of the answers.
    Scores,
}

impl Round {
    pub(crate) fn first(mode: Mode) -> Self {
        match mode {
            Mode::Cascade => Self::First,
            Mode::Auto | Mode::Single | Mode::Fuse => Self::Answers,
        }
    }
}

/// One dispatch.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) dispatch: DispatchId,
    pub(crate) job: Job,
    pub(crate) expert: ExpertId,
    pub(crate) forecast: Forecast,
    /// Whether it had to be brought into memory first: how long that takes says nothing of other forecasts.
    pub(crate) loaded: bool,
    /// When it was chosen.
    pub(crate) asked: Time,
    /// When it left; nothing while it waits in line.
    pub(crate) sent: Option<Time>,
    pub(crate) last_progress: Time,
    /// When its first token came.
    pub(crate) began: Option<Time>,
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

    /// Whether how long it takes says how good such forecasts are.
    pub(crate) fn teaches(&self) -> bool {
        self.job == Job::Answer && !self.loaded
    }

    /// Whether its first token came within its forecast's p95; nothing before it comes.
    pub(crate) fn began_in_time(&self) -> Option<bool> {
        let within = self.forecast.first_token_p95;
        self.began.map(|at| at.seconds_since(self.asked) <= within)
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.progress, Progress::Done { .. })
    }

    /// Whether its own answer is there.
    pub(crate) fn answered(&self) -> bool {
        self.is_done() && self.job == Job::Answer
    }

    /// The most it may still turn out to have used, as far as a budget goes.
    fn bound(&self) -> Joules {
        match (self.reported, self.is_active()) {
            (Some(usage), _) => usage.energy,
            (None, true) => self.forecast.energy_p95,
            (None, false) if self.sent.is_none() => Joules::ZERO,
            (None, false) => self.forecast.energy,
        }
    }

    pub(crate) fn outcome(&self) -> Option<(FinishReason, Usage)> {
        match (&self.progress, self.reported) {
            (Progress::Done { finish }, Some(usage)) => Some((*finish, usage)),
            _ => None,
        }
    }

    pub(crate) fn participant(&self, weight: f64) -> Participant {
        let failure = match &self.progress {
            Progress::Done { .. } => None,
            Progress::Failed { why } => Some(why.clone()),
            Progress::Cancelled => Some("cancelled: its answer was not needed any more".to_owned()),
            Progress::Active => Some("still at work".to_owned()),
        };
        Participant {
            expert: self.expert.clone(),
            job: self.job,
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
    /// The longest it may take, as it was when it came.
    pub(crate) limit: Duration,
    pub(crate) first_delta: Option<Time>,
    pub(crate) prices: Prices,
    /// What most answers stay within, all of it.
    pub(crate) punctual: Option<Punctual>,
    /// Choices of experts so far.
    pub(crate) choices: Choices,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) redispatches: u32,
    /// The one that was asked because another was late.
    pub(crate) hedge: Option<DispatchId>,
    pub(crate) round: Round,
    /// Different answers, while and after they are scored.
    pub(crate) ballot: Vec<String>,
    pub(crate) cascade: Option<Cascade>,
    /// Attempts cancelled because they could not change the answer, and their forecast energy.
    pub(crate) spared: usize,
    pub(crate) saved: Joules,
    /// Whether it waited for an expert in vain.
    pub(crate) waited: bool,
    /// The longest context that was too short, and the prompt's tokens there.
    pub(crate) too_long: Option<(u32, u32)>,
}

impl Running {
    pub(crate) fn active(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|a| a.is_active())
    }

    pub(crate) fn attempt(&self, dispatch: DispatchId) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.dispatch == dispatch)
    }

    pub(crate) fn attempt_mut(&mut self, dispatch: DispatchId) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|a| a.dispatch == dispatch)
    }

    /// Whether somebody's answer is there.
    pub(crate) fn has_answer(&self) -> bool {
        self.attempts.iter().any(Attempt::answered)
    }

    /// The place among the attempts of work that waits, if all there is of the query is that it waits to be
    /// answered by one expert.
    pub(crate) fn waits_alone(&self, dispatch: DispatchId) -> Option<usize> {
        let place = self.attempts.iter().position(|a| a.dispatch == dispatch)?;
        let attempt = &self.attempts[place];
        let waits = attempt.job == Job::Answer && attempt.sent.is_none();
        let alone = self.active().count() == 1 && !self.has_answer();
        (waits && attempt.is_active() && alone).then_some(place)
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

    /// Whether the prompt is known to be too long for a context of so many tokens.
    pub(crate) fn known_too_long(&self, context: u32) -> bool {
        self.too_long.is_some_and(|(prompt, _)| prompt >= context)
    }

    /// What is left of the longest that a query may take.
    pub(crate) fn time_left(&self, now: Time) -> Seconds {
        let limit = Seconds::from_duration(self.limit);
        limit - now.seconds_since(self.submitted)
    }

    /// What is left of the delay budget.
    pub(crate) fn delay_left(&self, now: Time) -> Option<Seconds> {
        self.query
            .budgets
            .delay
            .map(|budget| budget - now.seconds_since(self.submitted))
    }

    /// What is left of the budget on the time to the first token.
    pub(crate) fn first_token_left(&self, now: Time) -> Option<Seconds> {
        let budget = self.query.budgets.first_token;
        budget.map(|budget| budget - now.seconds_since(self.submitted))
    }

    /// What is left for an answer that comes in one piece.
    pub(crate) fn whole_left(&self, now: Time) -> Option<Seconds> {
        let both = [self.delay_left(now), self.first_token_left(now)];
        soonest(both)
    }

    /// What is left of the times that most answers stay within.
    pub(crate) fn punctual_left(&self, now: Time) -> Option<Punctual> {
        let taken = now.seconds_since(self.submitted);
        self.punctual.map(|punctual| Punctual {
            within: punctual.within.map(|within| within - taken),
            first_token: punctual.first_token.map(|within| within - taken),
            ..punctual
        })
    }

    /// Whether its answer was later than most are to be; `None` if none of that is asked for. What ended without
    /// a first token had not begun by then.
    pub(crate) fn was_late(&self, now: Time) -> Option<bool> {
        let punctual = self.punctual?;
        let beyond = |within: Option<Seconds>, at: Time| {
            within.is_some_and(|within| at.seconds_since(self.submitted) > within)
        };
        let first = self.first_delta.unwrap_or(now);
        Some(beyond(punctual.within, now) || beyond(punctual.first_token, first))
    }

    /// Time to the first token of a streamed answer, if there is any of it.
    pub(crate) fn first_token_by(&self, now: Time) -> Option<Seconds> {
        let first = self.first_delta.or(self.has_answer().then_some(now));
        let first = first.filter(|_| self.query.stream);
        first.map(|at| at.seconds_since(self.submitted))
    }

    /// When an expert has to begin at the latest for the budgets of time to hold.
    pub(crate) fn begin_within(&self, now: Time, forecast: &Forecast) -> Option<Seconds> {
        let end = self.delay_left(now).map(|left| left - forecast.busy_p95());
        let first = self.first_token_left(now);
        let first = first.map(|left| left - forecast.first_token_busy_p95());
        soonest([end, first])
    }

    /// When work has to begin at the latest, as forecast, for all its times to hold: its budgets in 95 of 100
    /// cases, its tenant's percentiles in the mean.
    pub(crate) fn begin_by(&self, now: Time, forecast: &Forecast) -> Time {
        let budgets = self.begin_within(now, forecast);
        let left = self.punctual_left(now);
        let end = left.and_then(|left| left.within);
        let end = end.map(|left| left - forecast.busy());
        let first = left.and_then(|left| left.first_token);
        let first = first.map(|left| left - forecast.first_token_busy());
        let within = soonest([budgets, soonest([end, first])]);
        let within = within.unwrap_or_else(|| {
            let waited = now.seconds_since(self.submitted);
            UNHURRIED - waited - forecast.busy()
        });
        now + Duration::try_from_secs_f64(within.get()).unwrap_or_default()
    }

    /// What is left of the energy budget.
    pub(crate) fn energy_left(&self) -> Option<Joules> {
        let used = || self.attempts.iter().map(Attempt::bound).sum();
        self.query.budgets.energy.map(|budget| budget - used())
    }

    /// What an expert is asked to do.
    pub(crate) fn task(&self, job: Job) -> Task {
        match job {
            Job::Answer => self.query.task.clone(),
            Job::Score => Task::Choice {
                options: self.ballot.clone(),
            },
        }
    }

    /// How many log-probabilities make a whole reply to a job.
    pub(crate) fn options_wanted(&self, job: Job) -> usize {
        match (job, &self.query.task) {
            (Job::Score, _) => self.ballot.len(),
            (Job::Answer, Task::Choice { options }) => options.len(),
            (Job::Answer, Task::Generate(_)) => 0,
        }
    }

    /// Whether text may be sent on as it comes: not if others may still change the answer.
    pub(crate) fn streams(&self) -> bool {
        self.query.stream && !self.query.in_one_piece() && self.active().count() == 1
    }
}

fn soonest(times: [Option<Seconds>; 2]) -> Option<Seconds> {
    let times = times.into_iter().flatten();
    times.min_by(|a, b| a.get().total_cmp(&b.get()))
}
