//! What can go wrong between a manifest entry and a checked file on disk.
//!
//! One variant per thing the caller would do differently: free space, choose another directory,
//! install a client, run again, distrust the source. Each message ends with that next step.

use std::io;
use std::path::{Path, PathBuf};

use crate::manifest::Sha256;

/// Why a model file could not be put in place or checked.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The cache directory cannot be created or written.
    #[error(
        "cannot write to {}: {source}; make it writable or set MOE2_CACHE to another directory",
        path.display()
    )]
    CacheNotWritable {
        /// Directory or file that was refused.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No space left. What was downloaded is kept.
    #[error(
        "disk full: {missing_bytes} more bytes are needed in {}; free that much and run the same \
         command again (what is there is kept), or set MOE2_CACHE to a directory on another disk",
        path.display()
    )]
    DiskFull {
        /// Directory that is full.
        path: PathBuf,
        /// Bytes that still have to be written.
        missing_bytes: u64,
    },
    /// The bytes are not the ones the manifest names. They have been removed, unless the caller
    /// only asked for a check.
    #[error(
        "{what} has SHA-256 {actual}, expected {expected}; the bytes are damaged or not this \
         model: run `moe2 models pull` again, and if it repeats use another source (`--from PATH` \
         or `--from URL`)"
    )]
    WrongHash {
        /// The file or source.
        what: String,
        /// Hash in the manifest.
        expected: Sha256,
        /// Hash of the bytes.
        actual: Sha256,
    },
    /// The source holds more bytes than the manifest declares. Nothing is kept.
    #[error("{what} holds more than the declared {declared} bytes, so it is not this model")]
    TooLarge {
        /// The source.
        what: String,
        /// Size in the manifest, bytes.
        declared: u64,
    },
    /// The source ended early. Bytes from a network are kept.
    #[error(
        "{what} ended after {have} of {want} bytes{}; run the same command again to go on from there",
        detail.as_ref().map(|error| format!(" ({error})")).unwrap_or_default()
    )]
    Incomplete {
        /// The source.
        what: String,
        /// Bytes on disk.
        have: u64,
        /// Size in the manifest, bytes.
        want: u64,
        /// What broke, if it was more than an early end.
        detail: Option<io::Error>,
    },
    /// A file, or what a source offers, has another size than the manifest declares.
    #[error("{what} has {have} bytes, expected {want}: it is not this model")]
    WrongSize {
        /// The file or source.
        what: String,
        /// Its size, bytes.
        have: u64,
        /// Size in the manifest, bytes.
        want: u64,
    },
    /// A local source cannot be read.
    #[error("cannot read {what}: {source}")]
    Source {
        /// The file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server could not be asked.
    #[error("cannot fetch {url}: {reason}")]
    Http {
        /// Address asked.
        url: String,
        /// What the client said.
        reason: String,
    },
    /// The server refused.
    #[error("{url} answered with HTTP status {status}")]
    HttpStatus {
        /// Address asked.
        url: String,
        /// Status code.
        status: u16,
    },
    /// There is no pip to download wheels with.
    #[error(
        "no pip found to download Python wheels; install it (Debian, Ubuntu: `apt-get install \
         python3-pip`) or give the file with `--from PATH`"
    )]
    NoWheelClient,
    /// Pip could not download a package.
    #[error("downloading the Python package {package} failed: {detail}")]
    WheelDownload {
        /// `name==version`.
        package: String,
        /// Last lines of pip's own message.
        detail: String,
    },
    /// A wheel does not hold what the manifest says.
    #[error("the Python package {package} cannot be used: {detail}")]
    BadWheel {
        /// `name==version`.
        package: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A source that is not set up was passed over.
    #[error("skipped: {0}")]
    Skipped(&'static str),
    /// Nothing on the list of sources gave the file.
    #[error(
        "no source has {model}:{}\nGive the file with `--from PATH` or `--from URL`",
        listed(attempts)
    )]
    NoSource {
        /// The model's id.
        model: String,
        /// Each source tried, in order.
        attempts: Vec<Attempt>,
    },
    /// Anything else the file system said.
    #[error("{}: {source}", path.display())]
    Io {
        /// File concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// One source that did not give the file.
#[derive(Debug)]
pub struct Attempt {
    /// The source, for people.
    pub source: String,
    /// Why it did not work.
    pub error: PullError,
}

impl PullError {
    /// Sorts a failed write below the cache directory into what the user would do about it.
    pub(crate) fn writing(path: &Path, source: io::Error, missing_bytes: u64) -> Self {
        use io::ErrorKind as Kind;
        let path = path.to_owned();
        match source.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => {
                let path = path.parent().map(Path::to_owned).unwrap_or(path);
                Self::DiskFull {
                    path,
                    missing_bytes,
                }
            }
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::NotADirectory => {
                Self::CacheNotWritable { path, source }
            }
            _ => Self::Io { path, source },
        }
    }

    /// Whether every other source would fail in the same way.
    pub(crate) fn ends_the_pull(&self) -> bool {
        matches!(
            self,
            Self::CacheNotWritable { .. } | Self::DiskFull { .. } | Self::Io { .. }
        )
    }
}

fn listed(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return " its manifest entry lists none.".to_owned();
    }
    attempts
        .iter()
        .map(|attempt| format!("\n  {}: {}", attempt.source, attempt.error))
        .collect()
}
