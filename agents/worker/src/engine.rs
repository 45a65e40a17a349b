//! One model, one context, several sequences of tokens in it.
//!
//! The only module that moves tokens through the engine. A step is one batch: the next token of
//! every sequence that answers, and pieces of the prompts of those that do not answer yet. Reading
//! the weights is what a token costs, and a batch reads them once for all. While answers are under
//! way the pieces are small, since they wait for them; otherwise they fill the batch.
//!
//! All sequences share one buffer of cells, so that a prompt which begins like one in the cache
//! takes over its cells without a copy. Buffers of their own would make copies of each prefix.
//! Rounding in the matrix products depends on the shape of a batch: what is computed beside other
//! work, or after a prefix taken over, differs in the last bits from what is computed alone.

use std::num::NonZeroU32;
use std::ops::Range;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::args::EngineArgs;
use crate::load::{LoadError, Loaded};
use crate::prefix::{Prefixes, common};

/// Prompt tokens in a step beside answers. A step of so many takes about as long as a few tokens of
/// answer; half as many would make prompts twice as slow to read, since a batch would hardly be
/// wider than the answers alone.
const BESIDE: usize = 32;

/// Tokens a prompt must share with a sequence to take them over: a few more or less in a batch cost
/// nothing, and every chat begins with the few of its template.
const LEAST_SHARED: usize = 16;

/// Tokens that are in the cache or on their way into it.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// What the cache calls it.
    id: i32,
    tokens: Vec<LlamaToken>,
    /// How many of the tokens are in the cache.
    done: usize,
    /// How many of these were there before; `None` until that was looked up.
    reused: Option<usize>,
    /// Logits are wanted from this token on.
    wanted: usize,
    /// Tokens that the last step put into the cache.
    fresh: Range<usize>,
    /// Place of the first of them in that step's batch.
    place: usize,
}

impl Sequence {
    /// Appends a token; the next steps process it.
    pub(crate) fn push(&mut self, token: LlamaToken) {
        self.tokens.push(token);
    }

    /// Appends tokens.
    pub(crate) fn extend(&mut self, tokens: &[LlamaToken]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// All its tokens.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// How many are not in the cache yet.
    pub(crate) fn waiting(&self) -> usize {
        self.tokens.len() - self.done
    }

    /// Whether any of it is in the cache.
    pub(crate) fn has_begun(&self) -> bool {
        self.done > 0
    }

    /// Tokens it did not have to process because their cells were there.
    pub(crate) fn reused(&self) -> usize {
        self.reused.unwrap_or(0)
    }

    /// Indices of the tokens after which the last step computed logits.
    pub(crate) fn seen(&self) -> Range<usize> {
        self.fresh.start.max(self.wanted).min(self.fresh.end)..self.fresh.end
    }
}

/// A context and what is in its cache.
pub(crate) struct Engine<'m> {
    model: &'m LlamaModel,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    chunk: usize,
    context_tokens: u32,
    /// Tokens that the cache holds, of all sequences together.
    cells: usize,
    /// How far back a layer looks at most; later tokens may take the cells of those before.
    window: usize,
    free: Vec<i32>,
    kept: Prefixes,
    /// Whether a prompt may take over what another sequence has in the cache.
    reuse: bool,
}

