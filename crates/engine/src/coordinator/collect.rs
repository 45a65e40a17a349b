//! Experts' answers coming in, losses on the way, and the one terminal reply.
//!
//! A loss before the first delta is repaired by another expert and the client never sees it; after
//! it, the text already sent cannot be taken back, so the query ends with an error. Work whose query
//! is over still reports what it used, and that is settled then.

use std::time::Duration;

use moe2_model::{
    Budgets, Covered, DispatchId, Event, FinishReason, Job, Outcome, QueryId, RefusalKind, Seconds,
    Task, TenantId, Time, Usage,
};
use moe2_wire::{FailureKind, FromExpert};

use super::answer::{answer, answers, energy};
use super::coverage::{Coverage, Span};
use super::fleet::Expert;
use super::fuse;
use super::ledger::Entry;
use super::prices::{PriceView, Taken};
use super::query::{Attempt, Progress, Round, Running};
use super::record::{Ending, QueryRecord};
use super::reply::{Refusal, Reply};
use super::{Engine, Open, Output, Timer};

/// Longest token of any vocabulary in use is 512 bytes (runs of spaces); an agent that sends more than
/// its tokens can hold is broken or hostile, and its text is not kept.
const MAX_TOKEN_BYTES: usize = 512;

/// How far above zero a log-probability may be.
const ROUNDING: f64 = 1e-3;
/// How long failures at other experts are not counted of a tenant whose work has opened a breaker.
const ONE_TENANTS_DOING: Duration = Duration::from_secs(60);
/// Longest reason of an expert that is kept and told, in characters.
const MAX_REASON: usize = 512;

/// An expert's word that it has no answer.
struct Failure {
    kind: FailureKind,
    message: String,
    usage: Option<Usage>,
}

impl Engine {
    pub(super) fn expert_said(&mut self, now: Time, dispatch: DispatchId, frame: FromExpert) {
        let Some(open) = self.open.get(&dispatch) else {
            return;
        };
        let (query, node) = (open.query, open.expert.node.clone());
        self.node_at_work(now, &node);
        match frame {
            FromExpert::Text(text) => self.text(now, query, dispatch, &text),
            FromExpert::Options(logprobs) => self.options(now, query, dispatch, logprobs),
            FromExpert::Done { finish, usage } => self.done(now, dispatch, finish, usage),
            FromExpert::Failed {
                kind,
                message,
                usage,
            } => {
                let message = message.chars().take(MAX_REASON).collect();
                self.failed(
                    now,
                    dispatch,
                    Failure {
                        kind,
                        message,
                        usage,
                    },
                );
            }
        }
    }

    fn text(&mut self, now: Time, id: QueryId, dispatch: DispatchId, text: &str) {
        if self.oversteps(id, dispatch, text) {
            self.cancel(now, dispatch);
            self.at_fault(now, dispatch);
            self.dispatch_failed(now, dispatch, "it sent more text than was asked for");
            return;
        }
        if !text.is_empty() {
            self.first_wins(now, id, dispatch);
        }
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        let streams = running.streams();
        let unsaid = streams && running.first_delta.is_none();
        let in_one_piece = running.query.in_one_piece();
        let Some(attempt) = running.attempt_mut(dispatch).filter(|a| a.is_active()) else {
            return;
        };
        attempt.last_progress = now;
        attempt.text.push_str(text);
        if text.is_empty() {
            return;
        }
        let first = attempt.began.is_none();
        attempt.began.get_or_insert(now);
        self.timers.disarm(Timer::Tail(dispatch));
        let model = unsaid.then(|| attempt.expert.to_string());
        let says = first && !in_one_piece && !attempt.loaded;
        if let Some(covered) = attempt.began_in_time().filter(|_| says) {
            let whose = (&running.query.tenant, running.features.topic());
            self.coverage.note(whose, Span::FirstToken, covered);
        }
        if !streams {
            return;
        }
        if let Some(model) = model {
            running.first_delta = Some(now);
            self.outputs.push_back(Output::Reply {
                query: id,
                reply: Reply::Started { model },
            });
        }
        let reply = Reply::Delta(text.to_owned());
        self.outputs.push_back(Output::Reply { query: id, reply });
    }

