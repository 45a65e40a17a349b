//! Ceilings kept between starts.
//!
//! A file of JSON with the key it was measured under: another processor, power mode, thread count,
//! driver or software version is another machine and is measured anew. Several agents of one machine
//! may share the file; a lock beside it makes them measure one after the other, because two probes
//! at once would each find half of the memory bandwidth and keep it.
//!
//! A file that is missing, damaged or not writable costs a measurement, never the start.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroU32;
use std::path::Path;

use moe2_model::{GpuInfo, Roofline};
use serde::{Deserialize, Serialize};

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Ceilings {
    /// Of the processor.
    pub(super) cpu: Roofline,
    /// Of the first hardware adapter.
    pub(super) gpu: Option<Roofline>,
}

impl Ceilings {
    /// Whole bytes and operations per second: what is behind the point is noise, and whole numbers
    /// come back from JSON as they went.
    fn rounded(self) -> Self {
        let whole = |figures: Roofline| Roofline {
            bytes_per_s: figures.bytes_per_s.round(),
            flop_per_s: figures.flop_per_s.round(),
        };
        Self {
            cpu: whole(self.cpu),
            gpu: self.gpu.map(whole),
        }
    }
}

/// What ceilings depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    model: String,
    threads: u32,
    gpu: Option<GpuInfo>,
    version: String,
}

impl Key {
    /// The key of this build of the software on such a machine. An unoptimised build measures
    /// itself rather than the machine, so it has a key of its own.
    pub(super) fn new(model: &str, threads: NonZeroU32, gpu: Option<&GpuInfo>) -> Self {
        let build = if cfg!(debug_assertions) { "+debug" } else { "" };
        Self {
            model: model.to_owned(),
            threads: threads.get(),
            gpu: gpu.cloned(),
            version: format!("{}{build}", env!("CARGO_PKG_VERSION")),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: Key,
    ceilings: Ceilings,
}

/// The kept ceilings for `key`, or those of `measure`, which are then kept unless it says that
/// something is missing from them. Returns notes on everything that did not work.
pub(super) fn load_or(
    path: Option<&Path>,
    key: &Key,
    measure: impl FnOnce() -> (Ceilings, Option<String>),
) -> (Ceilings, Vec<String>) {
    let Some(path) = path else {
        let (ceilings, missing) = measure();
        return (ceilings, missing.into_iter().collect());
    };
    if let Some(kept) = load(path, key) {
        return (kept, Vec::new());
    }
    let lock = lock(path);
    // Another agent may have measured while this one waited for the lock.
    if let Some(kept) = load(path, key) {
        return (kept, Vec::new());
    }
    let (ceilings, missing) = measure();
    let ceilings = ceilings.rounded();
    let complete = missing.is_none();
    let mut notes: Vec<String> = missing.into_iter().collect();
    let stored = lock.and_then(|_held| {
        let entry = Entry {
            key: key.clone(),
            ceilings,
        };
        if complete {
            store(path, &entry)
        } else {
            Ok(())
        }
    });
    if let Err(error) = stored {
        notes.push(format!(
            "probe results cannot be kept in {} ({error}): they are measured at every start",
            path.display()
        ));
    }
    (ceilings, notes)
}

fn load(path: &Path, key: &Key) -> Option<Ceilings> {
    let entry: Entry = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let sane = |figures: &Roofline| {
        [figures.bytes_per_s, figures.flop_per_s]
            .iter()
            .all(|figure| figure.is_finite() && *figure > 0.0)
    };
    let Ceilings { cpu, gpu } = &entry.ceilings;
    let usable = entry.key == *key && sane(cpu) && gpu.iter().all(sane);
    usable.then_some(entry.ceilings)
}

/// Waits for the right to measure; released when the file is dropped.
fn lock(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::create(path.with_extension("lock"))?;
    file.lock()?;
    Ok(file)
}

/// Writes beside the file and renames, so that no reader sees half of it.
fn store(path: &Path, entry: &Entry) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    fs::write(&draft, serde_json::to_vec_pretty(entry)?)?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn ceilings(bytes_per_s: f64) -> Ceilings {
        let cpu = Roofline {
            bytes_per_s,
            flop_per_s: 3e9,
        };
        Ceilings {
            cpu,
            gpu: Some(cpu),
        }
    }

    fn key(threads: u32) -> Key {
        Key::new("a processor", NonZeroU32::new(threads).unwrap(), None)
    }

    fn never() -> (Ceilings, Option<String>) {
        unreachable!("kept figures must be used")
    }

    #[test]
    fn figures_are_measured_once_per_key() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("deep/er/ceilings.json");
        let first = load_or(Some(&path), &key(2), || (ceilings(1e10 / 7.0), None));
        assert_eq!(first.1, Vec::<String>::new());
        assert_eq!(
            load_or(Some(&path), &key(2), never).0,
            first.0,
            "to the last bit"
        );
        let other = load_or(Some(&path), &key(3), || (ceilings(2.0), None));
        assert_eq!(other.0, ceilings(2.0));
    }

    #[test]
    fn damaged_and_senseless_files_are_measured_over() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("ceilings.json");
        let zero = Entry {
            key: key(1),
            ceilings: ceilings(0.0),
        };
        for bad in [
            vec![],
            b"{\"key\":".to_vec(),
            vec![0xff; 64],
            serde_json::to_vec(&zero).unwrap(),
        ] {
            fs::write(&path, bad).unwrap();
            let (found, notes) = load_or(Some(&path), &key(1), || (ceilings(5.0), None));
            assert_eq!((found, notes), (ceilings(5.0), vec![]));
            assert_eq!(load_or(Some(&path), &key(1), never).0, ceilings(5.0));
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_costs_a_note_and_not_the_figures() {
        let root = TempDir::new().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let path = root.path().join("file/ceilings.json");
        let (found, notes) = load_or(Some(&path), &key(1), || (ceilings(5.0), None));
        assert_eq!(found, ceilings(5.0));
        assert!(notes[0].contains("measured at every start"), "{notes:?}");
    }

    #[test]
    fn figures_with_something_missing_are_used_but_not_kept() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("ceilings.json");
        let partial = || (ceilings(5.0), Some("the GPU is stuck".to_owned()));
        let (_, notes) = load_or(Some(&path), &key(1), partial);
        assert_eq!(notes, ["the GPU is stuck"]);
        assert!(!path.exists());
    }
}
