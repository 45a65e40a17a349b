//! Handing work to an expert: reserve, put in line, and when its turn comes remember, arm the timer, send.

use std::time::Duration;

use moe2_model::{Candidate, DispatchId, Event, ExpertId, Job, NodeId, QueryId, Task, Time};
use moe2_wire::ToExpert;

use super::line::Waiting;
use super::query::{Attempt, Progress};
use super::waits::Wait;
use super::{Engine, Open, Output, Timer};

impl Engine {
    /// Asks an expert, or has the work wait for it.
    pub(super) fn dispatch(&mut self, now: Time, id: QueryId, candidate: &Candidate, job: Job) {
        if self.enqueue(now, id, candidate, job).is_some() {
            self.settle_memory(now, &candidate.expert.node);
            self.pump(now, &candidate.expert.node);
        }
    }

    /// Puts work into its expert's line.
    pub(super) fn enqueue(
        &mut self,
        now: Time,
        id: QueryId,
        candidate: &Candidate,
        job: Job,
    ) -> Option<DispatchId> {
        let dispatch = DispatchId(self.next_dispatch);
        let (expert, forecast) = (&candidate.expert, candidate.forecast);
        let hosted = self.fleet.hosted(expert);
        let loaded = hosted.is_some_and(|(node, expert)| !node.holds(expert));
        let running = self.queries.get_mut(&id)?;
        self.next_dispatch += 1;
        running.attempts.push(Attempt {
            dispatch,
            job,
            expert: expert.clone(),
            forecast,
            loaded,
            asked: now,
            sent: None,
            last_progress: now,
            began: None,
            text: String::new(),
            options: None,
            progress: Progress::Active,
            reported: None,
        });
        let tenant = running.query.tenant.clone();
        let begin = running.begin_within(now, &forecast);
        let begin_by = running.begin_by(now, &forecast);
        let wall = self.wall(now);
        let bound = forecast.energy_p95;
        let entry = self.ledger.reserve(wall, dispatch, &tenant, bound);
        self.outputs.push_back(Output::Ledger(entry));
        let weight = self.weight(&tenant);
        let waiting = Waiting {
            dispatch,
            query: id,
            expert: expert.name.clone(),
            busy: forecast.busy(),
        };
        let kind = self.fleet.with(&expert.node, |node| {
            node.line.push(&tenant, weight, waiting);
            node.kind.clone()
        });
        let Some(kind) = kind else {
            debug_assert!(false, "who was routed to is there");
            return None;
        };
        let wait = Wait {
            expert: expert.clone(),
            query: id,
            kind,
            busy: forecast.busy(),
            begin_by,
            tenant: tenant.clone(),
        };
        let whose = (&tenant, weight);
        self.shares.waits(now, &wait.kind, whose, wait.busy);
        self.waiting.insert(dispatch, wait);
        if let Some(begin) = begin.filter(|_| !self.prefers_late(&tenant)) {
            let latest = Duration::try_from_secs_f64(begin.get()).unwrap_or(Duration::MAX);
            self.timers.arm(Timer::Late(dispatch), now + latest);
        }
        Some(dispatch)
    }

    /// Sends work whose turn it is.
    pub(super) fn send(&mut self, now: Time, node: &NodeId, job: Waiting) {
        let (dispatch, id) = (job.dispatch, job.query);
        self.stops_waiting(now, dispatch);
        let (Some(running), Some(known)) = (self.queries.get_mut(&id), self.fleet.node(node))
        else {
            debug_assert!(false, "what waits belongs to a query and a node");
            return;
        };
        let (session, kind) = (known.session, known.kind.clone());
        let (redispatch, limit) = (running.redispatches > 0, running.limit);
        let query = running.query.clone();
        let Some(attempt) = running.attempt_mut(dispatch) else {
            debug_assert!(false, "what waits is an attempt");
            return;
        };
        (attempt.sent, attempt.last_progress) = (Some(now), now);
        let (job_kind, forecast) = (attempt.job, attempt.forecast);
        let task = running.task(job_kind);
        let expert = ExpertId {
            name: job.expert.clone(),
            node: node.clone(),
        };
        self.fleet.with_expert(&expert, |known| {
            known.in_flight.insert(dispatch, (now, job.busy));
            known.used = Some(now);
        });
        self.shares.begins(now, &kind, &query.tenant);
        self.open.insert(
            dispatch,
            Open {
                query: id,
                tenant: query.tenant.clone(),
                expert: expert.clone(),
                kind: kind.clone(),
                choice: matches!(task, Task::Choice { .. }),
                prompt_bytes: query.prompt.text_bytes(),
                spared: None,
            },
        );
        let work = ToExpert::Work {
            dispatch,
            expert: job.expert,
            prompt: query.prompt.clone(),
            task,
            deadline_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        };
        self.outputs.push_back(Output::Dispatch {
            dispatch,
            session,
            work: Box::new(work),
        });
        let patience = self.patience(forecast.busy_p95().get(), limit);
        self.timers.arm(Timer::Stall(dispatch), now + patience);
        self.watch_tail(now, id, dispatch);
        self.event(Event::Dispatched { expert, redispatch });
    }

    /// How long a dispatch may be silent. Five times the forecast, because a long prompt is silent
    /// for most of it and a forecast from the roofline may be several times off.
    fn patience(&self, forecast_s: f64, cap: Duration) -> Duration {
        let slack = Duration::try_from_secs_f64(forecast_s * 5.0).unwrap_or(cap);
        (self.config.stall_grace + slack).min(cap)
    }

    /// Tells an expert to stop. It is given a while to say what it has used.
    pub(super) fn cancel(&mut self, now: Time, dispatch: DispatchId) {
        self.outputs.push_back(Output::Cancel { dispatch });
        self.timers.disarm(Timer::Stall(dispatch));
        self.timers.disarm(Timer::Tail(dispatch));
        let last = now + self.config.cancel_grace;
        self.timers.arm(Timer::Unheard(dispatch), last);
    }

    /// A dispatch that has been silent for too long is given up; one that spoke is looked at later.
    pub(super) fn check_stall(&mut self, now: Time, dispatch: DispatchId) {
        let Some(open) = self.open.get(&dispatch) else {
            return;
        };
        let query = open.query;
        let Some(running) = self.queries.get(&query) else {
            return;
        };
        let Some(attempt) = running.attempt(dispatch) else {
            return;
        };
        let (spoke, forecast) = (attempt.last_progress, attempt.forecast.busy_p95().get());
        let due = spoke + self.patience(forecast, running.limit);
        if due > now {
            self.timers.arm(Timer::Stall(dispatch), due);
            return;
        }
        self.cancel(now, dispatch);
        self.at_fault(now, dispatch);
        self.dispatch_failed(
            now,
            dispatch,
            "the expert is stuck: it said nothing for too long",
        );
    }
}
