//! A vector per token, averaged: the cheap encoder.
//!
//! No layers run, so a text costs its tokenisation and a sum, microseconds on any machine, and
//! word order is lost. The vectors were distilled from the input embeddings of large models to be
//! averaged. The meaning is that of wordllama's `embed(norm=True)`: no special tokens are added,
//! nothing is cut off, the 16-bit vectors are summed as 32-bit floats.

use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors};
use tokenizers::Tokenizer;

use crate::error::Cause;
use crate::file::Pinned;
use crate::{EmbedError, normalise};
use moe2_gate::Embedder;

const WHEEL: &str = "wordllama 0.4.0.post1";

const WEIGHTS: Pinned = Pinned {
    name: "l2_supercat_256.safetensors",
    bytes: 16_384_096,
    sha256: "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
    inside: "wordllama/weights/l2_supercat_256.safetensors",
    wheel: WHEEL,
};

const TOKENIZER: Pinned = Pinned {
    name: "l2_supercat_tokenizer_config.json",
    bytes: 1_842_796,
    sha256: "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
    inside: "wordllama/tokenizers/l2_supercat_tokenizer_config.json",
    wheel: WHEEL,
};

const WIDTH: usize = 256;

/// The mean of a text's token vectors, of length 1.
#[derive(Debug)]
pub struct StaticTokens {
    tokenizer: Tokenizer,
    /// One after another by token id; 32-bit, because widening per use would cost more than the sum.
    vectors: Vec<f32>,
}

impl StaticTokens {
    /// What [`open`](crate::open) knows it by.
    pub const NAME: &str = "static";

    /// Reads the encoder's two files from `dir`.
    pub fn open(dir: &Path) -> Result<Self, EmbedError> {
        let mut tokenizer = Tokenizer::from_bytes(TOKENIZER.read(dir)?)
            .map_err(|source| load("tokenizer", source))?;
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|source| load("tokenizer", source))?;
        let vectors = vectors(&WEIGHTS.read(dir)?).map_err(|source| load("weights", source))?;
        Ok(Self { tokenizer, vectors })
    }

    /// The vector of a text; all zero for a text without tokens. The work grows with the text, so
    /// whoever takes texts from outside bounds them.
    ///
    /// # Errors
    /// [`EmbedError::Embed`] if the text cannot be made into tokens.
    pub fn vector(&self, text: &str) -> Result<Vec<f32>, EmbedError> {
        let failed = |source| EmbedError::Embed {
            name: Self::NAME,
            source,
        };
        let tokens = self.tokenizer.encode_fast(text, false).map_err(failed)?;
        let mut sum = vec![0.0; WIDTH];
        for id in tokens.get_ids() {
            // A token without a vector cannot occur with these two files; it would count for nothing.
            let at = *id as usize * WIDTH;
            let vector = self.vectors.get(at..at + WIDTH).unwrap_or_default();
            sum.iter_mut().zip(vector).for_each(|(s, v)| *s += v);
        }
        // Dividing by the number of tokens first would not change the direction.
        normalise(&mut sum);
        Ok(sum)
    }
}

fn load(what: &'static str, source: Cause) -> EmbedError {
    EmbedError::Load {
        name: StaticTokens::NAME,
        what,
        source,
    }
}

fn vectors(file: &[u8]) -> Result<Vec<f32>, Cause> {
    let tensors = SafeTensors::deserialize(file)?;
    let table = tensors.tensor("embedding.weight")?;
    if table.dtype() != Dtype::F16 || table.shape().get(1) != Some(&WIDTH) {
        return Err(format!("{:?} of shape {:?}", table.dtype(), table.shape()).into());
    }
    let (numbers, _) = table.data().as_chunks();
    Ok(numbers
        .iter()
        .map(|number| f16::from_le_bytes(*number).to_f32())
        .collect())
}

impl Embedder for StaticTokens {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn digest(&self) -> &str {
        WEIGHTS.sha256
    }

    fn embed(&self, text: &str) -> Vec<f32> {
        // A query is routed by what else is known of it rather than refused.
        self.vector(text).unwrap_or_else(|_| vec![0.0; WIDTH])
    }
}
