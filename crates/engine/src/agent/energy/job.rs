//! The account of one job, and what its work counts.

use moe2_model::{Bytes, Figure, Joules, Time};

/// What a token of prompt counts, in tokens of answer. A token of answer reads every weight once, and a
/// batch of prompt reads them once for all its tokens: on processors prompts are read 2.2 to 3.3 times as
/// fast as answers are written (docs/performance.md), with the same cores at work.
const PROMPT_TOKEN: f64 = 0.4;

/// The token-work of a job: every token goes through the whole model.
#[allow(clippy::cast_precision_loss)] // sizes of models
pub(crate) fn work((prompt, output): (u32, u32), weights: Bytes) -> f64 {
    let tokens = f64::from(prompt) * PROMPT_TOKEN + f64::from(output);
    tokens * weights.0.max(1) as f64
}

/// What a job has used so far.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) worker: usize,
    began: Time,
    pub(super) ended: Option<Time>,
    pub(super) bill: Figure,
    /// Seconds it would have been busy, had it been alone.
    pub(super) alone: f64,
}

impl Account {
    pub(super) fn new(worker: usize, began: Time) -> Self {
        Self {
            worker,
            began,
            ended: None,
            bill: Figure::NONE,
            alone: 0.0,
        }
    }

    /// Adds a share of what was drawn.
    pub(super) fn add(&mut self, drawn: Figure, share: f64) {
        self.bill += Figure {
            joules: drawn.joules * share,
            error: drawn.error * share,
            source: drawn.source,
        };
    }

    /// A meter that shows what was a moment ago may be off by a moment at either end of a job.
    pub(super) fn late_at_ends(&mut self, (from, to): (Time, Time), joules: f64) {
        let within = |at: Time| from <= at && at < to;
        let ends_here = self.ended.is_some_and(|end| from < end && end <= to);
        for _ in 0..u8::from(within(self.began)) + u8::from(ends_here) {
            self.bill.error += Joules::saturating(joules);
        }
    }
}
