//! Many seeds of every scenario, and proof that the judge is awake.
//!
//! `MOE2_SIM_SEED` and `MOE2_SIM_SCENARIO` replay one run; without them a fixed range is played.

use std::env;

use moe2_sim::{Mutant, Report, Scenario, run, run_with};

/// Seeds of each scenario that every test run plays.
const SEEDS: u64 = 300;

fn chosen<T>(variable: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    let text = env::var(variable).ok()?;
    let value = read(&text);
    assert!(value.is_some(), "{variable}={text} names nothing to run");
    value
}

fn explain(scenario: &Scenario, seed: u64, report: &Report) -> String {
    let first: Vec<String> = report
        .violations
        .iter()
        .take(3)
        .map(ToString::to_string)
        .collect();
    format!(
        "{}\n  replay: MOE2_SIM_SCENARIO={} MOE2_SIM_SEED={seed} cargo test -p moe2-sim --test seeds promises",
        first.join("\n"),
        scenario.name,
    )
}

fn play(scenario: &Scenario) {
    let seeds = match chosen("MOE2_SIM_SEED", |s| s.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    if chosen("MOE2_SIM_SCENARIO", Scenario::named).is_some_and(|only| only.name != scenario.name) {
        return;
    }
    let one = seeds.end - seeds.start == 1;
    let (mut bad, mut answered, mut queries) = (Vec::new(), 0, 0);
    let (mut redispatches, mut lost) = (0, 0);
    for seed in seeds {
        let report = run(scenario, seed);
        answered += report.answered;
        // Whom a budget kept out was not refused by a fleet in trouble.
        let kept_out = ["rate_limited", "quota_exhausted"].map(|why| report.refused.get(why));
        queries += report.queries - kept_out.into_iter().flatten().sum::<u64>();
        redispatches += report.redispatches;
        lost += report.refused.get("lost_mid_stream").copied().unwrap_or(0);
        if !report.violations.is_empty() {
            bad.push(explain(scenario, seed, &report));
        }
    }
    let shown: Vec<&String> = bad.iter().take(5).collect();
    assert!(
        bad.is_empty(),
        "{} seeds of {} fail: {shown:#?}",
        bad.len(),
        scenario.name
    );
    if one {
        return;
    }
    // A fleet that refuses everything, or that nothing happens to, would keep every promise.
    assert!(answered * 3 > queries, "{answered} of {queries} answered");
    let calm = scenario.fault_gap.is_none();
    assert_eq!(lost == 0, calm, "{lost} answers lost in mid stream");
    assert!(
        calm || redispatches > queries / 50,
        "{redispatches} repairs"
    );
}

#[test]
fn promises_hold_when_nothing_goes_wrong() {
    play(&Scenario::calm());
}

#[test]
fn promises_hold_when_connections_are_slow_and_cut() {
    play(&Scenario::lossy());
}

#[test]
fn promises_hold_when_workers_and_agents_crash() {
    play(&Scenario::crashy());
}

#[test]
fn promises_hold_when_nodes_are_cut_off_for_a_while() {
    play(&Scenario::partitions());
}

#[test]
fn promises_hold_when_joules_run_out() {
    play(&Scenario::budgeted());
    let refused = |why| {
        let of = |seed| {
            let report = run(&Scenario::budgeted(), seed);
            report.refused.get(why).copied().unwrap_or(0)
        };
        (0..20).map(of).sum::<u64>()
    };
    for why in ["rate_limited", "quota_exhausted"] {
        assert!(refused(why) > 20, "{why}: {}", refused(why));
    }
}

#[test]
fn a_run_is_a_function_of_scenario_and_seed() {
    for scenario in Scenario::all() {
        assert_eq!(run(&scenario, 7), run(&scenario, 7));
        assert_ne!(run(&scenario, 7), run(&scenario, 8));
    }
}

#[test]
fn every_planted_fault_is_seen() {
    let scenarios = [Scenario::calm(), Scenario::crashy()];
    let fails = |mutant| {
        (0..10)
            .flat_map(|seed| scenarios.iter().map(move |s| (s, seed)))
            .any(|(scenario, seed)| {
                // Whatever is wrong without the fault is no proof that the fault was seen.
                run(scenario, seed).violations.is_empty()
                    && !run_with(scenario, seed, mutant).violations.is_empty()
            })
    };
    let unseen: Vec<Mutant> = Mutant::ALL.into_iter().filter(|m| !fails(*m)).collect();
    assert!(unseen.is_empty(), "{unseen:?} were not noticed");
}
