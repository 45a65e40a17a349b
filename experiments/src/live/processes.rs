//! The processes of a fleet: a coordinator and agents, started as an operator would, killed, stopped and
//! started again.
//!
//! All get `--exit-on-stdin-close` and a pipe, so that none outlives the experiment. A stopped process could
//! not see its pipe close; what stops it therefore lets it go on when its own pipe closes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::api::Api;
use super::way::Way;

/// Starting; weights may have to come from a slow disk.
const STARTS_WITHIN: Duration = Duration::from_secs(90);
/// Ending in order.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A long-running process.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts it; what it logs is added to the file.
    pub(crate) fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        command.arg("--exit-on-stdin-close");
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn();
        let child = child.with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self(child))
    }

    /// `kill -9`, and gone when this returns.
    fn kill(&mut self) {
        // Both fail only when it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let began = Instant::now();
        while began.elapsed() < ENDS_WITHIN && !self.has_ended() {
            thread::sleep(LOOK_EVERY);
        }
        self.kill();
    }
}

/// A process that is stopped; dropping this lets it go on.
#[derive(Debug)]
pub(crate) struct Stopped(Child);

impl Stopped {
    /// Sends SIGSTOP; it has taken effect when this returns.
    fn stop(pid: u32) -> anyhow::Result<Self> {
        // Whatever ends the experiment closes the pipe, and then the process goes on.
        let script = format!(
            "trap '' INT TERM HUP; kill -STOP {pid} && echo stopped; read -r _; kill -CONT {pid}"
        );
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut stopped = Self(child.context("cannot run `sh`")?);
        let mut said = String::new();
        if let Some(out) = stopped.0.stdout.take() {
            BufReader::new(out).read_line(&mut said)?;
        }
        if said.trim() != "stopped" {
            bail!("the process {pid} could not be stopped");
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The programs of a release.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) coordinator: PathBuf,
    pub(crate) agent: PathBuf,
}

/// The coordinator.
#[derive(Debug)]
pub(crate) struct Coordinator {
    process: Process,
    /// The operator's way in.
    pub(crate) admin: Api,
    /// Its UDP port.
    pub(crate) port: u16,
    /// Where its databases are.
    pub(crate) state: PathBuf,
}

impl Coordinator {
    /// Starts one with its state and log in `dir`, listening for agents on this address.
    pub(crate) fn start(programs: &Programs, dir: &Path, ip: &str) -> anyhow::Result<Self> {
        let state = dir.join("coordinator");
        let mut command = Command::new(&programs.coordinator);
        command.args(["--http", "127.0.0.1:0", "--quic"]);
        command
            .arg(format!("{ip}:0"))
            .arg("--state-dir")
            .arg(&state);
        let mut process = Process::start(command, &dir.join("coordinator.log"))?;
        let endpoints = state.join("endpoints.json");
        let at = wait("the coordinator says where it is", || {
            if process.has_ended() {
                bail!(
                    "the coordinator ended; see {}/coordinator.log",
                    dir.display()
                );
            }
            let text = fs::read_to_string(&endpoints).unwrap_or_default();
            Ok(serde_json::from_str::<Value>(&text).ok())
        })?;
        let address = |name: &str| at[name].as_str().context("endpoints.json is incomplete");
        let key = fs::read_to_string(state.join("admin.key"))?;
        let admin = Api::new(&format!("http://{}", address("http")?), key.trim());
        let port = address("quic")?.rsplit(':').next().unwrap_or_default();
        let port = port.parse().context("endpoints.json has no port")?;
        Ok(Self {
            process,
            admin,
            port,
            state,
        })
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// A join token for a node.
    pub(crate) fn token(&self, node: &str) -> anyhow::Result<String> {
        let asked = json!({"node": node, "ttl_seconds": 600});
        let made = self.admin.post("/admin/v1/join-tokens", &asked)?;
        let token = made["token"].as_str();
        token.map(str::to_owned).context("no token in the reply")
    }

    /// A new tenant's way in.
    pub(crate) fn tenant(&self, name: &str) -> anyhow::Result<Api> {
        let made = self
            .admin
            .post("/admin/v1/tenants", &json!({"name": name}))?;
        let key = made["key"].as_str().context("a new tenant has no key")?;
        Ok(self.admin.with_key(key))
    }
}

/// A machine with an agent, and the way between it and the coordinator.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    process: Process,
    stopped: Option<Stopped>,
    config: PathBuf,
    log: PathBuf,
    agent: PathBuf,
    /// After the process: a machine goes when its agent has gone.
    pub(crate) way: Way,
}

/// What a node hosts.
#[derive(Debug, Clone)]
pub(crate) struct Hosted {
    /// The `[[expert]]` tables, TOML.
    pub(crate) experts: String,
    /// Power while idle and while busy.
    pub(crate) watts: (f64, f64),
}

impl Node {
    /// Has a new machine join the fleet.
    pub(crate) fn join(
        name: &str,
        (programs, dir): (&Programs, &Path),
        (coordinator, way): (&Coordinator, Way),
        hosted: &Hosted,
    ) -> anyhow::Result<Self> {
        let state = dir.join(name);
        fs::create_dir_all(&state)?;
        let token = state.join("join.token");
        fs::write(&token, coordinator.token(name)?)?;
        let (idle, busy) = hosted.watts;
        let config = state.join("agent.toml");
        let lines = format!(
            "coordinator = {:?}\nnode = {name:?}\nstate_dir = {state:?}\njoin_token_file = {token:?}\nthreads = 1\n\
             probe = false\nidle_watts = {idle:?}\nbusy_watts = {busy:?}\n\n{}",
            way.dialled(),
            hosted.experts,
        );
        fs::write(&config, lines)?;
        let log = dir.join(format!("{name}.log"));
        let agent = programs.agent.clone();
        let process = Process::start(agent_command(&way, &agent, &config), &log)?;
        Ok(Self {
            name: name.to_owned(),
            process,
            stopped: None,
            config,
            log,
            agent,
            way,
        })
    }

    /// The agent's process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// `kill -9` of the agent; its workers see their pipes close.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the agent again, as a supervisor would.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        let command = agent_command(&self.way, &self.agent, &self.config);
        self.process = Process::start(command, &self.log)?;
        Ok(())
    }

    /// SIGSTOP of the agent.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.stopped = Some(Stopped::stop(self.process.0.id())?);
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn go_on(&mut self) {
        self.stopped = None;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.go_on();
    }
}

fn agent_command(way: &Way, agent: &Path, config: &Path) -> Command {
    let mut command = way.command(agent);
    command.arg("--config").arg(config);
    command
}

/// Waits for something to be there.
pub(crate) fn wait<T>(
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if began.elapsed() > STARTS_WITHIN {
            bail!("not within {STARTS_WITHIN:?}: {what}");
        }
        thread::sleep(LOOK_EVERY);
    }
}
