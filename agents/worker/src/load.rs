//! From a path to a loaded model, or to a sentence that says what to do.
//!
//! Native code answers a bad file with "null" at best and an abort at worst. So the header is first
//! walked in safe code, and memory is counted before it is asked for; what the engine still refuses
//! after that is reported with its likely causes.

use std::path::{Path, PathBuf};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use moe2_model::Bytes;
use moe2_models::gguf::{self, GgufError};

use crate::args::EngineArgs;
use crate::memory;

/// Bytes per element of the key-value cache: half precision, the engine's default.
const KV_ELEMENT_BYTES: u64 = 2;

/// Why an expert cannot be hosted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// Nothing to read.
    #[error(
        "no model file at {}: {reason}; check the path, or run `moe2 models pull`",
        path.display()
    )]
    NoFile {
        path: PathBuf,
        reason: std::io::Error,
    },
    /// A directory, a device.
    #[error("{} is not a file; give the path of a .gguf model", path.display())]
    NotAFile { path: PathBuf },
    /// Not a sound GGUF file.
    #[error("{}: {reason}", path.display())]
    Gguf { path: PathBuf, reason: GgufError },
    /// It would not fit.
    #[error(
        "the model needs about {needed} with {slots} contexts of {context_tokens} tokens, \
         {available} are free; use a smaller --context or --parallel, or a smaller model"
    )]
    Memory {
        needed: Bytes,
        available: Bytes,
        context_tokens: u32,
        slots: u16,
    },
    /// The engine does not start.
    #[error("the engine does not start ({0}); reinstall moe2")]
    Backend(String),
    /// The engine refuses the file.
    #[error(
        "the engine cannot load {} ({reason}); its architecture may be newer than this build: run \
         the worker with --verbose to see why",
        path.display()
    )]
    Refused { path: PathBuf, reason: String },
    /// The engine refuses the context.
    #[error(
        "the engine cannot open {slots} contexts of {context_tokens} tokens ({reason}); use a \
         smaller --context or --parallel"
    )]
    Context {
        context_tokens: u32,
        slots: u16,
        reason: String,
    },
    /// Together the contexts are longer than the model's short ones.
    #[error(
        "with {slots} contexts of {context_tokens} tokens the engine would read every request as if it were longer \
         than {original} tokens, for which this model has factors of its own; use --parallel 1 or a smaller --context"
    )]
    LongFactors {
        context_tokens: u32,
        slots: u16,
        original: u32,
    },
    /// The engine does not know the template.
    #[error("the model's chat template cannot be used ({0}); start the worker with --chat plain")]
    Template(String),
}

/// A model in memory and what its file says.
pub(crate) struct Loaded {
    pub(crate) backend: LlamaBackend,
    pub(crate) model: LlamaModel,
    /// Key-value cache per token; zero if the file does not say enough.
    pub(crate) kv_per_token: Bytes,
    /// Tokens of context: as asked, but not more than the model was trained for.
    pub(crate) context_tokens: u32,
    /// Sequences that have such a context each.
    pub(crate) slots: u16,
}

/// Checks the file, counts the memory for so many contexts of so many tokens, loads the model.
pub(crate) fn load(
    args: &EngineArgs,
    (context_tokens, slots): (u32, u16),
) -> Result<Loaded, LoadError> {
    let path = &args.model;
    let info = inspect(path)?;
    let trained = info.context_length.filter(|tokens| *tokens > 1);
    let trained = trained.map_or(u32::MAX, |tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
    let context_tokens = context_tokens.min(trained);
    let kv_per_token = Bytes(info.kv_bytes_per_token(KV_ELEMENT_BYTES).unwrap_or(0));
    let cache = kv_per_token
        .0
        .saturating_mul(u64::from(context_tokens) * u64::from(slots));
    let needed = Bytes(info.tensor_bytes.saturating_add(cache));
    if let Some(available) = memory::available().filter(|free| *free < needed) {
        return Err(LoadError::Memory {
            needed,
            available,
            context_tokens,
            slots,
        });
    }
    let mut backend = LlamaBackend::init().map_err(|e| LoadError::Backend(e.to_string()))?;
    if !args.verbose {
        backend.void_logs();
    }
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default());
    let model = model.map_err(|error| LoadError::Refused {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let cells = context_tokens.saturating_mul(u32::from(slots));
    if let Some(original) = short_context(&model)
        && context_tokens <= original
        && original < cells
    {
        return Err(LoadError::LongFactors {
            context_tokens,
            slots,
            original,
        });
    }
    Ok(Loaded {
        backend,
        model,
        kv_per_token,
        context_tokens,
        slots,
    })
}

/// Architectures with one set of rotary factors for short contexts and one for long ones (Ding et al. 2024,
/// arXiv 2402.13753). The engine chooses by the length of all contexts together.
const TWO_SETS_OF_FACTORS: [&str; 3] = ["phi3", "phimoe", "minicpm3"];

/// The longest context for which a model has factors of its own, where it has others for longer ones.
fn short_context(model: &LlamaModel) -> Option<u32> {
    let architecture = model.meta_val_str("general.architecture").ok()?;
    if !TWO_SETS_OF_FACTORS.contains(&architecture.as_str()) {
        return None;
    }
    let key = format!("{architecture}.rope.scaling.original_context_length");
    model.meta_val_str(&key).ok()?.parse().ok()
}

fn inspect(path: &Path) -> Result<gguf::GgufInfo, LoadError> {
    let metadata = std::fs::metadata(path).map_err(|reason| LoadError::NoFile {
        path: path.to_owned(),
        reason,
    })?;
    if !metadata.is_file() {
        return Err(LoadError::NotAFile {
            path: path.to_owned(),
        });
    }
    gguf::inspect(path).map_err(|reason| LoadError::Gguf {
        path: path.to_owned(),
        reason,
    })
}
