//! Growth with experts and rows on synthetic families, every solver side by side.

use serde_json::{Value, json};

use super::real::line;
use super::side_by_side::{Way, run};
use crate::Setting;
use crate::instance::synthetic::{Family, Spec, instance};

/// Seconds for the exact solver and greedy.
const LIMIT: f64 = 10.0;
/// Seconds for enumeration, with and without monotone pruning: past N = 32 they never finish.
const ENUMERATION_LIMIT: f64 = 3.0;
/// Utilities beyond which HiGHS is not tried: it finished none of these within the limit.
const MILP_TABLE: usize = 64 * 3_000;
const MILP_LIMIT: f64 = 30.0;
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
            let several = rows == usual && (experts.ilog2() % 2 == 0 || experts == 1_000);
            for k in if several { 1..=3 } else { 1..=1 } {
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
                for (way, limit) in [
                    (Way::Bnb, LIMIT),
                    (Way::Greedy, LIMIT),
                    (Way::Brute, ENUMERATION_LIMIT),
                    (Way::Monotone, ENUMERATION_LIMIT),
                ] {
                    runs.extend(run(&problem, way, limit)?);
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
    Ok(
        json!({"instances": instances, "limit_s": LIMIT, "enumeration_limit_s": ENUMERATION_LIMIT, "milp_limit_s": MILP_LIMIT}),
    )
}
