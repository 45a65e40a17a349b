//! Model files: which ones there are, where they lie, how they get there, and whether they are sound.
//!
//! Weights are large, come from places nobody here controls, and end up in native code that may
//! abort on a bad byte. So every file is named by a [`Manifest`] with its exact size and SHA-256,
//! reaches the [`Cache`] only through [`pull`] (resumable, bounded, hash checked, renamed into place
//! in one step), and has its header walked by [`gguf::inspect`] before an engine opens it.
//!
//! A plain "download if absent" would be shorter, but an interrupted or substituted file would then
//! look like a model until the engine dies on it.

mod cache;
mod error;
mod find;
pub mod gguf;
mod hash;
mod manifest;
mod progress;
mod pull;

pub use cache::{Cache, NoCacheDir, Status};
pub use error::{Attempt, PullError};
pub use find::{FindError, FoundModel, find_model};
pub use manifest::{
    ChatStyle, Manifest, ManifestError, ModelId, ModelSpec, Problem, Sha256, Source, WheelPart,
};
pub use progress::{Progress, Silent};
pub use pull::{Origin, PullOptions, pull};