    /// Whether a piece of text is more than was asked for.
    fn oversteps(&self, id: QueryId, dispatch: DispatchId, text: &str) -> bool {
        let running = self.queries.get(&id);
        let attempt = running.and_then(|r| Some((r, r.attempt(dispatch)?)));
        let Some((running, attempt)) = attempt.filter(|(_, a)| a.is_active()) else {
            return false;
        };
        let most = match (attempt.job, &running.query.task) {
            (Job::Answer, Task::Generate(sampling)) => {
                MAX_TOKEN_BYTES * sampling.max_tokens as usize
            }
            _ => 0,
        };
        attempt.text.len() + text.len() > most
    }

    fn options(&mut self, now: Time, id: QueryId, dispatch: DispatchId, logprobs: Vec<f64>) {
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        let wanted = [Job::Answer, Job::Score].map(|job| running.options_wanted(job));
        let Some(attempt) = running.attempt_mut(dispatch) else {
            return;
        };
        let wanted = wanted[usize::from(attempt.job == Job::Score)];
        // Nobody can be surer than sure: what is beyond would decide every mixture it is in.
        let valid = logprobs.len() == wanted && logprobs.iter().all(|l| *l <= ROUNDING);
        attempt.last_progress = now;
        if valid {
            attempt.options = Some(logprobs);
        }
    }

    fn done(&mut self, now: Time, dispatch: DispatchId, finish: FinishReason, usage: Usage) {
        let needs_options = self.open.get(&dispatch).is_some_and(|open| open.choice);
        // Nothing of work that was given up: that it ends after all proves nothing.
        let useful = self
            .attempt(dispatch)
            .filter(|a| a.is_active())
            .map(|a| finish != FinishReason::Cancelled && (!needs_options || a.options.is_some()));
        match (useful, self.query_of(dispatch)) {
            (Some(true), Some(id)) => {
                self.first_wins(now, id, dispatch);
                self.worked(dispatch);
            }
            (Some(false), _) => self.at_fault(now, dispatch),
            _ => {}
        }
        let Some(open) = self.close(now, dispatch, Some(usage)) else {
            return;
        };
        self.learn(now, dispatch, &open, (finish, usage));
        let Some(running) = self.queries.get_mut(&open.query) else {
            return;
        };
        let Some(attempt) = running.attempt_mut(dispatch) else {
            return;
        };
        // Also of one that was stopped: it is billed, and the reply says so.
        attempt.reported = Some(usage);
        if !attempt.is_active() {
            return;
        }
        if useful == Some(false) {
            let why = if needs_options {
                "it sent no option scores"
            } else {
                "it stopped unasked"
            };
            attempt.progress = Progress::Failed {
                why: why.to_owned(),
            };
            self.after_loss(now, open.query);
            return;
        }
        attempt.progress = Progress::Done { finish };
        self.conclude(now, open.query);
    }

    fn failed(&mut self, now: Time, dispatch: DispatchId, failure: Failure) {
        let Failure {
            kind,
            message,
            usage,
        } = failure;
        if kind == FailureKind::WorkerLost {
            self.at_fault(now, dispatch);
        }
        let Some(open) = self.close(now, dispatch, usage) else {
            return;
        };
        if let Some(usage) = usage {
            // Cancelled as far as forecasts go: work that failed says nothing about speed.
            self.learn(now, dispatch, &open, (FinishReason::Cancelled, usage));
        }
        let id = open.query;
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        let alone = running.attempts.len() - running.given_up() == 1;
        let Some(attempt) = running.attempt_mut(dispatch) else {
            return;
        };
        attempt.reported = usage;
        if !attempt.is_active() {
            // Given up before: what it says now decides nothing.
            return;
        }
        if let FailureKind::ContextTooLong {
            prompt_tokens,
            context_tokens,
        } = kind
        {
            let longest = running.too_long.map_or(0, |(_, context)| context);
            running.too_long = Some((prompt_tokens, longest.max(context_tokens)));
        }
        if kind == FailureKind::Rejected && alone {
            let why = format!("the expert cannot work on this request: {message}");
            self.refuse(now, id, plain(RefusalKind::ExpertFailed, why));
        } else {
            self.mark_failed(now, id, dispatch, &message);
        }
    }

