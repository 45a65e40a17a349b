//! Problem files: a path or `-` for standard input, plain or compressed with zstd.
//!
//! What is compressed is told by its first bytes, so that a pipe needs no name. Size limits are those of
//! the parsers, which see what is decompressed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;

use crate::BadInput;

/// First bytes of a zstd frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads a file, or standard input for `-`, with `parse`; its refusal becomes bad input that names the
/// file.
///
/// # Errors
/// The file cannot be read, or `parse` refuses it.
pub(crate) fn read<T, E: std::error::Error>(
    path: &Path,
    parse: impl FnOnce(Box<dyn Read>) -> Result<T, E>,
) -> anyhow::Result<T> {
    let stdin = path == Path::new("-");
    let name = if stdin {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let raw: Box<dyn Read> = if stdin {
        Box::new(std::io::stdin().lock())
    } else {
        let opened = File::open(path).map_err(|e| BadInput(format!("cannot read {name}: {e}")))?;
        Box::new(opened)
    };
    let mut buffered = BufReader::with_capacity(1 << 16, raw);
    let start = buffered
        .fill_buf()
        .with_context(|| format!("cannot read {name}"))?;
    let text: Box<dyn Read> = if start.starts_with(&ZSTD_MAGIC) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(buffered)
            .map_err(|e| BadInput(format!("{name}: not a sound zstd file: {e}")))?;
        Box::new(decoder)
    } else {
        Box::new(buffered)
    };
    parse(text).map_err(|error| BadInput(format!("{name}: {error}")).into())
}
