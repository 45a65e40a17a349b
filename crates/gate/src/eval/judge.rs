//! Figures with intervals.

use std::collections::BTreeMap;

use moe2_model::ExpertName;
use serde::Serialize;

use super::Forecasts;
use super::baselines::{Reference, majority};
use super::bootstrap::{Resamples, mean};
use super::calibration::{Pair, Sorted};
use crate::data::{Item, groups};
use crate::options::OptionRule;
use crate::vote::{fuse, vote};

/// Experts in the votes and mixtures that are judged.
const K: usize = 3;

/// A figure and its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// On the data.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What routing by some forecasts comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Routed {
    /// The expert with the highest forecast answers.
    pub top1: Figure,
    /// The three highest vote, weighted by their forecasts.
    pub vote_k3: Option<Figure>,
    /// [`Self::top1`] less the best single expert.
    pub top1_gain: Figure,
    /// [`Self::vote_k3`] less the best single expert.
    pub vote_k3_gain: Option<Figure>,
}

/// Forecasts of one expert beside what came of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpertFigures {
    /// Outcomes.
    pub n: usize,
    /// Mean score.
    pub mean: f64,
    /// Expected calibration error.
    pub ece: Option<Figure>,
    /// Brier score.
    pub brier: Option<Figure>,
    /// Area under the receiver operating characteristic.
    pub auc: Option<Figure>,
}

/// Accuracies with the gate and without.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// An expert drawn at random.
    pub random: Figure,
    /// The expert that was best on the training data.
    pub best_single: Figure,
    /// Whoever answers best, known beforehand.
    pub oracle: Figure,
    /// All experts vote with equal weight.
    pub majority: Option<Figure>,
    /// The three best of the training data vote, weighted by their means.
    pub static_vote_k3: Option<Figure>,
    /// What the gate makes of it.
    #[serde(flatten)]
    pub gate: Routed,
    /// Mixture of the option probabilities of the three highest, where they were recorded.
    pub mixture_k3: Option<Figure>,
    /// [`Self::mixture_k3`] less the best single expert.
    pub mixture_k3_gain: Option<Figure>,
    /// Mean over experts.
    pub ece: Option<Figure>,
    /// Mean over experts.
    pub brier: Option<Figure>,
    /// Mean over experts.
    pub auc: Option<Figure>,
}

/// All that `moe2 gate eval` says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// Questions.
    pub n: usize,
    /// The expert that was best on the training data.
    pub best_single_expert: ExpertName,
    /// Accuracies and means.
    #[serde(flatten)]
    pub figures: Figures,
    /// Other gates, by name.
    pub baselines: BTreeMap<&'static str, Routed>,
    /// By expert.
    pub experts: BTreeMap<ExpertName, ExpertFigures>,
    /// Mean over questions of the largest distance of a forecast from its outcome: ε of theorem E with
    /// outcomes for utilities.
    pub epsilon: f64,
}

/// What forecasts are judged beside.
#[derive(Debug, Clone, Copy)]
pub struct Against<'a> {
    /// Means of the training data.
    pub reference: &'a Reference,
    /// Forecasts of other gates, by name.
    pub others: &'a [(&'static str, Vec<Forecasts>)],
}

