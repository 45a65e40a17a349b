//! Work waiting and running: first come, first served, and never more at once than the cores bear.

use std::time::Duration;

use moe2_model::{DispatchId, ExpertState, Figure, FinishReason, Seconds, Time, Usage};
use moe2_wire::{FailureKind, FromExpert, ToWorker};

use super::input::Work;
use super::{Engine, Output, Timer};

/// A worker looks for a cancel before every token and every piece of prompt; on the slowest machine
/// that is a few seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// A reading of the meter takes milliseconds. A finished answer waits no longer than this for the one that
/// bills it.
const METER_PATIENCE: Duration = Duration::from_millis(500);

/// One dispatch at this agent.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) worker: usize,
    pub(super) arrived: Time,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Not started; holds what to do.
    Waiting(Box<Work>),
    /// At the worker.
    Running {
        /// When it got there.
        since: Time,
    },
    /// At the worker, told to stop; `reply` is false when nobody is there to hear of it.
    Stopping { since: Time, reply: bool },
}

impl Engine {
    pub(super) fn work(&mut self, now: Time, dispatch: DispatchId, work: Box<Work>) {
        if self.jobs.contains_key(&dispatch) || self.unbilled.contains_key(&dispatch) {
            return;
        }
        let Some(worker) = self.index.get(&work.expert).copied() else {
            let why = format!("no expert `{}` on this agent", work.expert);
            self.fail(dispatch, FailureKind::Unavailable, &why);
            return;
        };
        if self.draining || !self.takes(worker) {
            let why = if self.draining {
                "draining"
            } else {
                self.workers[worker].state.as_str()
            };
            self.fail(
                dispatch,
                FailureKind::Unavailable,
                &format!("the expert is {why}"),
            );
            return;
        }
        let waiting = self
            .jobs
            .values()
            .filter(|j| j.worker == worker && j.is_waiting())
            .count();
        if waiting >= self.config.queue_limit {
            let why = format!("{waiting} requests are waiting for this expert");
            self.fail(dispatch, FailureKind::Busy, &why);
            return;
        }
        if work.deadline_ms > 0 {
            let limit = Duration::from_millis(u64::from(work.deadline_ms));
            self.timers.arm(Timer::Deadline(dispatch), now + limit);
        }
        self.jobs.insert(
            dispatch,
            Job {
                worker,
                arrived: now,
                stage: Stage::Waiting(work),
            },
        );
        self.start_next(now);
    }

    /// Starts waiting jobs, oldest first, while a worker and its share of the cores are free.
    /// Dispatch ids count up, so the map's order is the order of arrival.
    pub(super) fn start_next(&mut self, now: Time) {
        loop {
            let running = self.jobs.values().filter(|job| !job.is_waiting()).count();
            if running >= self.config.device.parallel as usize {
                return;
            }
            let next = self.jobs.iter().find_map(|(dispatch, job)| {
                (job.is_waiting() && self.has_slot(job.worker)).then_some(*dispatch)
            });
            let Some(dispatch) = next else { return };
            self.start(now, dispatch);
        }
    }

    /// Whether an expert takes work. What is to leave memory takes what was sent before that was known.
    fn takes(&self, worker: usize) -> bool {
        let known = &self.workers[worker];
        match known.state {
            ExpertState::Ready => true,
            ExpertState::Unloading => known.loaded && known.runs && !known.ending,
            _ => false,
        }
    }

    fn has_slot(&self, worker: usize) -> bool {
        let busy = self
            .jobs
            .values()
            .filter(|j| j.worker == worker && !j.is_waiting())
            .count();
        self.takes(worker) && busy < self.config.experts[worker].slots as usize
    }

    fn start(&mut self, now: Time, dispatch: DispatchId) {
        let Some(job) = self.jobs.get_mut(&dispatch) else {
            return;
        };
        let stage = std::mem::replace(&mut job.stage, Stage::Running { since: now });
        let Stage::Waiting(work) = stage else { return };
        let expert = work.expert;
        self.accountant.begin(dispatch, job.worker);
        if self.accountant.is_measuring() {
            self.outputs.push_back(Output::Measure);
        }
        let message = ToWorker::Start {
            dispatch,
            prompt: work.prompt,
            task: work.task,
        };
        self.outputs.push_back(Output::ToWorker { expert, message });
    }

    /// The coordinator does not want this any more, but still wants to know what it used.
    pub(super) fn cancel(&mut self, now: Time, dispatch: DispatchId) {
        let Some(job) = self.jobs.get_mut(&dispatch) else {
            return;
        };
        match job.stage {
            Stage::Waiting(_) => {
                let queue = now.seconds_since(job.arrived);
                let usage = Usage {
                    queue,
                    ..nothing_used()
                };
                self.finish(now, dispatch, FinishReason::Cancelled, usage);
            }
            Stage::Running { since } => {
                job.stage = Stage::Stopping { since, reply: true };
                let worker = job.worker;
                self.tell_to_stop(now, worker, dispatch);
            }
            Stage::Stopping { .. } => {}
        }
    }

