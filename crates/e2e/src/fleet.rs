//! Coordinators and agents, started as an operator would start them.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Process, binary, run};
use crate::{Api, children, eventually, until};

/// The three small experts with real weights.
pub const MODELS: [&str; 3] = [
    "smollm2-135m-instruct",
    "gemma-3-270m",
    "qwen2.5-coder-0.5b-instruct",
];

/// A command that asks the coordinator.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// Starting, loading weights from a cold disk included.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// What an agent is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    node: String,
    expert: String,
    idle_watts: Option<f64>,
    nvml: Option<PathBuf>,
    /// The join token; without one the agent must have enrolled before.
    pub token: Option<String>,
    /// `host:port` to dial; by default the coordinator's.
    pub dial: Option<String>,
}

impl Spec {
    /// An agent that hosts one model with real weights.
    ///
    /// # Panics
    /// If the models have not been fetched.
    #[must_use]
    pub fn real(node: &str, model: &str) -> Self {
        let expert = format!("model = {model:?}\ncontext = 2048\n");
        need_models();
        Self::new(node, expert)
    }

    /// The three models with real weights on `edge-1`, `edge-2` and `edge-3`.
    #[must_use]
    pub fn all_real() -> Vec<Self> {
        let spec = |(n, model): (usize, &&str)| Self::real(&format!("edge-{}", n + 1), model);
        MODELS.iter().enumerate().map(spec).collect()
    }

    /// An agent whose expert `name` is `model` of the server that is reached like `api`; its key goes into a
    /// file in `dir`.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn served(node: &str, (name, model): (&str, &str), api: &Api, dir: &Path) -> Self {
        let key = dir.join(format!("{node}.key"));
        fs::write(&key, api.key()).expect("the temporary directory can be written");
        let url = format!("{}/v1", api.base());
        let expert = format!(
            "name = {name:?}\nbackend = \"openai\"\nurl = {url:?}\nupstream_model = {model:?}\napi_key_file = {key:?}\nparameters = 135e6\nparallel = 4\n"
        );
        Self::new(node, expert)
    }

    /// The same on a machine that draws this much while idle.
    #[must_use]
    pub fn idling_at(mut self, watts: f64) -> Self {
        self.idle_watts = Some(watts);
        self
    }

    /// The same on a machine whose NVIDIA boards are metered through this library.
    #[must_use]
    pub fn metered_by(mut self, nvml: &Path) -> Self {
        self.nvml = Some(nvml.to_owned());
        self
    }

    fn new(node: &str, expert: String) -> Self {
        Self {
            node: node.to_owned(),
            expert,
            idle_watts: None,
            nvml: None,
            token: None,
            dial: None,
        }
    }
}

/// An agent with an expert that says eight words, five milliseconds each.
#[must_use]
pub fn stub(node: &str) -> Spec {
    slow_stub(node, Duration::from_millis(5))
}

/// The same with so much time for each word.
#[must_use]
pub fn slow_stub(node: &str, pace: Duration) -> Spec {
    let expert = format!(
        "name = \"stub-{node}\"\nmodel = \"none\"\nbackend = \"stub\"\npace_ms = {}\n",
        pace.as_millis()
    );
    Spec::new(node, expert)
}

fn need_models() {
    let listed = run(
        Command::new(binary("moe2")).args(["models", "list", "--json"]),
        Duration::from_secs(60),
    );
    let listed: Value = serde_json::from_str(&listed.said).unwrap_or_default();
    let all: Vec<&Value> = listed["models"].as_array().into_iter().flatten().collect();
    let missing: Vec<&&Value> = all.iter().filter(|m| m["state"] != "present").collect();
    assert!(
        !all.is_empty() && missing.is_empty(),
        "models are missing, run `moe2 models pull --all`: {missing:?}"
    );
}

/// A port that nobody uses on loopback now, neither TCP nor UDP.
#[must_use]
pub fn free_port() -> u16 {
    eventually("a free port is found", Duration::from_secs(5), || {
        let tcp = TcpListener::bind(("127.0.0.1", 0)).ok()?;
        let port = tcp.local_addr().ok()?.port();
        UdpSocket::bind(("127.0.0.1", port)).ok()?;
        Some(port)
    })
}

/// A coordinator with its state directory.
#[derive(Debug)]
pub struct Coordinator {
    /// Its process.
    pub process: Process,
    /// A tenant's way in.
    pub api: Api,
    /// The operator's way in.
    pub admin: Api,
    /// Where agents dial, `host:port`.
    pub quic: String,
    state: PathBuf,
}

