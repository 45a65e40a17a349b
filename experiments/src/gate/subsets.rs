//! "Train once, use for every subset", on real outcomes: a gate of everyone, restricted to a subset,
//! against a gate trained on the subset, for every subset there is.

use std::collections::BTreeSet;

use anyhow::ensure;
use moe2_gate::{Forecasts, Item, Reference, Trained, Training};
use moe2_model::ExpertName;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Judged, SEED, data, on_all_cores};
use crate::Setting;

/// Experts of MMLU-Pro: every subset of ten is a thousand gates.
const EXPERTS: usize = 10;
/// Subsets of them that are trained from the questions on, the encoder included.
const FROM_SCRATCH: usize = 12;
/// Folds judged: the first ones.
const DEMO_FOLDS: usize = 5;

/// One subset: accuracies of the first choice on held-out questions.
#[derive(Debug, Serialize)]
struct Row {
    /// A bit per expert, in order.
    subset: usize,
    /// The gate of everyone, asked about the subset only.
    restricted: f64,
    /// A gate of the subset.
    retrained: f64,
    /// The expert with the best mean in training.
    best_single: f64,
    oracle: f64,
    /// Mean over questions of the largest error of a forecast, outcomes for utilities.
    epsilon: f64,
}

impl Row {
    fn delta(&self) -> f64 {
        self.restricted - self.retrained
    }
}

/// Both tables.
pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let mut judged = Judged::new(data::mmlu_pro(setting)?, setting);
    let count = if setting.smoke { 4 } else { EXPERTS };
    let experts: Vec<ExpertName> = judged.rules.keys().take(count).cloned().collect();
    judged.keep(&experts);
    setting.say("mmlu-pro: everyone");
    let fitted = Training::new(judged.train(0), SEED)?.fit(&on_all_cores, || {});
    let full = fitted.gate(|_| true);
    let everyone = 1usize << experts.len();
    setting.say(&format!("mmlu-pro: {} subsets", everyone - 1));
    let test = Test::new(&judged, 0, &full, &experts);
    let rows: Vec<Row> = (1..everyone)
        .into_par_iter()
        .map(|subset| test.row(subset, &fitted.gate(|e| test.has(subset, e))))
        .collect();
    let mut scratch = Vec::new();
    // Spread over the subsets by a stride that is prime to their number.
    for n in 0..if setting.smoke { 1 } else { FROM_SCRATCH } {
        let subset = 1 + (n * 389 + 170) % (everyone - 1);
        setting.say(&format!("mmlu-pro: subset {} from the questions on", n + 1));
        scratch.push(test.row(subset, &retrained(&judged, 0, &test.named(subset))?));
    }
    let mmlu = json!({"experts": experts, "test": test.items.len(), "trust": full.trust,
        "heads_kept": summary(&rows), "from_questions": summary(&scratch),
        "from_questions_rows": scratch, "rows": rows});
    for row in &rows {
        ensure!(
            row.restricted >= row.oracle - 2.0 * row.epsilon - 1e-9,
            "theorem E fails on subset {}",
            row.subset
        );
    }
    Ok(json!({"mmlu-pro": mmlu, "demo-models": demo(setting)?}))
}

/// Every subset of the demo's models, trained from the questions on, in every fold.
fn demo(setting: &Setting) -> anyhow::Result<Value> {
    let judged = Judged::new(data::demo_models(setting)?, setting);
    let experts: Vec<ExpertName> = judged.rules.keys().cloned().collect();
    let mut rows = Vec::new();
    for fold in 0..if setting.smoke { 1 } else { DEMO_FOLDS } {
        setting.say(&format!("demo-models: fold {}", fold + 1));
        let full = Training::new(judged.train(fold), SEED)?.run(&on_all_cores, || {});
        let test = Test::new(&judged, fold, &full, &experts);
        for subset in 1..1usize << experts.len() {
            rows.push(test.row(subset, &retrained(&judged, fold, &test.named(subset))?));
        }
    }
    Ok(json!({"experts": experts, "from_questions": summary(&rows), "rows": rows}))
}

/// A gate of some experts, as if no others had ever been.
fn retrained(
    judged: &Judged,
    fold: usize,
    experts: &BTreeSet<&ExpertName>,
) -> anyhow::Result<Trained> {
    let mut items = judged.train(fold);
    for item in &mut items {
        item.outcomes.retain(|e, _| experts.contains(e));
    }
    items.retain(|item| !item.outcomes.is_empty());
    Ok(Training::new(items, SEED)?.run(&on_all_cores, || {}))
}

