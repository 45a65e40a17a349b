//! Simulated fleets: many seeds of every scenario, and one large fleet.
//!
//! A broken promise is no figure but a bug, so a run with one fails, and says how to replay the smallest case
//! in which it happens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use moe2_cost::percentile;
use moe2_engine::coordinator::Config;
use moe2_gate::Gate;
use moe2_model::{
    Budgets, Bytes, DeviceInfo, DeviceKind, EnergySource, ExpertOffer, Message, Mode, Prompt,
    Query, Rng, Role, Sampling, Target, Task, TenantId, Time, Watts,
};
use moe2_sim::traffic::{Drift, Hosted, Machine, Rates, Request, Setup, play};
use moe2_sim::{Case, Report, Scenario, run, shrink};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::Setting;

/// Seeds of all scenarios together.
const SEEDS: u64 = 1_000_000;
/// Seeds of a scenario between two looks at the clock.
const CHUNK: u64 = 250;
/// Runs that may be spent on making one failure small.
const MOST_RUNS: usize = 2_000;

/// Every scenario with as many seeds as there is time for.
pub(crate) fn seeds(setting: &Setting) -> anyhow::Result<Value> {
    let scenarios = Scenario::all();
    let (each, chunk) = if setting.smoke {
        (2, 2)
    } else {
        (SEEDS.div_ceil(scenarios.len() as u64), CHUNK)
    };
    let began = Instant::now();
    let mut sums: BTreeMap<&str, Report> = BTreeMap::new();
    let mut done = 0;
    while done < each && setting.goes_on() {
        let next = (done + chunk).min(each);
        for scenario in &scenarios {
            let reports: Vec<Report> = (done..next)
                .into_par_iter()
                .map(|seed| run(scenario, seed))
                .collect();
            let sum = sums.entry(scenario.name).or_default();
            reports.into_iter().for_each(|report| *sum += report);
            let broken = sum.violations.first().map(|v| v.seed);
            if let Some(seed) = broken {
                let case = Case::new(scenario.clone(), seed);
                let smallest = shrink(&case, MOST_RUNS).map_or(case, |shrunk| shrunk.case);
                let first = &sum.violations[0];
                bail!("{first}\n  replay: cargo run -p moe2-sim --example replay -- '{smallest}'");
            }
        }
        done = next;
        let seconds = began.elapsed().as_secs_f64();
        let seeds = done * scenarios.len() as u64;
        let rate = seeds as f64 / seconds;
        setting.say(&format!("{seeds} seeds in {seconds:.0} s, {rate:.0}/s"));
    }
    let rows: Vec<Value> = scenarios
        .iter()
        .filter_map(|scenario| Some(row(scenario.name, done, sums.get(scenario.name)?)))
        .collect();
    Ok(json!({
        "seeds": done * scenarios.len() as u64, "wanted": each * scenarios.len() as u64,
        "first_seed": 0, "seeds_per_scenario": done, "violations": 0,
        "wall_seconds": began.elapsed().as_secs_f64(), "threads": rayon::current_num_threads(),
        "scenarios": rows,
    }))
}

fn row(name: &str, seeds: u64, sum: &Report) -> Value {
    json!({
        "scenario": name, "seeds": seeds, "queries": sum.queries, "answered": sum.answered,
        "refused": sum.refused.values().sum::<u64>(),
        "lost_mid_stream": sum.refused.get("lost_mid_stream").copied().unwrap_or(0),
        "abandoned": sum.abandoned, "cut_off": sum.cut_off, "unheard": sum.unheard,
        "faults": sum.faults, "coordinator_restarts": sum.restarts, "dispatches": sum.dispatches,
        "redispatches": sum.redispatches, "events": sum.events,
        "virtual_seconds": sum.virtual_seconds, "violations": sum.violations.len(),
    })
}

/// Machines of the large fleet, and what is asked of it.
const MACHINES: usize = 1_000;
const QUERIES: usize = 1_000_000;
/// Queries a second of each machine: a third of what it could do on average.
const RATE: f64 = 0.3;
const TENANTS: usize = 20;

