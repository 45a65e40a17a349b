//! Frozen text encoders: a text in, a vector of unit length out.
//!
//! A gate can only tell queries apart that its features tell apart, and counted words do not know
//! that two of them mean the same. An encoder trained elsewhere does. It is frozen: a gate's heads
//! are only worth something together with the very vectors they were trained on, so every file is
//! held to a SHA-256 in this crate and nothing is ever downloaded or replaced here.
//!
//! A new encoder is a file with an `impl Embedder` and a row in `ENCODERS`. Each one handles a
//! single text at a time: the gate asks about one query, and batches would only pay on a GPU.
//!
//! Threads: [`StaticTokens`] uses the caller's only. `MiniLm` multiplies matrices on rayon's global
//! pool, which this crate leaves as it is because it belongs to the whole process. One thread is
//! enough for a text and leaves the other cores to the experts: set `RAYON_NUM_THREADS=1`.

mod error;
mod file;
#[cfg(feature = "minilm")]
mod minilm;
mod static_tokens;

use std::path::Path;
use std::sync::Arc;

use moe2_gate::Embedder;

pub use error::EmbedError;
#[cfg(feature = "minilm")]
pub use minilm::MiniLm;
pub use static_tokens::StaticTokens;

type Open = fn(&Path) -> Result<Arc<dyn Embedder>, EmbedError>;

/// Every encoder built in, by name.
const ENCODERS: &[(&str, Open)] = &[
    (StaticTokens::NAME, |dir| {
        Ok(Arc::new(StaticTokens::open(dir)?))
    }),
    #[cfg(feature = "minilm")]
    (MiniLm::NAME, |dir| Ok(Arc::new(MiniLm::open(dir)?))),
];

/// Names of the encoders built in.
pub fn names() -> impl Iterator<Item = &'static str> {
    ENCODERS.iter().map(|(name, _)| *name)
}

/// Opens the encoder called `name` from its files in `dir`.
///
/// # Errors
/// [`EmbedError`] if no such encoder is built in, or a file is missing or not the one expected.
pub fn open(name: &str, dir: &Path) -> Result<Arc<dyn Embedder>, EmbedError> {
    let Some((_, open)) = ENCODERS.iter().find(|(known, _)| *known == name) else {
        return Err(EmbedError::Unknown {
            name: name.to_owned(),
            known: names().collect::<Vec<_>>().join(", "),
        });
    };
    open(dir)
}

/// Opens every encoder that has a folder of its name in `dir`.
///
/// # Errors
/// As [`open`], or if there is none.
pub fn open_all(dir: &Path) -> Result<Vec<Arc<dyn Embedder>>, EmbedError> {
    let there = names().map(|name| (name, dir.join(name)));
    let there: Vec<_> = there.filter(|(_, dir)| dir.is_dir()).collect();
    if there.is_empty() {
        return Err(EmbedError::None {
            dir: dir.to_owned(),
            known: names().collect::<Vec<_>>().join(", "),
        });
    }
    let opened = there.iter().map(|(name, dir)| open(name, dir));
    opened.collect()
}

/// Scales `vector` to length 1. One that is all zero has no direction and stays.
fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_those_built_in() {
        let error = open("word2vec", Path::new("."))
            .err()
            .map(|e| e.to_string());
        let error = error.unwrap();
        assert!(error.contains("`word2vec`"), "{error}");
        for name in names() {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn every_encoder_says_which_wheel_brings_a_missing_file() {
        let empty = tempfile::tempdir().unwrap();
        for name in names() {
            let error = open(name, empty.path()).err().unwrap();
            assert!(matches!(error, EmbedError::Missing { .. }), "{error}");
            assert!(error.to_string().contains("wheel"), "{error}");
        }
    }

    #[test]
    fn a_folder_without_encoders_says_what_they_are_called() {
        let empty = tempfile::tempdir().unwrap();
        let error = open_all(empty.path()).err().unwrap().to_string();
        assert!(error.contains("static"), "{error}");
    }

    #[test]
    fn vectors_get_length_one_and_nothing_stays_nothing() {
        let mut some = [3.0, 0.0, -4.0];
        normalise(&mut some);
        assert_eq!(some, [0.6, 0.0, -0.8]);
        let mut none = [0.0; 3];
        normalise(&mut none);
        assert_eq!(none, [0.0; 3]);
    }
}
