//! The agent's one TOML file.
//!
//! It says which experts this machine hosts and where the coordinator is. What the machine is, the
//! probe finds out; only power figures may be given by hand, because a machine without a sensor
//! cannot know them.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use moe2_model::{ExpertName, NodeId};
use serde::Deserialize;

use crate::meter::Choice;

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// `host:port` of the coordinator's QUIC port.
    pub(crate) coordinator: String,
    /// This machine's name in the fleet; must be the one its join token was made for.
    pub(crate) node: NodeId,
    /// Certificate and probe results.
    pub(crate) state_dir: PathBuf,
    /// File with the join token; needed until a certificate has been issued.
    pub(crate) join_token_file: Option<PathBuf>,
    /// Threads of each worker; by default all hardware threads.
    pub(crate) threads: Option<u32>,
    /// Workers at work at once; see [`moe2_model::DeviceInfo::parallel`].
    #[serde(default = "one")]
    pub(crate) parallel: u32,
    /// Requests waiting for one expert.
    #[serde(default = "queue")]
    pub(crate) queue: usize,
    /// Measure bandwidth and arithmetic at first start.
    #[serde(default = "yes")]
    pub(crate) probe: bool,
    /// Power while nothing runs, in watts, for machines without a sensor.
    pub(crate) idle_watts: Option<f64>,
    /// Power while an expert works, in watts, for machines without a sensor.
    pub(crate) busy_watts: Option<f64>,
    /// Which energy meter to use; by default the first that works and sees the processors.
    #[serde(default)]
    pub(crate) meter: Choice,
    /// What it hosts.
    pub(crate) expert: Vec<Expert>,
}

/// One expert.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expert {
    /// What users call it; by default the model's id.
    pub(crate) name: Option<ExpertName>,
    /// An id of the model list, or a path to a GGUF file.
    pub(crate) model: String,
    /// Longest prompt plus answer in tokens.
    #[serde(default = "context")]
    pub(crate) context: u32,
    /// Who does the work.
    #[serde(default)]
    pub(crate) backend: Backend,
    /// Milliseconds that a stub takes for a word.
    #[serde(default = "pace")]
    pub(crate) pace_ms: u32,
}

/// Who does an expert's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// A worker process with the embedded engine.
    #[default]
    Embedded,
    /// Canned words at a steady pace, for load tests. Its name must start with `stub-`, so that
    /// nobody takes its answers for a model's.
    Stub,
}

const fn one() -> u32 {
    1
}
const fn queue() -> usize {
    64
}
const fn yes() -> bool {
    true
}
const fn context() -> u32 {
    2_048
}
/// About a small model on a small GPU.
const fn pace() -> u32 {
    5
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        let mut wrong = Vec::new();
        if config.expert.is_empty() {
            wrong.push("expert: an agent hosts at least one".to_owned());
        }
        if config.parallel == 0 || config.queue == 0 || config.threads == Some(0) {
            wrong.push("threads, parallel, queue: at least 1".to_owned());
        }
        for watts in [config.idle_watts, config.busy_watts].into_iter().flatten() {
            if !watts.is_finite() || watts < 0.0 {
                wrong.push(format!("{watts} W: use a finite number of at least 0"));
            }
        }
        for expert in config.expert.iter().filter(|e| e.backend == Backend::Stub) {
            if !expert
                .name
                .as_ref()
                .is_some_and(|n| n.as_str().starts_with("stub-"))
            {
                wrong.push(format!(
                    "expert {}: a stub's name starts with `stub-`",
                    expert.model
                ));
            }
        }
        if wrong.is_empty() {
            Ok(config)
        } else {
            bail!("{}", wrong.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_in_deploy_is_sound() {
        let example = Config::parse(include_str!("../../deploy/agent.toml")).expect("sound");
        assert_eq!(example.expert.len(), 1);
    }

    const HEAD: &str = "coordinator = \"c:1\"\nnode = \"n\"\nstate_dir = \"/tmp/x\"\n";

    #[test]
    fn a_stub_must_be_visible_as_one() {
        let hidden = format!("{HEAD}[[expert]]\nmodel = \"gpt\"\nbackend = \"stub\"\n");
        let error = Config::parse(&hidden).expect_err("hidden stub");
        assert!(error.to_string().contains("stub-"), "{error}");
        let shown =
            format!("{HEAD}[[expert]]\nname = \"stub-a\"\nmodel = \"a\"\nbackend = \"stub\"\n");
        assert!(Config::parse(&shown).is_ok());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = Config::parse(&format!("{HEAD}treads = 2\nexpert = []\n")).expect_err("typo");
        assert!(error.to_string().contains("treads"), "{error}");
    }

    #[test]
    fn fuzz_config() {
        bolero::check!(name = "config").for_each(|bytes: &[u8]| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            match Config::parse(text) {
                Err(error) => assert!(!format!("{error:#}").is_empty()),
                Ok(config) => {
                    assert!(!config.expert.is_empty() && config.parallel > 0);
                    let watts = [config.idle_watts, config.busy_watts];
                    assert!(watts.iter().flatten().all(|w| w.is_finite() && *w >= 0.0));
                }
            }
        });
    }
}
