//! The agent's one TOML file.
//!
//! It says which experts this machine hosts and where the coordinator is. What the machine is, the
//! probe finds out; only power figures may be given by hand, because a machine without a sensor
//! cannot know them.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use moe2_model::NodeId;
use serde::Deserialize;
use toml::{Table, Value};

use crate::meter::Choice;
pub(crate) use expert::{Embedded, Expert, Stub, Upstream};

mod expert;
mod keys;

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
    /// Work at once, of all experts together; see [`moe2_model::DeviceInfo::parallel`]. By default the slots of a worker
    /// that is alone, one where several compute here, and without a limit where none does.
    pub(crate) parallel: Option<u32>,
    /// Memory for experts, in MiB; by default all that the machine has. What does not fit is loaded when it is needed.
    pub(crate) memory_mb: Option<u64>,
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
    /// What it hosts; read one by one.
    #[serde(skip)]
    pub(crate) expert: Vec<Expert>,
}

const fn queue() -> usize {
    64
}
const fn yes() -> bool {
    true
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut table: Table = toml::from_str(text)?;
        let mut wrong = Vec::new();
        let experts = match table.remove("expert") {
            None => Vec::new(),
            Some(Value::Array(experts)) => experts,
            Some(_) => {
                wrong.push("expert: begin each expert with [[expert]]".to_owned());
                Vec::new()
            }
        };
        if experts.is_empty() {
            wrong.push("expert: an agent hosts at least one".to_owned());
        }
        let mut hosted = Vec::new();
        for (n, value) in experts.into_iter().enumerate() {
            hosted.extend(expert::read(n + 1, value, &mut wrong));
        }
        let config: Option<Self> = keys::read(table, "", &mut wrong);
        if let Some(config) = &config {
            config.check(&mut wrong);
        }
        match config {
            Some(config) if wrong.is_empty() => Ok(Self {
                expert: hosted,
                ..config
            }),
            _ => bail!("{}", wrong.join("; ")),
        }
    }

    fn check(&self, wrong: &mut Vec<String>) {
        if self.parallel == Some(0) || self.queue == 0 || self.threads == Some(0) {
            wrong.push("threads, parallel, queue: at least 1".to_owned());
        }
        if self.memory_mb == Some(0) {
            wrong.push("memory_mb: at least 1".to_owned());
        }
        for watts in [self.idle_watts, self.busy_watts].into_iter().flatten() {
            if !watts.is_finite() || watts < 0.0 {
                wrong.push(format!("{watts} W: use a finite number of at least 0"));
            }
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

    fn faults(text: &str) -> String {
        Config::parse(text).expect_err("it has faults").to_string()
    }

    #[test]
    fn everything_wrong_is_told_at_once_each_with_its_place() {
        let text = "coordinator = \"c:1\"\nnode = \"n\"\nstate_dir = \"/tmp/x\"\ntreads = 2\nparallel = 0\n\
            [[expert]]\nmodel = \"a\"\ncontxt = 5\n\
            [[expert]]\nname = \"gpt\"\nbackend = \"stub\"\n\
            [[expert]]\nbackend = \"openia\"\n\
            [[expert]]\nname = \"b\"\nbackend = \"openai\"\nurl = \"b:80\"\nparameters = 0\nparallel = 0\n";
        let faults = faults(text);
        for fault in [
            "treads: unknown key; did you mean `threads`?",
            "threads, parallel, queue: at least 1",
            "expert a.contxt: unknown key; did you mean `context`?",
            "expert gpt: a stub's name starts with `stub-`",
            "expert[3].backend: `openia` is none of `embedded`, `openai`, `stub`",
            "expert b.url: `b:80` is no address",
            "expert b.parameters: at least 1",
            "expert b.parallel: invalid value: integer `0`",
        ] {
            assert!(faults.contains(fault), "no {fault:?} in {faults}");
        }
    }

    #[test]
    fn a_stub_must_be_visible_as_one() {
        let shown = format!("{HEAD}[[expert]]\nname = \"stub-a\"\nbackend = \"stub\"\n");
        assert!(Config::parse(&shown).is_ok());
    }

    #[test]
    fn a_key_of_another_backend_is_refused() {
        let faults = faults(&format!(
            "{HEAD}[[expert]]\nmodel = \"a\"\nurl = \"http://x/v1\"\n"
        ));
        assert!(
            faults.contains("expert a.url: a key of other backends only"),
            "{faults}"
        );
    }

    #[test]
    fn a_worker_has_one_slot_and_keeps_nothing_or_as_much_as_it_is_given() {
        let slots = |line: &str| {
            let text = format!("{HEAD}[[expert]]\nmodel = \"a\"\n{line}");
            let config = Config::parse(&text).expect("sound");
            let [Expert::Embedded(embedded)] = config.expert.as_slice() else {
                unreachable!("{:?}", config.expert)
            };
            (embedded.parallel.get(), embedded.prefixes)
        };
        assert_eq!(slots(""), (1, 0));
        assert_eq!(slots("parallel = 8\nprefixes = 4\n"), (8, 4));
        for (key, wrong) in [("parallel", "0"), ("parallel", "65"), ("prefixes", "65")] {
            let faults = faults(&format!(
                "{HEAD}[[expert]]\nmodel = \"a\"\n{key} = {wrong}\n"
            ));
            assert!(faults.contains(&format!("expert a.{key}: ")), "{faults}");
        }
    }

    #[test]
    fn a_server_is_read_with_what_is_left_out() {
        let text = format!(
            "{HEAD}[[expert]]\nname = \"qwen\"\nbackend = \"openai\"\nurl = \"http://127.0.0.1:8080/v1\"\nparameters = 7e9\n"
        );
        let config = Config::parse(&text).expect("sound");
        let [Expert::Upstream(upstream)] = config.expert.as_slice() else {
            unreachable!("{:?}", config.expert)
        };
        assert_eq!(upstream.parameters, 7_000_000_000);
        assert_eq!(
            (upstream.parallel.get(), upstream.context.get()),
            (1, 2_048)
        );
        assert_eq!(upstream.url.to_string(), "http://127.0.0.1:8080/v1");
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
                    assert!(!config.expert.is_empty() && config.parallel != Some(0));
                    let watts = [config.idle_watts, config.busy_watts];
                    assert!(watts.iter().flatten().all(|w| w.is_finite() && *w >= 0.0));
                }
            }
        });
    }
}
