//! What a gate is worth on questions it was not trained on, fold by fold.

pub(crate) mod cost;
mod data;
pub(crate) mod encoders;
pub(crate) mod subsets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use moe2_gate::{
    Against, Embedder, Forecasts, Item, OptionRule, Reference, Split, Training, baselines, groups,
    judge, reread,
};
use moe2_model::ExpertName;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::Setting;

/// Folds that are judged, each by a gate trained on the others.
const FOLDS: usize = 5;
/// Seed of the folds and of everything trained.
const SEED: u64 = 7;
/// MMLU-Pro, models of 13B and below, five folds.
pub(crate) fn mmlu_pro(setting: &Setting) -> anyhow::Result<Value> {
    let judged = Judged::new(data::mmlu_pro(setting)?, setting);
    judged.report(None, true, setting)
}

/// The demo's models on the recorded sample, five folds.
pub(crate) fn local(setting: &Setting) -> anyhow::Result<Value> {
    let judged = Judged::new(data::demo_models(setting)?, setting);
    judged.report(None, true, setting)
}

/// Jobs on every core.
fn on_all_cores(count: usize, job: &(dyn Fn(usize) + Sync)) {
    (0..count).into_par_iter().for_each(job);
}

/// Questions with outcomes, in folds.
struct Judged {
    items: Vec<Item>,
    rules: BTreeMap<ExpertName, OptionRule>,
    split: Split,
}

impl Judged {
    fn new(mut items: Vec<Item>, setting: &Setting) -> Self {
        if setting.smoke {
            items.truncate(400);
        }
        // Two parameters per expert: read once, for training and judging alike.
        let experts: BTreeSet<ExpertName> = items
            .iter()
            .flat_map(|i| i.outcomes.keys().cloned())
            .collect();
        let rules: BTreeMap<ExpertName, OptionRule> = experts
            .iter()
            .map(|e| (e.clone(), OptionRule::fit(&moe2_gate::scored(&items, e))))
            .collect();
        reread(&mut items, |e| rules.get(e).copied());
        Self {
            split: Split::new(&groups(&items), FOLDS, SEED),
            items,
            rules,
        }
    }

    /// Leaves these experts only.
    fn keep(&mut self, experts: &[ExpertName]) {
        for item in &mut self.items {
            item.outcomes.retain(|e, _| experts.contains(e));
        }
        self.rules.retain(|e, _| experts.contains(e));
    }

    /// Questions outside a fold.
    fn train(&self, fold: usize) -> Vec<Item> {
        let outside = self.split.outside(fold).into_iter();
        outside.map(|at| self.items[at].clone()).collect()
    }

    /// A gate per fold, judged on the fold, beside simpler gates if they are asked for.
    fn report(
        &self,
        embedder: Option<Arc<dyn Embedder>>,
        simpler: bool,
        setting: &Setting,
    ) -> anyhow::Result<Value> {
        let items = &self.items;
        let mut forecasts = vec![Forecasts::new(); items.len()];
        let mut others: Vec<(&'static str, Vec<Forecasts>)> = Vec::new();
        let mut folds = Vec::new();
        for fold in 0..FOLDS {
            setting.say(&format!("fold {} of {FOLDS}", fold + 1));
            let train = self.train(fold);
            let simple = if simpler {
                baselines(&train)
            } else {
                Vec::new()
            };
            let began = std::time::Instant::now();
            let training = match &embedder {
                None => Training::new(train, SEED)?,
                Some(e) => Training::with_embedder(train, SEED, e.clone())?,
            };
            let trained = training.run(&on_all_cores, || {});
            let networks = trained.heads.values().filter(|h| h.has_network()).count();
            folds.push(json!({
                "train": self.split.outside(fold).len(), "test": self.split.inside(fold).len(),
                "trust": trained.trust, "networks": networks,
                "seconds": began.elapsed().as_secs_f64(), "fusion_gains": trained.fusion_gains(),
            }));
            for at in self.split.inside(fold) {
                forecasts[at] = trained.forecasts(&items[at]);
                for (n, baseline) in simple.iter().enumerate() {
                    if others.len() <= n {
                        others.push((baseline.name(), vec![Forecasts::new(); items.len()]));
                    }
                    others[n].1[at] = baseline.forecast(&items[at]);
                }
            }
        }
        // The best single expert is far ahead of the second in every fold, so the folds' choices are one.
        let reference = Reference::new(items);
        let against = Against {
            reference: &reference,
            others: &others,
        };
        let rule = |e: &ExpertName| self.rules.get(e).copied().unwrap_or_default();
        let judged = judge(items, &forecasts, &against, rule, SEED).context("nothing to judge")?;
        let bests: BTreeSet<String> = (0..FOLDS)
            .filter_map(|fold| Some(Reference::new(&self.train(fold)).best()?.to_string()))
            .collect();
        Ok(
            json!({"folds": folds, "best_single_of_training_folds": bests, "judgement": judged,
            "log_loss": log_loss(items, &forecasts)}),
        )
    }
}

/// Mean over experts and questions of −ln of the probability of what happened.
fn log_loss(items: &[Item], forecasts: &[Forecasts]) -> f64 {
    let mut all = (0.0, 0.0);
    for (item, forecasts) in items.iter().zip(forecasts) {
        for (expert, p) in forecasts {
            let p = p.clamp(1e-6, 1.0 - 1e-6);
            let score = item.outcomes[expert].score;
            all.0 -= score * p.ln() + (1.0 - score) * (1.0 - p).ln();
            all.1 += 1.0;
        }
    }
    all.0 / all.1
}
