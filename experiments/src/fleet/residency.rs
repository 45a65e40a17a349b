//! Memory: machines that host fifteen models and hold a few of them, over days on which tenants come and go at their
//! hours. What the plan and need keep there, against what is loaded when it is needed in place of what was used least
//! lately.

use moe2_cost::percentile;
use moe2_engine::coordinator::{Config, PlanLimits, Residency};
use moe2_gate::Gate;
use moe2_model::{Query, Rng, Seconds, Target, TenantId};
use moe2_sim::traffic::{Drift, Outcome, Played, Setup, play};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::load::{APPLICATIONS, Asked, Trace, application, at, query};
use super::machines::Fleet;
use super::questions;
use super::tenants::gate;
use crate::Setting;
use crate::instance::outcomes::Question;
use crate::instance::profiles;
use crate::instance::real::MODELS;

/// Machines of each of two kinds.
const MACHINES: usize = 4;
const DAYS: usize = 3;
/// The first one is for habits to be learnt, by whoever learns them.
const JUDGED_FROM: usize = 1;
const HOURS: usize = 24;
const HOUR_S: f64 = 3_600.0;
/// Hours a day that a tenant asks, from an hour of its own.
const WORKDAY: usize = 8;
/// Requests of all tenants together.
const REQUESTS: usize = 60_000;
const SEEDS: [u64; 2] = [1, 2];
/// One tenant in so many names a model, as an application does that was tried with it; the others leave the choice.
const NAMING: usize = 2;

/// How a run went, of one kind of query.
#[derive(Debug, Serialize)]
struct Group {
    asked: usize,
    answered: usize,
    /// Mean score over all that was asked; what was refused is wrong.
    accuracy: f64,
    first_token_p50_s: f64,
    first_token_p95_s: f64,
    delay_p50_s: f64,
    delay_p95_s: f64,
    delay_mean_s: f64,
}

/// How a run went.
#[derive(Debug, Serialize)]
struct Row {
    policy: &'static str,
    seed: u64,
    /// Loads over all days; those of them that work waited for.
    loads: u64,
    needed: u64,
    /// Share of machine time.
    loading: f64,
    /// Above idle, of all answers and of all loads.
    answers_joules: f64,
    loads_joules: f64,
    utilisation: f64,
    named: Group,
    free: Group,
}

pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let world = World::new(setting)?;
    let seeds = if setting.smoke { &SEEDS[..1] } else { &SEEDS };
    let policies = [
        ("planned", Residency::Planned),
        ("least_recently_used", Residency::LeastRecentlyUsed),
    ];
    let runs = seeds
        .iter()
        .flat_map(|seed| policies.map(|policy| (policy, *seed)));
    let runs: Vec<_> = runs.collect();
    let rows: Vec<Row> = runs
        .par_iter()
        .map(|((name, policy), seed)| {
            let began = std::time::Instant::now();
            let row = world.row((name, *policy), *seed);
            setting.say(&format!(
                "{name}, seed {seed}: {:.0} s",
                began.elapsed().as_secs_f64()
            ));
            row
        })
        .collect();
    Ok(json!({
        "machines": world.fleet.machines.len(), "models": MODELS.len(), "days": world.days,
        "judged_from_day": JUDGED_FROM, "requests": world.requests, "tenants": tenants(), "rows": rows,
    }))
}

fn tenants() -> usize {
    APPLICATIONS.iter().map(|a| a.tenants).sum()
}

struct World {
    fleet: Fleet,
    traces: Vec<Trace>,
    gate: Gate,
    questions: Vec<Question>,
    requests: usize,
    days: usize,
}

impl World {
    fn new(setting: &Setting) -> anyhow::Result<Self> {
        let data = setting.data()?;
        let (questions, known) = questions(data)?;
        let devices = profiles::devices(&data.join("device_profiles.csv"))?;
        let fleet = Fleet::tight(&devices, if setting.smoke { 1 } else { MACHINES })?;
        let traces = Trace::all(data)?;
        Ok(Self {
            gate: gate(&fleet, &traces, &known)?,
            fleet,
            traces,
            questions,
            requests: if setting.smoke { 600 } else { REQUESTS },
            days: if setting.smoke { 2 } else { DAYS },
        })
    }

