//! From what a configuration says (`model = "…"`) to a file an engine may open.
//!
//! A value is a path if it looks like one (a separator, or the `.gguf` ending), else a manifest id.
//! Guessing by existence instead would let a stray file in the working directory shadow a model.

use std::path::{Path, PathBuf};

use crate::cache::{Cache, Status};
use crate::manifest::{Manifest, ModelSpec};

/// A model file that is there, and its manifest entry if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundModel<'a> {
    /// The file.
    pub path: PathBuf,
    /// The manifest entry; `None` for a file given by path, whose hash nobody pinned.
    pub spec: Option<&'a ModelSpec>,
}

/// Why a configured model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No manifest entry has this id.
    #[error("unknown model \"{name}\"{hint}; known: {known} (or give the path of a .gguf file)")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest known id as a question, or nothing.
        hint: String,
        /// All known ids.
        known: String,
    },
    /// Known, but not in the cache.
    #[error("model {id} is not in the cache; run `moe2 models pull {id}`")]
    NotPulled {
        /// The id.
        id: String,
    },
    /// In the cache, but damaged or not checked since it changed.
    #[error("the file of model {id} {state}; run `moe2 models pull {id}`")]
    NotSound {
        /// The id.
        id: String,
        /// What is wrong with the file.
        state: String,
    },
    /// No file at the path given.
    #[error("no model file at {}: {source}; check the path", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something other than a file is at the path given.
    #[error("{} is not a file; give the path of a .gguf file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
}

/// Resolves a manifest id or a path to a file. Reads no model bytes; see [`crate::gguf::inspect`].
pub fn find_model<'a>(
    name: &str,
    manifest: &'a Manifest,
    cache: &Cache,
) -> Result<FoundModel<'a>, FindError> {
    if name.contains('/') || name.ends_with(".gguf") {
        return by_path(Path::new(name));
    }
    let spec = manifest.get(name).ok_or_else(|| unknown(name, manifest))?;
    let id = spec.id.to_string();
    match cache.status(spec) {
        Status::Present => Ok(FoundModel {
            path: cache.path_of(spec),
            spec: Some(spec),
        }),
        Status::Missing { .. } => Err(FindError::NotPulled { id }),
        Status::Unverified => {
            let state = "has not been checked since it last changed".to_owned();
            Err(FindError::NotSound { id, state })
        }
        Status::Corrupt { bytes } => {
            let state = format!("has {bytes} bytes instead of {}", spec.bytes);
            Err(FindError::NotSound { id, state })
        }
    }
}

fn by_path<'a>(path: &Path) -> Result<FoundModel<'a>, FindError> {
    let path = path.to_owned();
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(FoundModel { path, spec: None }),
        Ok(_) => Err(FindError::NotAFile { path }),
        Err(source) => Err(FindError::NoFile { path, source }),
    }
}

fn unknown(name: &str, manifest: &Manifest) -> FindError {
    let ids: Vec<&str> = manifest
        .models()
        .iter()
        .map(|model| model.id.as_str())
        .collect();
    let alike = |id: &&&str| strsim::jaro_winkler(id, name);
    let nearest = ids.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    // 0.8: above it a slip of a few letters, below it another word.
    let nearest = nearest.filter(|id| alike(id) > 0.8);
    FindError::Unknown {
        name: name.to_owned(),
        hint: nearest
            .map(|id| format!(", did you mean \"{id}\"?"))
            .unwrap_or_default(),
        known: ids.join(", "),
    }
}
