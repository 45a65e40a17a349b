//! Ten thousand seeds in every test run, proof that the judge is awake, and failures made small.
//!
//! `MOE2_SIM_SEED` and `MOE2_SIM_SCENARIO` play one seed or one scenario; without them a fixed range is
//! played. `cargo run -p moe2-sim --example replay -- CASE` replays what a failure prints.

use std::env;

use moe2_sim::{Case, Mutant, Report, Scenario, play, run, run_with, shrink};

/// Seeds of each scenario that every test run plays: 10,000 in all.
const SEEDS: u64 = 910;
/// Runs that may be spent on making one failure small.
const MOST_RUNS: usize = 500;

fn chosen<T>(variable: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    let text = env::var(variable).ok()?;
    let value = read(&text);
    assert!(value.is_some(), "{variable}={text} names nothing to run");
    value
}

/// What broke, and the line that replays the smallest run in which it does.
fn explain(scenario: &Scenario, seed: u64) -> String {
    let case = Case::new(scenario.clone(), seed);
    let Some(shrunk) = shrink(&case, MOST_RUNS) else {
        return format!("{case} does not fail again");
    };
    let first = shrunk.report.violations.first();
    format!(
        "{}\n  replay: cargo run -p moe2-sim --example replay -- '{}'",
        first.map(ToString::to_string).unwrap_or_default(),
        shrunk.case
    )
}

/// Plays a scenario. What its seeds came to together.
fn promises(scenario: &Scenario) -> Report {
    let seeds = match chosen("MOE2_SIM_SEED", |s| s.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    let mut sum = Report::default();
    if chosen("MOE2_SIM_SCENARIO", Scenario::named).is_some_and(|only| only.name != scenario.name) {
        return sum;
    }
    let one = seeds.end - seeds.start == 1;
    let mut bad = Vec::new();
    for seed in seeds {
        let report = run(scenario, seed);
        if !report.violations.is_empty() {
            bad.push(seed);
        }
        sum += report;
    }
    let shown = bad.iter().take(3).map(|seed| explain(scenario, *seed));
    let shown: Vec<String> = shown.collect();
    assert!(
        bad.is_empty(),
        "{} seeds of {} fail: {}",
        bad.len(),
        scenario.name,
        shown.join("\n")
    );
    if one {
        return sum;
    }
    // A fleet that refuses everything, or that nothing happens to, would keep every promise. Whom a budget
    // kept out was not refused by a fleet in trouble.
    let refused = |why| sum.refused.get(why).copied().unwrap_or(0);
    let asked = sum.queries - refused("rate_limited") - refused("quota_exhausted");
    let answered = sum.answered;
    assert!(answered * 4 > asked, "{answered} of {asked} answered");
    assert_eq!(sum.faults == 0, scenario.fault_gap.is_none());
    sum
}

/// Whether losses were repaired, and whether some could not be.
fn repaired(report: &Report) {
    let queries = report.queries;
    if queries == 0 {
        return;
    }
    let lost = report.refused.get("lost_mid_stream").copied();
    let redispatches = report.redispatches;
    assert!(redispatches > queries / 100, "{redispatches} of {queries}");
    assert!(lost.unwrap_or(0) > 0, "no answer was lost in mid stream");
}

#[test]
fn promises_hold_when_nothing_goes_wrong() {
    let calm = promises(&Scenario::calm());
    assert_eq!(calm.refused.get("lost_mid_stream"), None);
}

#[test]
fn promises_hold_when_connections_are_slow_and_cut() {
    repaired(&promises(&Scenario::lossy()));
}

#[test]
fn promises_hold_when_workers_and_agents_crash() {
    repaired(&promises(&Scenario::crashy()));
}

#[test]
fn promises_hold_when_nodes_are_cut_off_for_a_while() {
    repaired(&promises(&Scenario::partitions()));
}

#[test]
fn promises_hold_when_joules_run_out() {
    let report = promises(&Scenario::budgeted());
    for why in ["rate_limited", "quota_exhausted"] {
        let refused = report.refused.get(why).copied().unwrap_or(0);
        assert!(refused > report.queries / 200, "{why}: {refused}");
    }
}

#[test]
fn promises_hold_when_one_direction_is_lost_or_slow() {
    repaired(&promises(&Scenario::asymmetric()));
}

#[test]
fn promises_hold_when_machines_are_slow_or_stand_still() {
    repaired(&promises(&Scenario::sluggish()));
}

#[test]
fn promises_hold_when_clocks_differ() {
    let report = promises(&Scenario::skewed());
    assert!(report.queries == 0 || report.restarts > 0);
}

#[test]
fn promises_hold_when_agents_lie() {
    promises(&Scenario::liars());
}

#[test]
fn promises_hold_when_the_coordinator_dies_and_comes_back() {
    let report = promises(&Scenario::restarts());
    assert!(report.queries == 0 || (report.restarts > 0 && report.cut_off > 0));
}

#[test]
fn promises_hold_when_everything_happens_at_once() {
    repaired(&promises(&Scenario::everything()));
}

#[test]
fn a_run_is_a_function_of_its_case() {
    for scenario in Scenario::all() {
        assert_eq!(run(&scenario, 7), run(&scenario, 7));
        assert_ne!(run(&scenario, 7), run(&scenario, 8));
    }
}

/// Where planted faults are looked for.
fn fields() -> [Scenario; 4] {
    [
        Scenario::calm(),
        Scenario::crashy(),
        Scenario::restarts(),
        Scenario::everything(),
    ]
}

#[test]
fn every_planted_fault_is_seen() {
    let fails = |mutant| {
        (0..20)
            .flat_map(|seed| fields().map(|scenario| (scenario, seed)))
            .any(|(scenario, seed)| {
                // Whatever is wrong without the fault is no proof that the fault was seen.
                !run_with(&scenario, seed, mutant).violations.is_empty()
                    && run(&scenario, seed).violations.is_empty()
            })
    };
    let unseen: Vec<Mutant> = Mutant::ALL.into_iter().filter(|m| !fails(*m)).collect();
    assert!(unseen.is_empty(), "{unseen:?} were not noticed");
}

/// A large failing run becomes a line that a person can follow, and that line fails in the same way.
#[test]
fn a_failure_shrinks_to_a_line_that_replays() {
    for (mutant, queries, faults) in [
        (Mutant::DoubleDispatch, 1, 0),
        (Mutant::ForgetSettle, 1, 0),
        (Mutant::ForgetMarks, 1, 1),
        (Mutant::ForgetSilence, 2, 1),
    ] {
        let failing = (0..50).find_map(|seed| {
            let case = Case::new(Scenario::everything(), seed).with(mutant);
            shrink(&case, MOST_RUNS)
        });
        let shrunk = failing.expect("it is seen in one of fifty seeds");
        let line = shrunk.case.to_string();
        assert!(shrunk.runs <= MOST_RUNS, "{line}: {} runs", shrunk.runs);
        let kept = |part: &str| {
            let kept = line.split('/').find_map(|p| p.strip_prefix(part));
            let kept = kept.unwrap_or_else(|| panic!("{part} is not in {line}"));
            kept.split(',').filter(|n| !n.is_empty()).count()
        };
        assert!(kept("nodes=") <= 2, "{line}");
        assert!(kept("queries=") <= queries + 1, "{line}");
        assert!(kept("faults=") <= faults + 1, "{line}");
        let again = play(&line.parse().expect("it is a case"));
        assert_eq!(again, shrunk.report, "{line}");
    }
}
