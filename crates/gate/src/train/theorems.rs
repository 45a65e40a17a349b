//! "Train once, reuse for every subset": what licenses it (MATH 3, theorems D and E), and a model for
//! which it is false, so that the test could fail.

use std::collections::BTreeMap;

use moe2_model::{ExpertName, Rng};
use proptest::prelude::*;

use super::descent::{Stop, minimise};
use super::logistic::sigmoid;
use super::{InTurn, Runner, TrainError, Trained, Training};
use crate::data::{Item, Outcome};
use crate::{Gate, Provenance};

fn name(text: &str) -> ExpertName {
    ExpertName::new(text).expect("a valid name")
}

/// Questions about two things, and experts that know one each, both, or neither.
pub(crate) fn questions(count: usize) -> Vec<Item> {
    let mut rng = Rng::new(5);
    let words = [
        ["river", "stone", "forest", "meadow", "cloud", "valley"],
        ["price", "market", "profit", "credit", "ledger", "tax"],
    ];
    let one = |at: usize| {
        let topic = at % 2;
        let text: Vec<&str> = (0..8).map(|_| words[topic][rng.below(6)]).collect();
        let mut outcomes = BTreeMap::new();
        for (expert, skill) in [("a", [0.9, 0.2]), ("b", [0.3, 0.8]), ("c", [0.5, 0.6])] {
            let right = rng.chance(skill[topic]);
            let choice = if right { 1 } else { 0 };
            let outcome = Outcome {
                score: choice as f64,
                choice: Some(choice),
                output_tokens: Some(10),
                ..Outcome::default()
            };
            outcomes.insert(name(expert), outcome);
        }
        Item {
            id: Some(at.to_string()),
            dataset: None,
            domain: Some(["nature", "money"][topic].to_owned()),
            fingerprint: None,
            prompt: format!("{} {at}?", text.join(" ")),
            choices: vec!["no".to_owned(), "yes".to_owned()],
            answer: Some(1),
            outcomes,
        }
    };
    (0..count).map(one).collect()
}

fn trained(items: Vec<Item>, runner: &dyn Runner) -> Trained {
    let training = Training::new(items, 3).expect("they can be trained on");
    training.run(runner, || ())
}

/// The last job first.
struct Backwards;

impl Runner for Backwards {
    fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..count).rev().for_each(job);
    }
}

#[test]
fn a_gate_is_the_same_however_its_jobs_are_run_reads_back_exactly_and_routes() {
    let items = questions(300);
    let gate = trained(items.clone(), &InTurn);
    assert_eq!(gate, trained(items.clone(), &Backwards));
    let priors = Gate::builtin().priors().clone();
    let written = Gate::from_trained(gate.clone(), Provenance::default(), priors);
    let written = written.expect("the priors are proper");
    assert_eq!(Gate::from_bytes(&written.to_bytes()).as_ref(), Ok(&written));
    let p = |item: &Item, e: &str| {
        gate.forecast(&name(e), &gate.features(item))
            .expect("it has a head")
            .0
    };
    assert!(p(&items[0], "a") > p(&items[0], "b"), "nature is a's");
    assert!(p(&items[1], "b") > p(&items[1], "a"), "money is b's");
    assert!(gate.has_seen(&items[0]) && gate.trust > 0.0);
}

#[test]
fn theorem_d_a_head_added_to_a_gate_is_that_of_a_training_with_all_and_changes_no_other() {
    let items = questions(300);
    let all = trained(items.clone(), &InTurn);
    let mut base = all.clone();
    base.heads.remove(&name("c"));
    let grown = Training::onto(base.clone(), items.clone(), 3).expect("c is new");
    let grown = grown.run(&InTurn, || ());
    assert_eq!(grown.heads[&name("a")], all.heads[&name("a")]);
    let (again, once) = (&grown.heads[&name("c")], &all.heads[&name("c")]);
    let weights = again.logistic.weights.iter().zip(&once.logistic.weights);
    let apart = weights.fold(0.0, |most: f64, (x, y)| most.max((x - y).abs()));
    assert!(apart < 1e-9, "{apart}");
    let nothing = Training::onto(all, items, 3).map(|_| ());
    assert_eq!(nothing, Err(TrainError::NothingNew));
}

