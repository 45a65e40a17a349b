//! The directory model files live in, and what is known about each of them.
//!
//! Hashing 800 MB on every start costs seconds, trusting a file name costs correctness. So a
//! successful hash leaves a stamp beside the file (`<file>.ok`: hash, size, modification time); as
//! long as all three still match, the file counts as checked. This guards against damage and
//! mix-ups, not against someone who can write to the directory: they could forge the stamp too.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::error::PullError;
use crate::hash::sha256_of;
use crate::manifest::{ModelSpec, Sha256};
use crate::progress::Progress;

/// A cache directory. Creating the value touches no disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

/// What a cheap look (size and stamp, no hashing) says about a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not there; this many bytes of it have been downloaded.
    Missing {
        /// Bytes in the partial file.
        partial_bytes: u64,
    },
    /// There, and hashed since it last changed.
    Present,
    /// Right size, but not hashed since it last changed.
    Unverified,
    /// Wrong size.
    Corrupt {
        /// Its size, bytes.
        bytes: u64,
    },
}

/// Neither `MOE2_CACHE`, `XDG_CACHE_HOME` nor `HOME` says where to put files.
#[derive(Debug, thiserror::Error)]
#[error("no cache directory: set MOE2_CACHE to a directory for model files")]
pub struct NoCacheDir;

impl Cache {
    /// A cache in `root`; models go to `<root>/models`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `$MOE2_CACHE`, else `$XDG_CACHE_HOME/moe2`, else `~/.cache/moe2`.
    pub fn default_dir() -> Result<Self, NoCacheDir> {
        Self::from_env(|name| std::env::var_os(name))
    }

    fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, NoCacheDir> {
        let set = |name| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        // The XDG base directory specification says to ignore relative paths.
        let xdg = || set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        set("MOE2_CACHE")
            .or_else(|| xdg().map(|path| path.join("moe2")))
            .or_else(|| set("HOME").map(|path| path.join(".cache").join("moe2")))
            .map(Self::at)
            .ok_or(NoCacheDir)
    }

    /// The cache directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the model's file is or would be.
    #[must_use]
    pub fn path_of(&self, spec: &ModelSpec) -> PathBuf {
        self.models_dir().join(&spec.file)
    }

    /// What size and stamp say about the model's file. Reads no model bytes.
    #[must_use]
    pub fn status(&self, spec: &ModelSpec) -> Status {
        let path = self.path_of(spec);
        let Some(metadata) = fs::metadata(&path).ok().filter(Metadata::is_file) else {
            let partial = fs::metadata(self.beside(spec, "partial"));
            return Status::Missing {
                partial_bytes: partial.map_or(0, |found| found.len()),
            };
        };
        if metadata.len() != spec.bytes {
            return Status::Corrupt {
                bytes: metadata.len(),
            };
        }
        match fs::read_to_string(self.beside(spec, "ok")) {
            Ok(stamp) if stamp == stamp_text(spec.sha256, &metadata) => Status::Present,
            _ => Status::Unverified,
        }
    }

    /// Hashes the model's file in full, and stamps it if it is right.
    pub fn verify(&self, spec: &ModelSpec, progress: &mut dyn Progress) -> Result<(), PullError> {
        let path = self.path_of(spec);
        let failed = |source| PullError::Io {
            path: path.clone(),
            source,
        };
        let have = fs::metadata(&path).map_err(failed)?.len();
        if have != spec.bytes {
            let what = path.display().to_string();
            return Err(PullError::WrongSize {
                what,
                have,
                want: spec.bytes,
            });
        }
        let actual = sha256_of(&path, progress).map_err(failed)?;
        if actual != spec.sha256 {
            // A stamp must not outlive the proof that it is wrong.
            fs::remove_file(self.beside(spec, "ok")).ok();
            let what = path.display().to_string();
            return Err(PullError::WrongHash {
                what,
                expected: spec.sha256,
                actual,
            });
        }
        self.stamp(spec)
    }

    pub(crate) fn models_dir(&self) -> PathBuf {
        self.root.join("models")
    }

    /// A companion of the model's file: `<file>.<extension>`.
    pub(crate) fn beside(&self, spec: &ModelSpec, extension: &str) -> PathBuf {
        self.models_dir().join(format!("{}.{extension}", spec.file))
    }

    /// Records that the file as it is now has the right hash.
    pub(crate) fn stamp(&self, spec: &ModelSpec) -> Result<(), PullError> {
        let path = self.path_of(spec);
        let stamp = self.beside(spec, "ok");
        let metadata = fs::metadata(&path).map_err(|source| PullError::Io { path, source })?;
        write_whole(&stamp, &stamp_text(spec.sha256, &metadata))
    }

    /// Creates the directory and takes the model's lock, waiting for another pull of it to end.
    /// The lock goes with the returned file; the file stays, since removing it would race.
    pub(crate) fn lock(
        &self,
        spec: &ModelSpec,
        progress: &mut dyn Progress,
    ) -> Result<File, PullError> {
        let directory = self.models_dir();
        fs::create_dir_all(&directory).map_err(|source| unwritable(&directory, source))?;
        let path = self.beside(spec, "lock");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(|source| unwritable(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                progress.message(&format!("another process is pulling {}; waiting", spec.id));
                file.lock()
                    .map_err(|source| PullError::Io { path, source })?;
                Ok(file)
            }
            Err(TryLockError::Error(source)) => Err(PullError::Io { path, source }),
        }
    }
}

/// Replaces a small file in one step.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), PullError> {
    let missing = text.len() as u64;
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || {
        // Less the umask, as for any other file: users may share a cache read-only.
        let mode = Permissions::from_mode(0o666);
        let mut file = tempfile::Builder::new()
            .permissions(mode)
            .tempfile_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|source| PullError::writing(path, source, missing))
}

/// Any refusal to create something here means that this is no place for a cache.
fn unwritable(path: &Path, source: std::io::Error) -> PullError {
    match PullError::writing(path, source, 0) {
        PullError::Io { path, source } => PullError::CacheNotWritable { path, source },
        other => other,
    }
}

fn stamp_text(hash: Sha256, metadata: &Metadata) -> String {
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanoseconds = modified.map_or(0, |since| since.as_nanos());
    format!("{hash} {} {nanoseconds}\n", metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Cache::from_env(find).ok().map(|cache| cache.root)
    }

    #[test]
    fn the_most_specific_variable_names_the_directory() {
        let all = [
            ("MOE2_CACHE", "/a"),
            ("XDG_CACHE_HOME", "/b"),
            ("HOME", "/c"),
        ];
        assert_eq!(from(&all), Some("/a".into()));
        assert_eq!(from(&all[1..]), Some("/b/moe2".into()));
        assert_eq!(from(&all[2..]), Some("/c/.cache/moe2".into()));
        assert_eq!(from(&[]), None);
    }

    #[test]
    fn empty_and_relative_variables_are_ignored() {
        let odd = [("MOE2_CACHE", ""), ("XDG_CACHE_HOME", "b"), ("HOME", "/c")];
        assert_eq!(from(&odd), Some("/c/.cache/moe2".into()));
    }
}