    /// A dispatch whose stream or node is gone: nothing more will come of it.
    pub(super) fn dispatch_lost(&mut self, now: Time, dispatch: DispatchId, reason: &str) {
        let Some(open) = self.close(now, dispatch, None) else {
            return;
        };
        self.mark_failed(now, open.query, dispatch, reason);
    }

    /// The attempt that a dispatch is, while its query is under way.
    pub(super) fn attempt(&self, dispatch: DispatchId) -> Option<&Attempt> {
        let open = self.open.get(&dispatch)?;
        self.queries.get(&open.query)?.attempt(dispatch)
    }

    /// An expert answered.
    fn worked(&mut self, dispatch: DispatchId) {
        if let Some(open) = self.open.get(&dispatch) {
            self.fleet
                .with_expert(&open.expert, |expert| expert.breaker.worked());
        }
    }

    /// Work that is waited for comes to nothing by its expert's own fault, as far as can be told: not if its query
    /// has failed elsewhere before.
    pub(super) fn at_fault(&mut self, now: Time, dispatch: DispatchId) {
        let query = self.query_of(dispatch);
        let Some(running) = query.and_then(|id| self.queries.get(&id)) else {
            return;
        };
        let waited_for = running.attempt(dispatch).is_some_and(Attempt::is_active);
        let failed = |a: &Attempt| matches!(a.progress, Progress::Failed { .. });
        if waited_for && !running.attempts.iter().any(failed) {
            self.blame(now, dispatch);
        }
    }

    /// Counts a failure against an expert. If it is once too often, what waits for the expert goes to others. A
    /// tenant whose work has just cost one expert its trust costs no other the same: it may be what it asks.
    pub(super) fn blame(&mut self, now: Time, dispatch: DispatchId) {
        let Some(open) = self.open.get(&dispatch) else {
            return;
        };
        let (id, tenant) = (open.expert.clone(), open.tenant.clone());
        let before = self.blamed.get(&tenant);
        if before.is_some_and(|(expert, until)| *expert != id && now < *until) {
            return;
        }
        let failed = |expert: &mut Expert| {
            let sent = expert.in_flight.get(&dispatch);
            expert
                .breaker
                .failed(now, sent.map_or(now, |(sent, _)| *sent))
        };
        if let Some(pause) = self.fleet.with_expert(&id, failed).flatten() {
            self.blamed
                .insert(tenant, (id.clone(), now + ONE_TENANTS_DOING));
            let pause = Seconds::from_duration(pause);
            let waiting = self.withdraw(now, &id.node, Some(&id.name));
            self.event(Event::LeftAlone { expert: id, pause });
            self.reroute(now, waiting);
        }
    }

    /// A dispatch that is given up while its terminal frame may still come and be settled.
    pub(super) fn dispatch_failed(&mut self, now: Time, dispatch: DispatchId, reason: &str) {
        let Some(open) = self.open.get(&dispatch) else {
            return;
        };
        self.mark_failed(now, open.query, dispatch, reason);
    }

    fn mark_failed(&mut self, now: Time, id: QueryId, dispatch: DispatchId, why: &str) {
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        let Some(attempt) = running.attempt_mut(dispatch).filter(|a| a.is_active()) else {
            return;
        };
        attempt.progress = Progress::Failed {
            why: why.to_owned(),
        };
        let expert = attempt.expert.clone();
        self.event(Event::DispatchFailed { expert });
        self.after_loss(now, id);
    }

    fn after_loss(&mut self, now: Time, id: QueryId) {
        let max_attempts = self.config.max_attempts as usize;
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        if running.has_answer() {
            self.conclude(now, id);
        } else if running.active().next().is_some() {
            // One of the others may still answer.
        } else if running.first_delta.is_some() {
            let why = "the expert was lost while it answered; what was sent is incomplete";
            self.refuse(now, id, plain(RefusalKind::LostMidStream, why.to_owned()));
        } else if running.attempts.len() >= max_attempts {
            let why = format!("{max_attempts} experts failed at this query");
            self.refuse(now, id, plain(RefusalKind::ExpertFailed, why));
        } else {
            running.redispatches += 1;
            self.send_to_best(now, id);
        }
    }

