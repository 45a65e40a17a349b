//! Handing work to an expert: reserve, remember, arm the timer, send.

use std::time::Duration;

use moe2_model::{Candidate, DispatchId, Event, Job, QueryId, Task, Time};
use moe2_wire::ToExpert;

use super::query::{Attempt, Progress};
use super::{Engine, Open, Output, Timer};

impl Engine {
    pub(super) fn dispatch(&mut self, now: Time, id: QueryId, candidate: &Candidate, job: Job) {
        let dispatch = DispatchId(self.next_dispatch);
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        let Some(node) = self.fleet.node(&candidate.expert.node) else {
            return;
        };
        let session = node.session;
        let redispatch = running.redispatches > 0;
        self.next_dispatch += 1;
        running.attempts.push(Attempt {
            dispatch,
            job,
            expert: candidate.expert.clone(),
            forecast: candidate.forecast,
            sent: now,
            last_progress: now,
            text: String::new(),
            options: None,
            progress: Progress::Active,
            reported: None,
        });
        let query = running.query.clone();
        let task = running.task(job);
        if let Some(expert) = self.fleet.expert_mut(&candidate.expert) {
            let delay = candidate.forecast.delay;
            expert.in_flight.insert(dispatch, (now, delay));
        }
        let (wall, bound) = (self.wall(now), candidate.forecast.energy_p95);
        let entry = self.ledger.reserve(wall, dispatch, &query.tenant, bound);
        self.outputs.push_back(Output::Ledger(entry));
        self.open.insert(
            dispatch,
            Open {
                query: id,
                expert: candidate.expert.clone(),
                choice: matches!(task, Task::Choice { .. }),
                prompt_bytes: query.prompt.text_bytes(),
                spared: None,
            },
        );
        let work = ToExpert::Work {
            dispatch,
            expert: candidate.expert.name.clone(),
            prompt: query.prompt.clone(),
            task,
            deadline_ms: u32::try_from(self.config.query_timeout.as_millis()).unwrap_or(u32::MAX),
        };
        self.outputs.push_back(Output::Dispatch {
            dispatch,
            session,
            work: Box::new(work),
        });
        let patience = self.patience(candidate.forecast.delay_p95.get());
        self.timers.arm(Timer::Stall(dispatch), now + patience);
        self.event(Event::Dispatched {
            expert: candidate.expert.clone(),
            redispatch,
        });
    }

    /// How long a dispatch may be silent. Five times the forecast, because a queue or a long prompt
    /// is silent for all of it and a forecast from the roofline may be several times off.
    fn patience(&self, forecast_s: f64) -> Duration {
        let cap = self.config.query_timeout;
        let slack = Duration::try_from_secs_f64(forecast_s * 5.0).unwrap_or(cap);
        (self.config.stall_grace + slack).min(cap)
    }

    /// A dispatch that has been silent for too long is given up; one that spoke is looked at later.
    pub(super) fn check_stall(&mut self, now: Time, dispatch: DispatchId) {
        let Some(open) = self.open.get(&dispatch) else {
            return;
        };
        let query = open.query;
        let Some(attempt) = self
            .queries
            .get_mut(&query)
            .and_then(|running| running.attempt_mut(dispatch))
        else {
            return;
        };
        let (spoke, forecast) = (attempt.last_progress, attempt.forecast.delay_p95.get());
        let due = spoke + self.patience(forecast);
        if due > now {
            self.timers.arm(Timer::Stall(dispatch), due);
            return;
        }
        self.outputs.push_back(Output::Cancel { dispatch });
        self.dispatch_failed(
            now,
            dispatch,
            "the expert is stuck: it said nothing for too long",
        );
    }
}
