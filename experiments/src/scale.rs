//! A thousand agents on one coordinator, over real QUIC on loopback.
//!
//! The agents are whole ones with certificates of their own in one process (`live::herd`), so that what the
//! coordinator takes can be told from what they take: how long until all are ready, first with tokens and then with
//! certificates; its memory, descriptors and CPU for agents that only say that they are there; and what queries
//! take when each has a thousand experts to choose from.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use moe2_cost::percentile;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Setting;
use crate::live::api::{Api, End};
use crate::live::files;
use crate::live::herd::Herd;
use crate::live::load::{Kind, Load, Sample, Shape, Tenant};
use crate::live::processes::{Coordinator, Programs};
use crate::live::tenants::until_quiet;
use crate::live::vitals::Vitals;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// All agents are ready within so long, or the experiment ends.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between the words of an answer of eight.
const WORD: Duration = Duration::from_millis(5);
const MODELS: [&str; 3] = ["stub-a"; 3];

/// One size of the experiment.
#[derive(Debug, Clone, Copy)]
struct Plan {
    agents: usize,
    /// How long it is looked at without queries, and with them.
    idle: Duration,
    asked: Duration,
    rate: f64,
    /// Before that: planning for so many is to be over.
    settle: Duration,
}

/// The experiment.
pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let seconds = Duration::from_secs;
    let plan = if setting.smoke {
        Plan {
            agents: 20,
            idle: seconds(2),
            asked: seconds(3),
            rate: 10.0,
            settle: seconds(1),
        }
    } else {
        Plan {
            agents: 1_000,
            idle: seconds(60),
            asked: seconds(60),
            rate: 5.0,
            settle: seconds(90),
        }
    };
    // A socket each, and what their process needs beside them.
    files::open(2 * plan.agents as u64 + 256)?;
    let dir = TempDir::new().context("no folder for temporary files")?;
    let programs = Programs {
        coordinator: setting.program("moe2-coordinator")?,
        agent: setting.program("moe2-agent")?,
    };
    let coordinator = Coordinator::start(&programs, dir.path(), "127.0.0.1")?;
    let api = coordinator.tenant("asking")?;
    let alone = watched(&coordinator, plan.settle / 9)?;
    let herd = Herd::tokens(&coordinator, &dir.path().join("herd"), plan.agents)?;
    let began = Instant::now();
    let first = herd.start(&programs, &coordinator, None)?;
    let joined = ready(&coordinator.admin, plan.agents, began)?;
    let joining = Vitals::read(coordinator.pid())?;
    setting.say(&format!(
        "{} agents joined and ready in {joined:.1} s",
        plan.agents
    ));
    drop(first);
    gone(&coordinator.admin)?;
    let began = Instant::now();
    let _herd = herd.start(&programs, &coordinator, None)?;
    let back = ready(&coordinator.admin, plan.agents, began)?;
    setting.say(&format!("all came back in {back:.1} s"));
    thread::sleep(plan.settle);
    let idle = watched(&coordinator, plan.idle)?;
    let agents = plan.agents as f64;
    let each = |of: fn(&Vitals) -> u64| (of(&idle.after) as f64 - of(&alone.after) as f64) / agents;
    setting.say(&format!(
        "idle: {:.3} of a core, {:.0} bytes an agent (RSS)",
        idle.share(),
        each(|v| v.resident)
    ));
    let (queries, requests, missed) = asked(setting, &plan, (&coordinator, api))?;
    Ok(json!({
        "agents": plan.agents,
        "ready_s": {"with_tokens": joined, "with_certificates": back},
        "alone": alone.row(), "after_joining": joining.row(), "idle": idle.row(),
        "core_share_per_agent": (idle.share() - alone.share()) / agents,
        "bytes_per_agent": {"rss": each(|v| v.resident), "anonymous": each(|v| v.anonymous)},
        "queries": queries, "missed": missed, "samples": {"requests": requests},
    }))
}

/// A process over a while.
struct Watched {
    before: Vitals,
    after: Vitals,
    seconds: f64,
}

impl Watched {
    /// Of one core.
    fn share(&self) -> f64 {
        (self.after.cpu - self.before.cpu) / self.seconds
    }

    fn row(&self) -> Value {
        json!({"seconds": self.seconds, "core_share": self.share(), "after": self.after.row()})
    }
}

