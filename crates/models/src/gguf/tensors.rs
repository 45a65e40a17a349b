//! The tensor descriptions: shapes, types, and where the data lies.
//!
//! The engine expects tensor data back to back, each padded to the alignment, in the order of the
//! descriptions, and refuses anything else. Checking for exactly that also rules out overlaps and
//! data outside the file, without sorting anything.

use std::collections::HashSet;
use std::io::{Read, Seek};

use super::GgufError;
use super::reader::Cursor;
use super::types::tensor_type;

/// Most dimensions of a tensor: the engine's limit.
const MAX_DIMENSIONS: u32 = 4;
/// Longest tensor name, bytes: the engine's limit, less its terminator.
const MAX_NAME_BYTES: u64 = 63;
/// Least bytes a description takes: name length, dimension count, one dimension, type, offset.
const LEAST_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// Sums over all tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Elements.
    pub(super) elements: u64,
    /// Bytes without padding.
    pub(super) bytes: u64,
}

/// Reads `count` descriptions and checks that all their data is in the file.
pub(super) fn check<R: Read + Seek>(
    cursor: &mut Cursor<R>,
    count: u64,
    alignment: u64,
) -> Result<Totals, GgufError> {
    cursor.need(count.saturating_mul(LEAST_BYTES), &"the tensor list")?;
    let mut totals = Totals::default();
    let mut names = HashSet::new();
    // Offset, from the start of the data, at which the next tensor must begin and the last one ended.
    let (mut next, mut end) = (0_u64, 0_u64);
    for index in 0..count {
        let name = cursor.string(MAX_NAME_BYTES, &format_args!("the name of tensor {index}"))?;
        let (elements, bytes) = shape(cursor, &name)?;
        let offset = cursor.u64(&format_args!("the offset of tensor {name}"))?;
        if offset != next {
            let what = format!("tensor {name} is at offset {offset}, expected {next}");
            return Err(GgufError::Invalid { what });
        }
        let too_large = || overflow(&name);
        end = offset.checked_add(bytes).ok_or_else(too_large)?;
        next = end
            .checked_next_multiple_of(alignment)
            .ok_or_else(too_large)?;
        totals.elements = totals
            .elements
            .checked_add(elements)
            .ok_or_else(too_large)?;
        totals.bytes = totals.bytes.checked_add(bytes).ok_or_else(too_large)?;
        if !names.insert(name) {
            return Err(GgufError::Invalid {
                what: "two tensors have the same name".to_owned(),
            });
        }
    }
    if count == 0 {
        return Ok(totals);
    }
    let padding = cursor.position().next_multiple_of(alignment) - cursor.position();
    cursor.need(padding.saturating_add(end), &"the tensor data")?;
    Ok(totals)
}

/// Dimensions and type of a tensor: its elements and bytes.
fn shape<R: Read + Seek>(cursor: &mut Cursor<R>, name: &str) -> Result<(u64, u64), GgufError> {
    let invalid = |what: String| GgufError::Invalid {
        what: format!("tensor {name} {what}"),
    };
    let dimensions = cursor.u32(&format_args!("the dimension count of tensor {name}"))?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(invalid(format!(
            "has {dimensions} dimensions, 1 to {MAX_DIMENSIONS} can be"
        )));
    }
    let (mut elements, mut row) = (1_u64, None);
    for _ in 0..dimensions {
        let length = cursor.u64(&format_args!("a dimension of tensor {name}"))?;
        if length == 0 {
            return Err(invalid("has a dimension of length 0".to_owned()));
        }
        row = row.or(Some(length));
        elements = elements.checked_mul(length).ok_or_else(|| overflow(name))?;
    }
    let number = cursor.u32(&format_args!("the type of tensor {name}"))?;
    let block = tensor_type(number).ok_or_else(|| GgufError::Unsupported {
        what: format!("type {number} of tensor {name}"),
    })?;
    if !row.is_some_and(|row| row.is_multiple_of(block.elements)) {
        return Err(invalid(format!(
            "has rows that are no multiple of {}",
            block.elements
        )));
    }
    let bytes = (elements / block.elements)
        .checked_mul(block.bytes)
        .ok_or_else(|| overflow(name))?;
    // The engine counts in signed 64-bit numbers.
    if i64::try_from(elements.max(bytes)).is_err() {
        return Err(overflow(name));
    }
    Ok((elements, bytes))
}

fn overflow(name: &str) -> GgufError {
    GgufError::Invalid {
        what: format!("tensor {name} is larger than any file"),
    }
}
