//! Chaos: a fleet of real processes under load, one of whose three machines is in trouble in every round.
//!
//! A coordinator and three agents run as an operator would run them, each machine in a network namespace of its
//! own where the system allows it, else on loopback behind relays, and several tenants ask at a steady rate, some
//! within budgets (all in `live`). In each round one machine's agent is killed, stopped, cut off,
//! delayed or made lossy (`faults`), then healed. The coordinator's view is looked at all the time (`watch`);
//! how every request ended is told apart exactly, and judged when all is over (`verdict`, `books`).

mod books;
mod explained;
mod faults;
mod verdict;
mod watch;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Setting;
use crate::live::ground::{self, Ground};
use crate::live::load::{Load, Shape};
use crate::live::processes::{Coordinator, Hosted, Node, Programs, wait};
use crate::live::tenants::{tenants, tighten};
use crate::live::way::{self, Way};
use faults::{Chaos, Round};
use watch::Watch;

/// Machines.
const NODES: usize = 3;
/// Idle and busy power of a machine.
const WATTS: (f64, f64) = (5.0, 25.0);
/// Between the words of a scripted expert: an answer takes 0.8 s.
const PACE_MS: u32 = 100;
/// Scripted experts.
const STUBS: [&str; NODES] = ["stub-a", "stub-b", "stub-c"];
/// Small models with real weights.
const MODELS: [&str; NODES] = [
    "smollm2-135m-instruct",
    "gemma-3-270m",
    "qwen2.5-coder-0.5b-instruct",
];
/// Rounds take about so long, with the pauses between them.
const ROUND: Duration = Duration::from_millis(7_500);

/// One size of the experiment.
#[derive(Debug, Clone, Copy)]
struct Plan {
    shape: Shape,
    models: [&'static str; NODES],
    rounds: usize,
    /// Load without faults first: forecasts learn, and what an answer costs.
    warm_up: Duration,
    /// Longest that the answer to a request with a budget of time may take.
    delay: Duration,
}

/// With scripted experts.
pub(crate) fn scripted(setting: &Setting) -> anyhow::Result<Value> {
    let plan = Plan {
        shape: Shape {
            rate: 8.0,
            max_tokens: 64,
            scripted: true,
            leave: 0.0,
        },
        models: STUBS,
        rounds: setting
            .rounds
            .unwrap_or(if setting.smoke { 2 } else { 200 }),
        warm_up: Duration::from_secs(if setting.smoke { 4 } else { 60 }),
        delay: Duration::from_secs(8),
    };
    apart(setting, &plan)
}

/// With real weights.
pub(crate) fn with_models(setting: &Setting) -> anyhow::Result<Value> {
    setting.program("moe2-worker")?;
    let plan = Plan {
        shape: Shape {
            rate: 0.5,
            max_tokens: 24,
            scripted: false,
            leave: 0.0,
        },
        models: MODELS,
        rounds: setting.rounds.unwrap_or(if setting.smoke { 1 } else { 20 }),
        warm_up: Duration::from_secs(if setting.smoke { 10 } else { 60 }),
        delay: Duration::from_secs(60),
    };
    apart(setting, &plan)
}

/// Runs it in a thread of its own, which may enter a network of its own.
fn apart(setting: &Setting, plan: &Plan) -> anyhow::Result<Value> {
    let programs = Programs {
        coordinator: setting.program("moe2-coordinator")?,
        agent: setting.program("moe2-agent")?,
    };
    let (ground, why) = Ground::survey();
    if let Some(why) = &why {
        let instead = if ground.namespaces {
            "a relay delays and drops packets, as the kernel does not"
        } else {
            "all machines are on loopback, and relays are their network"
        };
        setting.say(&format!("{instead} ({why})"));
    }
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            if ground.namespaces {
                ground::enter()?;
            }
            run(setting, plan, (ground, &programs))
        });
        let result = run
            .join()
            .map_err(|_| anyhow::anyhow!("it failed; see above"))?;
        result.map(|mut result| {
            result["ground"] =
                json!({"namespaces": ground.namespaces, "netem": ground.netem, "why_not": why});
            result
        })
    })
}

fn run(setting: &Setting, plan: &Plan, on: (Ground, &Programs)) -> anyhow::Result<Value> {
    let dir = TempDir::new().context("no folder for temporary files")?;
    let result = measure(setting, plan, (on, dir.path()));
    let fine = result
        .as_ref()
        .is_ok_and(|r| r["missed"].as_array().is_some_and(Vec::is_empty));
    if !fine {
        setting.say(&format!("logs of all processes: {}", dir.keep().display()));
    }
    result
}

