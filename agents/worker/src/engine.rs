//! One model, one context, one sequence of tokens in it.
//!
//! The only module that moves tokens through the engine. A prompt always starts on an empty cache
//! and is cut at the same multiples of the batch: rounding in the matrix products depends on the
//! shape of a batch, so a reused prefix would make the same question give different bits depending
//! on what was asked before it.

use std::num::NonZeroU32;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::args::EngineArgs;
use crate::load::{LoadError, Loaded};
use crate::queue::Cancel;

/// Whether a step ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ran {
    /// It did; the logits of its last token can be read.
    Whole,
    /// It was told to stop.
    Cancelled,
}

/// A context and the tokens in it.
pub(crate) struct Engine<'m> {
    model: &'m LlamaModel,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    chunk: usize,
    context_tokens: u32,
    /// Tokens in the cache, which is also the next position.
    length: u32,
}

impl<'m> Engine<'m> {
    /// An empty context of a loaded model.
    pub(crate) fn open(loaded: &'m Loaded, args: &EngineArgs) -> Result<Self, LoadError> {
        let chunk = u32::from(args.batch).min(loaded.context_tokens);
        let threads = i32::from(args.threads.cast_signed());
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(loaded.context_tokens))
            .with_n_batch(chunk)
            .with_n_ubatch(chunk)
            .with_n_seq_max(1)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true);
        let context = loaded.model.new_context(&loaded.backend, params);
        let context = context.map_err(|error| LoadError::Context {
            context_tokens: loaded.context_tokens,
            reason: error.to_string(),
        })?;
        Ok(Self {
            model: &loaded.model,
            context,
            batch: LlamaBatch::new(chunk as usize, 1),
            chunk: chunk as usize,
            context_tokens: loaded.context_tokens,
            length: 0,
        })
    }

    /// The model, for its vocabulary.
    pub(crate) fn model(&self) -> &'m LlamaModel {
        self.model
    }

    /// Most tokens the cache may hold.
    pub(crate) fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// The context, for a sampler.
    pub(crate) fn context(&self) -> &LlamaContext<'m> {
        &self.context
    }

    /// Forgets everything and processes a prompt of at least one token.
    pub(crate) fn prefill(
        &mut self,
        tokens: &[LlamaToken],
        cancel: &Cancel,
    ) -> Result<Ran, DecodeError> {
        self.clear();
        for chunk in tokens.chunks(self.chunk) {
            if cancel.is_set() {
                return Ok(Ran::Cancelled);
            }
            self.step(chunk, false)?;
        }
        Ok(Ran::Whole)
    }

    /// Processes one more token.
    pub(crate) fn append(&mut self, token: LlamaToken) -> Result<(), DecodeError> {
        self.step(&[token], false)
    }

    /// Processes more tokens and shows `see` each one's index and the logits after it.
    pub(crate) fn append_all(
        &mut self,
        tokens: &[LlamaToken],
        mut see: impl FnMut(usize, &[f32]),
    ) -> Result<(), DecodeError> {
        let mut index = 0;
        for chunk in tokens.chunks(self.chunk) {
            self.step(chunk, true)?;
            for row in (0..).take(chunk.len()) {
                see(index, self.context.get_logits_ith(row));
                index += 1;
            }
        }
        Ok(())
    }

    /// The logits after the last token.
    pub(crate) fn logits(&self) -> &[f32] {
        self.context.get_logits_ith(-1)
    }

    /// Forgets all but the first `length` tokens. `false` if this kind of model cannot forget a
    /// part (recurrent state): then everything is forgotten.
    pub(crate) fn truncate(&mut self, length: u32) -> bool {
        let removed = self.context.clear_kv_cache_seq(Some(0), Some(length), None);
        if matches!(removed, Ok(true)) {
            self.length = length;
            return true;
        }
        self.clear();
        false
    }

    fn clear(&mut self) {
        self.context.clear_kv_cache();
        self.length = 0;
    }

    fn step(&mut self, tokens: &[LlamaToken], all_logits: bool) -> Result<(), DecodeError> {
        self.batch.clear();
        for (index, token) in tokens.iter().enumerate() {
            let position = i32::try_from(self.length).expect("a context is shorter than 2^31");
            let wanted = all_logits || index + 1 == tokens.len();
            self.batch
                .add(*token, position, &[0], wanted)
                .expect("a chunk is no longer than the batch");
            self.length += 1;
        }
        self.context.decode(&mut self.batch)?;
        // Without it a device would still be computing when the clock is read.
        self.context.synchronize();
        Ok(())
    }
}
