//! The key-value part of the header.
//!
//! Only whole numbers and the architecture's name are kept; vocabularies and templates are walked
//! over, since checking their lengths is all that is needed. Every array element takes at least one
//! byte of the file, so a walk is never longer than the file.

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::GgufError;
use super::reader::Cursor;
use super::types::{Kind, value_kind};

/// Longest key, bytes: the limit of the format.
const MAX_KEY_BYTES: u64 = 65_535;
/// Longest architecture name, bytes: real ones have about ten.
const MAX_NAME_BYTES: u64 = 256;
/// Deepest nesting of arrays: the engine reads flat ones only, the format allows more.
const MAX_DEPTH: u32 = 4;
/// Per-block settings are short arrays; longer ones are vocabularies and are not kept.
const MAX_KEPT_ARRAY: u64 = 4096;
/// Tensor alignment where the file sets none, bytes.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Largest alignment, bytes: a large page; more only wastes file.
const MAX_ALIGNMENT: u64 = 2 << 20;

const ARCHITECTURE: &str = "general.architecture";
const ALIGNMENT: &str = "general.alignment";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// What is kept of a value.
enum Value {
    Number(u64),
    Text(String),
    /// Walked over; for a string its length in bytes.
    Passed(u64),
}

/// The parts of the metadata that are asked for later.
pub(super) struct Metadata {
    values: HashMap<String, Value>,
}

impl Metadata {
    /// Reads `count` pairs.
    pub(super) fn read<R: Read + Seek>(
        cursor: &mut Cursor<R>,
        count: u64,
    ) -> Result<Self, GgufError> {
        let mut values = HashMap::new();
        for index in 0..count {
            let key = cursor.string(MAX_KEY_BYTES, &format_args!("metadata key {index}"))?;
            let kind = kind(cursor, &key)?;
            let value = match kind {
                Kind::String if key == ARCHITECTURE => {
                    Value::Text(cursor.string(MAX_NAME_BYTES, &ARCHITECTURE)?)
                }
                _ => value(cursor, kind, &key, 0)?,
            };
            if values.insert(key.clone(), value).is_some() {
                return Err(GgufError::Invalid {
                    what: format!("metadata key {key} appears twice"),
                });
            }
        }
        Ok(Self { values })
    }

    /// Name of the architecture, which every other model key starts with.
    pub(super) fn architecture(&self) -> Result<&str, GgufError> {
        match self.values.get(ARCHITECTURE) {
            Some(Value::Text(name)) if !name.is_empty() => Ok(name),
            _ => Err(GgufError::Invalid {
                what: format!("no text under {ARCHITECTURE}"),
            }),
        }
    }

    /// Alignment of tensor data, bytes; a power of two.
    pub(super) fn alignment(&self) -> Result<u64, GgufError> {
        match self.values.get(ALIGNMENT) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Value::Number(bytes)) if bytes.is_power_of_two() && *bytes <= MAX_ALIGNMENT => {
                Ok(*bytes)
            }
            Some(_) => {
                let what = format!("{ALIGNMENT} is not a power of two up to {MAX_ALIGNMENT}");
                Err(GgufError::Invalid { what })
            }
        }
    }

    /// The whole number under `<architecture>.<key>`.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        let name = self.architecture().ok()?;
        match self.values.get(&format!("{name}.{key}")) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// Whether there is a template that is not empty.
    pub(super) fn has_chat_template(&self) -> bool {
        matches!(self.values.get(CHAT_TEMPLATE), Some(Value::Passed(bytes)) if *bytes > 0)
    }
}

fn kind<R: Read + Seek>(cursor: &mut Cursor<R>, key: &str) -> Result<Kind, GgufError> {
    let number = cursor.u32(&format_args!("the type of {key}"))?;
    value_kind(number).ok_or_else(|| GgufError::Unsupported {
        what: format!("metadata type {number} of {key}"),
    })
}

fn value<R: Read + Seek>(
    cursor: &mut Cursor<R>,
    kind: Kind,
    key: &str,
    depth: u32,
) -> Result<Value, GgufError> {
    match kind {
        Kind::Unsigned(width) | Kind::Signed(width) => {
            let number = whole(cursor, width, key)?;
            Ok(number_or_negative(kind, number, width))
        }
        Kind::Other(width) => {
            cursor.skip(width, &key)?;
            Ok(Value::Passed(0))
        }
        Kind::String => Ok(Value::Passed(cursor.skip_string(&key)?)),
        Kind::Array => array(cursor, key, depth),
    }
}

/// Walks over an array; of a short one of whole numbers the largest is kept.
fn array<R: Read + Seek>(
    cursor: &mut Cursor<R>,
    key: &str,
    depth: u32,
) -> Result<Value, GgufError> {
    if depth >= MAX_DEPTH {
        let what = format!("arrays nested more than {MAX_DEPTH} deep in {key}");
        return Err(GgufError::Unsupported { what });
    }
    let element = kind(cursor, key)?;
    let count = cursor.u64(&format_args!("the length of {key}"))?;
    // The least an element takes: its width, a string's length, an array's type and length.
    let least = match element {
        Kind::Unsigned(width) | Kind::Signed(width) | Kind::Other(width) => width,
        Kind::String => 8,
        Kind::Array => 12,
    };
    let bytes = count.saturating_mul(least);
    cursor.need(bytes, &key)?;
    match element {
        Kind::Unsigned(_) | Kind::Signed(_) if count <= MAX_KEPT_ARRAY => {
            let mut largest = None;
            for _ in 0..count {
                if let Value::Number(number) = value(cursor, element, key, depth)? {
                    largest = largest.max(Some(number));
                }
            }
            Ok(largest.map_or(Value::Passed(0), Value::Number))
        }
        Kind::Unsigned(_) | Kind::Signed(_) | Kind::Other(_) => {
            cursor.skip(bytes, &key)?;
            Ok(Value::Passed(0))
        }
        Kind::String | Kind::Array => {
            for _ in 0..count {
                value(cursor, element, key, depth + 1)?;
            }
            Ok(Value::Passed(0))
        }
    }
}

/// The bytes of a whole number, not sign-extended.
fn whole<R: Read + Seek>(cursor: &mut Cursor<R>, width: u64, key: &str) -> Result<u64, GgufError> {
    Ok(match width {
        1 => u64::from(cursor.array::<1>(&key)?[0]),
        2 => u64::from(u16::from_le_bytes(cursor.array(&key)?)),
        4 => u64::from(u32::from_le_bytes(cursor.array(&key)?)),
        _ => u64::from_le_bytes(cursor.array(&key)?),
    })
}

/// Negative numbers mean nothing to the questions asked later.
fn number_or_negative(kind: Kind, number: u64, width: u64) -> Value {
    let sign = 1_u64 << (8 * width - 1);
    match kind {
        Kind::Signed(_) if number & sign != 0 => Value::Passed(0),
        _ => Value::Number(number),
    }
}