    /// Every tenant replays its application's hour in each hour of its workday, thinned to its share.
    fn asked(&self, seed: u64) -> Vec<Asked> {
        let mut rng = Rng::new(seed);
        let each = self.requests as f64 / (tenants() * WORKDAY * self.days) as f64;
        let mut all = Vec::new();
        for tenant in 0..tenants() {
            let code = application(tenant).name == APPLICATIONS[1].name;
            let trace = &self.traces[usize::from(code)];
            let from = tenant * HOURS / tenants();
            let hours = (0..self.days).flat_map(|day| {
                let own = (from..from + WORKDAY).map(|hour| hour % HOURS);
                own.map(move |hour| day * HOURS + hour)
            });
            for hour in hours {
                for (place, mut request) in trace.thinned(each / trace.len() as f64, &mut rng) {
                    request.at = at((hour as f64 + place) * HOUR_S);
                    all.push(Asked {
                        request,
                        tenant,
                        question: rng.below(self.questions.len()),
                        base: None,
                    });
                }
            }
        }
        all.sort_by_key(|asked| asked.request.at);
        all
    }

    fn query(&self, asked: &Asked) -> Query {
        let tenant = TenantId::new(&format!("tenant-{:02}", asked.tenant)).expect("a valid name");
        let mut query = query(asked, &self.questions[asked.question], &tenant);
        if names(asked.tenant) {
            // Each another one, on the faster machines.
            let of_kind = &self.fleet.deployments[..MODELS.len()];
            let model = &of_kind[asked.tenant * 7 % of_kind.len()].name;
            query.target = Target::Model(model.clone());
        }
        query
    }

    fn row(&self, (policy, residency): (&'static str, Residency), seed: u64) -> Row {
        let asked = self.asked(seed);
        let setup = Setup {
            machines: self.fleet.machines.clone(),
            drift: Drift::NONE,
            outages: None,
            config: Config {
                plan: PlanLimits::default(),
                residency,
                ..Config::default()
            },
            gate: self.gate.clone(),
            seed,
        };
        let requests: Vec<_> = asked.iter().map(|a| a.request).collect();
        let played = play(&setup, &requests, &|n| self.query(&asked[n]));
        let judged_from = at(JUDGED_FROM as f64 * HOURS as f64 * HOUR_S);
        let group = |named: bool| {
            let of = |o: &&Outcome| {
                let asked = &asked[o.request];
                names(asked.tenant) == named && asked.request.at >= judged_from
            };
            let outcomes: Vec<&Outcome> = played.outcomes.iter().filter(of).collect();
            self.group(&asked, &outcomes)
        };
        Row {
            policy,
            seed,
            loads: played.loads.count,
            needed: played.loads.needed,
            loading: played.loads.seconds / played.there.max(f64::MIN_POSITIVE),
            answers_joules: played.joules.iter().sum(),
            loads_joules: played.loads.joules,
            utilisation: Played::utilisation(&played),
            named: group(true),
            free: group(false),
        }
    }

    fn group(&self, asked: &[Asked], outcomes: &[&Outcome]) -> Group {
        let answered = || outcomes.iter().filter(|o| o.end.is_ok());
        let score = |o: &&&Outcome| {
            let by = o.end.as_ref().ok();
            let by = by.and_then(|expert| self.fleet.deployment(&expert.name));
            let question = &self.questions[asked[o.request].question];
            by.map_or(0.0, |d| question.outcomes[MODELS[d.model].0].score)
        };
        let seconds = |of: &dyn Fn(&Outcome) -> Option<Seconds>| -> Vec<f64> {
            answered().filter_map(|o| of(o)).map(Seconds::get).collect()
        };
        let delays = seconds(&|o| Some(o.delay));
        let firsts = seconds(&|o| o.first_token);
        let at = |of: &[f64], share| percentile(of, share).unwrap_or(0.0);
        Group {
            asked: outcomes.len(),
            answered: delays.len(),
            accuracy: outcomes.iter().map(|o| score(&o)).sum::<f64>()
                / outcomes.len().max(1) as f64,
            first_token_p50_s: at(&firsts, 0.5),
            first_token_p95_s: at(&firsts, 0.95),
            delay_p50_s: at(&delays, 0.5),
            delay_p95_s: at(&delays, 0.95),
            delay_mean_s: delays.iter().sum::<f64>() / delays.len().max(1) as f64,
        }
    }
}

fn names(tenant: usize) -> bool {
    tenant.is_multiple_of(NAMING)
}