fn measure(
    setting: &Setting,
    plan: &Plan,
    ((ground, programs), dir): ((Ground, &Programs), &Path),
) -> anyhow::Result<Value> {
    let mut coordinator = Coordinator::start(programs, dir, &ground.address())?;
    let mut nodes = Vec::new();
    for number in 1..=NODES {
        let way = Way::lay(
            ground,
            number,
            coordinator.port,
            setting.seed + number as u64,
        )?;
        let joining = (&coordinator, way);
        nodes.push(Node::join(
            &format!("edge-{number}"),
            (programs, dir),
            joining,
            &hosted(plan, number),
        )?);
    }
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let watch = Watch::start(coordinator.admin.clone(), names.clone());
    wait("all machines take work", || {
        Ok(all_take(&watch).then_some(()))
    })?;
    let tenants = tenants(&coordinator, plan.delay)?;
    let began = Instant::now();
    let load = Load::start((tenants.clone(), plan.models), plan.shape, setting.seed);
    thread::sleep(plan.warm_up);
    let whole = ROUND * u32::try_from(plan.rounds).unwrap_or(u32::MAX);
    let windows = tighten(&coordinator, &tenants, (plan.shape.rate, whole))?;
    setting.say(&format!(
        "{} answers without faults; windows of joules are set",
        load.ended()
    ));
    let mut rounds: Vec<Round> = Vec::new();
    for next in Chaos::new(setting.seed, plan.rounds, NODES) {
        let round = next.happen(&mut nodes, &watch, &coordinator.admin)?;
        if coordinator.has_ended() {
            bail!("the coordinator ended in round {}", rounds.len() + 1);
        }
        setting.say(&verdict::line(
            &round,
            (rounds.len() + 1, plan.rounds),
            &watch,
        ));
        rounds.push(round);
    }
    let mut samples = load.finish();
    let ended = Instant::now();
    let explained = explained::read(&coordinator.admin, &tenants, &mut samples);
    let books = books::read(&coordinator.admin, (&tenants, &samples), &windows)?;
    let metrics = coordinator.admin.text("/metrics")?;
    let run = verdict::Run {
        began,
        ended,
        plan_rate: plan.shape.rate,
        names,
        hosts: hosts(plan),
        tenants,
        rounds,
        samples,
        books,
    };
    let mut result = watch.with(|log| verdict::judge(&run, log));
    result["samples"]["explanations"] = json!(explained);
    result["seed"] = json!(setting.seed);
    result["rounds"] = json!(plan.rounds);
    result["load"] = json!({"rate_per_s": plan.shape.rate, "max_tokens": plan.shape.max_tokens,
        "scripted": plan.shape.scripted, "seconds": (ended - began).as_secs_f64(),
        "word_ms": plan.shape.scripted.then_some(PACE_MS)});
    result["trouble"] =
        json!({"delay_ms_each_way": way::DELAY.as_millis(), "loss_each_way": way::LOSS});
    result["counters"] = json!(faults::counters(&metrics));
    setting.say(&verdict::table(&result));
    Ok(result)
}

/// Whether the coordinator gives work to every machine.
fn all_take(watch: &Watch) -> bool {
    watch.with(|log| (0..NODES).all(|node| log.now(node).is_some_and(|seen| seen.takes)))
}

/// Which machines have a model.
fn hosts(plan: &Plan) -> Vec<(&'static str, Vec<usize>)> {
    let has = |model: usize, node: usize| [node + 1, node + 2].iter().any(|of| of % NODES == model);
    let of = |(at, model): (usize, &&'static str)| {
        let nodes = (0..NODES).filter(|node| has(at, *node));
        (*model, nodes.collect())
    };
    plan.models.iter().enumerate().map(of).collect()
}

/// Every model is on two machines, so that another can answer when one is in trouble, and is a little faster
/// on one of them, so that all three have work.
fn hosted(plan: &Plan, number: usize) -> Hosted {
    let expert = |of: usize| {
        let model = plan.models[of % NODES];
        let body = if plan.shape.scripted {
            let pace = if of == number { PACE_MS } else { PACE_MS + 5 };
            format!("name = {model:?}\nbackend = \"stub\"\npace_ms = {pace}\n")
        } else {
            format!("model = {model:?}\ncontext = 2048\n")
        };
        format!("[[expert]]\n{body}")
    };
    Hosted {
        experts: [number, number + 1].map(expert).concat(),
        watts: WATTS,
    }
}