impl Coordinator {
    /// The command that starts one with its state in `dir`; ports may be 0.
    #[must_use]
    pub fn command(dir: &Path, http: u16, quic: u16) -> Command {
        let mut command = Command::new(binary("moe2-coordinator"));
        command
            .args(["--http", &format!("127.0.0.1:{http}")])
            .args(["--quic", &format!("127.0.0.1:{quic}")])
            .arg("--state-dir")
            .arg(dir.join("coordinator"));
        command
    }

    /// Starts one and waits until it answers; `coordinator.toml` in `dir` is its configuration, if there
    /// is one.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(dir: &Path, http: u16, quic: u16) -> Self {
        let state = dir.join("coordinator");
        let endpoints = state.join("endpoints.json");
        // What an earlier one left must not be taken for this one's.
        let _ = fs::remove_file(&endpoints);
        let mut command = Self::command(dir, http, quic);
        let config = dir.join("coordinator.toml");
        if config.is_file() {
            command.arg("--config").arg(config);
        }
        let process = Process::start(command, &dir.join("coordinator.log"));
        let at: Value = eventually("the coordinator says where it is", STARTS_WITHIN, || {
            serde_json::from_str(&fs::read_to_string(&endpoints).ok()?).ok()
        });
        let base = format!("http://{}", at["http"].as_str().unwrap_or_default());
        let key = |name: &str| fs::read_to_string(state.join(name)).unwrap_or_default();
        let started = Self {
            process,
            api: Api::new(&base, key("api.key").trim()),
            admin: Api::new(&base, key("admin.key").trim()),
            quic: at["quic"].as_str().unwrap_or_default().to_owned(),
            state,
        };
        until("the coordinator answers", STARTS_WITHIN, || {
            started.api.get("/healthz").is_some_and(|r| r.status == 200)
        });
        started
    }

    /// What `moe2` prints for its operator.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn moe2(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(binary("moe2"));
        command
            .args(arguments)
            .arg("--json")
            .args(["--url", self.admin.base()])
            .arg("--key-file")
            .arg(self.state.join("admin.key"));
        let ended = run(&mut command, COMMAND_WITHIN);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        serde_json::from_str(&ended.said).expect("it prints one JSON object")
    }

    /// A new tenant's way in.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn tenant(&self, name: &str, limits: &[&str]) -> Api {
        let made = self.moe2(&[&["tenant", "add", name], limits].concat());
        Api::new(self.api.base(), made["key"].as_str().unwrap_or_default())
    }

    /// What the books say that a tenant has used.
    #[must_use]
    pub fn usage(&self, tenant: &str) -> Value {
        self.moe2(&["usage", "--tenant", tenant])["usage"][0].clone()
    }

    /// A join token for `node`, good for `ttl_seconds`.
    #[must_use]
    pub fn token(&self, node: &str, ttl_seconds: u64) -> String {
        let asked = json!({"node": node, "ttl_seconds": ttl_seconds});
        let made = self.admin.post("/admin/v1/join-tokens", &asked);
        assert_eq!(made.status, 201, "{:?}", made.json);
        made.json["token"].as_str().unwrap_or_default().to_owned()
    }

    /// What the fleet view says of a node; `null` if nothing.
    #[must_use]
    pub fn node(&self, name: &str) -> Value {
        let view = self.admin.get("/admin/v1/fleet");
        let nodes = view.map(|v| v.json["nodes"].clone()).unwrap_or_default();
        let all = nodes.as_array().cloned().unwrap_or_default();
        all.into_iter()
            .find(|n| n["node"] == name)
            .unwrap_or_default()
    }

    /// Whether a node is there and its expert takes work.
    #[must_use]
    pub fn is_ready(&self, name: &str) -> bool {
        self.node(name)["state"] == "ready" && self.expert_state(name) == "ready"
    }

    /// The state of a node's expert in lower case; empty if there is none.
    #[must_use]
    pub fn expert_state(&self, name: &str) -> String {
        // A state with a reason is an object with one field.
        let state = match &self.node(name)["experts"][0]["state"] {
            Value::Object(with_reason) => with_reason.keys().next().cloned(),
            plain => plain.as_str().map(str::to_owned),
        };
        state.unwrap_or_default().to_lowercase()
    }

    /// Dispatches under way on a node.
    #[must_use]
    pub fn in_flight(&self, name: &str) -> u64 {
        self.node(name)["experts"][0]["in_flight"]
            .as_u64()
            .unwrap_or(0)
    }
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    /// Its name.
    pub node: String,
}

