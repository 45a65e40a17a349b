//! Problem files: a path or `-` for standard input, plain or compressed with zstd.
//!
//! What is compressed is told by its first bytes, so that a pipe needs no name. Size limits are those of
//! the parsers, which see what is decompressed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::BadInput;
use crate::zstd::{Decompressed, MAGIC};

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
    let unreadable = |e: std::io::Error| BadInput(format!("cannot read {name}: {e}"));
    let raw: Box<dyn Read> = if stdin {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    let mut buffered = BufReader::with_capacity(1 << 16, raw);
    let start = buffered.fill_buf().map_err(unreadable)?;
    let text: Box<dyn Read> = if start.starts_with(&MAGIC) {
        Box::new(Decompressed::new(buffered).map_err(unreadable)?)
    } else {
        Box::new(buffered)
    };
    parse(text).map_err(|error| BadInput(format!("{name}: {error}")).into())
}
