//! The child processes: started in order, watched, stopped.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use moe2_engine::coordinator::FleetView;
use serde_json::json;

use crate::client::{Client, local_base};
use crate::out;

/// Loading three small models takes seconds; a slow disk may take a minute.
const READY_TIMEOUT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
/// How long children may take to end in order before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) state: PathBuf,
    pub(crate) http: String,
    pub(crate) quic: String,
    pub(crate) threads: u32,
    /// One agent for each: the body of its `[[expert]]` table, in TOML.
    pub(crate) experts: Vec<String>,
}

/// A running fleet; dropping it closes every child's standard input, which ends it.
#[derive(Debug)]
pub(crate) struct Fleet {
    children: RefCell<Vec<(String, PathBuf, Child)>>,
    api: Client,
    admin: Client,
    state: PathBuf,
}

impl Fleet {
    /// Starts everything and waits until every expert can answer.
    pub(crate) fn start(plan: &Plan, interrupted: &AtomicBool) -> anyhow::Result<Self> {
        let coordinator = plan.state.join("coordinator");
        private_dir(&coordinator)?;
        refuse_second(&coordinator)?;
        let _ = fs::remove_file(coordinator.join("endpoints.json"));
        let args = ["--http", &plan.http, "--quic", &plan.quic, "--state-dir"];
        let mut command = binary("moe2-coordinator")?;
        command.args(args).arg(&coordinator);
        let mut first = spawn("coordinator", command, &plan.state)?;
        let began = Instant::now();
        while !coordinator.join("endpoints.json").exists() {
            step(&mut first, began, interrupted)?;
        }
        let base = local_base(&coordinator)?;
        let key = |name: &str| fs::read_to_string(coordinator.join(name));
        let fleet = Self {
            children: RefCell::new(vec![first]),
            api: Client::new(&base, key("api.key")?.trim()),
            admin: Client::new(&base, key("admin.key")?.trim()),
            state: plan.state.clone(),
        };
        out::note(&format!("coordinator  ready at {base}"));
        for (n, expert) in plan.experts.iter().enumerate() {
            fleet.start_agent(plan, &format!("edge-{}", n + 1), expert)?;
        }
        fleet.wait_ready(plan.experts.len(), began, interrupted)?;
        Ok(fleet)
    }

    /// The operator's way in.
    pub(crate) fn admin(&self) -> &Client {
        &self.admin
    }

    /// The tenant's way in.
    pub(crate) fn api(&self) -> &Client {
        &self.api
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    fn start_agent(&self, plan: &Plan, node: &str, expert: &str) -> anyhow::Result<()> {
        let dir = plan.state.join(node);
        private_dir(&dir)?;
        let asked = json!({"node": node, "ttl_seconds": 600});
        let made = self.admin.post("/admin/v1/join-tokens", &asked)?;
        let coordinator = made["coordinator"]
            .as_str()
            .context("no address in the token reply")?;
        if self.is_new_ca(&dir)? {
            let _ = fs::remove_dir_all(dir.join("identity"));
        }
        let token = made["token"].as_str().context("no token in the reply")?;
        let token_file = dir.join("join.token");
        write_private(&token_file, token)?;
        let config = agent_config(&dir, coordinator, (node, expert, plan.threads), &token_file);
        write_private(&dir.join("agent.toml"), &config)?;
        let mut command = binary("moe2-agent")?;
        command.arg("--config").arg(dir.join("agent.toml"));
        self.children
            .borrow_mut()
            .push(spawn(node, command, &plan.state)?);
        Ok(())
    }

    /// Whether the coordinator's CA is another than the one this agent enrolled with, because the
    /// coordinator's directory was removed and the agent's was not.
    fn is_new_ca(&self, dir: &Path) -> anyhow::Result<bool> {
        let mark = dir.join("enrolled-with.pem");
        let ca = fs::read_to_string(self.state.join("coordinator").join("ca.pem"))?;
        let same = fs::read_to_string(&mark).is_ok_and(|old| old == ca);
        if !same {
            write_private(&mark, &ca)?;
        }
        Ok(!same)
    }

    fn wait_ready(
        &self,
        experts: usize,
        began: Instant,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<()> {
        let mut announced: Vec<String> = Vec::new();
        while announced.len() < experts {
            self.check()?;
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if began.elapsed() > READY_TIMEOUT {
                bail!(
                    "not every expert was ready in time; see {}",
                    self.state.display()
                );
            }
            let fleet: FleetView = serde_json::from_value(self.admin.get("/admin/v1/fleet")?)?;
            for expert in fleet.ready_experts() {
                let id = expert.id.to_string();
                if expert.id.node.as_str().starts_with("edge-") && !announced.contains(&id) {
                    let (node, name) = (&expert.id.node, &expert.id.name);
                    out::note(&format!("{node:<12} joined over QUIC, hosts {name}"));
                    announced.push(id);
                }
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// An error if a child has ended by itself.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        for (name, log, child) in self.children.borrow_mut().iter_mut() {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended with {status}: {}", last_words(log));
            }
        }
        Ok(())
    }

    /// Ends every child: agents first, each by closing its standard input, then by force.
    pub(crate) fn stop(&self) {
        let mut children = self.children.borrow_mut();
        for (_, _, child) in children.iter_mut().rev() {
            drop(child.stdin.take());
        }
        let began = Instant::now();
        for (_, _, child) in children.iter_mut() {
            while began.elapsed() < STOP_TIMEOUT && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            // Fails only when it has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

fn step(
    child: &mut (String, PathBuf, Child),
    began: Instant,
    interrupted: &AtomicBool,
) -> anyhow::Result<()> {
    let (name, log, process) = child;
    if let Some(status) = process.try_wait()? {
        bail!("{name} ended with {status}: {}", last_words(log));
    }
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    if began.elapsed() > READY_TIMEOUT {
        bail!("{name} was not ready in time; see {}", log.display());
    }
    std::thread::sleep(POLL);
    Ok(())
}

/// Two fleets in one state directory would fight over its keys.
fn refuse_second(coordinator: &Path) -> anyhow::Result<()> {
    let Ok(base) = local_base(coordinator) else {
        return Ok(());
    };
    if Client::new(&base, "").get_text("/healthz").is_ok() {
        bail!("a fleet already runs here, at {base}: stop it first, or use another --state-dir");
    }
    Ok(())
}

/// A program that lies beside this one.
pub(crate) fn binary(name: &str) -> anyhow::Result<Command> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!("{} is missing: build it with `make build`", path.display());
    }
    Ok(Command::new(path))
}

fn spawn(
    name: &str,
    mut command: Command,
    state: &Path,
) -> anyhow::Result<(String, PathBuf, Child)> {
    let log = state.join(format!("{name}.log"));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let child = command
        .arg("--exit-on-stdin-close")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    Ok((name.to_owned(), log, child))
}

/// The last lines of a log, for an error message.
fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    let words: Vec<&str> = lines.into_iter().rev().collect();
    format!("{} (log: {})", words.join(" / "), log.display())
}

fn agent_config(
    dir: &Path,
    coordinator: &str,
    (node, expert, threads): (&str, &str, u32),
    token_file: &Path,
) -> String {
    // Debug formatting of a string is a valid basic string in TOML for the paths people use.
    format!(
        "coordinator = {coordinator:?}\nnode = {node:?}\nstate_dir = {dir:?}\njoin_token_file = {token_file:?}\nthreads = {threads}\n\n[[expert]]\n{expert}\n"
    )
}

fn private_dir(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make {}: choose another --state-dir", path.display()))
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