    /// Ends the query if nothing more is needed, or if the rest cannot change the answer.
    pub(super) fn conclude(&mut self, now: Time, id: QueryId) {
        let Some(running) = self.queries.get(&id) else {
            return;
        };
        let outstanding: Vec<f64> = running.active().map(|a| a.forecast.quality).collect();
        if outstanding.is_empty() {
            if self.next_round(now, id) {
                return;
            }
        } else if running.round != Round::Answers
            || !fuse::is_settled(&answers(&self.gate, running), &outstanding)
        {
            return;
        }
        let Some(mut running) = self.queries.remove(&id) else {
            return;
        };
        if !outstanding.is_empty() {
            self.spare_rest(&mut running);
        }
        self.cancel_rest(now, &mut running);
        self.finish(now, id, running);
    }

    /// Notes what an early exit is forecast to save.
    fn spare_rest(&mut self, running: &mut Running) {
        for attempt in running.attempts.iter().filter(|a| a.is_active()) {
            running.spared += 1;
            running.saved += attempt.forecast.energy;
            if let Some(open) = self.open.get_mut(&attempt.dispatch) {
                open.spared = Some(attempt.forecast.energy);
            } else {
                // It waits in line, and all of it is saved.
                let energy = attempt.forecast.energy;
                self.outputs
                    .push_back(Output::Event(Event::Saved { energy }));
            }
        }
        let cancelled = running.spared;
        self.event(Event::EarlyExit { cancelled });
    }

    fn finish(&mut self, now: Time, id: QueryId, mut running: Running) {
        self.left(now, id, &running);
        let answer = answer(now, &self.gate, &running);
        if self.config.records {
            let told = (
                answer.explanation.delay,
                answer.explanation.participants.clone(),
            );
            let record = QueryRecord::of(id, &mut running, Ending::from(&answer), told);
            self.outputs.push_back(record.output());
        }
        if running.query.stream && running.first_delta.is_none() {
            let model = answer.model.clone();
            self.outputs.push_back(Output::Reply {
                query: id,
                reply: Reply::Started { model },
            });
            let text = answer.text.clone();
            self.outputs.push_back(Output::Reply {
                query: id,
                reply: Reply::Delta(text),
            });
        }
        self.event(Event::QueryEnded {
            tenant: running.query.tenant.clone(),
            outcome: Outcome::Answered,
            delay: answer.explanation.delay,
            first_delta: running
                .first_delta
                .map(|at| at.seconds_since(running.submitted)),
            energy: answer.explanation.energy,
        });
        let reply = Reply::Finished(Box::new(answer));
        self.outputs.push_back(Output::Reply { query: id, reply });
    }

    pub(super) fn refuse(&mut self, now: Time, id: QueryId, refusal: Refusal) {
        let outcome = Outcome::Refused(refusal.kind);
        if self.end(now, id, outcome, || Ending::from(&refusal)) {
            let reply = Reply::Refused(Box::new(refusal));
            self.outputs.push_back(Output::Reply { query: id, reply });
        }
    }

    pub(super) fn abandon(&mut self, now: Time, id: QueryId) {
        self.end(now, id, Outcome::Abandoned, || Ending::Abandoned);
    }

    /// Whoever is still at work is not waited for any longer; what the others said is an answer.
    pub(super) fn time_out(&mut self, now: Time, id: QueryId) {
        if self.queries.get(&id).is_some_and(Running::has_answer)
            && let Some(mut running) = self.queries.remove(&id)
        {
            self.cancel_rest(now, &mut running);
            self.finish(now, id, running);
            return;
        }
        let Some(running) = self.queries.get(&id) else {
            return;
        };
        let limit = running.limit.as_secs();
        let why = format!("no answer within {limit} s, the longest a query may take");
        self.refuse(now, id, plain(RefusalKind::DeadlineExceeded, why));
    }

