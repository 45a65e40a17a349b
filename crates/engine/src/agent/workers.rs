//! Worker processes: what they say, and what happens when one dies.
//!
//! A dead worker costs the work it had, which another expert takes over, and is started again after
//! a growing delay: native code that aborts on one request is back in a second, a file that never
//! loads is tried once a minute and its reason stands in the fleet view.

use std::time::Duration;

use moe2_model::{DispatchId, ExpertName, ExpertOffer, ExpertState, Seconds, Time, Usage};
use moe2_wire::{FailureKind, FromAgent, FromExpert, FromWorker};

use super::backoff::Backoff;
use super::energy::work;
use super::queue::nothing_used;
use super::{Engine, Output, Timer};

const RESTART_MIN: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) state: ExpertState,
    /// Its process has not ended.
    pub(super) runs: bool,
    /// It has said that it takes work.
    pub(super) loaded: bool,
    /// Its process was told to end.
    pub(super) ending: bool,
    /// When its process was started.
    pub(super) began: Time,
    /// How long it loaded the last time.
    pub(super) took: Option<Seconds>,
    backoff: Backoff,
}

impl Worker {
    pub(super) fn new(offer: &ExpertOffer) -> Self {
        // The name's bytes seed the jitter: workers of one agent then restart apart from each other.
        let seed = offer
            .name
            .as_str()
            .bytes()
            .fold(1_u64, |h, b| h.wrapping_mul(31) + u64::from(b));
        Self {
            state: ExpertState::Unloaded,
            runs: false,
            loaded: false,
            ending: false,
            began: Time::ZERO,
            took: None,
            backoff: Backoff::new(RESTART_MIN, RESTART_MAX, seed),
        }
    }
}

impl Engine {
    pub(super) fn worker_said(&mut self, now: Time, expert: &ExpertName, message: FromWorker) {
        let Some(worker) = self.index.get(expert).copied() else {
            return;
        };
        match message {
            FromWorker::Ready { .. } => self.worker_ready(now, worker),
            FromWorker::LoadFailed { message } => {
                if self.workers[worker].state == ExpertState::Loading {
                    self.set_state(worker, ExpertState::Failed { reason: message });
                }
            }
            FromWorker::Text { dispatch, text } => self.relay(dispatch, FromExpert::Text(text)),
            FromWorker::Options { dispatch, logprobs } => {
                self.relay(dispatch, FromExpert::Options(logprobs));
            }
            FromWorker::Finished {
                dispatch,
                finish,
                prompt_tokens,
                cached_tokens,
                output_tokens,
                prefill,
                decode,
            } => {
                self.workers[worker].backoff.reset();
                let Some(job) = self.jobs.get(&dispatch) else {
                    return;
                };
                let weights = self.config.experts[worker].weights;
                let usage = Usage {
                    prompt_tokens,
                    cached_tokens,
                    output_tokens,
                    queue: job.waited(),
                    prefill,
                    decode,
                    ..nothing_used()
                };
                let done = work((usage.computed_tokens(), output_tokens), weights);
                self.accountant.learn(worker, done, prefill + decode);
                self.finish(now, dispatch, finish, usage);
            }
            FromWorker::Failed {
                dispatch,
                kind,
                message,
            } => {
                let usage = self.spent(dispatch);
                self.close(
                    now,
                    dispatch,
                    FromExpert::Failed {
                        kind,
                        message,
                        usage,
                    },
                );
            }
        }
    }

    fn worker_ready(&mut self, now: Time, worker: usize) {
        let wanted = self.wanted.contains(&worker);
        let known = &mut self.workers[worker];
        match known.state {
            ExpertState::Loading => self.loaded(now, worker),
            // What waits for a server says why it cannot begin, and goes on waiting. That is no load.
            ExpertState::Failed { .. } if known.runs && wanted => known.loaded = true,
            // One that is to leave again leaves.
            _ => return,
        }
        self.set_state(worker, ExpertState::Ready);
        self.start_next(now);
    }

    pub(super) fn worker_exited(&mut self, now: Time, expert: &ExpertName, reason: &str) {
        let Some(worker) = self.index.get(expert).copied() else {
            return;
        };
        self.workers[worker].runs = false;
        let told_to = self.workers[worker].state == ExpertState::Unloading;
        // A worker that said why it could not load has already been marked with the better reason.
        if !told_to && !self.workers[worker].state.is_failed() {
            self.set_state(
                worker,
                ExpertState::Failed {
                    reason: reason.to_owned(),
                },
            );
        }
        let lost: Vec<DispatchId> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.worker == worker)
            .map(|(d, _)| *d)
            .collect();
        for dispatch in lost {
            let usage = self.spent(dispatch);
            let message = reason.to_owned();
            let kind = FailureKind::WorkerLost;
            self.close(
                now,
                dispatch,
                FromExpert::Failed {
                    kind,
                    message,
                    usage,
                },
            );
        }
        if self.left(now, worker) {
            return;
        }
        let wait = self.workers[worker].backoff.next();
        self.timers.arm(Timer::Restart(worker), now + wait);
    }

    pub(super) fn set_state(&mut self, worker: usize, state: ExpertState) {
        self.workers[worker].state = state.clone();
        if self.session.is_up() {
            let name = self.config.experts[worker].name.clone();
            self.outputs
                .push_back(Output::Control(FromAgent::Expert { name, state }));
        }
    }

    fn relay(&mut self, dispatch: DispatchId, frame: FromExpert) {
        if self
            .jobs
            .get(&dispatch)
            .is_some_and(super::queue::Job::is_heard)
        {
            self.outputs.push_back(Output::Frame { dispatch, frame });
        }
    }

    /// What a job that gave no answer used, but for its bill.
    fn spent(&self, dispatch: DispatchId) -> Option<Usage> {
        let queue = self.jobs.get(&dispatch)?.waited();
        Some(Usage {
            queue,
            ..nothing_used()
        })
    }
}