/// Two experts' logits on one shared number `tanh(w·x)`: weights of the trunk, then a slope and a
/// constant for each expert in `experts`. Returns the mean cross-entropy of expert 0 at the joint optimum.
fn shared_trunk(experts: &[usize]) -> f64 {
    let mut rng = Rng::new(9);
    let rows: Vec<([f64; 2], [f64; 2])> = (0..2_000)
        .map(|_| {
            let x = [rng.normal(), rng.normal()];
            let y = [0, 1].map(|e: usize| f64::from(u8::from(rng.chance(sigmoid(3.0 * x[e])))));
            (x, y)
        })
        .collect();
    let stop = Stop {
        steps: 400,
        gradient: 1e-9,
    };
    let mut w = vec![0.0; 2 + 2 * experts.len()];
    (w[0], w[1]) = (0.6, 0.5);
    (0..experts.len()).for_each(|e| w[2 + 2 * e] = 1.0);
    let surprise = |logit: f64, y: f64| super::logistic::cross_entropy(logit, y);
    let count = rows.len() as f64;
    minimise(&mut w, stop, |w, gradient| {
        gradient.fill(0.0);
        let mut value = 0.0;
        for (x, y) in &rows {
            let h = (w[0] * x[0] + w[1] * x[1]).tanh();
            for (n, &e) in experts.iter().enumerate() {
                let (slope, constant) = (w[2 + 2 * n], w[3 + 2 * n]);
                let logit = slope * h + constant;
                value += surprise(logit, y[e]) / count;
                let off = (sigmoid(logit) - y[e]) / count;
                gradient[2 + 2 * n] += off * h;
                gradient[3 + 2 * n] += off;
                let through = off * slope * (1.0 - h * h);
                gradient[0] += through * x[0];
                gradient[1] += through * x[1];
            }
        }
        value
    });
    let loss = rows.iter().map(|(x, y)| {
        let h = (w[0] * x[0] + w[1] * x[1]).tanh();
        surprise(w[2] * h + w[3], y[0])
    });
    loss.sum::<f64>() / count
}

#[test]
fn theorem_d_is_false_for_heads_on_a_shared_trunk() {
    let (alone, together) = (shared_trunk(&[0]), shared_trunk(&[0, 1]));
    assert!(
        together > alone + 0.05,
        "a trunk of one number cannot serve two experts: {alone} alone, {together} together"
    );
}

proptest! {
    /// Theorem E: routing by forecasts loses at most twice the mean of the largest error, on every subset.
    #[test]
    fn theorem_e_bounds_the_loss_on_every_subset(
        rows in prop::collection::vec(
            prop::collection::vec((0.0..1.0f64, -0.3..0.3f64), 6), 1..20),
        k in 1usize..4,
    ) {
        let epsilon: f64 = rows
            .iter()
            .map(|r| r.iter().fold(0.0, |most: f64, (_, off)| most.max(off.abs())))
            .sum::<f64>() / rows.len() as f64;
        for subset in 1u32..64 {
            let members: Vec<usize> = (0..6).filter(|i| subset >> i & 1 == 1).collect();
            let top = |row: &[(f64, f64)], by: fn(&(f64, f64)) -> f64| -> f64 {
                let mut order = members.clone();
                order.sort_by(|a, b| by(&row[*b]).total_cmp(&by(&row[*a])));
                order.iter().take(k).map(|&i| row[i].0).sum()
            };
            let value = |by: fn(&(f64, f64)) -> f64| -> f64 {
                rows.iter().map(|r| top(r, by)).sum::<f64>() / rows.len() as f64
            };
            let (routed, best) = (value(|r| r.0 + r.1), value(|r| r.0));
            prop_assert!(routed >= best - 2.0 * k as f64 * epsilon - 1e-12);
        }
    }
}
