//! Budgets on a large fleet: fifty machines that drift, leave and come back, twenty tenants, and a hundred
//! thousand requests of two production traces, through the real coordinator in virtual time.

mod judge;
mod load;
mod machines;
pub(crate) mod residency;
mod tenants;

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use moe2_cost::percentile;
use moe2_engine::coordinator::{Config, PlanLimits};
use moe2_gate::Gate;
use moe2_model::Rng;
use moe2_sim::traffic::{Drift, Outcome, Played, Setup, play};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use self::judge::{Row, Run};
use self::load::{Asked, Load, Trace, query};
use self::machines::Fleet;
use self::tenants::{Policy, Tenant};
use crate::Setting;
use crate::instance::outcomes::{self, Question};
use crate::instance::profiles;
use crate::instance::real::MODELS;

/// Requests of a run.
const REQUESTS: usize = 100_000;
/// Over the rate at which the traces were recorded. A fifth of all machine time is at work then, and far more of
/// that of the fast machines.
const RATE: f64 = 1.0;
const SEEDS: [u64; 3] = [1, 2, 3];
/// Speeds swing by half, over half an hour to three hours; a request's own time has a spread of a tenth.
const DRIFT: Drift = Drift {
    amplitude: 0.5,
    period: (Duration::from_secs(1_800), Duration::from_secs(10_800)),
    noise: 0.1,
};
/// A machine stays for two hours on average, and is away for ten minutes.
const OUTAGES: (Duration, Duration) = (Duration::from_secs(7_200), Duration::from_secs(600));
/// Most by which a greedy tenant may raise another's p95.
const DISTURBED: f64 = 1.1;
/// The tenant that asks ten times as much.
const GREEDY: usize = 0;

struct World {
    fleet: Fleet,
    traces: Vec<Trace>,
    tenants: Vec<Tenant>,
    gate: Gate,
    /// None of which the gate has seen.
    questions: Vec<Question>,
    requests: usize,
    /// One machine in so many, and as many requests fewer.
    stride: usize,
}

/// What is asked for, and how much of it each tenant may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Demand {
    /// What the traces say.
    Usual,
    /// One tenant asks ten times as much.
    Greedy,
    /// [`Demand::Usual`], where nobody may ask more than twice its usual requests in a minute.
    UsualLimited,
    /// [`Demand::Greedy`] with that limit.
    GreedyLimited,
}

impl Demand {
    fn greedy(self) -> bool {
        matches!(self, Self::Greedy | Self::GreedyLimited)
    }

    fn limited(self) -> bool {
        matches!(self, Self::UsualLimited | Self::GreedyLimited)
    }
}

/// A run: how budgets are kept, what is asked, the seed.
type Plan = (Policy, Demand, u64);

pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let world = World::new(setting)?;
    let seeds = if setting.smoke { &SEEDS[..1] } else { &SEEDS };
    let kinds = [
        (Policy::Priced, Demand::Usual),
        (Policy::WorstCase, Demand::Usual),
        (Policy::MeanCase, Demand::Usual),
        (Policy::Priced, Demand::Greedy),
        (Policy::Priced, Demand::UsualLimited),
        (Policy::Priced, Demand::GreedyLimited),
    ];
    let plans = seeds
        .iter()
        .flat_map(|s| kinds.map(|(p, demand)| (p, demand, *s)));
    let plans: Vec<Plan> = plans.collect();
    let runs: Vec<Done> = plans
        .par_iter()
        .map(|plan| {
            let began = std::time::Instant::now();
            let run = world.run(*plan);
            setting.say(&format!("{plan:?}: {:.0} s", began.elapsed().as_secs_f64()));
            run
        })
        .collect();
    Ok(json!({
        "machines": world.fleet.machines.len(), "deployments": world.fleet.deployments.len(),
        "tenants": world.tenants.len(), "requests": world.requests, "rate": RATE,
        "questions": world.questions.len(),
        "budgets_kept": runs.iter().filter(|r| !r.demand.greedy()).map(kept).collect::<Vec<_>>(),
        "accuracy": accuracy(&runs), "disturbance": disturbance(&runs), "runs": runs,
    }))
}

/// A run with its figures.
#[derive(Debug, Serialize)]
struct Done {
    policy: Policy,
    demand: Demand,
    seed: u64,
    utilisation: f64,
    /// Work that ended; of it, how much was within the forecast's p95 in delay, and in energy.
    forecasts: (u64, u64, u64),
    losses: u64,
    redispatches: u64,
    /// Work taken over by a machine that had come free.
    moves: u64,
    rows: Vec<Row>,
}

/// How many of the feasible tenants kept each budget.
fn kept(run: &Done) -> Value {
    let feasible: Vec<&Row> = run
        .rows
        .iter()
        .filter(|r| r.served && !r.hopeless)
        .collect();
    let count = |keeps: &dyn Fn(&Row) -> bool| feasible.iter().filter(|r| keeps(r)).count();
    let windows: usize = feasible.iter().map(|r| r.windows).sum();
    let kept: f64 = feasible
        .iter()
        .map(|r| r.windows_kept * r.windows as f64)
        .sum();
    json!({
        "policy": run.policy, "demand": run.demand, "seed": run.seed, "feasible": feasible.len(),
        "energy": count(&|r| r.energy_kept), "delay": count(&|r| r.delay_kept),
        "windows": windows, "windows_kept": kept / windows.max(1) as f64,
    })
}