impl Agent {
    /// Starts one with its state and log in `dir`; it dials `quic` unless the spec says otherwise.
    ///
    /// # Panics
    /// If the directory cannot be written.
    #[must_use]
    pub fn start(dir: &Path, quic: &str, spec: &Spec) -> Self {
        let config = Self::configure(dir, quic, spec);
        let mut command = Command::new(binary("moe2-agent"));
        command.arg("--config").arg(config);
        if let Some(nvml) = &spec.nvml {
            command.arg("--nvml").arg(nvml);
        }
        Self {
            process: Process::start(command, &dir.join(format!("{}.log", spec.node))),
            node: spec.node.clone(),
        }
    }

    /// Writes a configuration and the files it names.
    fn configure(dir: &Path, quic: &str, spec: &Spec) -> PathBuf {
        let state = dir.join(&spec.node);
        fs::create_dir_all(&state).expect("the temporary directory can be written");
        let mut lines = format!(
            "coordinator = {:?}\nnode = {:?}\nstate_dir = {state:?}\nthreads = 1\nprobe = false\n",
            spec.dial.as_deref().unwrap_or(quic),
            spec.node
        );
        if let Some(token) = &spec.token {
            let file = state.join("join.token");
            fs::write(&file, token).expect("the temporary directory can be written");
            lines += &format!("join_token_file = {file:?}\n");
        }
        if let Some(watts) = spec.idle_watts {
            lines += &format!("idle_watts = {watts:?}\n");
        }
        if spec.nvml.is_some() {
            lines += "meter = \"nvml\"\n";
        }
        let config = state.join("agent.toml");
        fs::write(&config, format!("{lines}\n[[expert]]\n{}", spec.expert))
            .expect("the temporary directory can be written");
        config
    }

    /// The id of its worker process.
    #[must_use]
    pub fn worker(&self) -> u32 {
        let what = format!("{} has a worker process", self.node);
        eventually(&what, STARTS_WITHIN, || {
            children(self.process.pid()).first().copied()
        })
    }
}

/// A coordinator and agents that are ready. Agents end before the coordinator does.
#[derive(Debug)]
pub struct System {
    /// The agents, in the order asked for.
    pub agents: Vec<Agent>,
    /// The coordinator.
    pub coordinator: Coordinator,
    dir: TempDir,
}

impl System {
    /// A coordinator on free ports, without agents.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn empty() -> Self {
        Self::configured("")
    }

    /// The same with this configuration of the coordinator.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn configured(coordinator: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        fs::write(dir.path().join("coordinator.toml"), coordinator)
            .expect("the temporary directory can be written");
        let coordinator = Coordinator::start(dir.path(), 0, 0);
        Self {
            agents: Vec::new(),
            coordinator,
            dir,
        }
    }

    /// A coordinator and these agents, all ready.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn start(specs: &[Spec]) -> Self {
        let mut system = Self::empty();
        system.join_all(specs);
        system
    }

    /// Starts these agents and waits until all are ready.
    pub fn join_all(&mut self, specs: &[Spec]) {
        for spec in specs {
            self.join(spec.clone());
        }
        self.all_ready();
    }

    /// The three models with real weights on `edge-1`, `edge-2` and `edge-3`.
    #[must_use]
    pub fn real() -> Self {
        Self::start(&Spec::all_real())
    }

    /// Starts one more agent, with a fresh token unless the spec has one.
    pub fn join(&mut self, mut spec: Spec) -> &Agent {
        if spec.token.is_none() {
            spec.token = Some(self.coordinator.token(&spec.node, 600));
        }
        let agent = Agent::start(self.dir(), &self.coordinator.quic, &spec);
        self.agents.push(agent);
        &self.agents[self.agents.len() - 1]
    }

    /// Waits until every agent's expert takes work.
    pub fn all_ready(&self) {
        for agent in &self.agents {
            let what = format!("{} is ready", agent.node);
            until(&what, STARTS_WITHIN, || {
                self.coordinator.is_ready(&agent.node)
            });
        }
    }

    /// Where everything keeps its state.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A tenant's way in.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.coordinator.api
    }
}
