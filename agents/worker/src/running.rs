//! Pieces of work in the batch: they join and leave at any step, each with an end of its own.
//!
//! Seconds are those on the clock: reading a prompt ends with the first logits after it, and whoever
//! else was in the batch meanwhile is in both figures. They are what the asker waited, and as many
//! pieces at once as slots then fit the forecasts of waits. Dividing each step among its sequences
//! would tell how much of the machine one took, and promise delays that nobody meets.

use std::time::{Duration, Instant};

use llama_cpp_2::DecodeError;
use moe2_model::{DispatchId, FinishReason, Seconds, Task};
use moe2_wire::FromWorker;

use crate::choice::Scoring;
use crate::engine::{Engine, Sequence};
use crate::failure::WorkError;
use crate::generate::Generation;
use crate::prompt::ChatFormat;
use crate::queue::{Cancel, Work};

/// What a piece of work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) finish: FinishReason,
    /// Tokens of prompt.
    pub(crate) prompt_tokens: u32,
    /// How many of them were in the cache already.
    pub(crate) cached_tokens: u32,
    /// Tokens of answer, without the one that ends it; for a choice, tokens scored.
    pub(crate) output_tokens: u32,
    /// Processing the prompt.
    pub(crate) prefill: Duration,
    /// Producing the answer.
    pub(crate) decode: Duration,
}

impl Outcome {
    /// Nothing was done, because it was cancelled.
    pub(crate) const NOTHING: Self = Self {
        finish: FinishReason::Cancelled,
        prompt_tokens: 0,
        cached_tokens: 0,
        output_tokens: 0,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
    };

    /// How the agent is told.
    pub(crate) fn of(&self, dispatch: DispatchId) -> FromWorker {
        FromWorker::Finished {
            dispatch,
            finish: self.finish,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.output_tokens,
            prefill: Seconds::from_duration(self.prefill),
            decode: Seconds::from_duration(self.decode),
        }
    }
}

/// What is made of a sequence.
enum Part {
    Answer(Generation),
    Choice(Scoring),
}

struct Job {
    dispatch: DispatchId,
    cancel: Cancel,
    sequence: Sequence,
    prompt_tokens: u32,
    part: Part,
    /// When it came, or when it had waited for others.
    began: Instant,
    /// How long its prompt took.
    prefill: Option<Duration>,
}

/// The work under way, in the order of its arrival.
pub(crate) struct Running<'m> {
    engine: Engine<'m>,
    format: ChatFormat,
    jobs: Vec<Job>,
}

impl<'m> Running<'m> {
    /// Nothing yet.
    pub(crate) fn new(engine: Engine<'m>, format: ChatFormat) -> Self {
        let jobs = Vec::new();
        Self {
            engine,
            format,
            jobs,
        }
    }

    /// How many pieces of work there are.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Takes a piece of work; the next step begins with it. The caller counts the slots.
    pub(crate) fn begin(&mut self, work: &Work, cancel: Cancel) -> Result<(), WorkError> {
        let began = Instant::now();
        let model = self.engine.model();
        let rendered = self.format.render(model, &work.prompt)?;
        let tokens = rendered.tokens.len();
        let (prompt_tokens, part) = match &work.task {
            Task::Generate(sampling) => {
                let prompt_tokens = self.fitting(tokens, 1)?;
                let room = self.engine.context_tokens() - prompt_tokens;
                let answer = Generation::new(sampling, &rendered, room);
                (prompt_tokens, Part::Answer(answer))
            }
            Task::Choice { options } => {
                let options = options.iter().map(|option| rendered.option(model, option));
                let options = options.collect::<Result<Vec<_>, _>>()?;
                let longest = options.iter().map(Vec::len).max().unwrap_or(0);
                let prompt_tokens = self.fitting(tokens, longest.max(1))?;
                (prompt_tokens, Part::Choice(Scoring::new(options, tokens)))
            }
        };
        self.jobs.push(Job {
            dispatch: work.dispatch,
            cancel,
            sequence: self.engine.begin(rendered.tokens),
            prompt_tokens,
            part,
            began,
            prefill: None,
        });
        Ok(())
    }

    /// One batch for all, after those that were cancelled have left.
    pub(crate) fn step(&mut self, say: &mut dyn FnMut(FromWorker)) {
        let cancelled = self.jobs.extract_if(.., |job| job.cancel.is_set());
        let cancelled: Vec<Job> = cancelled.collect();
        for job in cancelled {
            self.end(job, FinishReason::Cancelled, say);
        }
        if self.jobs.is_empty() {
            return;
        }
        let mut sequences: Vec<_> = self.jobs.iter_mut().map(|job| &mut job.sequence).collect();
        if let Err(error) = self.engine.step(&mut sequences) {
            self.fail(error, say);
            return;
        }
        for mut job in std::mem::take(&mut self.jobs) {
            if !job.sequence.has_begun() {
                // What it waits for others is no time that its prompt takes.
                job.began = Instant::now();
                self.jobs.push(job);
                continue;
            }
            match job.advance(&mut self.engine, say) {
                Some(finish) => self.end(job, finish, say),
                None => self.jobs.push(job),
            }
        }
    }

    /// The number of prompt tokens, if `more` fit after them.
    fn fitting(&self, prompt: usize, more: usize) -> Result<u32, WorkError> {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let context_tokens = self.engine.context_tokens();
        if count(prompt.saturating_add(more)) <= context_tokens {
            return Ok(count(prompt));
        }
        Err(WorkError::ContextTooLong {
            prompt_tokens: count(prompt),
            context_tokens,
        })
    }

    fn end(&mut self, job: Job, finish: FinishReason, say: &mut dyn FnMut(FromWorker)) {
        let (dispatch, outcome) = (job.dispatch, job.outcome(finish));
        self.engine.end(job.sequence);
        say(outcome.of(dispatch));
    }

    /// A batch that failed has failed for all in it.
    fn fail(&mut self, error: DecodeError, say: &mut dyn FnMut(FromWorker)) {
        let error = WorkError::from(error);
        let jobs = std::mem::take(&mut self.jobs);
        for job in &jobs {
            say(error.of(job.dispatch));
        }
        self.engine.clear(jobs.into_iter().map(|job| job.sequence));
    }
}

impl Job {
    /// Makes the most of a step; why it is over, if it is.
    fn advance(
        &mut self,
        engine: &mut Engine<'_>,
        say: &mut dyn FnMut(FromWorker),
    ) -> Option<FinishReason> {
        if self.prefill.is_none() && !self.sequence.seen().is_empty() {
            self.prefill = Some(self.began.elapsed());
        }
        let dispatch = self.dispatch;
        match &mut self.part {
            Part::Answer(answer) => {
                let (text, finish) = answer.advance(engine, &mut self.sequence);
                if !text.is_empty() {
                    say(FromWorker::Text { dispatch, text });
                }
                finish
            }
            Part::Choice(scoring) => {
                let logprobs = scoring.advance(engine, &mut self.sequence)?;
                say(FromWorker::Options { dispatch, logprobs });
                Some(FinishReason::Stop)
            }
        }
    }

    fn outcome(&self, finish: FinishReason) -> Outcome {
        let took = self.began.elapsed();
        let prefill = self.prefill.unwrap_or(took);
        Outcome {
            finish,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: u32::try_from(self.sequence.reused()).unwrap_or(u32::MAX),
            output_tokens: match &self.part {
                Part::Answer(answer) => answer.written(),
                Part::Choice(scoring) => scoring.scored(),
            },
            prefill,
            decode: took.saturating_sub(prefill),
        }
    }
}
