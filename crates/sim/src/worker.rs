//! Worker processes with a script instead of a model.
//!
//! They speak the real pipe protocol in virtual time: load, prefill, one piece of text per token,
//! scores for a choice. They die, fall silent, or fail to load with the scenario's probabilities. A
//! silent worker may still listen to a cancel; a deaf one ends only when its agent kills it.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_engine::agent;
use moe2_model::{Bytes, DispatchId, ExpertName, FinishReason, Prompt, Seconds, Task, Time};
use moe2_wire::{FailureKind, FromWorker, ToWorker};

use crate::case::Ambient;
use crate::world::{Happening, World};

/// From a kill to the news of it.
const KILL: Duration = Duration::from_millis(3);
const LOAD: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(900));

#[derive(Debug, Default)]
pub(crate) struct Worker {
    /// Counts the processes of this worker.
    process: u64,
    alive: bool,
    runs: BTreeMap<DispatchId, Run>,
}

#[derive(Debug)]
struct Run {
    prompt_tokens: u32,
    /// Tokens it will make; options to score for a choice.
    tokens: u32,
    made: u32,
    choice: bool,
    limited: bool,
    cancelled: bool,
    stuck: bool,
    /// Silent and does not listen to a cancel either.
    deaf: bool,
    began: Time,
    prefill: Seconds,
}

/// One process of one worker of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) node: usize,
    life: u64,
    expert: usize,
    process: u64,
}

/// The next line of a process's script.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Line {
    Loaded { well: bool },
    Step(DispatchId),
    Killed,
}

