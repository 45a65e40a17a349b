//! From what the configuration says of an expert to what the coordinator is told.
//!
//! Every file is looked at before anything starts: its header is read in Rust, so that native code
//! never sees one that is not sound, and all problems are reported together.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use moe2_model::{Bytes, ExpertName, ExpertOffer};
use moe2_models::{Cache, ChatStyle, Manifest, find_model, gguf};

use crate::config::{Backend, Config, Expert};

/// An expert ready to be started.
#[derive(Debug, Clone)]
pub(crate) struct Hosted {
    pub(crate) offer: ExpertOffer,
    pub(crate) run: Run,
}

/// How an expert is run.
#[derive(Debug, Clone)]
pub(crate) enum Run {
    /// A worker process on this file.
    Worker { file: PathBuf, plain: bool },
    /// Canned words, with so much time for each.
    Stub { pace: Duration },
}

/// All experts of the configuration, or everything that is wrong with them.
pub(crate) fn prepare(config: &Config, cache: &Cache) -> anyhow::Result<Vec<Hosted>> {
    let manifest = Manifest::embedded();
    let mut wrong = Vec::new();
    let mut hosted: Vec<Hosted> = Vec::new();
    for expert in &config.expert {
        match describe(expert, &manifest, cache) {
            Ok(one) if hosted.iter().any(|h| h.offer.name == one.offer.name) => {
                wrong.push(format!("expert {}: the name is used twice", one.offer.name));
            }
            Ok(one) => hosted.push(one),
            Err(error) => wrong.push(format!("expert {}: {error:#}", expert.model)),
        }
    }
    if wrong.is_empty() {
        Ok(hosted)
    } else {
        bail!("{}", wrong.join("\n"))
    }
}

fn describe(expert: &Expert, manifest: &Manifest, cache: &Cache) -> anyhow::Result<Hosted> {
    if expert.backend == Backend::Stub {
        let Some(name) = expert.name.clone() else {
            bail!("a stub needs a name")
        };
        return Ok(Hosted {
            offer: stub_offer(name, expert.context),
            run: Run::Stub {
                pace: Duration::from_millis(u64::from(expert.pace_ms)),
            },
        });
    }
    let found = find_model(&expert.model, manifest, cache)?;
    let info = gguf::inspect(&found.path)?;
    let name = match &expert.name {
        Some(name) => name.clone(),
        None => ExpertName::new(&default_name(expert, found.spec.map(|s| s.id.as_str())))?,
    };
    let trained = info
        .context_length
        .map_or(expert.context, |c| u32::try_from(c).unwrap_or(u32::MAX));
    let offer = ExpertOffer {
        name,
        family: info.architecture.clone(),
        quantisation: found
            .spec
            .map_or_else(|| "unknown".to_owned(), |s| s.quantisation.clone()),
        parameters: found.spec.map_or(info.parameters, |s| s.parameters),
        weights: Bytes(info.tensor_bytes),
        // The engine keeps keys and values in half precision: two bytes each.
        kv_per_token: Bytes(info.kv_bytes_per_token(2).unwrap_or(0)),
        context_tokens: expert.context.min(trained),
        slots: 1,
    };
    let plain = found.spec.is_some_and(|s| s.chat == ChatStyle::Plain);
    Ok(Hosted {
        offer,
        run: Run::Worker {
            file: found.path,
            plain,
        },
    })
}

fn default_name(expert: &Expert, id: Option<&str>) -> String {
    id.map_or_else(
        || {
            let stem = std::path::Path::new(&expert.model).file_stem();
            stem.map_or_else(
                || expert.model.clone(),
                |s| s.to_string_lossy().to_lowercase(),
            )
        },
        str::to_owned,
    )
}

fn stub_offer(name: ExpertName, context_tokens: u32) -> ExpertOffer {
    ExpertOffer {
        name,
        family: "stub".to_owned(),
        quantisation: "none".to_owned(),
        parameters: 1,
        weights: Bytes(1),
        kv_per_token: Bytes(1),
        context_tokens,
        // As many at once as a load test asks for.
        slots: 1_024,
    }
}
