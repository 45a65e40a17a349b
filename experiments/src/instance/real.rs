//! Real instances: an expert is one of the models of 13 billion weights and below on one of the
//! devices; utilities are what the model really answered, costs what the device is measured or
//! modelled to take for it.

use std::collections::{BTreeMap, BTreeSet};

use moe2_cost::percentile;
use moe2_solve::{Constraint, Kind, Problem, ProblemParts, Routing, RoutingLimits, RoutingParts};

use super::outcomes::Question;
use super::profiles::{BYTES_PER_WEIGHT, Cost, Device};

/// Models of 13 billion weights and below with graded answers, with their sizes in billions from their
/// model cards.
pub(crate) const MODELS: [(&str, f64); 15] = [
    ("gemma-7b", 8.54),
    ("llama-2-13b", 13.02),
    ("llama-2-7b", 6.74),
    ("llama-3-8b", 8.03),
    ("llama-3.1-8b", 8.03),
    ("llama-3.1-8b-instruct", 8.03),
    ("mathstral-7b", 7.25),
    ("mistral-7b-instruct-v0.1", 7.24),
    ("mistral-7b-instruct-v0.2", 7.24),
    ("mistral-7b-v0.1", 7.24),
    ("mistral-7b-v0.2", 7.24),
    ("phi-3-mini-4k-instruct", 3.82),
    ("qwen1.5-7b-chat", 7.72),
    ("yi-6b", 6.06),
    ("yi-6b-chat", 6.06),
];

/// Characters per token of English text.
pub(crate) const CHARS_PER_TOKEN: f64 = 4.0;
/// Tokens of a chat template and instructions around a question.
const TEMPLATE_TOKENS: f64 = 64.0;
/// Share of a device's memory that weights and caches may take.
pub(crate) const USABLE: f64 = 0.8;
/// Share of prompts that a worst case covers.
const COVERED: f64 = 0.95;
/// Key-value cache and buffers beside the weights.
pub(crate) const CACHE_BYTES: f64 = 1e9;

/// How tight the limits of a selection instance are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tightness {
    /// Standing power, as a share of that of everything.
    pub(crate) standing: f64,
    /// Delay per domain, as a quantile of the deployments' worst cases.
    pub(crate) delay: f64,
    /// How many experts answer a prompt.
    pub(crate) k: usize,
}

/// Answers and costs of all deployments.
pub(crate) struct Testbed {
    names: Vec<String>,
    billions: Vec<f64>,
    device: Vec<usize>,
    devices: Vec<Device>,
    domains: Vec<String>,
    scores: Vec<Vec<f64>>,
    costs: Vec<Vec<Cost>>,
}

impl Testbed {
    /// All deployments of the models on these devices; questions that a model did not answer are
    /// left out.
    pub(crate) fn new(questions: &[Question], devices: &[Device]) -> Self {
        let complete = |q: &&Question| MODELS.iter().all(|(m, _)| q.outcomes.contains_key(*m));
        let asked: Vec<&Question> = questions.iter().filter(complete).collect();
        let mean = |model: &str| {
            let lengths = asked.iter().filter_map(|q| q.outcomes[model].output_chars);
            let lengths: Vec<f64> = lengths.collect();
            lengths.iter().sum::<f64>() / lengths.len().max(1) as f64
        };
        let means: BTreeMap<&str, f64> = MODELS.iter().map(|(m, _)| (*m, mean(m))).collect();
        let places = devices.iter().enumerate();
        let deployed: Vec<(usize, &str, f64)> = places
            .flat_map(|(d, _)| MODELS.iter().map(move |(m, b)| (d, *m, *b)))
            .collect();
        let row = |q: &&Question| {
            deployed
                .iter()
                .map(|(_, m, _)| q.outcomes[*m].score)
                .collect()
        };
        let cost = |q: &Question, (d, model, billions): &(usize, &str, f64)| {
            let chars = q.outcomes[*model].output_chars.unwrap_or(means[model]);
            let prompt = q.chars() as f64 / CHARS_PER_TOKEN + TEMPLATE_TOKENS;
            devices[*d].cost(*billions, prompt, (chars / CHARS_PER_TOKEN).max(1.0))
        };
        Self {
            names: deployed
                .iter()
                .map(|(d, m, _)| format!("{m}@{}", devices[*d].name))
                .collect(),
            billions: deployed.iter().map(|d| d.2).collect(),
            device: deployed.iter().map(|d| d.0).collect(),
            devices: devices.to_vec(),
            domains: asked.iter().map(|q| q.domain.clone()).collect(),
            scores: asked.iter().map(row).collect(),
            costs: asked
                .iter()
                .map(|q| deployed.iter().map(|d| cost(q, d)).collect())
                .collect(),
        }
    }

    /// The selection problem at this tightness.
    pub(crate) fn selection(&self, tightness: Tightness) -> Problem {
        let mut constraints = vec![self.standing(tightness.standing)];
        constraints.extend((0..self.devices.len()).map(|d| self.memory(d)));
        constraints.extend(self.delays(tightness.delay));
        if tightness.k > 1 {
            constraints.push(self.energy(tightness.k));
        }
        Problem::new(ProblemParts {
            experts: self.names.clone(),
            utility: self.scores.clone(),
            weights: None,
            k: tightness.k,
            constraints,
        })
        .expect("scores and costs are sound")
    }

