//! Twenty tenants with budgets that were fixed before anything was played, and what a fixed selection of
//! experts can do under the same budgets.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use moe2_cost::percentile;
use moe2_engine::coordinator::TenantLimits;
use moe2_gate::{Gate, Head, Priors, Topic, TopicPrior, detect};
use moe2_model::{ExpertName, Joules, Seconds, TenantId};
use serde::Serialize;

use super::load::{APPLICATIONS, Trace, application, said};
use super::machines::{Deployment, Fleet};
use crate::instance::outcomes::Question;
use crate::instance::real::MODELS;

/// Mean joules, from those of the thriftiest expert to those of the best model on its dearest machine.
const SHARES: [f64; 3] = [0.1, 0.3, 1.0];
/// Delay over the p95 of an 8B model on an RTX 4090 at nominal speed.
const PATIENCE: [f64; 3] = [3.0, 6.0, 12.0];
/// Share of requests that a worst case covers.
const COVERED: f64 = 0.95;
/// What delay budgets are measured by.
const YARDSTICK: &str = "llama-3.1-8b-instruct.rtx4090";

/// How budgets are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Policy {
    /// Prices steer every query among all experts.
    Priced,
    /// A fixed set of experts, each of which keeps both budgets for 95 of 100 requests: the worst-case
    /// selection problem (MATH 2.1).
    WorstCase,
    /// A fixed set of experts, each of which keeps the energy budget on average.
    MeanCase,
}

/// A tenant with its budgets.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) id: TenantId,
    /// Joules of a query on average.
    pub(super) energy: f64,
    /// Seconds that 95 in 100 answers are to stay within.
    pub(super) delay: f64,
    /// Requests in a minute on average.
    pub(super) usual: f64,
    worst_case: BTreeSet<ExpertName>,
    mean_case: BTreeSet<ExpertName>,
}

impl Tenant {
    /// All of them. `rates` gives the share of right answers of each model.
    pub(super) fn all(fleet: &Fleet, traces: &[Trace], rates: &[f64]) -> anyhow::Result<Vec<Self>> {
        let mut tenants = Vec::new();
        for (own, trace) in APPLICATIONS.iter().zip(traces) {
            let known = trace.known();
            let costs: Vec<(&Deployment, Nominal)> = fleet
                .deployments
                .iter()
                .filter_map(|d| Some((d, Nominal::of(d, &known)?)))
                .collect();
            let yardstick = costs.iter().find(|(d, _)| d.name.as_str() == YARDSTICK);
            let (_, yardstick) = yardstick.context("the yardstick is not in the fleet")?;
            for n in 0..own.tenants {
                let name = format!("{}-{n:02}", own.name);
                let delay = yardstick.seconds_p95 * PATIENCE[n / 3 % 3];
                tenants.push(Self {
                    id: TenantId::new(&name).context("a tenant's name")?,
                    usual: trace.per_minute() / own.tenants as f64,
                    ..Self::new(&costs, rates, (delay, SHARES[n % 3]))?
                });
            }
        }
        Ok(tenants)
    }

    fn new(
        costs: &[(&Deployment, Nominal)],
        rates: &[f64],
        (delay, share): (f64, f64),
    ) -> anyhow::Result<Self> {
        let punctual = || costs.iter().filter(|(_, c)| c.seconds_p95 <= delay);
        let least = punctual().map(|(_, c)| c.joules);
        let least = least.min_by(f64::total_cmp).context("nobody is in time")?;
        let rate = |d: &Deployment| rates[d.model];
        let best = costs.iter().map(|(d, _)| rate(d)).fold(0.0, f64::max);
        let dearest = costs.iter().filter(|(d, _)| rate(d) == best);
        let dearest = dearest.map(|(_, c)| c.joules).fold(least, f64::max);
        let energy = least + share * (dearest - least);
        let keeping = |keeps: &dyn Fn(&Nominal) -> bool| {
            let kept = punctual().filter(|(_, c)| keeps(c));
            kept.map(|(d, _)| d.name.clone()).collect()
        };
        Ok(Self {
            id: TenantId::new("nobody").context("a tenant's name")?,
            energy,
            delay,
            usual: 0.0,
            worst_case: keeping(&|c| c.joules_p95 <= energy),
            mean_case: keeping(&|c| c.joules <= energy),
        })
    }

