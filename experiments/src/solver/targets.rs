//! The speeds asked of the exact solver on synthetic instances, by ten seeds each.

use serde_json::{Value, json};

use super::side_by_side::{Way, run};
use crate::Setting;
use crate::instance::synthetic::{Family, Spec, instance};

/// A target: what to make, and the seconds or the gap asked for.
struct Target {
    name: &'static str,
    family: Family,
    experts: usize,
    budgets: &'static [f64],
    seconds: f64,
    gap: f64,
}

const TARGETS: &[Target] = &[
    Target {
        name: "64 real-valued, 15 % and 30 %",
        family: Family::Real,
        experts: 64,
        budgets: &[0.15, 0.3],
        seconds: 0.5,
        gap: 1e-9,
    },
    Target {
        name: "48 graded, 15 %",
        family: Family::Graded,
        experts: 48,
        budgets: &[0.15],
        seconds: 10.0,
        gap: 1e-9,
    },
    Target {
        name: "48 clustered, 15 %",
        family: Family::Clustered,
        experts: 48,
        budgets: &[0.15],
        seconds: 10.0,
        gap: 1e-9,
    },
    Target {
        name: "1000 real-valued, 15 % and 30 %",
        family: Family::Real,
        experts: 1_000,
        budgets: &[0.15, 0.3],
        seconds: 10.0,
        gap: 1e-3,
    },
    Target {
        name: "1000 real-valued, 1 % and 2 %",
        family: Family::Real,
        experts: 1_000,
        budgets: &[0.01, 0.02],
        seconds: 10.0,
        gap: 1e-3,
    },
    Target {
        name: "1000 graded, 15 % and 30 %",
        family: Family::Graded,
        experts: 1_000,
        budgets: &[0.15, 0.3],
        seconds: 10.0,
        gap: 1e-3,
    },
    Target {
        name: "1000 graded, 1 % and 2 %",
        family: Family::Graded,
        experts: 1_000,
        budgets: &[0.01, 0.02],
        seconds: 10.0,
        gap: 1e-3,
    },
    Target {
        name: "1000 clustered, 15 % and 30 %",
        family: Family::Clustered,
        experts: 1_000,
        budgets: &[0.15, 0.3],
        seconds: 10.0,
        gap: 1e-3,
    },
    Target {
        name: "1000 independent, 15 % and 30 %",
        family: Family::IidReal,
        experts: 1_000,
        budgets: &[0.15, 0.3],
        seconds: 10.0,
        gap: 1e-3,
    },
    Target {
        name: "64 independent, 15 % and 30 %",
        family: Family::IidReal,
        experts: 64,
        budgets: &[0.15, 0.3],
        seconds: 10.0,
        gap: 1e-3,
    },
];

const SEEDS: u64 = 10;
const ROWS: usize = 3_000;

pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let (seeds, rows) = if setting.smoke {
        (1, 200)
    } else {
        (SEEDS, ROWS)
    };
    let mut targets = Vec::new();
    for target in TARGETS.iter().filter(|t| !setting.smoke || t.experts < 100) {
        let mut runs = Vec::new();
        for dear in [false, true] {
            for seed in 1..=seeds {
                let spec = Spec {
                    family: target.family,
                    experts: target.experts,
                    rows,
                    seed,
                    k: 1,
                    budgets: target.budgets,
                    dear,
                };
                if let Some(run) = run(&instance(&spec), Way::Bnb, target.seconds.max(10.0))? {
                    runs.push(json!({"seed": seed, "dear": dear, "run": run,
                        "met": run.seconds <= target.seconds * 1.05 && run.gap <= target.gap}));
                }
            }
        }
        let met = runs.iter().filter(|r| r["met"] == true).count();
        setting.say(&format!("{}: {met} of {} meet it", target.name, runs.len()));
        targets.push(
            json!({"target": target.name, "seconds": target.seconds, "gap": target.gap,
            "met": met, "of": runs.len(), "runs": runs}),
        );
    }
    Ok(json!({"rows": rows, "targets": targets}))
}
