//! Streaming SHA-256 of a file, with progress.
//!
//! The file is read back after the download instead of being hashed on the way in: a resumed
//! download has bytes this process never saw, and what counts is what the disk holds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256 as Hasher};

use crate::manifest::Sha256;
use crate::progress::Progress;

/// Bytes per read: large enough that system calls do not show, small enough for a smooth bar.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Hash of the whole file at `path`.
pub(crate) fn sha256_of(path: &Path, progress: &mut dyn Progress) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    progress.start(file.metadata()?.len(), "checking SHA-256");
    let result = digest(&mut file, progress);
    progress.finish();
    result
}

fn digest(reader: &mut dyn Read, progress: &mut dyn Progress) -> io::Result<Sha256> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0_u8; CHUNK];
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok(Sha256::from_bytes(hasher.finalize().into())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        progress.advance(read as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn the_digest_of_abc_is_the_published_one() {
        let hash = digest(&mut &b"abc"[..], &mut Silent).unwrap();
        let published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), published);
    }
}
