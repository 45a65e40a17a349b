//! Soak: a fleet under steady load for an hour. Nothing may grow.
//!
//! A coordinator and three agents with scripted experts on loopback; tenants with and without budgets ask at a
//! steady rate, streamed and not, and some hang up in the middle of a stream. Every ten seconds each process is
//! looked at (`live::vitals`), and the sizes of the coordinator's databases are noted. What grows is told from what
//! merely moves by a trend with an interval (`trend`), over the time after a warm-up in which caches fill; what is
//! open without load must be as it was (`verdict`).

mod trend;
mod verdict;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Setting;
use crate::live::api::End;
use crate::live::load::{Load, Sample, Shape, Tenant};
use crate::live::processes::{Coordinator, Hosted, Node, Programs, wait};
use crate::live::tenants::{tenants, tighten, until_quiet};
use crate::live::vitals::Vitals;
use crate::live::way::Way;
use verdict::Seen;

/// Machines.
const NODES: usize = 3;
/// Scripted experts; each is on two machines.
const STUBS: [&str; NODES] = ["stub-a", "stub-b", "stub-c"];
/// Between the words of a scripted expert: an answer takes 0.2 s.
const PACE_MS: u32 = 25;
/// Idle and busy power of a machine.
const WATTS: (f64, f64) = (5.0, 25.0);
/// What one tenant has for an answer.
const DELAY: Duration = Duration::from_secs(8);
/// Files of the coordinator that grow with what it keeps.
const DATABASES: [&str; 4] = ["moe2.db", "moe2.db-wal", "records.db", "records.db-wal"];
/// Load before the first look without load, so that what is opened once is open.
const FIRST: Duration = Duration::from_secs(5);
/// Threads for blocking work are given up within ten seconds, connections that clients keep for later within
/// `client_seconds` of the coordinator (75).
const REST: Duration = Duration::from_secs(80);

/// One size of the experiment.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// How long the load goes on.
    whole: Duration,
    /// Of that, what is not judged.
    warm_up: Duration,
    every: Duration,
    rest: Duration,
}

impl Plan {
    fn of(setting: &Setting) -> Self {
        if setting.smoke {
            return Self {
                whole: Duration::from_secs(12),
                warm_up: Duration::from_secs(2),
                every: Duration::from_secs(1),
                rest: Duration::from_secs(1),
            };
        }
        let whole = setting.until.map_or(Duration::from_secs(3_600), |until| {
            until.saturating_duration_since(Instant::now())
        });
        Self {
            whole,
            warm_up: whole / 6,
            every: Duration::from_secs(10),
            rest: REST,
        }
    }
}

const SHAPE: Shape = Shape {
    rate: 20.0,
    max_tokens: 64,
    scripted: true,
    leave: 0.05,
};

/// A look at every process and the databases.
#[derive(Debug)]
struct Look {
    /// Since the load began, seconds.
    at: f64,
    processes: Vec<Vitals>,
    databases: Value,
}

/// The experiment.
pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let plan = Plan::of(setting);
    let dir = TempDir::new().context("no folder for temporary files")?;
    let programs = Programs {
        coordinator: setting.program("moe2-coordinator")?,
        agent: setting.program("moe2-agent")?,
    };
    let mut coordinator = Coordinator::start(&programs, dir.path(), "127.0.0.1")?;
    let nodes = join(&coordinator, (&programs, dir.path()))?;
    let processes = Processes::of(&coordinator, &nodes);
    // What is opened once is opened by a short load of its own.
    let asking = tenants(&coordinator, DELAY)?;
    let first = Load::start((asking.clone(), STUBS), SHAPE, setting.seed);
    thread::sleep(FIRST);
    drop(first.finish());
    // A day's window that does not bind in an hour: refusals would make a quieter second half.
    tighten(&coordinator, &asking, (SHAPE.rate, 4 * plan.whole))?;
    let before = at_rest(&coordinator, &processes, plan.rest)?;
    let began = Instant::now();
    let load = Load::start((asking.clone(), STUBS), SHAPE, setting.seed + 1);
    let looks = look_on(setting, plan, (began, &mut coordinator, &processes))?;
    let samples = load.finish();
    let seconds = began.elapsed().as_secs_f64();
    let after = at_rest(&coordinator, &processes, plan.rest)?;
    let mut missed = Vec::new();
    let mut rows = Vec::new();
    for (at, (name, _)) in processes.0.iter().enumerate() {
        let warm = looks
            .iter()
            .filter(|look| look.at >= plan.warm_up.as_secs_f64());
        let seen = Seen {
            name: name.clone(),
            looks: warm.map(|look| (look.at, look.processes[at])).collect(),
            rest: (before.processes[at], after.processes[at]),
        };
        let (row, wrong) = verdict::judge(&seen, setting.seed);
        rows.push(row);
        missed.extend(wrong);
    }
    let requests = requests(&samples, &asking);
    if requests["wrong"] != 0 {
        missed.push(format!(
            "requests that did not end as documented: {requests}"
        ));
    }
    Ok(json!({
        "seed": setting.seed, "seconds": seconds, "warm_up_s": plan.warm_up.as_secs_f64(),
        "every_s": plan.every.as_secs_f64(),
        "load": {"rate_per_s": SHAPE.rate, "leave": SHAPE.leave, "word_ms": PACE_MS},
        "processes": rows, "requests": requests,
        "databases": {"before": before.databases, "after": after.databases},
        "missed": missed,
        "samples": {"processes": lines(&processes, &looks), "databases": databases(&looks),
            "requests": by_time(&samples, (began, plan.every))},
    }))
}

/// Names and numbers of processes.
struct Processes(Vec<(String, u32)>);