/// Held-out questions with the forecasts of the gate of everyone.
struct Test<'j> {
    items: Vec<&'j Item>,
    full: Vec<Forecasts>,
    experts: &'j [ExpertName],
    means: Reference,
}

impl<'j> Test<'j> {
    fn new(judged: &'j Judged, fold: usize, full: &Trained, experts: &'j [ExpertName]) -> Self {
        let inside = judged.split.inside(fold).into_iter();
        let items: Vec<&Item> = inside.map(|at| &judged.items[at]).collect();
        Self {
            full: items.iter().map(|item| full.forecasts(item)).collect(),
            items,
            experts,
            means: Reference::new(&judged.train(fold)),
        }
    }

    fn has(&self, subset: usize, expert: &ExpertName) -> bool {
        let place = self.experts.iter().position(|e| e == expert);
        place.is_some_and(|place| subset >> place & 1 == 1)
    }

    fn named(&self, subset: usize) -> BTreeSet<&'j ExpertName> {
        let all = self.experts.iter();
        all.filter(|e| self.has(subset, e)).collect()
    }

    fn row(&self, subset: usize, retrained: &Trained) -> Row {
        let members = self.named(subset);
        let mean = |value: &dyn Fn(usize) -> f64| {
            (0..self.items.len()).map(value).sum::<f64>() / self.items.len() as f64
        };
        let score = |at: usize, e: &ExpertName| self.items[at].outcomes.get(e).map(|o| o.score);
        let routed = |at: usize, forecasts: &Forecasts| {
            let among = forecasts.iter().filter(|(e, _)| members.contains(e));
            let first = among.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0)));
            first.and_then(|(e, _)| score(at, e)).unwrap_or(0.0)
        };
        let means = self.means.means.iter();
        let best = means
            .filter(|(e, _)| members.contains(e))
            .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0)));
        let scores = |at: usize| members.iter().filter_map(move |e| score(at, e));
        Row {
            subset,
            restricted: mean(&|at| routed(at, &self.full[at])),
            retrained: mean(&|at| routed(at, &retrained.forecasts(self.items[at]))),
            best_single: mean(&|at| best.and_then(|b| score(at, b.0)).unwrap_or(0.0)),
            oracle: mean(&|at| scores(at).fold(0.0, f64::max)),
            epsilon: mean(&|at| {
                let errors = members
                    .iter()
                    .filter_map(|e| Some((self.full[at].get(*e)? - score(at, e)?).abs()));
                errors.fold(0.0, f64::max)
            }),
        }
    }
}

/// Quantiles of Δ(S) and what else there is to say about all subsets together.
fn summary(rows: &[Row]) -> Value {
    let mut deltas: Vec<f64> = rows.iter().map(Row::delta).collect();
    deltas.sort_by(f64::total_cmp);
    let at = |part: f64| deltas[((deltas.len() - 1) as f64 * part).round() as usize];
    let count = rows.len() as f64;
    let share = |of: &dyn Fn(&Row) -> bool| rows.iter().filter(|r| of(r)).count() as f64 / count;
    let several: Vec<&Row> = rows.iter().filter(|r| r.subset.count_ones() > 1).collect();
    let gains = several.iter().map(|r| r.restricted - r.best_single);
    json!({
        "subsets": rows.len(),
        "delta": {"min": at(0.0), "p5": at(0.05), "p25": at(0.25), "median": at(0.5), "p75": at(0.75),
            "p95": at(0.95), "max": at(1.0), "mean": deltas.iter().sum::<f64>() / count},
        "restricted_is_worse": share(&|r| r.delta() < 0.0),
        "restricted_below_best_single": share(&|r| r.restricted < r.best_single),
        "worst_against_best_single": gains.clone().fold(f64::INFINITY, f64::min),
        "mean_against_best_single": gains.sum::<f64>() / several.len().max(1) as f64,
        "epsilon": rows.iter().map(|r| r.epsilon).fold(0.0, f64::max),
        "largest_regret_over_2_epsilon":
            rows.iter().map(|r| (r.oracle - r.restricted) / (2.0 * r.epsilon)).fold(0.0, f64::max),
    })
}