    /// The coordinator is gone, and with it everyone who waits.
    pub(super) fn cancel_all(&mut self, now: Time) {
        let mut stop = Vec::new();
        let timers = &mut self.timers;
        self.unbilled.clear();
        self.jobs.retain(|dispatch, job| {
            timers.disarm(Timer::Deadline(*dispatch));
            match job.stage {
                Stage::Waiting(_) => false,
                Stage::Running { since } | Stage::Stopping { since, .. } => {
                    job.stage = Stage::Stopping {
                        since,
                        reply: false,
                    };
                    stop.push((job.worker, *dispatch));
                    true
                }
            }
        });
        for (worker, dispatch) in stop {
            self.tell_to_stop(now, worker, dispatch);
        }
    }

    pub(super) fn deadline(&mut self, now: Time, dispatch: DispatchId) {
        let Some(job) = self.jobs.get(&dispatch) else {
            return;
        };
        if job.is_waiting() {
            let worker = job.worker;
            self.jobs.remove(&dispatch);
            self.fail(
                dispatch,
                FailureKind::Deadline,
                "its deadline passed while it waited",
            );
            self.work_ended(now, worker);
            self.drained_if_idle();
        } else {
            self.cancel(now, dispatch);
        }
    }

    /// A worker that goes on after it was told to stop is stuck, and holds up everyone behind it.
    pub(super) fn stuck(&mut self, dispatch: DispatchId) {
        if let Some(job) = self.jobs.get(&dispatch) {
            let expert = self.config.experts[job.worker].name.clone();
            self.outputs.push_back(Output::KillWorker { expert });
        }
    }

    fn tell_to_stop(&mut self, now: Time, worker: usize, dispatch: DispatchId) {
        self.timers.arm(Timer::Stuck(dispatch), now + STOP_PATIENCE);
        let expert = self.config.experts[worker].name.clone();
        let message = ToWorker::Cancel { dispatch };
        self.outputs.push_back(Output::ToWorker { expert, message });
    }

    /// Ends a job with what it used and lets the next one start.
    pub(super) fn finish(
        &mut self,
        now: Time,
        dispatch: DispatchId,
        finish: FinishReason,
        usage: Usage,
    ) {
        self.close(now, dispatch, FromExpert::Done { finish, usage });
    }

    pub(super) fn close(&mut self, now: Time, dispatch: DispatchId, frame: FromExpert) {
        let Some(job) = self.jobs.remove(&dispatch) else {
            return;
        };
        self.timers.disarm(Timer::Deadline(dispatch));
        self.timers.disarm(Timer::Stuck(dispatch));
        let heard = !matches!(job.stage, Stage::Stopping { reply: false, .. });
        match self.accountant.end(dispatch) {
            Some(figure) if heard => self.put_bill(dispatch, frame, figure),
            Some(_) => {}
            None => {
                self.outputs.push_back(Output::Measure);
                if heard {
                    if self.unbilled.is_empty() {
                        self.timers.arm(Timer::Unbilled, now + METER_PATIENCE);
                    }
                    self.unbilled.insert(dispatch, frame);
                }
            }
        }
        self.start_next(now);
        self.work_ended(now, job.worker);
        self.drained_if_idle();
    }

    /// Says what the jobs used whose bills have become known.
    pub(super) fn bill(&mut self) {
        for (dispatch, figure) in self.accountant.take_settled() {
            if let Some(frame) = self.unbilled.remove(&dispatch) {
                self.put_bill(dispatch, frame, figure);
                self.drained_if_idle();
            }
        }
        if self.unbilled.is_empty() {
            self.timers.disarm(Timer::Unbilled);
        }
    }

    fn put_bill(&mut self, dispatch: DispatchId, mut frame: FromExpert, figure: Figure) {
        if let FromExpert::Done { usage, .. }
        | FromExpert::Failed {
            usage: Some(usage), ..
        } = &mut frame
        {
            usage.energy = figure.joules;
            usage.energy_source = figure.source;
            usage.energy_error = figure.error;
        }
        self.outputs.push_back(Output::Frame { dispatch, frame });
    }

    pub(super) fn fail(&mut self, dispatch: DispatchId, kind: FailureKind, message: &str) {
        let frame = FromExpert::Failed {
            kind,
            message: message.to_owned(),
            usage: Some(nothing_used()),
        };
        self.outputs.push_back(Output::Frame { dispatch, frame });
    }
}

/// Of work that never began, and before the bill of what did.
pub(super) fn nothing_used() -> Usage {
    Usage {
        prompt_tokens: 0,
        cached_tokens: 0,
        output_tokens: 0,
        queue: Seconds::ZERO,
        prefill: Seconds::ZERO,
        decode: Seconds::ZERO,
        energy: Figure::NONE.joules,
        energy_source: Figure::NONE.source,
        energy_error: Figure::NONE.error,
    }
}

impl Job {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    /// Whether anyone still wants to hear of it.
    pub(super) fn is_heard(&self) -> bool {
        !matches!(self.stage, Stage::Stopping { .. })
    }

    pub(super) fn waited(&self) -> Seconds {
        match self.stage {
            Stage::Waiting(_) => Seconds::ZERO,
            Stage::Running { since } | Stage::Stopping { since, .. } => {
                since.seconds_since(self.arrived)
            }
        }
    }
}