    /// Whether the policy leaves it any expert.
    pub(super) fn served(&self, policy: Policy) -> bool {
        match policy {
            Policy::Priced => true,
            Policy::WorstCase => !self.worst_case.is_empty(),
            Policy::MeanCase => !self.mean_case.is_empty(),
        }
    }

    /// Its settings under this policy; the delay budget is kept by the same price under every one.
    pub(super) fn limits(&self, policy: Policy) -> TenantLimits {
        let delay = Seconds::saturating(self.delay);
        let priced = policy == Policy::Priced;
        TenantLimits {
            delay_p95: Topic::ALL.map(|topic| (topic, delay)).into(),
            mean_energy: priced.then(|| Joules::saturating(self.energy)),
            experts: match policy {
                Policy::Priced => None,
                Policy::WorstCase => Some(self.worst_case.clone()),
                Policy::MeanCase => Some(self.mean_case.clone()),
            },
            ..TenantLimits::unlimited(self.id.clone())
        }
    }
}

/// What requests of known lengths take on a deployment at nominal speed.
#[derive(Debug, Clone, Copy)]
struct Nominal {
    joules: f64,
    joules_p95: f64,
    seconds_p95: f64,
}

impl Nominal {
    fn of(deployment: &Deployment, known: &[(u32, u32)]) -> Option<Self> {
        let costs = known.iter().filter_map(|lengths| deployment.cost(*lengths));
        let (seconds, joules): (Vec<f64>, Vec<f64>) = costs.unzip();
        Some(Self {
            joules: joules.iter().sum::<f64>() / joules.len() as f64,
            joules_p95: percentile(&joules, COVERED)?,
            seconds_p95: percentile(&seconds, COVERED)?,
        })
    }
}

/// Share of right answers of each model.
pub(super) fn rates(questions: &[Question]) -> Vec<f64> {
    let mean = |(model, _): &(&str, f64)| {
        let scores = questions.iter().map(|q| q.outcomes[*model].score);
        scores.sum::<f64>() / questions.len().max(1) as f64
    };
    MODELS.iter().map(mean).collect()
}

/// A gate that has counted the right answers to these questions by topic, and the tokens of `traces`.
pub(super) fn gate(
    fleet: &Fleet,
    traces: &[Trace],
    questions: &[Question],
) -> anyhow::Result<Gate> {
    let length = |trace: &Trace| {
        let known = trace.known();
        known.iter().map(|(_, out)| f64::from(*out)).sum::<f64>() / known.len().max(1) as f64
    };
    let lengths: Vec<f64> = traces.iter().map(length).collect();
    // A question as both applications put it: its topic is in how it is put.
    let mut by_topic: BTreeMap<Topic, Vec<&Question>> = BTreeMap::new();
    for question in questions {
        let mut tenant = 0;
        for own in &APPLICATIONS {
            let topic = detect(&said(application(tenant), question), false).topic;
            by_topic.entry(topic).or_default().push(question);
            tenant += own.tenants;
        }
    }
    let prior = |deployment: &Deployment, topic: Topic| {
        let title = MODELS[deployment.model].0;
        let seen = by_topic.get(&topic).map_or(&[][..], |seen| seen);
        let right: f64 = seen.iter().map(|q| q.outcomes[title].score).sum();
        let code = usize::from(topic == Topic::Code);
        TopicPrior {
            alpha: 1.0 + right,
            beta: 1.0 + seen.len() as f64 - right,
            output_tokens: lengths[code],
        }
    };
    let head = |d: &Deployment| Head {
        topics: Topic::ALL.map(|topic| (topic, prior(d, topic))).into(),
    };
    let experts = fleet.deployments.iter();
    let priors = Priors {
        provenance: "right answers counted on one half of the questions".to_owned(),
        experts: experts.map(|d| (d.name.clone(), head(d))).collect(),
    };
    Ok(Gate::from_priors(priors)?)
}