fn watched(coordinator: &Coordinator, time: Duration) -> anyhow::Result<Watched> {
    let before = Vitals::read(coordinator.pid())?;
    let began = Instant::now();
    thread::sleep(time);
    Ok(Watched {
        before,
        after: Vitals::read(coordinator.pid())?,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Nodes that are given work.
fn count(admin: &Api) -> anyhow::Result<usize> {
    let fleet = admin.get("/admin/v1/fleet")?;
    let nodes = fleet["nodes"].as_array().into_iter().flatten();
    Ok(nodes.filter(|n| n["state"] == "ready").count())
}

/// Waits until so many are ready, and says how many seconds that was from the beginning.
fn ready(admin: &Api, agents: usize, began: Instant) -> anyhow::Result<f64> {
    loop {
        let now = count(admin)?;
        if now >= agents {
            return Ok(began.elapsed().as_secs_f64());
        }
        if began.elapsed() > PATIENCE {
            bail!("{now} of {agents} agents were ready after {PATIENCE:?}");
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits until none is.
fn gone(admin: &Api) -> anyhow::Result<()> {
    let began = Instant::now();
    while count(admin)? > 0 {
        if began.elapsed() > PATIENCE {
            bail!("agents that have ended are still ready");
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Queries at a low rate: what came of them, each of them, and what does not hold.
fn asked(
    setting: &Setting,
    plan: &Plan,
    (coordinator, api): (&Coordinator, Api),
) -> anyhow::Result<(Value, Vec<Value>, Vec<String>)> {
    let tenant = Tenant {
        name: "asking",
        share: 1.0,
        refusals: &[],
        budgets: json!({}),
        api,
    };
    let shape = Shape {
        rate: plan.rate,
        max_tokens: 64,
        scripted: true,
        leave: 0.0,
    };
    let before = dispatching(&coordinator.admin)?;
    let load = Load::start((vec![tenant], MODELS), shape, setting.seed);
    let busy = watched(coordinator, plan.asked)?;
    let samples = load.finish();
    until_quiet(&coordinator.admin)?;
    let after = dispatching(&coordinator.admin)?;
    let wrong: Vec<String> = samples
        .iter()
        .filter(|s| !matches!(s.ended.end, End::Answered { .. }))
        .map(|s| format!("{:?}", s.ended.end))
        .collect();
    let mut missed = Vec::new();
    if let Some(first) = wrong.first() {
        missed.push(format!(
            "{} of {} requests failed: {first}",
            wrong.len(),
            samples.len()
        ));
    }
    let kinds = [Kind::Whole, Kind::Stream, Kind::Choice, Kind::Fuse];
    let by_kind: serde_json::Map<String, Value> = kinds
        .into_iter()
        .map(|kind| (kind.as_str().to_owned(), delays(&samples, kind)))
        .collect();
    let dispatches = after.1 - before.1;
    let result = json!({"asked": samples.len(), "failed": wrong.len(), "rate_per_s": plan.rate,
        "word_ms": WORD.as_millis(), "client_s": by_kind, "coordinator": busy.row(),
        "dispatches": dispatches, "mean_dispatch_s": (after.0 - before.0) / dispatches});
    let lines = samples.iter().map(|s| {
        json!({"kind": s.kind.as_str(), "s": (s.done - s.sent).as_secs_f64(),
            "first_s": s.ended.first.map(|first| first.as_secs_f64())})
    });
    let lines = lines.collect();
    Ok((result, lines, missed))
}

fn delays(samples: &[Sample], kind: Kind) -> Value {
    let of: Vec<f64> = samples
        .iter()
        .filter(|s| s.kind == kind)
        .map(|s| (s.done - s.sent).as_secs_f64())
        .collect();
    json!({"n": of.len(), "p50": percentile(&of, 0.5), "p99": percentile(&of, 0.99)})
}

/// Seconds and number of all ways from a parsed request to its work written to QUIC, so far.
fn dispatching(admin: &Api) -> anyhow::Result<(f64, f64)> {
    let text = admin.text("/metrics")?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.trim().parse::<f64>().ok());
        number.with_context(|| format!("the coordinator exports no {name}"))
    };
    Ok((
        of("moe2_dispatch_duration_seconds_sum")?,
        of("moe2_dispatch_duration_seconds_count")?,
    ))
}
