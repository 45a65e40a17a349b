//! Growth with experts and rows on synthetic families, every solver side by side.

use serde_json::{Value, json};

use super::real::line;
use super::side_by_side::{Way, run};
use crate::Setting;
use crate::instance::synthetic::{Family, Spec, instance};

/// Time given to each solver.
const LIMIT: f64 = 10.0;
/// Utilities beyond which HiGHS is not tried: it finished none of these within the limit.
const MILP_TABLE: usize = 64 * 3_000;
const MILP_LIMIT: f64 = 60.0;
const FAMILIES: [Family; 5] = [
    Family::Graded,
    Family::Real,
    Family::Clustered,
    Family::IidReal,
    Family::IidGraded,
];
const BUDGETS: [f64; 2] = [0.15, 0.3];

pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let mut sizes: Vec<(usize, usize)> = Vec::new();
    let experts: &[usize] = if setting.smoke {
        &[16, 32]
    } else {
        &[16, 32, 48, 64, 128, 256, 512, 1_000]
    };
    let rows: &[usize] = if setting.smoke {
        &[300]
    } else {
        &[500, 1_500, 6_000, 12_000]
    };
    let usual = if setting.smoke { 300 } else { 3_000 };
    sizes.extend(experts.iter().map(|&n| (n, usual)));
    sizes.extend(
        rows.iter()
            .map(|&m| (64, m))
            .filter(|s| !setting.smoke || s.1 != usual),
    );
    let mut instances = Vec::new();
    for family in FAMILIES {
        for &(experts, rows) in &sizes {
            for k in if rows == usual { 1..=3 } else { 1..=1 } {
                let spec = Spec {
                    family,
                    experts,
                    rows,
                    seed: 1,
                    k,
                    budgets: &BUDGETS,
                    dear: true,
                };
                let problem = instance(&spec);
                let mut runs = Vec::new();
                for way in [Way::Bnb, Way::Greedy, Way::Brute, Way::Monotone] {
                    runs.extend(run(&problem, way, LIMIT)?);
                }
                if experts * rows <= MILP_TABLE && k == 1 && !setting.smoke {
                    runs.extend(run(&problem, Way::Milp, MILP_LIMIT)?);
                }
                setting.say(&format!(
                    "{family:?} N {experts} M {rows} k {k}: {}",
                    line(&runs)
                ));
                instances.push(json!({"family": format!("{family:?}"), "experts": experts,
                    "rows": rows, "k": k, "seed": 1, "runs": runs}));
            }
        }
    }
    Ok(json!({"instances": instances, "limit_s": LIMIT, "milp_limit_s": MILP_LIMIT}))
}