/// One large fleet of three kinds of machine that drift, leave and come back.
pub(crate) fn scale(setting: &Setting) -> anyhow::Result<Value> {
    let (machines, queries) = if setting.smoke {
        (20, 400)
    } else {
        (MACHINES, QUERIES)
    };
    let setup = Setup {
        machines: (0..machines).map(machine).collect(),
        drift: Drift {
            amplitude: 0.3,
            period: (Duration::from_secs(600), Duration::from_secs(3_600)),
            noise: 0.2,
        },
        outages: Some((Duration::from_secs(3_600), Duration::from_secs(60))),
        config: Config {
            max_queries: 100_000,
            ..Config::default()
        },
        gate: Gate::builtin(),
        seed: 1,
    };
    let mut rng = Rng::new(7);
    let mut at = Time::ZERO + Duration::from_secs(5);
    let gap = Duration::from_secs_f64(1.0 / (RATE * machines as f64));
    let requests: Vec<Request> = (0..queries)
        .map(|_| {
            at = at + rng.gap(gap);
            Request {
                at,
                input_tokens: rng.between(20, 300),
                output_tokens: rng.between(10, 120),
            }
        })
        .collect();
    let began = Instant::now();
    let played = play(&setup, &requests, &|n| ask(n, &requests[n]));
    let wall = began.elapsed().as_secs_f64();
    ensure!(
        played.outcomes.len() == queries,
        "{} of {queries} queries have ended",
        played.outcomes.len()
    );
    let answered = played.outcomes.iter().filter(|o| o.end.is_ok());
    let delays: Vec<f64> = answered.map(|o| o.delay.get()).collect();
    let virtual_seconds = at.seconds_since(Time::ZERO).get();
    Ok(json!({
        "machines": machines, "queries": queries, "answered": delays.len(),
        "wall_seconds": wall, "virtual_seconds": virtual_seconds,
        "microseconds_per_query": wall * 1e6 / queries as f64,
        "peak_memory_bytes": peak_memory(), "losses": played.losses,
        "redispatches": played.redispatches, "moves": played.moves,
        "utilisation": played.utilisation(),
        "delay_p50_s": percentile(&delays, 0.5), "delay_p95_s": percentile(&delays, 0.95),
    }))
}

fn machine(n: usize) -> Machine {
    // Seconds per token of prompt and of answer, and watts at work.
    let kinds = [
        ("rtx-4090", 0.000_2, 0.008, 350.0),
        ("orin", 0.001, 0.02, 40.0),
        ("laptop", 0.003, 0.03, 45.0),
    ];
    let (model, prefill, decode, watts) = kinds[n % kinds.len()];
    let names = ["small", "medium", "large"];
    let offer = ExpertOffer {
        name: names[n / kinds.len() % names.len()]
            .parse()
            .expect("a literal name is valid"),
        family: "test".to_owned(),
        quantisation: "Q4_0".to_owned(),
        parameters: 500_000_000,
        weights: Bytes(400 << 20),
        kv_per_token: Bytes(12_288),
        context_tokens: 4_096,
        slots: 1,
        load: None,
    };
    let device = DeviceInfo {
        kind: DeviceKind::Cpu,
        model: model.to_owned(),
        threads: 8,
        parallel: 1,
        memory: Bytes(8 << 30),
        gpus: Vec::new(),
        cpu: None,
        gpu: None,
        energy_source: EnergySource::Modelled,
        idle_power: Watts::saturating(watts / 10.0),
        busy_power: Watts::saturating(watts),
    };
    let rates = Rates {
        prefill,
        decode,
        watts,
    };
    Machine {
        node: format!("machine-{n}")
            .parse()
            .expect("letters and digits are a name"),
        device,
        experts: BTreeMap::from([(
            offer.name.clone(),
            Hosted {
                offer,
                rates,
                load: Duration::ZERO,
            },
        )]),
    }
}

fn ask(n: usize, request: &Request) -> Query {
    let mut rng = Rng::new(n as u64);
    let tenant = format!("tenant-{}", rng.below(TENANTS));
    Query {
        tenant: TenantId::new(&tenant).expect("letters and digits are a name"),
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content: "word ".repeat(request.input_tokens as usize * 4 / 5),
        }]),
        task: Task::Generate(Sampling {
            max_tokens: 128,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: Budgets::default(),
        max_experts: 1,
        mode: Mode::Single,
        stream: false,
    }
}

/// The most memory that this process has had, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1_024)
}
