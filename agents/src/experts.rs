//! From what the configuration says of an expert to what the coordinator is told.
//!
//! Every file is looked at before anything starts: its header is read in Rust, so that native code
//! never sees one that is not sound, and all problems are reported together.

use std::time::Duration;

use anyhow::{Context, bail};
use moe2_engine::agent::load_time;
use moe2_model::{Bytes, ExpertName, ExpertOffer};
use moe2_models::{Cache, ChatStyle, Manifest, find_model, gguf};

use crate::backend::Run;
use crate::config::{Config, Embedded, Expert, Stub, Upstream};
use crate::upstream::{self, ApiKey, Patience};

/// An expert ready to be started.
#[derive(Debug, Clone)]
pub(crate) struct Hosted {
    pub(crate) offer: ExpertOffer,
    pub(crate) run: Run,
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
            Err(error) => wrong.push(format!("expert {}: {error:#}", expert.called())),
        }
    }
    if wrong.is_empty() {
        Ok(hosted)
    } else {
        bail!("{}", wrong.join("\n"))
    }
}

fn describe(expert: &Expert, manifest: &Manifest, cache: &Cache) -> anyhow::Result<Hosted> {
    match expert {
        Expert::Embedded(expert) => embedded(expert, manifest, cache),
        Expert::Upstream(expert) => upstream(expert),
        Expert::Stub(expert) => Ok(stub(expert)),
    }
}

fn embedded(expert: &Embedded, manifest: &Manifest, cache: &Cache) -> anyhow::Result<Hosted> {
    let found = find_model(&expert.model, manifest, cache)?;
    let info = gguf::inspect(&found.path)?;
    let name = match &expert.name {
        Some(name) => name.clone(),
        None => ExpertName::new(&default_name(expert, found.spec.map(|s| s.id.as_str())))?,
    };
    let context = expert.context.get();
    let trained = info
        .context_length
        .map_or(context, |c| u32::try_from(c).unwrap_or(u32::MAX));
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
        context_tokens: context.min(trained),
        slots: expert.parallel.get(),
        load: Some(load_time(Bytes(info.tensor_bytes))),
    };
    let plain = found.spec.is_some_and(|s| s.chat == ChatStyle::Plain);
    Ok(Hosted {
        offer,
        run: Run::Worker {
            file: found.path,
            plain,
            prefixes: expert.prefixes,
        },
    })
}

fn upstream(expert: &Upstream) -> anyhow::Result<Hosted> {
    let key = match &expert.api_key_file {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read its api_key_file {}", file.display()))?;
            let key = ApiKey::new(text.trim());
            let why = || format!("{} holds no key: one line of text", file.display());
            Some(key.with_context(why)?)
        }
    };
    if key.is_some() && expert.url.is_readable_on_the_way() {
        let (expert, url) = (&expert.name, &expert.url);
        tracing::warn!(%expert, %url, "its key and all prompts can be read on the way to the server");
    }
    let offer = ExpertOffer {
        name: expert.name.clone(),
        family: expert.family.clone(),
        quantisation: expert.quantisation.clone(),
        parameters: expert.parameters,
        weights: weights(expert),
        // What the server keeps beside the weights is its business.
        kv_per_token: Bytes(0),
        context_tokens: expert.context.get(),
        slots: expert.parallel.get(),
        // The server's business, too.
        load: None,
    };
    let settings = upstream::Settings {
        endpoint: expert.url.clone(),
        model: expert.upstream_model.clone(),
        key,
        context_tokens: expert.context.get(),
        patience: Patience {
            first_token: expert.first_token_seconds,
            next_token: expert.next_token_seconds,
        },
    };
    Ok(Hosted {
        offer,
        run: Run::Upstream(Box::new(settings)),
    })
}

/// As configured, or as if quantised to four bits with scales, as most are.
fn weights(expert: &Upstream) -> Bytes {
    const BYTES_PER_16: u64 = 9;
    let usual = expert.parameters / 16 * BYTES_PER_16;
    let stated = expert.weights_mb.map(|mb| mb.saturating_mul(1 << 20));
    Bytes(stated.unwrap_or(usual).max(1))
}

fn default_name(expert: &Embedded, id: Option<&str>) -> String {
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

fn stub(expert: &Stub) -> Hosted {
    let offer = ExpertOffer {
        name: expert.name.clone(),
        family: "stub".to_owned(),
        quantisation: "none".to_owned(),
        parameters: 1,
        weights: Bytes(1),
        kv_per_token: Bytes(1),
        context_tokens: expert.context.get(),
        // As many at once as a load test asks for.
        slots: 1_024,
        load: Some(load_time(Bytes(0))),
    };
    Hosted {
        offer,
        run: Run::Stub {
            pace: Duration::from_millis(u64::from(expert.pace_ms)),
        },
    }
}
