//! Priced routing on real instances: a grid of budgets, against the worst-case formulation and the
//! linear programme by HiGHS.

use std::time::Instant;

use anyhow::{Context, ensure};
use moe2_solve::{RoutingStatus, check_routing, price, routing_programme};
use serde_json::{Value, json};

use crate::Setting;
use crate::instance::real::Testbed;
use crate::instance::{outcomes, profiles};

/// Budgets along each side of the grid.
const GRID: usize = 10;
/// Difference from HiGHS's optimum that is allowed.
const AGREES: f64 = 1e-6;

pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let data = setting.data()?;
    let questions = outcomes::read(&data.join("mmlu_pro_29llm.jsonl.zst"))?;
    let devices = profiles::devices(&data.join("device_profiles.csv"))?;
    let (questions, grid) = if setting.smoke {
        (&questions[..300], 3)
    } else {
        (&questions[..], GRID)
    };
    let mut instances = Vec::new();
    // With every device, HiGHS takes a minute for each pair: the diagonal must do there.
    for (count, diagonal) in [(1, false), (2, false), (devices.len(), true)] {
        let testbed = Testbed::new(questions, &devices[..count]);
        let [energy, delay] = testbed.ranges();
        let between = |(low, high): (f64, f64), at: usize| {
            // Geometric, from what only the thriftiest keeps to what everyone does.
            low * (high / low).powf((at as f64 + 0.5) / grid as f64)
        };
        let mut pairs = Vec::new();
        for e in 0..grid {
            for d in 0..grid {
                let compare = !diagonal || e == d;
                pairs.push(pair(
                    &testbed,
                    (between(energy, e), between(delay, d)),
                    compare,
                )?);
            }
        }
        let dominated = pairs.iter().filter(|p| p["worst_case"].is_number()).count();
        let compared = pairs.iter().filter(|p| p["programme"].is_number()).count();
        let split = pairs.iter().filter_map(|p| p["split"].as_u64()).max();
        setting.say(&format!(
            "{} devices: {} pairs, {dominated} where the worst case allows any expert, {compared} compared with HiGHS, at most {split:?} prompts split",
            count,
            pairs.len()
        ));
        instances.push(
            json!({"devices": count, "experts": 15 * count, "prompts": questions.len(),
            "pairs": pairs}),
        );
    }
    Ok(json!({"grid": grid, "instances": instances}))
}

/// One pair of budgets; that routing dominates and agrees is asserted, not only noted.
fn pair(testbed: &Testbed, (energy, delay): (f64, f64), compare: bool) -> anyhow::Result<Value> {
    let problem = testbed.routing(energy, delay);
    let began = Instant::now();
    let solution = price(&problem);
    let seconds = began.elapsed().as_secs_f64();
    check_routing(&problem, &solution).context("a routing is not what it claims")?;
    let worst_case = testbed.worst_case(energy, delay);
    let began = Instant::now();
    let programme = if compare {
        routing_programme(&problem).map_err(anyhow::Error::msg)?
    } else {
        None
    };
    let programme_seconds = began.elapsed().as_secs_f64();
    let infeasible = matches!(solution.status, RoutingStatus::Infeasible(_));
    if infeasible {
        ensure!(
            worst_case.is_none() && programme.is_none(),
            "a feasible pair was refused"
        );
    } else {
        let worst = worst_case.unwrap_or(0.0);
        ensure!(
            solution.value >= worst - 1e-9,
            "the worst case is worth more: {worst}"
        );
        let agrees = programme.is_none_or(|value| (value - solution.value).abs() <= AGREES);
        ensure!(agrees, "HiGHS says {programme:?}, not {}", solution.value);
        ensure!(
            !compare || programme.is_some(),
            "HiGHS finds a feasible pair infeasible"
        );
    }
    Ok(
        json!({"energy_j_mean": energy, "latency_s_mean": delay, "status": solution.status.name(),
        "value": solution.value, "bound": solution.bound, "worst_case": worst_case,
        "programme": programme, "seconds": seconds,
        "programme_seconds": compare.then_some(programme_seconds), "rounds": solution.rounds,
        "split": solution.split(), "price_j": solution.prices.energy,
        "spent_j": solution.spent.energy_j_mean}),
    )
}