    /// Forgets a query without an answer and cancels its work. False if it had ended before.
    fn end(
        &mut self,
        now: Time,
        id: QueryId,
        outcome: Outcome,
        ending: impl FnOnce() -> Ending,
    ) -> bool {
        let Some(mut running) = self.queries.remove(&id) else {
            return false;
        };
        self.left(now, id, &running);
        self.cancel_rest(now, &mut running);
        let delay = now.seconds_since(running.submitted);
        if self.config.records {
            let sent = running.attempts.iter().filter(|a| a.sent.is_some());
            let participants = sent.map(|attempt| attempt.participant(0.0)).collect();
            let record = QueryRecord::of(id, &mut running, ending(), (delay, participants));
            self.outputs.push_back(record.output());
        }
        self.event(Event::QueryEnded {
            tenant: running.query.tenant.clone(),
            outcome,
            delay,
            first_delta: running
                .first_delta
                .map(|at| at.seconds_since(running.submitted)),
            energy: energy(&running).joules,
        });
        true
    }

    /// A query is under way no longer.
    fn left(&mut self, now: Time, id: QueryId, running: &Running) {
        self.timers.disarm(Timer::Timeout(id));
        self.cover_cut(now, running);
        if running.attempts.iter().any(|a| a.sent.is_some()) {
            let late = running.was_late(now);
            let taken = Taken {
                delay: now.seconds_since(running.submitted),
                first_token: running.first_token_by(now),
                // What was cut off before its time was up would have been late or not, nobody knows.
                late: late.filter(|late| *late || running.has_answer()),
            };
            self.steering.ended(&running.query.tenant, taken);
            self.tell_price(&running.query.tenant);
        }
        let wall = self.wall(now);
        self.ledger.leave(wall, id);
    }

    /// Tells what a tenant's prices are, if it has any of its own.
    pub(super) fn tell_price(&mut self, tenant: &TenantId) {
        let price = |view: Option<PriceView>| view.map(|view| view.price);
        let view = self.steering.view(tenant);
        let all = [
            view.joules,
            view.seconds,
            view.first_token_seconds,
            view.late,
        ];
        let prices = all.map(price);
        if prices != [None; 4] {
            let [per_joule, per_second, per_first_token_second, per_late] = prices;
            let tenant = tenant.clone();
            self.event(Event::Priced {
                tenant,
                per_joule,
                per_second,
                per_first_token_second,
                per_late,
            });
        }
    }

    fn cancel_rest(&mut self, now: Time, running: &mut Running) {
        for attempt in running.attempts.iter_mut().filter(|a| a.is_active()) {
            attempt.progress = Progress::Cancelled;
            self.call_off(now, attempt.dispatch);
        }
    }

    /// Takes work that is not needed any more out of its line, or tells its expert to stop.
    pub(super) fn call_off(&mut self, now: Time, dispatch: DispatchId) {
        if self.unqueue(now, dispatch).is_none() {
            self.cancel(now, dispatch);
        }
    }

    /// Settles a dispatch and frees its place. `None` if that was done before.
    fn close(&mut self, now: Time, dispatch: DispatchId, usage: Option<Usage>) -> Option<Open> {
        let open = self.open.remove(&dispatch)?;
        let (wall, work) = (self.wall(now), (open.query, &open.expert));
        let entry = self.ledger.settle(wall, dispatch, work, usage);
        if let Some(Entry::Settled(settled)) = &entry {
            self.steering.used(&settled.tenant, settled.energy);
        }
        self.outputs.extend(entry.map(Output::Ledger));
        self.timers.disarm(Timer::Stall(dispatch));
        self.timers.disarm(Timer::Tail(dispatch));
        self.timers.disarm(Timer::Unheard(dispatch));
        // An agent's word: an absurd one is not to keep its tenant from ever having a turn.
        let most = self.config.query_timeout.as_secs_f64();
        let took = usage.map(|usage| (usage.prefill + usage.decode).get().min(most));
        self.fleet.with(&open.expert.node, |node| {
            let expert = node.experts.get_mut(&open.expert.name);
            let sent = expert.and_then(|expert| {
                expert.used = Some(now);
                expert.in_flight.remove(&dispatch)
            });
            if let (Some((_, busy)), Some(took)) = (sent, took) {
                node.line.correct(&open.tenant, took - busy.get());
            }
        });
        self.shares.ends(now, &open.kind, &open.tenant);
        self.freed(now, &open.expert.node);
        // Who was held may begin with more elsewhere.
        for node in self.fleet.could_begin(&open.kind) {
            self.pump(now, &node);
        }
        Some(open)
    }

