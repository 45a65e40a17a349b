//! What each part of the exact solver buys: the same instances with it missing, or alone.

use moe2_solve::{Bounds, BranchAndBound};
use serde_json::{Value, json};

use super::side_by_side::{Run, Way, run};
use crate::Setting;
use crate::instance::real::{Testbed, Tightness};
use crate::instance::synthetic::{Family, Spec, instance};
use crate::instance::{outcomes, profiles};

const FULL: BranchAndBound = BranchAndBound::FULL;
const NO_BOUNDS: Bounds = Bounds {
    everything: false,
    marginal: false,
    cuts: false,
    lagrangian: false,
};
/// Time given to each variant on each instance.
const LIMIT: f64 = 30.0;

const VARIANTS: &[(&str, BranchAndBound)] = &[
    ("full", FULL),
    (
        "without (a) value of everything",
        BranchAndBound {
            bounds: Bounds {
                everything: false,
                ..FULL.bounds
            },
            ..FULL
        },
    ),
    (
        "without (b) marginal values",
        BranchAndBound {
            bounds: Bounds {
                marginal: false,
                ..FULL.bounds
            },
            ..FULL
        },
    ),
    (
        "without (c) cuts",
        BranchAndBound {
            bounds: Bounds {
                cuts: false,
                ..FULL.bounds
            },
            ..FULL
        },
    ),
    (
        "without (d) Lagrangian",
        BranchAndBound {
            bounds: Bounds {
                lagrangian: false,
                ..FULL.bounds
            },
            ..FULL
        },
    ),
    (
        "(a) alone",
        BranchAndBound {
            bounds: Bounds {
                everything: true,
                ..NO_BOUNDS
            },
            dive: false,
            ..FULL
        },
    ),
    (
        "(b) alone",
        BranchAndBound {
            bounds: Bounds {
                marginal: true,
                ..NO_BOUNDS
            },
            dive: false,
            ..FULL
        },
    ),
    (
        "(c) alone",
        BranchAndBound {
            bounds: Bounds {
                cuts: true,
                ..NO_BOUNDS
            },
            dive: false,
            ..FULL
        },
    ),
    (
        "(d) alone",
        BranchAndBound {
            bounds: Bounds {
                lagrangian: true,
                ..NO_BOUNDS
            },
            dive: false,
            ..FULL
        },
    ),
    (
        "without enumeration of small boxes",
        BranchAndBound {
            dive: false,
            ..FULL
        },
    ),
    (
        "without settling columns",
        BranchAndBound {
            fixing: false,
            ..FULL
        },
    ),
    (
        "without dominance",
        BranchAndBound {
            dominance: false,
            ..FULL
        },
    ),
    (
        "without merging rows",
        BranchAndBound {
            merge: false,
            ..FULL
        },
    ),
    (
        "without exchanges",
        BranchAndBound {
            exchanges: false,
            ..FULL
        },
    ),
    (
        "without trying splits",
        BranchAndBound { probes: 1, ..FULL },
    ),
    (
        "one block of cuts",
        BranchAndBound {
            blocks: Some(1),
            ..FULL
        },
    ),
    (
        "two blocks of cuts",
        BranchAndBound {
            blocks: Some(2),
            ..FULL
        },
    ),
    (
        "four blocks of cuts",
        BranchAndBound {
            blocks: Some(4),
            ..FULL
        },
    ),
    (
        "sixteen blocks of cuts",
        BranchAndBound {
            blocks: Some(16),
            ..FULL
        },
    ),
    (
        "thirty-two blocks of cuts",
        BranchAndBound {
            blocks: Some(32),
            ..FULL
        },
    ),
];

pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let mut problems = Vec::new();
    let rows = if setting.smoke { 200 } else { 3_000 };
    for (name, family, experts, k) in [
        ("graded 48", Family::Graded, 48, 1),
        ("graded 64", Family::Graded, 64, 1),
        ("graded 48, k 2", Family::Graded, 48, 2),
        ("real 64", Family::Real, 64, 1),
        ("real 64, k 3", Family::Real, 64, 3),
        ("clustered 60", Family::Clustered, 60, 1),
        ("independent 32", Family::IidReal, 32, 1),
        ("independent graded 32", Family::IidGraded, 32, 1),
    ] {
        let spec = Spec {
            family,
            experts,
            rows,
            seed: 1,
            k,
            budgets: &[0.15, 0.3],
            dear: true,
        };
        problems.push((name.to_owned(), instance(&spec)));
    }
    if let (Ok(data), false) = (setting.data(), setting.smoke) {
        let questions = outcomes::read(&data.join("mmlu_pro_29llm.jsonl.zst"))?;
        let devices = profiles::devices(&data.join("device_profiles.csv"))?;
        let testbed = Testbed::new(&questions, &devices);
        for (standing, k) in [(0.1, 1), (0.4, 1), (0.2, 2)] {
            let tightness = Tightness {
                standing,
                delay: 0.8,
                k,
            };
            problems.push((
                format!("MMLU-Pro 60, {standing}, k {k}"),
                testbed.selection(tightness),
            ));
        }
    }
    let mut variants = Vec::new();
    for &(name, variant) in VARIANTS {
        let mut runs: Vec<(String, Run)> = Vec::new();
        for (instance, problem) in &problems {
            let limit = if setting.smoke { 2.0 } else { LIMIT };
            if let Some(run) = run(problem, Way::Variant(name, variant), limit)? {
                runs.push((instance.clone(), run));
            }
        }
        let closed = runs.iter().filter(|r| r.1.status == "optimal").count();
        let total: f64 = runs.iter().map(|r| r.1.seconds).sum();
        setting.say(&format!(
            "{name}: {closed} of {} closed in {total:.2} s",
            runs.len()
        ));
        let runs: Vec<Value> = runs
            .into_iter()
            .map(|(instance, run)| json!({"instance": instance, "run": run}))
            .collect();
        variants.push(json!({"variant": name, "closed": closed, "seconds": total, "runs": runs}));
    }
    Ok(json!({"limit_s": LIMIT, "variants": variants}))
}
