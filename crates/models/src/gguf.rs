//! Checks a GGUF file's header in safe code before native code sees the file.
//!
//! A header is a list of lengths chosen by whoever wrote the file, and the engine's own reader has
//! aborted on bad ones. So every length is compared with the bytes that are left before it is used,
//! nothing larger than the file is ever allocated, and every tensor must lie inside the file exactly
//! where the engine will look for it. Weights themselves are not read: any bytes are valid weights.
//!
//! Layout: magic, version, two counts, key-value pairs, tensor descriptions, padding, tensor data.
//! Everything is little-endian; versions 2 and 3 differ in nothing else.

mod metadata;
mod reader;
mod tensors;
mod types;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use metadata::Metadata;
use reader::Cursor;

/// Most key-value pairs: real files have a few dozen.
const MAX_PAIRS: u64 = 65_536;
/// Most tensors: the largest published models have a few thousand.
const MAX_TENSORS: u64 = 65_536;

/// What the header of a sound GGUF file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufInfo {
    /// Format version, 2 or 3.
    pub version: u32,
    /// Model architecture, e.g. `llama`.
    pub architecture: String,
    /// Elements of all tensors, a count. An embedding table stored twice counts twice.
    pub parameters: u64,
    /// Bytes of all tensors, without padding.
    pub tensor_bytes: u64,
    /// Trained context length, tokens.
    pub context_length: Option<u64>,
    /// Transformer blocks.
    pub block_count: Option<u64>,
    /// Width of the residual stream, elements.
    pub embedding_length: Option<u64>,
    /// Attention heads per block.
    pub head_count: Option<u64>,
    /// Key-value heads per block; the largest, if blocks differ.
    pub head_count_kv: Option<u64>,
    /// Elements of one key head.
    pub key_length: Option<u64>,
    /// Elements of one value head.
    pub value_length: Option<u64>,
    /// Whether the file carries a chat template.
    pub has_chat_template: bool,
    /// Size of the file, bytes.
    pub file_bytes: u64,
}

/// Why a file is not a GGUF file an engine may open.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Another kind of file.
    #[error("not a GGUF file (it starts with {found:02x?}); give the path of a .gguf model")]
    NotGguf {
        /// The first bytes, at most four.
        found: Vec<u8>,
    },
    /// The file ends too early.
    #[error(
        "truncated GGUF file: {what} needs {needed} bytes, {have} are left; fetch the file again"
    )]
    Truncated {
        /// What does not fit.
        what: String,
        /// Bytes it needs.
        needed: u64,
        /// Bytes that are left.
        have: u64,
    },
    /// Well-formed perhaps, but nothing this reader or the engine knows.
    #[error("unsupported GGUF file: {what}; use a file written by a current converter")]
    Unsupported {
        /// What is not known.
        what: String,
    },
    /// The header contradicts itself or the format.
    #[error("invalid GGUF file: {what}; fetch the file again")]
    Invalid {
        /// What is wrong.
        what: String,
    },
    /// The file cannot be read.
    #[error("cannot read the model file: {0}")]
    Io(#[from] io::Error),
}

/// Checks the header of the file at `path` and returns what it says.
pub fn inspect(path: &Path) -> Result<GgufInfo, GgufError> {
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    inspect_reader(file, file_bytes)
}

/// Checks a header read from `source`, which stands at its start and holds `file_bytes` bytes.
pub fn inspect_reader<R: Read + Seek>(source: R, file_bytes: u64) -> Result<GgufInfo, GgufError> {
    let mut cursor = Cursor::new(source, file_bytes);
    let version = opening(&mut cursor)?;
    let tensor_count = cursor.u64(&"the tensor count")?;
    let pair_count = cursor.u64(&"the metadata count")?;
    bounded("tensors", tensor_count, MAX_TENSORS)?;
    bounded("metadata entries", pair_count, MAX_PAIRS)?;
    let metadata = Metadata::read(&mut cursor, pair_count)?;
    let totals = tensors::check(&mut cursor, tensor_count, metadata.alignment()?)?;
    Ok(GgufInfo {
        version,
        architecture: metadata.architecture()?.to_owned(),
        parameters: totals.elements,
        tensor_bytes: totals.bytes,
        context_length: metadata.number("context_length"),
        block_count: metadata.number("block_count"),
        embedding_length: metadata.number("embedding_length"),
        head_count: metadata.number("attention.head_count"),
        head_count_kv: metadata.number("attention.head_count_kv"),
        key_length: metadata.number("attention.key_length"),
        value_length: metadata.number("attention.value_length"),
        has_chat_template: metadata.has_chat_template(),
        file_bytes,
    })
}

/// Magic and version.
fn opening<R: Read + Seek>(cursor: &mut Cursor<R>) -> Result<u32, GgufError> {
    let found = cursor.up_to_four()?;
    if found != *b"GGUF" {
        return Err(GgufError::NotGguf { found });
    }
    let version = cursor.u32(&"the version")?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(GgufError::Unsupported {
            what: "big-endian byte order".to_owned(),
        }),
        _ => Err(GgufError::Unsupported {
            what: format!("format version {version}"),
        }),
    }
}

fn bounded(what: &str, count: u64, most: u64) -> Result<(), GgufError> {
    if count <= most {
        return Ok(());
    }
    Err(GgufError::Invalid {
        what: format!("{count} {what}, at most {most} are plausible"),
    })
}

impl GgufInfo {
    /// Bytes that one token occupies in the key-value cache, at `element_bytes` per element (2 for
    /// the usual half precision). `None` if the header does not say enough. An upper bound where
    /// blocks differ or some attend to a window only.
    #[must_use]
    pub fn kv_bytes_per_token(&self, element_bytes: u64) -> Option<u64> {
        let head_count = self.head_count.filter(|count| *count > 0);
        let head = self
            .embedding_length
            .zip(head_count)
            .map(|(width, heads)| width / heads);
        let (key, value) = (self.key_length.or(head)?, self.value_length.or(head)?);
        // Files without the key have as many key-value heads as heads.
        let heads = self.head_count_kv.or(self.head_count)?;
        self.block_count?
            .checked_mul(heads)?
            .checked_mul(key.checked_add(value)?)?
            .checked_mul(element_bytes)
    }
}

#[cfg(test)]
mod tests;
