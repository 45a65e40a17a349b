//! Real instances side by side: 15 models on one to four devices, three tightnesses, k = 1, 2, 3.

use serde_json::{Value, json};

use super::side_by_side::{Run, Way, run};
use crate::Setting;
use crate::instance::real::{Testbed, Tightness};
use crate::instance::{outcomes, profiles};

/// Runs of the exact solver on each instance: its times are short and so noisy.
const REPEATS: usize = 5;
/// Standing power as a share of that of everything.
const STANDING: [f64; 4] = [0.05, 0.1, 0.2, 0.4];
/// Delay limits as a quantile of the deployments' worst cases.
const DELAY: f64 = 0.8;
/// Seconds for HiGHS where k is 1, which is where it is held to a comparison, and where it is more.
const MILP_LIMITS: [f64; 2] = [60.0, 20.0];
/// Seconds for everything else.
const LIMIT: f64 = 10.0;

/// One instance with all its runs.
pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let data = setting.data()?;
    let questions = outcomes::read(&data.join("mmlu_pro_29llm.jsonl.zst"))?;
    let devices = profiles::devices(&data.join("device_profiles.csv"))?;
    let questions = if setting.smoke {
        &questions[..500]
    } else {
        &questions[..]
    };
    let counts = if setting.smoke {
        1..=1
    } else {
        1..=devices.len()
    };
    let mut instances = Vec::new();
    for count in counts {
        let testbed = Testbed::new(questions, &devices[..count]);
        for k in 1..=3 {
            for standing in STANDING {
                let tightness = Tightness {
                    standing,
                    delay: DELAY,
                    k,
                };
                let problem = testbed.selection(tightness);
                let mut runs: Vec<Run> = Vec::new();
                for _ in 0..REPEATS {
                    runs.extend(run(&problem, Way::Bnb, LIMIT)?);
                }
                for (way, limit) in [
                    (Way::Greedy, LIMIT),
                    (Way::Brute, LIMIT),
                    (Way::Monotone, LIMIT),
                    (Way::Milp, MILP_LIMITS[usize::from(k > 1 || setting.smoke)]),
                ] {
                    runs.extend(run(&problem, way, limit)?);
                }
                setting.say(&format!(
                    "N {} standing {standing} k {k}: {}",
                    problem.expert_count(),
                    line(&runs)
                ));
                instances.push(
                    json!({"experts": problem.expert_count(), "rows": problem.row_count(),
                    "constraints": problem.constraints().len(), "standing": standing, "k": k,
                    "runs": runs}),
                );
            }
        }
    }
    Ok(json!({"instances": instances, "limit_s": LIMIT, "milp_limits_s": MILP_LIMITS}))
}

/// Runs in a line for people.
pub(super) fn line(runs: &[Run]) -> String {
    let one = |r: &Run| {
        format!(
            "{} {:.4} s {} gap {:.4} %",
            r.solver,
            r.seconds,
            r.status,
            100.0 * r.gap
        )
    };
    runs.iter().map(one).collect::<Vec<_>>().join(", ")
}