impl World<'_> {
    pub(crate) fn start_worker(&mut self, node: usize, name: &ExpertName) {
        let Some(expert) = self.hosts[node].expert_index(name) else {
            self.judge.blame(
                "agents start workers of their experts",
                format!("a worker for unknown expert {name} is started"),
            );
            return;
        };
        let life = self.hosts[node].life;
        let worker = &mut self.hosts[node].workers[expert];
        if worker.alive {
            self.judge.blame(
                "an expert has one worker",
                format!("a second worker for {name} is started"),
            );
        }
        worker.process += 1;
        worker.alive = true;
        let process_number = worker.process;
        self.judge_memory(node);
        let process = ProcessId {
            node,
            life,
            expert,
            process: process_number,
        };
        let failure = self.chance_of(Ambient::Load);
        let rng = &mut self.hosts[node].rng;
        let well = !rng.chance(failure);
        let wait = rng.within(LOAD);
        let line = Line::Loaded { well };
        self.after(wait, Happening::Worker { process, line });
    }

    /// Whether what runs on a node fits in its memory.
    fn judge_memory(&mut self, node: usize) {
        let host = &self.hosts[node];
        let there = host.workers.iter().zip(&host.config.experts);
        let there = there.filter(|(worker, _)| worker.alive);
        let needed: u64 = there.map(|(_, offer)| offer.resident().0).sum();
        let memory = host.config.device.memory.0;
        if needed > memory {
            self.judge.blame(
                "a node holds no more than its memory does",
                format!("{needed} bytes are needed, {memory} are there"),
            );
        }
    }

    pub(crate) fn kill_worker(&mut self, node: usize, name: &ExpertName) {
        if let Some(process) = self.process_of(node, name) {
            let line = Line::Killed;
            self.after(KILL, Happening::Worker { process, line });
        }
    }

    fn chance_of(&self, ambient: Ambient) -> f64 {
        let scenario = &self.case.scenario;
        match ambient {
            _ if self.case.is_without(ambient) => 0.0,
            Ambient::Crash => scenario.worker_crash,
            Ambient::Load => scenario.load_failure,
            Ambient::Stuck => scenario.stuck,
            Ambient::Leave | Ambient::Skew => 0.0,
        }
    }

    /// Work that workers are at.
    pub(crate) fn runs(&self) -> usize {
        let workers = self.hosts.iter().flat_map(|host| &host.workers);
        workers.map(|worker| worker.runs.len()).sum()
    }

    /// The worker's process at this moment.
    fn process_of(&self, node: usize, name: &ExpertName) -> Option<ProcessId> {
        let host = &self.hosts[node];
        let expert = host.expert_index(name)?;
        Some(ProcessId {
            node,
            life: host.life,
            expert,
            process: host.workers.get(expert)?.process,
        })
    }

    pub(crate) fn tell_worker(&mut self, node: usize, name: &ExpertName, message: ToWorker) {
        let Some(process) = self.process_of(node, name) else {
            return;
        };
        match message {
            ToWorker::Start {
                dispatch,
                prompt,
                task,
            } => self.begin(process, dispatch, (&prompt, &task)),
            ToWorker::Cancel { dispatch } => self.stop(process, dispatch),
        }
    }

    fn begin(&mut self, process: ProcessId, dispatch: DispatchId, asked: (&Prompt, &Task)) {
        let (prompt, task) = asked;
        let stuck = self.chance_of(Ambient::Stuck);
        let stuck = self.hosts[process.node].rng.chance(stuck);
        let run = self.run_of(process.node, (prompt, task), stuck);
        let host = &mut self.hosts[process.node];
        let offer = &host.config.experts[process.expert];
        let (slots, context) = (offer.slots as usize, offer.context_tokens);
        let running: usize = host.workers.iter().map(|w| w.runs.len()).sum();
        let here = host.workers[process.expert].runs.len();
        if running >= host.config.device.parallel as usize || here >= slots {
            self.judge.blame(
                "a node runs no more at once than its cores bear",
                format!(
                    "dispatch {dispatch} starts beside {running} on the node, {here} on the worker"
                ),
            );
        }
        if run.prompt_tokens >= context {
            let kind = FailureKind::ContextTooLong {
                prompt_tokens: run.prompt_tokens,
                context_tokens: context,
            };
            let message = "too long".to_owned();
            // From a queue of happenings, as all else a worker says.
            let said = FromWorker::Failed {
                dispatch,
                kind,
                message,
            };
            self.after(Duration::from_micros(50), Happening::Said { process, said });
            return;
        }
        let prefill = Duration::try_from_secs_f64(run.prefill.get()).unwrap_or_default();
        let host = &mut self.hosts[process.node];
        host.workers[process.expert].runs.insert(dispatch, run);
        if !stuck {
            let line = Line::Step(dispatch);
            self.after(prefill, Happening::Worker { process, line });
        }
    }

    fn run_of(&mut self, node: usize, (prompt, task): (&Prompt, &Task), stuck: bool) -> Run {
        let now = self.now;
        let host = &mut self.hosts[node];
        let slowdown = host.slowdown(now);
        let rng = &mut host.rng;
        let bytes = u32::try_from(prompt.text_bytes()).unwrap_or(u32::MAX);
        let prompt_tokens = bytes / 4 + 8;
        let (tokens, choice, limited) = match task {
            Task::Generate(sampling) => {
                let tokens = rng.between(0, sampling.max_tokens);
                (tokens, false, tokens == sampling.max_tokens)
            }
            Task::Choice { options } => (
                u32::try_from(options.len()).unwrap_or(u32::MAX),
                true,
                false,
            ),
        };
        let per_token = 0.0005 + 0.002 * rng.unit();
        Run {
            prompt_tokens,
            tokens,
            made: 0,
            choice,
            limited,
            cancelled: false,
            stuck,
            deaf: stuck && rng.chance(0.5),
            began: now,
            prefill: Seconds::saturating(f64::from(prompt_tokens) * per_token * slowdown),
        }
    }

    fn stop(&mut self, process: ProcessId, dispatch: DispatchId) {
        let worker = &mut self.hosts[process.node].workers[process.expert];
        let Some(run) = worker.runs.get_mut(&dispatch) else {
            return;
        };
        let was = std::mem::replace(&mut run.cancelled, true);
        // One that runs sees it at its next step.
        if run.stuck && !run.deaf && !was {
            let line = Line::Step(dispatch);
            self.after(
                Duration::from_millis(20),
                Happening::Worker { process, line },
            );
        }
    }

    pub(crate) fn worker_goes_on(&mut self, process: ProcessId, line: Line) {
        if !self.is_current(process) {
            return;
        }
        match line {
            Line::Loaded { well: true } => {
                let context_tokens =
                    self.hosts[process.node].config.experts[process.expert].context_tokens;
                let said = FromWorker::Ready {
                    context_tokens,
                    kv_per_token: Bytes(12_288),
                    load: Seconds::saturating(0.5),
                };
                self.worker_says(process, said);
            }
            Line::Loaded { well: false } => {
                let message = "the file is damaged".to_owned();
                self.worker_says(process, FromWorker::LoadFailed { message });
                self.die(process);
            }
            Line::Step(dispatch) => self.work_on(process, dispatch),
            Line::Killed => self.die(process),
        }
    }

    fn work_on(&mut self, process: ProcessId, dispatch: DispatchId) {
        let crash = self.chance_of(Ambient::Crash);
        let now = self.now;
        let host = &mut self.hosts[process.node];
        if host.rng.chance(crash) {
            self.die(process);
            return;
        }
        let pause = host
            .rng
            .within((Duration::from_millis(10), Duration::from_millis(70)))
            .mul_f64(host.slowdown(now));
        let worker = &mut self.hosts[process.node].workers[process.expert];
        let Some(run) = worker.runs.get_mut(&dispatch) else {
            return;
        };
        if run.cancelled || run.made == run.tokens {
            self.finish_run(process, dispatch);
            return;
        }
        let said = if run.choice {
            run.made = run.tokens;
            let logprobs = (0..run.tokens).map(|n| -f64::from(n + 1)).collect();
            FromWorker::Options { dispatch, logprobs }
        } else {
            let text = token(run.made);
            run.made += 1;
            FromWorker::Text { dispatch, text }
        };
        let line = Line::Step(dispatch);
        self.after(pause, Happening::Worker { process, line });
        self.worker_says(process, said);
    }

    fn finish_run(&mut self, process: ProcessId, dispatch: DispatchId) {
        let worker = &mut self.hosts[process.node].workers[process.expert];
        let Some(run) = worker.runs.remove(&dispatch) else {
            return;
        };
        let finish = if run.cancelled {
            FinishReason::Cancelled
        } else if run.limited {
            FinishReason::Length
        } else {
            FinishReason::Stop
        };
        let decode = self.now.seconds_since(run.began) - run.prefill;
        let said = FromWorker::Finished {
            dispatch,
            finish,
            prompt_tokens: run.prompt_tokens,
            cached_tokens: 0,
            output_tokens: run.made,
            prefill: run.prefill,
            decode,
        };
        self.worker_says(process, said);
    }

    fn die(&mut self, process: ProcessId) {
        let host = &mut self.hosts[process.node];
        let worker = &mut host.workers[process.expert];
        worker.alive = false;
        worker.process += 1;
        worker.runs.clear();
        let expert = host.config.experts[process.expert].name.clone();
        let reason = "killed by signal 9".to_owned();
        self.tell_agent(process.node, agent::Input::WorkerExited { expert, reason });
    }

    pub(crate) fn worker_says(&mut self, process: ProcessId, message: FromWorker) {
        if !self.is_current(process) {
            return;
        }
        let expert = self.hosts[process.node].config.experts[process.expert]
            .name
            .clone();
        self.tell_agent(process.node, agent::Input::Worker { expert, message });
    }

    fn is_current(&self, process: ProcessId) -> bool {
        let host = &self.hosts[process.node];
        let worker = host.workers.get(process.expert);
        host.life == process.life && worker.is_some_and(|w| w.alive && w.process == process.process)
    }
}

/// The n-th token of every answer; the judge knows them too.
pub(crate) fn token(n: u32) -> String {
    format!("{n} ")
}
