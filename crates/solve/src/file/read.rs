//! From bytes to records, one pass, within limits that hold while the file arrives.
//!
//! An instance can be hundreds of megabytes of text, so numbers go from the reader straight into a
//! flat table; neither the text nor a tree of values is ever held. Errors carry the path of the
//! field (`utility[3][1]`) and the line and column, because a file with a million numbers is only
//! repairable if the error says which one is wrong.

use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::problem::{MAX_TABLE, ProblemError, Table};

/// Longest file, after decompression: the largest table at 20 bytes a number.
pub const MAX_FILE_BYTES: u64 = 20 * MAX_TABLE as u64;
/// Longest string in a file, in bytes as written; names are far shorter.
pub const MAX_STRING_BYTES: usize = 4096;

/// Why a file was refused; every message names the field.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FileError {
    /// Not JSON, an unknown or missing field, a value of the wrong type, or more than is accepted.
    #[error("{field}: {message}")]
    Json {
        /// Path of the field, e.g. `utility[3][1]`; `.` is the file as a whole.
        field: String,
        /// What is wrong, with line and column.
        message: String,
    },
    /// Another format or version.
    #[error("format: is {found:?}, expected {expected:?}")]
    Format {
        /// The tag in the file.
        found: String,
        /// The tag it should have.
        expected: &'static str,
    },
    /// A field that the constraint's kind needs, or that it does not have.
    #[error("{field}: {problem} for kind {kind:?}")]
    Shape {
        /// Path of the field.
        field: String,
        /// `missing` or `not allowed`.
        problem: &'static str,
        /// The constraint's kind.
        kind: &'static str,
    },
    /// Well-formed, but not an acceptable problem.
    #[error(transparent)]
    Problem(#[from] ProblemError),
}

/// Reads one record and nothing after it.
pub(super) fn record<T: DeserializeOwned>(input: impl Read) -> Result<T, FileError> {
    let guarded = io::BufReader::with_capacity(1 << 16, Guard::new(input));
    let mut reader = serde_json::Deserializer::from_reader(guarded);
    let found = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        FileError::Json {
            // A field whose name could not be read.
            field: if path == "?" { ".".into() } else { path },
            message: error.inner().to_string(),
        }
    })?;
    let trailing = |error: serde_json::Error| FileError::Json {
        field: ".".into(),
        message: error.to_string(),
    };
    reader.end().map_err(trailing)?;
    Ok(found)
}

/// Refuses a file that is too long, or a string in it: the JSON reader would hold a string whole.
struct Guard<R> {
    inner: R,
    bytes: u64,
    /// Length of the string being read, if any.
    string: Option<usize>,
    escaped: bool,
    too_long: bool,
}

fn too_long() -> io::Error {
    io::Error::other(format!("a string longer than {MAX_STRING_BYTES} bytes"))
}

impl<R> Guard<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            bytes: 0,
            string: None,
            escaped: false,
            too_long: false,
        }
    }

    /// Follows one byte; whether it is still acceptable.
    fn accept(&mut self, byte: u8) -> bool {
        let Some(length) = self.string else {
            self.string = (byte == b'"').then_some(0);
            return true;
        };
        let ends = byte == b'"' && !self.escaped;
        self.escaped = byte == b'\\' && !self.escaped;
        self.string = (!ends).then_some(length + 1);
        length < MAX_STRING_BYTES
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.too_long {
            return Err(too_long());
        }
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        if self.bytes > MAX_FILE_BYTES {
            let message =
                format!("longer than {MAX_FILE_BYTES} bytes; split or sample the instance");
            return Err(io::Error::other(message));
        }
        match buffer[..count].iter().position(|&byte| !self.accept(byte)) {
            None => Ok(count),
            // What comes before is passed on: the parser may find that it was no string at all, and
            // says where.
            Some(at) if at > 0 => {
                self.too_long = true;
                Ok(at)
            }
            Some(_) => Err(too_long()),
        }
    }
}

/// A list of at most `MAX` elements; the next one is refused before it is kept.
#[derive(Debug)]
pub(crate) struct Bounded<T, const MAX: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Bounded<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::custom(format!(
                            "more than {MAX} entries; split or sample the instance"
                        )));
                    }
                    list.push(element);
                }
                Ok(Bounded(list))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rows;
        impl<'de> Visitor<'de> for Rows {
            type Value = Table;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of rows of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Table, A::Error> {
                let mut table = Table::default();
                while seq.next_element_seed(Row(&mut table))?.is_some() {}
                Ok(table)
            }
        }
        deserializer.deserialize_seq(Rows)
    }
}

/// Appends one row to a table, number by number.
struct Row<'t>(&'t mut Table);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let began = self.0.begin_row();
        while let Some(value) = seq.next_element::<f64>()? {
            self.0.add(value).map_err(A::Error::custom)?;
        }
        self.0.end_row(began);
        Ok(())
    }
}