    /// Feeds measurements to the forecasts. Cancelled work is left out: where it was cut says
    /// nothing about how fast it was.
    fn learn(&mut self, now: Time, dispatch: DispatchId, open: &Open, done: (FinishReason, Usage)) {
        let (finish, usage) = done;
        if let Some(forecast) = open.spared {
            let energy = forecast - usage.energy;
            self.event(Event::Saved { energy });
        }
        if finish != FinishReason::Cancelled {
            self.fleet.with_expert(&open.expert, |expert| {
                let (bytes, tokens) = (open.prompt_bytes, usage.prompt_tokens);
                expert.cost.observe_prompt(bytes, tokens);
                if open.choice {
                    expert.cost.observe_choice(&usage);
                } else {
                    expert.cost.observe(&usage);
                }
            });
            self.cover(now, dispatch, open);
        }
        let running = self.queries.get(&open.query);
        let attempt = running.and_then(|r| r.attempt(dispatch));
        let in_one_piece = running.is_some_and(|r| r.query.in_one_piece());
        let (forecast_delay, delay, covered) = match attempt {
            None => (
                usage.prefill,
                usage.queue + usage.prefill + usage.decode,
                None,
            ),
            Some(attempt) => {
                let (forecast, delay) = (attempt.forecast, now.seconds_since(attempt.asked));
                let covered = Covered {
                    delay: delay <= forecast.delay_p95,
                    first_token: attempt.began_in_time().filter(|_| !in_one_piece),
                    energy: usage.energy <= forecast.energy_p95,
                };
                let whole = finish != FinishReason::Cancelled;
                (forecast.delay, delay, whole.then_some(covered))
            }
        };
        let expert = open.expert.clone();
        self.event(Event::Used {
            expert,
            usage,
            forecast_delay,
            delay,
            covered,
        });
    }
}

impl Engine {
    /// Notes whether an answer came within its forecast.
    fn cover(&mut self, now: Time, dispatch: DispatchId, open: &Open) {
        let Some(running) = self.queries.get(&open.query) else {
            return;
        };
        let attempt = running.attempt(dispatch);
        if let Some(attempt) = attempt.filter(|a| a.teaches()) {
            let covered = now.seconds_since(attempt.asked) <= attempt.forecast.delay_p95;
            let whose = (&running.query.tenant, running.features.topic());
            self.coverage.note(whose, Span::Delay, covered);
        }
    }

    /// Notes answers that are not waited for any longer and were later than forecast by then; of others that
    /// were cut nobody knows. Without these, a budget that cuts late answers would hide that they were late.
    fn cover_cut(&mut self, now: Time, running: &Running) {
        for attempt in running.active() {
            note_late(&mut self.coverage, now, (running, attempt));
        }
    }

    /// The same of one that another was faster than.
    pub(super) fn cover_late(&mut self, now: Time, id: QueryId, dispatch: DispatchId) {
        let running = self.queries.get(&id);
        let attempt = running.and_then(|r| Some((r, r.attempt(dispatch)?)));
        if let Some(attempt) = attempt {
            note_late(&mut self.coverage, now, attempt);
        }
    }
}

fn note_late(coverage: &mut Coverage, now: Time, (running, attempt): (&Running, &Attempt)) {
    if !attempt.teaches() {
        return;
    }
    let whose = (&running.query.tenant, running.features.topic());
    let taken = now.seconds_since(attempt.asked);
    let begun = attempt.began.is_some() || running.query.in_one_piece();
    if !begun && taken > attempt.forecast.first_token_p95 {
        coverage.note(whose, Span::FirstToken, false);
    }
    if taken > attempt.forecast.delay_p95 {
        coverage.note(whose, Span::Delay, false);
    }
}

pub(super) fn plain(kind: RefusalKind, message: String) -> Refusal {
    Refusal {
        kind,
        message,
        smallest: Budgets::default(),
        retry_after: None,
    }
}
