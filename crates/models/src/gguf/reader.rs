//! Reads little-endian values while counting what is left of the file.
//!
//! Every read names what it is for, so that an error says which part of the header was cut off. The name
//! is made into text only then: a key may be long, and a file may have a million values under it.
//! Skipping compares with the file size first: a seek past the end would succeed silently.

use std::fmt::Display;
use std::io::{self, BufReader, Read, Seek};

use super::GgufError;

/// A position in the file and the number of bytes it has.
pub(super) struct Cursor<R> {
    source: BufReader<R>,
    position: u64,
    end: u64,
}

impl<R: Read + Seek> Cursor<R> {
    pub(super) fn new(source: R, end: u64) -> Self {
        Self {
            source: BufReader::new(source),
            position: 0,
            end,
        }
    }

    /// Bytes read or skipped so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes between here and the end of the file.
    pub(super) fn left(&self) -> u64 {
        self.end - self.position
    }

    /// The first bytes, four if there are as many.
    pub(super) fn up_to_four(&mut self) -> Result<Vec<u8>, GgufError> {
        let have = self.left().min(4);
        self.bytes(have, &"the magic bytes")
    }

    pub(super) fn u32(&mut self, what: &dyn Display) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &dyn Display) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A value of `N` bytes.
    pub(super) fn array<const N: usize>(
        &mut self,
        what: &dyn Display,
    ) -> Result<[u8; N], GgufError> {
        self.need(N as u64, what)?;
        let mut bytes = [0_u8; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    /// A string of at most `most` bytes that must be UTF-8 without control characters.
    pub(super) fn string(&mut self, most: u64, what: &dyn Display) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        self.need(length, what)?;
        if length > most {
            let what = format!("{what} is {length} bytes long, at most {most} are allowed");
            return Err(GgufError::Invalid { what });
        }
        let bytes = self.bytes(length, what)?;
        // Names end up in error messages: a file may not write escape sequences to a terminal.
        String::from_utf8(bytes)
            .ok()
            .filter(|text| !text.chars().any(char::is_control))
            .ok_or_else(|| GgufError::Invalid {
                what: format!("{what} is not plain UTF-8 text"),
            })
    }

    /// Passes over a string; returns its length in bytes.
    pub(super) fn skip_string(&mut self, what: &dyn Display) -> Result<u64, GgufError> {
        let length = self.u64(what)?;
        self.skip(length, what)?;
        Ok(length)
    }

    /// Passes over `length` bytes, which must be there.
    pub(super) fn skip(&mut self, length: u64, what: &dyn Display) -> Result<(), GgufError> {
        self.need(length, what)?;
        let offset = i64::try_from(length).map_err(|_| GgufError::Invalid {
            what: format!("{what} is {length} bytes long"),
        })?;
        self.source.seek_relative(offset)?;
        self.position += length;
        Ok(())
    }

    /// Errors unless `length` bytes are left.
    pub(super) fn need(&self, length: u64, what: &dyn Display) -> Result<(), GgufError> {
        if length <= self.left() {
            return Ok(());
        }
        Err(GgufError::Truncated {
            what: what.to_string(),
            needed: length,
            have: self.left(),
        })
    }

    fn bytes(&mut self, length: u64, what: &dyn Display) -> Result<Vec<u8>, GgufError> {
        self.need(length, what)?;
        let length = usize::try_from(length).map_err(|_| GgufError::Invalid {
            what: format!("{what} is {length} bytes long"),
        })?;
        let mut bytes = vec![0_u8; length];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8], what: &dyn Display) -> Result<(), GgufError> {
        let needed = bytes.len() as u64;
        self.source
            .read_exact(bytes)
            .map_err(|error| match error.kind() {
                // The file shrank after its size was taken.
                io::ErrorKind::UnexpectedEof => GgufError::Truncated {
                    what: what.to_string(),
                    needed,
                    have: 0,
                },
                _ => GgufError::Io(error),
            })?;
        self.position += needed;
        Ok(())
    }
}
