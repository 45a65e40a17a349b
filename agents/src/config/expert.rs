//! One `[[expert]]`: which backend, and that backend's keys.
//!
//! Each backend is a type of its own, so that a key of another one is refused instead of ignored.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use moe2_model::ExpertName;
use serde::{Deserialize, Deserializer};
use toml::Value;

use super::keys;
use crate::upstream::Endpoint;

/// One expert.
#[derive(Debug, Clone)]
pub(crate) enum Expert {
    /// A worker process with the embedded engine.
    Embedded(Embedded),
    /// A server that speaks OpenAI's interface.
    Upstream(Upstream),
    /// Canned words at a steady pace, for load tests. Its name must start with `stub-`, so that
    /// nobody takes its answers for a model's.
    Stub(Stub),
}

/// Sequences that a worker has in one batch at most, and as many that ended and are kept.
const MOST_SLOTS: u32 = 64;

/// The names of the backends.
const BACKENDS: [&str; 3] = ["embedded", "openai", "stub"];

impl Expert {
    /// What the file calls it.
    pub(crate) fn called(&self) -> &str {
        match self {
            Self::Embedded(Embedded {
                name: None, model, ..
            }) => model,
            Self::Embedded(Embedded {
                name: Some(name), ..
            })
            | Self::Upstream(Upstream { name, .. })
            | Self::Stub(Stub { name, .. }) => name.as_str(),
        }
    }
}

/// Of a worker process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Embedded {
    /// What users call it; by default the model's id.
    pub(crate) name: Option<ExpertName>,
    /// An id of the model list, or a path to a GGUF file.
    pub(crate) model: String,
    /// Longest prompt plus answer in tokens.
    #[serde(default = "context")]
    pub(crate) context: NonZeroU32,
    /// Requests that it works on at once, each with a context of its own.
    #[serde(default = "one", deserialize_with = "slots")]
    pub(crate) parallel: NonZeroU32,
    /// Requests that have ended and whose prompts' beginnings others may take over; by default none.
    #[serde(default, deserialize_with = "prefixes")]
    pub(crate) prefixes: u32,
}

/// Of a server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    /// What users call it.
    pub(crate) name: ExpertName,
    /// Its interface, up to and including `/v1`.
    #[serde(deserialize_with = "endpoint")]
    pub(crate) url: Endpoint,
    /// What the server calls the model; by default the only one it has.
    pub(crate) upstream_model: Option<String>,
    /// File with the key that the server wants.
    pub(crate) api_key_file: Option<PathBuf>,
    /// Longest prompt plus answer in tokens.
    #[serde(default = "context")]
    pub(crate) context: NonZeroU32,
    /// Requests that the server works on at once.
    #[serde(default = "one")]
    pub(crate) parallel: NonZeroU32,
    /// Number of weights: first forecasts of speed and quality follow from it.
    #[serde(deserialize_with = "count")]
    pub(crate) parameters: u64,
    /// What the weights take in memory.
    pub(crate) weights_mb: Option<u64>,
    /// For people.
    #[serde(default = "unknown")]
    pub(crate) family: String,
    /// For people.
    #[serde(default = "unknown")]
    pub(crate) quantisation: String,
    /// Longest time from the request to the first token.
    #[serde(default = "first_token", deserialize_with = "seconds")]
    pub(crate) first_token_seconds: Duration,
    /// Longest time from one token to the next.
    #[serde(default = "next_token", deserialize_with = "seconds")]
    pub(crate) next_token_seconds: Duration,
}

/// Of a stub.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stub {
    /// What users call it: `stub-…`.
    pub(crate) name: ExpertName,
    /// Not used; files of earlier releases have it.
    #[serde(default, rename = "model")]
    _model: Option<String>,
    /// Longest prompt plus answer in tokens.
    #[serde(default = "context")]
    pub(crate) context: NonZeroU32,
    /// Milliseconds for a word.
    #[serde(default = "pace")]
    pub(crate) pace_ms: u32,
}

const fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}
const fn context() -> NonZeroU32 {
    NonZeroU32::new(2_048).expect("it is not zero")
}
/// About a small model on a small GPU.
const fn pace() -> u32 {
    5
}
fn unknown() -> String {
    "unknown".to_owned()
}
/// A long prompt on a slow machine, behind others.
const fn first_token() -> Duration {
    Duration::from_secs(120)
}
const fn next_token() -> Duration {
    Duration::from_secs(30)
}

fn endpoint<'de, D: Deserializer<'de>>(from: D) -> Result<Endpoint, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// As `7_000_000_000` or `7e9`.
fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let most = 1e15;
    match Value::deserialize(from)? {
        Value::Integer(n) if n >= 1 => Ok(n.cast_unsigned()),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked
        Value::Float(n) if n >= 1.0 && n <= most => Ok(n as u64),
        _ => Err(serde::de::Error::custom("at least 1, like 7e9")),
    }
}

/// As many as a worker takes.
fn slots<'de, D: Deserializer<'de>>(from: D) -> Result<NonZeroU32, D::Error> {
    let slots = NonZeroU32::deserialize(from)?;
    at_most(MOST_SLOTS, slots.get())?;
    Ok(slots)
}

/// As many as a worker keeps.
fn prefixes<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let prefixes = u32::deserialize(from)?;
    at_most(MOST_SLOTS, prefixes)?;
    Ok(prefixes)
}

fn at_most<E: serde::de::Error>(most: u32, is: u32) -> Result<(), E> {
    if is > most {
        return Err(E::custom(format!("at most {most}")));
    }
    Ok(())
}

fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(from)?;
    let valid = Duration::try_from_secs_f64(seconds).ok();
    let valid = valid.filter(|d| !d.is_zero() && *d <= Duration::from_secs(86_400));
    valid.ok_or_else(|| serde::de::Error::custom("above 0 and at most 86400"))
}

/// Number `n` of the file's experts.
pub(super) fn read(n: usize, value: Value, wrong: &mut Vec<String>) -> Option<Expert> {
    let Value::Table(mut table) = value else {
        wrong.push(format!("expert[{n}]: begin each expert with [[expert]]"));
        return None;
    };
    let named = ["name", "model"]
        .iter()
        .find_map(|key| table.get(*key)?.as_str());
    let at = named.map_or_else(|| format!("expert[{n}]"), |name| format!("expert {name}"));
    let backend = match table.remove("backend") {
        None => BACKENDS[0].to_owned(),
        Some(Value::String(backend)) => backend,
        Some(_) => String::new(),
    };
    let before = wrong.len();
    let expert = match backend.as_str() {
        "embedded" => keys::read(table, &at, wrong).map(Expert::Embedded),
        "openai" => keys::read(table, &at, wrong).map(Expert::Upstream),
        "stub" => keys::read(table, &at, wrong).map(Expert::Stub),
        other => {
            let known = BACKENDS.map(|known| format!("`{known}`")).join(", ");
            wrong.push(format!("{at}.backend: `{other}` is none of {known}"));
            None
        }
    };
    for fault in &mut wrong[before..] {
        say_whose(fault);
    }
    if let Some(Expert::Stub(stub)) = &expert
        && !stub.name.as_str().starts_with("stub-")
    {
        wrong.push(format!("{at}: a stub's name starts with `stub-`"));
    }
    expert
}

/// A known key in the wrong place is no slip of the pen.
fn say_whose(fault: &mut String) {
    let Some((place, _)) = fault.split_once(": unknown key") else {
        return;
    };
    let key = place.rsplit_once('.').map_or(place, |(_, key)| key);
    if keys::knows::<Embedded>(key) || keys::knows::<Upstream>(key) || keys::knows::<Stub>(key) {
        *fault = format!("{place}: a key of other backends only");
    }
}