/// Means over all requests of the tenants to whom every policy leaves an expert, and of all.
fn accuracy(runs: &[Done]) -> Vec<Value> {
    let served = |tenant: usize| runs.iter().all(|r| r.rows[tenant].served);
    let of = |run: &Done, all: bool| {
        let rows = run.rows.iter().enumerate();
        let rows: Vec<&Row> = rows
            .filter(|(n, _)| all || served(*n))
            .map(|(_, r)| r)
            .collect();
        let asked: usize = rows.iter().map(|r| r.asked).sum();
        let mean = |of: &dyn Fn(&Row) -> f64| {
            rows.iter().map(|r| of(r) * r.asked as f64).sum::<f64>() / asked.max(1) as f64
        };
        json!({
            "policy": run.policy, "seed": run.seed, "tenants": rows.len(),
            "accuracy": mean(&|r| r.accuracy), "accuracy_in_time": mean(&|r| r.accuracy_in_time),
        })
    };
    let calm = runs.iter().filter(|r| r.demand == Demand::Usual);
    calm.flat_map(|run| [of(run, true), of(run, false)])
        .collect()
}

/// p95 of every other tenant beside the greedy one, over its p95 without greed.
fn disturbance(runs: &[Done]) -> Vec<Value> {
    let pairs = runs.iter().filter(|r| r.demand.greedy());
    let pairs = pairs.filter_map(|greedy| {
        let same = |r: &&Done| {
            let calm = !r.demand.greedy() && r.demand.limited() == greedy.demand.limited();
            calm && r.policy == greedy.policy && r.seed == greedy.seed
        };
        Some((greedy, runs.iter().find(same)?))
    });
    let ratio = |(greedy, calm): (&Done, &Done)| {
        let others = greedy.rows.iter().zip(&calm.rows).enumerate();
        let others = others.filter(|(tenant, _)| *tenant != GREEDY);
        let ratios = others.map(|(_, (greedy, calm))| greedy.delay_p95_s / calm.delay_p95_s);
        let ratios: Vec<f64> = ratios.collect();
        let within = ratios.iter().filter(|r| **r < DISTURBED).count();
        json!({
            "seed": greedy.seed, "limited": greedy.demand.limited(), "others": ratios.len(), "within": within,
            "median": percentile(&ratios, 0.5), "most": percentile(&ratios, 1.0),
        })
    };
    pairs.map(ratio).collect()
}

/// Questions that every model answered: one half is asked, the other is what an operator knows of.
fn questions(data: &Path) -> anyhow::Result<(Vec<Question>, Vec<Question>)> {
    let complete = |q: &Question| MODELS.iter().all(|(m, _)| q.outcomes.contains_key(*m));
    let mut questions = outcomes::read(&data.join("mmlu_pro_29llm.jsonl.zst"))?;
    questions.retain(complete);
    ensure!(
        questions.len() > 1,
        "no question was answered by every model"
    );
    Rng::new(0).shuffle(&mut questions);
    let known = questions.split_off(questions.len() / 2);
    Ok((questions, known))
}

impl World {
    fn new(setting: &Setting) -> anyhow::Result<Self> {
        let data = setting.data()?;
        let (questions, known) = questions(data)?;
        let stride = if setting.smoke { 4 } else { 1 };
        let devices = profiles::devices(&data.join("device_profiles.csv"))?;
        let fleet = Fleet::new(&devices, stride)?;
        let traces = Trace::all(data)?;
        Ok(Self {
            tenants: Tenant::all(&fleet, &traces, &tenants::rates(&known))?,
            gate: tenants::gate(&fleet, &traces, &known)?,
            fleet,
            traces,
            questions,
            requests: if setting.smoke { 2_000 } else { REQUESTS },
            stride,
        })
    }

    fn run(&self, (policy, demand, seed): Plan) -> Done {
        let (asked, played) = self.played((policy, demand, seed));
        Done {
            policy,
            demand,
            seed,
            utilisation: played.utilisation(),
            forecasts: played.forecasts,
            losses: played.losses,
            redispatches: played.redispatches,
            moves: played.moves,
            rows: self.judged(policy, &asked, &played),
        }
    }

    fn played(&self, (policy, demand, seed): Plan) -> (Vec<Asked>, Played) {
        let load = Load {
            count: self.requests,
            rate: RATE / self.stride as f64,
            seed,
            greedy: demand.greedy().then_some(GREEDY),
        };
        let asked = load.requests(&self.traces, self.questions.len());
        let limits = |tenant: &Tenant| {
            let mut limits = tenant.limits(policy);
            let most = demand.limited().then(|| (2.0 * tenant.usual).ceil() as u32);
            limits.spending.requests_per_minute = most;
            limits
        };
        let tenants = self.tenants.iter().map(limits);
        let setup = Setup {
            machines: self.fleet.machines.clone(),
            drift: DRIFT,
            outages: Some(OUTAGES),
            config: Config {
                plan: PlanLimits {
                    tenants: tenants.collect(),
                    ..PlanLimits::default()
                },
                ..Config::default()
            },
            gate: self.gate.clone(),
            seed,
        };
        let requests: Vec<_> = asked.iter().map(|a| a.request).collect();
        let ask = |n: usize| {
            let asked = &asked[n];
            let question = &self.questions[asked.question];
            query(asked, question, &self.tenants[asked.tenant].id)
        };
        let played = play(&setup, &requests, &ask);
        (asked, played)
    }

    fn judged(&self, policy: Policy, asked: &[Asked], played: &Played) -> Vec<Row> {
        let score = |asked: &Asked, outcome: &Outcome| {
            let answered = outcome.end.as_ref().ok();
            let by = answered.and_then(|expert| self.fleet.deployment(&expert.name));
            by.map_or(0.0, |d| {
                self.questions[asked.question].outcomes[MODELS[d.model].0].score
            })
        };
        let run = Run {
            policy,
            asked,
            played,
            score: &score,
        };
        run.rows(&self.tenants)
    }
}