/// Judges forecasts of items, one map per item; the reference is from the training data.
///
/// `None` without any item that has an outcome of the reference's best expert.
#[must_use]
pub fn judge(
    items: &[Item],
    forecasts: &[Forecasts],
    against: &Against<'_>,
    rule: impl Fn(&ExpertName) -> OptionRule,
    seed: u64,
) -> Option<Judgement> {
    let Against { reference, others } = against;
    let resamples = Resamples::new(&groups(items), seed);
    let bench = Bench { items, resamples };
    let best = reference.best()?.clone();
    let single = bench.column(|_, item| item.outcomes.get(&best).map(|o| o.score));
    let random = bench.column(|_, item| {
        let count = item.outcomes.len() as f64;
        Some(item.outcomes.values().map(|o| o.score).sum::<f64>() / count)
    });
    let oracle = bench.column(|_, item| item.outcomes.values().map(|o| o.score).reduce(f64::max));
    let constant: Vec<Forecasts> = items
        .iter()
        .map(|item| {
            let known = reference.means.iter();
            known
                .filter(|(e, _)| item.outcomes.contains_key(*e))
                .map(|(e, m)| (e.clone(), *m))
                .collect()
        })
        .collect();
    let static_vote = bench.votes(&constant);
    let mixture = bench.column(|at, item| {
        let members = ranked(item, &forecasts[at]);
        let members = &members[..K.min(members.len())];
        let scored = |e: &ExpertName| !item.outcomes[e].choice_logprobs.is_empty();
        if !members.iter().all(|(e, _)| scored(e)) {
            return None;
        }
        fuse(item, members, &rule)
    });
    let experts = experts(&bench, forecasts);
    let average = |of: fn(&Sorted, &[u16]) -> Option<f64>| {
        let sorted: Vec<&Sorted> = experts.values().map(|e| &e.1).collect();
        bench.figure(|w| {
            let all: Vec<f64> = sorted.iter().filter_map(|s| of(s, w)).collect();
            (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
        })
    };
    let figures = Figures {
        random: bench.mean(&random)?,
        best_single: bench.mean(&single)?,
        oracle: bench.mean(&oracle)?,
        majority: bench.mean(&bench.column(|_, item| majority(item))),
        static_vote_k3: bench.mean(&static_vote),
        gate: bench.routed(forecasts, &single)?,
        mixture_k3: bench.mean(&mixture),
        mixture_k3_gain: bench.mean(&less(&mixture, &single)),
        ece: average(Sorted::ece),
        brier: average(Sorted::brier),
        auc: average(Sorted::auc),
    };
    let baselines = others
        .iter()
        .filter_map(|(name, f)| Some((*name, bench.routed(f, &single)?)));
    Some(Judgement {
        n: items.len(),
        best_single_expert: best,
        figures,
        baselines: baselines.collect(),
        experts: experts.into_iter().map(|(e, (f, _))| (e, f)).collect(),
        epsilon: epsilon(items, forecasts),
    })
}

/// Mean over questions of the largest error of a forecast.
fn epsilon(items: &[Item], forecasts: &[Forecasts]) -> f64 {
    let of = |(item, f): (&Item, &Forecasts)| {
        let errors = f
            .iter()
            .filter_map(|(e, p)| Some((p - item.outcomes.get(e)?.score).abs()));
        errors.fold(0.0, f64::max)
    };
    items.iter().zip(forecasts).map(of).sum::<f64>() / items.len().max(1) as f64
}

/// Experts with an outcome, the highest forecast first.
fn ranked<'f>(item: &Item, forecasts: &'f Forecasts) -> Vec<(&'f ExpertName, f64)> {
    let known = forecasts
        .iter()
        .filter(|(e, _)| item.outcomes.contains_key(*e));
    let mut all: Vec<(&ExpertName, f64)> = known.map(|(e, p)| (e, *p)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    all
}

fn less(a: &[Option<f64>], b: &[Option<f64>]) -> Vec<Option<f64>> {
    a.iter().zip(b).map(|(a, b)| Some((*a)? - (*b)?)).collect()
}

struct Bench<'i> {
    items: &'i [Item],
    resamples: Resamples,
}

impl Bench<'_> {
    fn column(&self, value: impl Fn(usize, &Item) -> Option<f64>) -> Vec<Option<f64>> {
        let each = self.items.iter().enumerate();
        each.map(|(at, item)| value(at, item)).collect()
    }

    fn figure(&self, of: impl Fn(&[u16]) -> Option<f64>) -> Option<Figure> {
        let ones = vec![1; self.items.len()];
        let value = of(&ones)?;
        let [low, high] = self.resamples.interval(&of)?;
        Some(Figure { value, low, high })
    }

    fn mean(&self, values: &[Option<f64>]) -> Option<Figure> {
        self.figure(|w| mean(values, w))
    }

    fn votes(&self, forecasts: &[Forecasts]) -> Vec<Option<f64>> {
        self.column(|at, item| {
            item.answer?;
            let members = ranked(item, &forecasts[at]);
            let members = &members[..K.min(members.len())];
            Some(vote(item, members).unwrap_or(0.0))
        })
    }

    fn routed(&self, forecasts: &[Forecasts], single: &[Option<f64>]) -> Option<Routed> {
        let top1 = self.column(|at, item| {
            let first = *ranked(item, &forecasts[at]).first()?;
            Some(item.outcomes[first.0].score)
        });
        let vote = self.votes(forecasts);
        Some(Routed {
            top1: self.mean(&top1)?,
            vote_k3: self.mean(&vote),
            top1_gain: self.mean(&less(&top1, single))?,
            vote_k3_gain: self.mean(&less(&vote, single)),
        })
    }
}

fn experts(
    bench: &Bench<'_>,
    forecasts: &[Forecasts],
) -> BTreeMap<ExpertName, (ExpertFigures, Sorted)> {
    let mut pairs: BTreeMap<&ExpertName, Vec<Pair>> = BTreeMap::new();
    for (at, (item, forecasts)) in bench.items.iter().zip(forecasts).enumerate() {
        for (expert, forecast) in forecasts {
            if let Some(outcome) = item.outcomes.get(expert) {
                pairs.entry(expert).or_default().push(Pair {
                    forecast: *forecast,
                    score: outcome.score,
                    at,
                });
            }
        }
    }
    let each = pairs.into_iter().map(|(expert, pairs)| {
        let n = pairs.len();
        let mean = pairs.iter().map(|p| p.score).sum::<f64>() / n as f64;
        let sorted = Sorted::new(pairs.into_iter());
        let figures = ExpertFigures {
            n,
            mean,
            ece: bench.figure(|w| sorted.ece(w)),
            brier: bench.figure(|w| sorted.brier(w)),
            auc: bench.figure(|w| sorted.auc(w)),
        };
        (expert.clone(), (figures, sorted))
    });
    each.collect()
}
