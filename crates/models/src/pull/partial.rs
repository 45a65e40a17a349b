//! The file a download grows in.
//!
//! It knows the declared size and stops one byte past it: a source that never ends fills neither
//! memory nor disk. Errors of the source and errors of the disk come back as different variants,
//! since the first is answered by another source and the second is not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::error::PullError;
use crate::hash::CHUNK;
use crate::progress::Progress;

/// A partial file open for appending.
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    have: u64,
    want: u64,
}

impl Partial {
    /// Opens or creates the file; `want` is the declared size in bytes. Bytes beyond it cannot be
    /// part of the model, so such a file starts over.
    pub(crate) fn open(path: PathBuf, want: u64) -> Result<Self, PullError> {
        let opened = File::options().create(true).append(true).open(&path);
        let file = opened.map_err(|source| PullError::writing(&path, source, want))?;
        let metadata = file.metadata();
        let have = metadata
            .map_err(|source| PullError::writing(&path, source, want))?
            .len();
        let mut partial = Self {
            file,
            path,
            have,
            want,
        };
        if have > want {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Bytes in the file.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Declared size, bytes.
    pub(crate) fn want(&self) -> u64 {
        self.want
    }

    /// Forgets all bytes.
    pub(crate) fn restart(&mut self) -> Result<(), PullError> {
        self.truncate(0)
    }

    /// Forgets the bytes from `length` on.
    pub(crate) fn truncate(&mut self, length: u64) -> Result<(), PullError> {
        if length < self.have {
            self.file
                .set_len(length)
                .map_err(|source| self.failed(source))?;
            self.have = length;
        }
        Ok(())
    }

    /// Appends all of `reader`, called `what` in errors.
    pub(crate) fn append(
        &mut self,
        what: &str,
        reader: &mut dyn Read,
        progress: &mut dyn Progress,
    ) -> Result<(), PullError> {
        let mut buffer = vec![0_u8; CHUNK];
        loop {
            let room = self.want - self.have;
            let limit = usize::try_from(room + 1).unwrap_or(CHUNK).min(CHUNK);
            let read = match reader.read(&mut buffer[..limit]) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.ended(what, Some(error))),
            };
            if read as u64 > room {
                return Err(PullError::TooLarge {
                    what: what.to_owned(),
                    declared: self.want,
                });
            }
            let written = self.file.write_all(&buffer[..read]);
            written.map_err(|source| self.failed(source))?;
            self.have += read as u64;
            progress.advance(read as u64);
        }
    }

    /// Waits until the bytes are on disk.
    pub(crate) fn sync(&self) -> Result<(), PullError> {
        self.file.sync_data().map_err(|source| self.failed(source))
    }

    /// Errors if bytes are missing.
    pub(crate) fn complete(&self, what: &str) -> Result<(), PullError> {
        if self.have == self.want {
            Ok(())
        } else {
            Err(self.ended(what, None))
        }
    }

    fn ended(&self, what: &str, detail: Option<io::Error>) -> PullError {
        PullError::Incomplete {
            what: what.to_owned(),
            have: self.have,
            want: self.want,
            detail,
        }
    }

    fn failed(&self, source: io::Error) -> PullError {
        PullError::writing(&self.path, source, self.want - self.have)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn an_endless_source_is_cut_one_byte_past_the_declared_size() {
        let directory = tempfile::tempdir().unwrap();
        let mut partial = Partial::open(directory.path().join("m.partial"), 1000).unwrap();
        let error = partial
            .append("tap", &mut io::repeat(7), &mut Silent)
            .unwrap_err();
        assert!(
            matches!(error, PullError::TooLarge { declared: 1000, .. }),
            "{error}"
        );
        assert!(
            std::fs::metadata(directory.path().join("m.partial"))
                .unwrap()
                .len()
                <= 1000
        );
    }

    #[test]
    fn a_full_disk_says_how_many_bytes_are_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.partial");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut partial = Partial::open(path, 1000).unwrap();
        let error = partial
            .append("tap", &mut &[1_u8; 10][..], &mut Silent)
            .unwrap_err();
        assert!(
            matches!(
                error,
                PullError::DiskFull {
                    missing_bytes: 1000,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("MOE2_CACHE"), "{error}");
    }

    #[test]
    fn a_file_longer_than_declared_starts_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.partial");
        std::fs::write(&path, [0_u8; 20]).unwrap();
        assert_eq!(Partial::open(path, 10).unwrap().have(), 0);
    }
}