impl<'m> Engine<'m> {
    /// An empty context of a loaded model.
    pub(crate) fn open(loaded: &'m Loaded, args: &EngineArgs) -> Result<Self, LoadError> {
        let model = &loaded.model;
        let chunk = u32::from(args.batch).min(loaded.context_tokens);
        let slots = u32::from(loaded.slots);
        let cells = loaded.context_tokens * slots;
        // A recurrent state has no parts.
        let divisible = !model.is_recurrent() && !model.is_hybrid();
        let kept = if divisible { args.prefixes } else { 0 };
        let sequences = slots + u32::from(kept);
        // The engine aborts where a batch is smaller than the number of sequences.
        let capacity = (chunk + slots - 1).max(sequences);
        let threads = i32::from(args.threads.cast_signed());
        let params = LlamaContextParams::default()
            // It aborts, too, where the buffer is smaller than a batch.
            .with_n_ctx(NonZeroU32::new(cells.max(capacity)))
            .with_n_batch(capacity)
            .with_n_ubatch(capacity)
            .with_n_seq_max(sequences)
            .with_kv_unified(true)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true);
        let context = model.new_context(&loaded.backend, params);
        let context = context.map_err(|error| LoadError::Context {
            context_tokens: loaded.context_tokens,
            slots: loaded.slots,
            reason: error.to_string(),
        })?;
        Ok(Self {
            model,
            context,
            batch: LlamaBatch::new(capacity as usize, 1),
            chunk: chunk as usize,
            context_tokens: loaded.context_tokens,
            cells: cells as usize,
            window: window(model),
            free: (0..).take(sequences as usize).collect(),
            kept: Prefixes::new(usize::from(kept)),
            reuse: kept > 0,
        })
    }

    /// The model, for its vocabulary.
    pub(crate) fn model(&self) -> &'m LlamaModel {
        self.model
    }

    /// Most tokens that a sequence may have.
    pub(crate) fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// A sequence of at least one token; nothing is processed yet. There may be as many as slots.
    pub(crate) fn begin(&mut self, prompt: Vec<LlamaToken>) -> Sequence {
        let id = self.free.pop();
        Sequence {
            id: id.expect("there are more names than slots and kept sequences together"),
            wanted: prompt.len().saturating_sub(1),
            tokens: prompt,
            done: 0,
            reused: None,
            fresh: 0..0,
            place: 0,
        }
    }

    /// Ends a sequence; what it has in the cache may serve others.
    pub(crate) fn end(&mut self, sequence: Sequence) {
        let Sequence {
            id,
            mut tokens,
            done,
            ..
        } = sequence;
        tokens.truncate(done);
        // One whose early cells have gone to others would never serve again, but look as if it did.
        let length = tokens.len();
        let mut holders = self.kept.holders(&tokens);
        let holder = holders.find(|holder| self.has_whole(*holder, length));
        drop(holders);
        for gone in self.kept.keep(id, tokens, holder) {
            self.forget(gone);
        }
    }

    /// Ends a sequence; nothing is left of it.
    pub(crate) fn discard(&mut self, sequence: Sequence) {
        self.forget(sequence.id);
    }

    /// Tokens of ended sequences that are in the cache.
    pub(crate) fn kept_tokens(&self) -> usize {
        self.kept.tokens()
    }

    /// Ends all sequences, kept ones too.
    pub(crate) fn clear(&mut self, sequences: impl IntoIterator<Item = Sequence>) {
        self.context.clear_kv_cache();
        while let Some(id) = self.kept.drop_oldest() {
            self.free.push(id);
        }
        self.free.extend(sequences.into_iter().map(|s| s.id));
    }

    /// Processes one batch. If it fails, nothing is known of the cache any more: clear it.
    pub(crate) fn step(&mut self, sequences: &mut [&mut Sequence]) -> Result<(), DecodeError> {
        self.batch.clear();
        let answering = sequences.iter().any(|s| s.waiting() == 1);
        let mut room = if answering {
            BESIDE.min(self.chunk)
        } else {
            self.chunk
        };
        for sequence in sequences.iter_mut() {
            sequence.fresh = sequence.done..sequence.done;
        }
        let mut turns: Vec<usize> = Vec::with_capacity(sequences.len());
        for at in 0..sequences.len() {
            if self.reuse && sequences[at].reused.is_none() {
                if comes_of_another(sequences, at) {
                    continue;
                }
                self.take_over(sequences, at);
            }
            turns.push(at);
        }
        // What is short is read first, and nobody has more than an equal part of what is left: a long prompt holds
        // up no short one, nor short ones a long one.
        turns.sort_by_key(|at| sequences[*at].waiting());
        let mut prompts = turns
            .iter()
            .filter(|at| sequences[**at].waiting() > 1)
            .count();
        for at in turns {
            let sequence = &mut *sequences[at];
            let mut count = sequence.waiting();
            if count > 1 {
                count = count.min(room.div_ceil(prompts));
                room -= count;
                prompts -= 1;
            }
            self.add(sequence, count);
        }
        let held: usize = sequences.iter().map(|s| s.done).sum();
        while held + self.kept.tokens() > self.cells {
            match self.kept.drop_oldest() {
                Some(gone) => self.forget(gone),
                None => break,
            }
        }
        self.context.decode(&mut self.batch)?;
        // Without it a device would still be computing when the clock is read.
        self.context.synchronize();
        Ok(())
    }

    /// The logits after the token with this index, one of those that the last step has
    /// [seen](Sequence::seen).
    pub(crate) fn logits(&self, sequence: &Sequence, index: usize) -> &[f32] {
        self.context.get_logits_ith(place(sequence, index))
    }

    /// Where a sampler finds the same logits.
    pub(crate) fn place(&self, sequence: &Sequence, index: usize) -> (&LlamaContext<'m>, i32) {
        (&self.context, place(sequence, index))
    }

    /// Takes all but the first `length` tokens off a sequence. Where a model cannot forget a part,
    /// the next steps process what is left from its beginning.
    pub(crate) fn cut(&mut self, sequence: &mut Sequence, length: usize) {
        sequence.tokens.truncate(length);
        if sequence.done <= length {
            return;
        }
        sequence.done = length;
        let whole = self.has_whole(sequence.id, length);
        let cut = whole && self.remove(sequence.id, length);
        if !cut {
            self.remove(sequence.id, 0);
            sequence.done = 0;
        }
    }

    /// Puts the next `count` tokens of a sequence into the batch.
    fn add(&mut self, sequence: &mut Sequence, count: usize) {
        sequence.fresh = sequence.done..sequence.done + count;
        sequence.place = usize::try_from(self.batch.n_tokens()).unwrap_or(0);
        for index in sequence.fresh.clone() {
            let position = i32::try_from(index).expect("a context is shorter than 2^31");
            let (token, wanted) = (sequence.tokens[index], index >= sequence.wanted);
            self.batch
                .add(token, position, &[sequence.id], wanted)
                .expect("a batch has room for a chunk and a token of every other slot");
        }
        sequence.done += count;
    }

    /// Gives a new sequence the cells of the longest beginning it shares with another.
    fn take_over(&mut self, sequences: &mut [&mut Sequence], at: usize) {
        let new = &sequences[at];
        // The last token is processed in any case, for the logits after it.
        let most = new.tokens.len() - 1;
        // Itself has nothing in the cache.
        let others = sequences.iter().map(|other| {
            let done = &other.tokens[..other.done];
            (common(done, &new.tokens), other.id)
        });
        let all = self.kept.common(&new.tokens).chain(others);
        let shared = all.map(|(length, id)| (length.min(most), id));
        let mut shared: Vec<_> = shared
            .filter(|(length, _)| *length >= LEAST_SHARED)
            .collect();
        shared.sort_unstable_by(|a, b| b.cmp(a));
        let found = shared
            .into_iter()
            .find(|(length, id)| self.has_whole(*id, *length));
        let new = &mut *sequences[at];
        new.reused = Some(0);
        if let Some((length, id)) = found
            && self.share(id, new.id, length)
        {
            new.done = length;
            new.reused = Some(length);
            self.kept.used(id);
        }
    }

    /// Whether the cache has all of a sequence that a token after the first `length` looks at. Where
    /// layers look back a window only, cells from before it may have gone to others.
    fn has_whole(&self, id: i32, length: usize) -> bool {
        let first = self.context.kv_cache_seq_pos_min(id);
        usize::try_from(first).is_ok_and(|first| first <= length.saturating_sub(self.window))
    }

    fn share(&mut self, from: i32, to: i32, length: usize) -> bool {
        let end = u32::try_from(length).expect("a context is shorter than 2^31");
        let copied = self.context.copy_kv_cache_seq(from, to, Some(0), Some(end));
        copied.is_ok()
    }

    /// Takes the tokens from `start` on out of the cache, if that can be done.
    fn remove(&mut self, id: i32, start: usize) -> bool {
        let id = id.cast_unsigned();
        let start = u32::try_from(start).expect("a context is shorter than 2^31");
        let removed = self.context.clear_kv_cache_seq(Some(id), Some(start), None);
        matches!(removed, Ok(true))
    }

    fn forget(&mut self, id: i32) {
        self.remove(id, 0);
        self.free.push(id);
    }
}

/// Whether a sequence that has not begun shares a beginning with an older one which is still on its way into the
/// cache: then it waits, and takes that over.
fn comes_of_another(sequences: &[&mut Sequence], at: usize) -> bool {
    let new = &sequences[at];
    sequences[..at].iter().any(|older| {
        let shared = common(&older.tokens, &new.tokens).min(new.tokens.len() - 1);
        shared >= LEAST_SHARED && older.done < shared
    })
}

fn place(sequence: &Sequence, index: usize) -> i32 {
    let place = sequence.place + (index - sequence.fresh.start);
    i32::try_from(place).expect("a batch is shorter than 2^31")
}

/// Tokens that a layer with a sliding window looks back; without end if the file names none, which
/// asks more of the cache than is needed.
fn window(model: &LlamaModel) -> usize {
    let architecture = model.meta_val_str("general.architecture").ok();
    let key = architecture.map(|name| format!("{name}.attention.sliding_window"));
    let window = key.and_then(|key| model.meta_val_str(&key).ok()?.parse().ok());
    window.unwrap_or(usize::MAX)
}