    fn resident(&self, n: usize) -> f64 {
        self.billions[n] * 1e9 * BYTES_PER_WEIGHT + CACHE_BYTES
    }

    /// A device's idle power, shared among its deployments by memory.
    fn standing(&self, share: f64) -> Constraint {
        let all = |d: usize| -> f64 {
            let own = (0..self.names.len()).filter(|n| self.device[*n] == d);
            own.map(|n| self.resident(n)).sum()
        };
        let totals: Vec<f64> = (0..self.devices.len()).map(all).collect();
        let part = |n: usize| {
            let d = self.device[n];
            self.devices[d].idle * self.resident(n) / totals[d]
        };
        let cost: Vec<f64> = (0..self.names.len()).map(part).collect();
        Constraint {
            name: "standing_w".into(),
            limit: share * cost.iter().sum::<f64>(),
            kind: Kind::Sum { cost },
        }
    }

    fn memory(&self, device: usize) -> Constraint {
        let here = |n: usize| {
            if self.device[n] == device {
                self.resident(n)
            } else {
                0.0
            }
        };
        Constraint {
            name: format!("memory_bytes/{}", self.devices[device].name),
            limit: USABLE * self.devices[device].memory,
            kind: Kind::Sum {
                cost: (0..self.names.len()).map(here).collect(),
            },
        }
    }

    /// Per deployment, what most prompts that `asks` picks stay under.
    fn worst(&self, asks: impl Fn(usize) -> bool, cost: impl Fn(&Cost) -> f64) -> Vec<f64> {
        let rows: Vec<usize> = (0..self.domains.len()).filter(|x| asks(*x)).collect();
        let column = |n: usize| {
            let costs: Vec<f64> = rows.iter().map(|&x| cost(&self.costs[x][n])).collect();
            percentile(&costs, COVERED).expect("every domain has questions")
        };
        (0..self.names.len()).map(column).collect()
    }

    fn delays(&self, quantile: f64) -> Vec<Constraint> {
        let domains: BTreeSet<&String> = self.domains.iter().collect();
        let row = |domain: &&String| {
            let cost = self.worst(|x| self.domains[x] == **domain, |c| c.seconds);
            Constraint {
                name: format!("latency_s/{domain}"),
                limit: percentile(&cost, quantile).expect("there are deployments"),
                kind: Kind::Max { cost },
            }
        };
        domains.iter().map(row).collect()
    }

    fn energy(&self, k: usize) -> Constraint {
        let cost = self.worst(|_| true, |c| c.joules);
        let mut sorted = cost.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        Constraint {
            name: "prompt_energy_j".into(),
            limit: 0.6 * sorted.iter().take(k).sum::<f64>(),
            kind: Kind::TopSum { top: k, cost },
        }
    }

    /// The routing problem with these limits on mean joules and on mean seconds in every domain.
    pub(crate) fn routing(&self, energy: f64, delay: f64) -> Routing {
        let domains: BTreeSet<&String> = self.domains.iter().collect();
        let table = |cost: fn(&Cost) -> f64| -> Vec<Vec<f64>> {
            self.costs
                .iter()
                .map(|row| row.iter().map(cost).collect())
                .collect()
        };
        Routing::new(RoutingParts {
            experts: self.names.clone(),
            utility: self.scores.clone(),
            energy_j: table(|c| c.joules),
            latency_s: table(|c| c.seconds),
            category: self.domains.clone(),
            weights: None,
            limits: RoutingLimits {
                energy_j_mean: Some(energy),
                latency_s_mean: domains.into_iter().map(|d| (d.clone(), delay)).collect(),
            },
        })
        .expect("scores and costs are sound")
    }

    /// The best a fixed set of experts can do if each of its members has to keep both limits on every
    /// prompt: the worst-case formulation. Nothing if no expert does.
    pub(crate) fn worst_case(&self, energy: f64, delay: f64) -> Option<f64> {
        let most = |n: usize, cost: fn(&Cost) -> f64| {
            self.costs
                .iter()
                .map(|row| cost(&row[n]))
                .fold(0.0, f64::max)
        };
        let keeps =
            |n: &usize| most(*n, |c| c.joules) <= energy && most(*n, |c| c.seconds) <= delay;
        let kept: Vec<usize> = (0..self.names.len()).filter(keeps).collect();
        if kept.is_empty() {
            return None;
        }
        let best = |row: &Vec<f64>| kept.iter().map(|&n| row[n]).fold(0.0, f64::max);
        Some(self.scores.iter().map(best).sum::<f64>() / self.scores.len() as f64)
    }

    /// Means over prompts of the least and the most joules and seconds that a deployment takes.
    pub(crate) fn ranges(&self) -> [(f64, f64); 2] {
        let range = |cost: fn(&Cost) -> f64| {
            let least = |row: &Vec<Cost>| row.iter().map(cost).fold(f64::INFINITY, f64::min);
            let most = |row: &Vec<Cost>| row.iter().map(cost).fold(0.0, f64::max);
            let mean = |of: &dyn Fn(&Vec<Cost>) -> f64| {
                self.costs.iter().map(of).sum::<f64>() / self.costs.len() as f64
            };
            (mean(&least), mean(&most))
        };
        [range(|c| c.joules), range(|c| c.seconds)]
    }
}