impl Processes {
    fn of(coordinator: &Coordinator, nodes: &[Node]) -> Self {
        let mut all = vec![("coordinator".to_owned(), coordinator.pid())];
        all.extend(nodes.iter().map(|node| (node.name.clone(), node.pid())));
        Self(all)
    }

    fn look(&self, at: f64, state: &Path) -> anyhow::Result<Look> {
        let vitals = |(name, pid): &(String, u32)| Vitals::read(*pid).with_context(|| name.clone());
        let size = |name: &&str| {
            let bytes = fs::metadata(state.join(name)).map_or(0, |meta| meta.len());
            ((*name).to_owned(), json!(bytes))
        };
        Ok(Look {
            at,
            processes: self.0.iter().map(vitals).collect::<anyhow::Result<_>>()?,
            databases: Value::Object(DATABASES.iter().map(size).collect()),
        })
    }
}

fn join(
    coordinator: &Coordinator,
    (programs, dir): (&Programs, &Path),
) -> anyhow::Result<Vec<Node>> {
    let expert = |of: usize| {
        let name = STUBS[of % NODES];
        format!("[[expert]]\nname = {name:?}\nbackend = \"stub\"\npace_ms = {PACE_MS}\n")
    };
    let node = |number: usize| {
        let hosted = Hosted {
            experts: [number, number + 1].map(expert).concat(),
            watts: WATTS,
        };
        let joining = (coordinator, Way::loopback(coordinator.port));
        Node::join(&format!("edge-{number}"), (programs, dir), joining, &hosted)
    };
    let nodes = (1..=NODES).map(node).collect::<anyhow::Result<_>>()?;
    wait("all machines take work", || {
        let fleet = coordinator.admin.get("/admin/v1/fleet")?;
        let nodes = fleet["nodes"].as_array().into_iter().flatten();
        Ok((nodes.filter(|n| n["state"] == "ready").count() == NODES).then_some(()))
    })?;
    Ok(nodes)
}

/// A look when nothing is under way and idle connections have had time to go.
fn at_rest(
    coordinator: &Coordinator,
    processes: &Processes,
    rest: Duration,
) -> anyhow::Result<Look> {
    until_quiet(&coordinator.admin)?;
    thread::sleep(rest);
    processes.look(0.0, &coordinator.state)
}

/// Looks until the time is over.
fn look_on(
    setting: &Setting,
    plan: Plan,
    (began, coordinator, processes): (Instant, &mut Coordinator, &Processes),
) -> anyhow::Result<Vec<Look>> {
    let mut looks: Vec<Look> = Vec::new();
    let mut due = began;
    while due < began + plan.whole {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if coordinator.has_ended() {
            bail!("the coordinator ended after {:?}", began.elapsed());
        }
        let look = processes.look(began.elapsed().as_secs_f64(), &coordinator.state)?;
        if looks.len().is_multiple_of(6) {
            let own =
                |v: &Vitals| format!("{:.1} MB, {} open", v.anonymous as f64 / 1e6, v.open.all());
            let all: Vec<String> = look.processes.iter().map(own).collect();
            setting.say(&format!("{:6.0} s  {}", look.at, all.join("; ")));
        }
        looks.push(look);
        due += plan.every;
    }
    Ok(looks)
}

/// How requests ended, all together.
fn requests(samples: &[Sample], tenants: &[Tenant]) -> Value {
    let (mut answered, mut refused, mut left) = (0, 0, 0);
    let mut wrong: Vec<String> = Vec::new();
    for sample in samples {
        match &sample.ended.end {
            End::Answered { .. } => answered += 1,
            End::Left => left += 1,
            End::Refused { code, .. } | End::Broken { code, .. }
                if tenants[sample.tenant].refusals.contains(&code.as_str()) =>
            {
                refused += 1;
            }
            other => wrong.push(format!("{other:?}")),
        }
    }
    json!({"asked": samples.len(), "answered": answered, "refused_by_budgets": refused, "left": left,
        "wrong": wrong.len(), "first_wrong": wrong.iter().take(20).collect::<Vec<_>>()})
}

fn lines(processes: &Processes, looks: &[Look]) -> Vec<Value> {
    let of = |look: &Look| {
        let each = processes.0.iter().zip(&look.processes);
        let row = |((name, _), vitals): (&(String, u32), &Vitals)| {
            let mut row = vitals.row();
            row["process"] = json!(name);
            row["s"] = json!((look.at * 10.0).round() / 10.0);
            row
        };
        each.map(row).collect::<Vec<_>>()
    };
    looks.iter().flat_map(of).collect()
}

fn databases(looks: &[Look]) -> Vec<Value> {
    let of = |look: &Look| {
        let mut row = look.databases.clone();
        row["s"] = json!((look.at * 10.0).round() / 10.0);
        row
    };
    looks.iter().map(of).collect()
}

/// Ends of requests in every interval between looks.
fn by_time(samples: &[Sample], (began, every): (Instant, Duration)) -> Vec<Value> {
    let mut rows: Vec<[u32; 4]> = Vec::new();
    for sample in samples {
        let since = sample.done.saturating_duration_since(began);
        let at = (since.as_secs_f64() / every.as_secs_f64()) as usize;
        rows.resize(rows.len().max(at + 1), [0; 4]);
        let kind = match sample.ended.end {
            End::Answered { .. } => 0,
            End::Refused { .. } => 1,
            End::Left => 2,
            End::Broken { .. } | End::Undocumented(_) => 3,
        };
        rows[at][kind] += 1;
    }
    let row = |(at, [answered, refused, left, broken]): (usize, [u32; 4])| {
        json!({"s": at as f64 * every.as_secs_f64(), "answered": answered, "refused": refused, "left": left,
            "broken": broken})
    };
    rows.into_iter().enumerate().map(row).collect()
}
