//! The exact solver against the oracle, with all of its parts and with each one missing.

use crate::instances::{contested, costs, select, sized, skilled, solve};
use moe2_solve::{
    BranchAndBound, Constraint, Kind, Limits, Problem, ProblemParts, Progress, Solution, Solver,
    Status, check,
};
use proptest::prelude::*;

const FULL: BranchAndBound = BranchAndBound::FULL;

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-9 * a.abs().max(b.abs())
}

fn run(solver: BranchAndBound, problem: &Problem) -> Solution {
    solver.solve(problem, &mut Limits::default()).unwrap()
}

/// The solver with one part missing, one alone, and a few combinations.
fn variants() -> Vec<(&'static str, BranchAndBound)> {
    let mut list = vec![("full", FULL)];
    let mut add = |name, change: fn(&mut BranchAndBound)| {
        let mut variant = FULL;
        change(&mut variant);
        list.push((name, variant));
    };
    add("no dive", |o| o.dive = false);
    add("no dominance", |o| o.dominance = false);
    add("no merging", |o| o.merge = false);
    add("no fixing", |o| o.fixing = false);
    add("no exchanges", |o| o.exchanges = false);
    add("one block, no probes", |o| {
        (o.blocks, o.probes) = (Some(1), 1)
    });
    add("many blocks", |o| o.blocks = Some(64));
    add("no value of everything", |o| o.bounds.everything = false);
    add("no marginal values", |o| o.bounds.marginal = false);
    add("no cuts", |o| o.bounds.cuts = false);
    add("no Lagrangian", |o| o.bounds.lagrangian = false);
    add("cuts alone", |o| {
        (o.bounds.everything, o.bounds.marginal, o.bounds.lagrangian) = (false, false, false);
        (o.dive, o.exchanges, o.dominance) = (false, false, false);
    });
    add("no cuts, no dive", |o| {
        (o.bounds.cuts, o.dive) = (false, false)
    });
    add("nothing but splits", |o| {
        (o.bounds.everything, o.bounds.marginal) = (false, false);
        (o.bounds.cuts, o.bounds.lagrangian) = (false, false);
        (o.dive, o.fixing) = (false, false);
    });
    list
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_500))]

    #[test]
    fn it_agrees_with_the_oracle(parts in prop_oneof![sized(14, 9), contested()]) {
        let problem = Problem::new(parts).unwrap();
        let (exact, brute) = (run(FULL, &problem), solve("brute", &problem));
        prop_assert_eq!(exact.status.name(), brute.status.name());
        prop_assert!(close(exact.objective, brute.objective), "{:?} {:?}", exact, brute);
        prop_assert!(exact.bound >= brute.objective * (1.0 - 1e-9));
        prop_assert_eq!(check(&problem, &exact), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_agrees_with_the_oracle_whatever_part_is_missing(parts in prop_oneof![sized(11, 40), contested()]) {
        let problem = Problem::new(parts).unwrap();
        let brute = solve("brute", &problem);
        for (name, variant) in variants() {
            let found = run(variant, &problem);
            prop_assert_eq!(found.status.name(), brute.status.name(), "{}", name);
            prop_assert!(close(found.objective, brute.objective), "{}: {:?} {:?}", name, found, brute);
        }
    }

    #[test]
    fn bounds_are_true_and_fall_at_every_moment(parts in contested(), variant in 0usize..15) {
        let problem = Problem::new(parts).unwrap();
        let best = solve("brute", &problem).objective;
        let (mut sane, mut last) = (true, f64::INFINITY);
        let mut watch = |p: &Progress| {
            sane &= p.bound >= p.objective && p.objective <= best * (1.0 + 1e-9);
            sane &= p.bound >= best * (1.0 - 1e-9) && p.bound <= last;
            last = p.bound;
            false
        };
        let (name, solver) = variants()[variant];
        solver.solve(&problem, &mut Limits::default().with_stop(&mut watch)).unwrap();
        prop_assert!(sane, "{}", name);
    }

    #[test]
    fn relaxing_a_limit_or_adding_an_expert_never_lowers_the_optimum(
        parts in prop_oneof![sized(14, 20), contested()], row in any::<prop::sample::Index>(), more in 0.0..6.0f64,
        fresh in prop::collection::vec(0.0..1.0f64, 40),
    ) {
        let optimum = |parts: &ProblemParts| run(FULL, &Problem::new(parts.clone()).unwrap()).objective;
        let before = optimum(&parts) * (1.0 - 2e-9);
        let mut relaxed = parts.clone();
        if !relaxed.constraints.is_empty() {
            let at = row.index(relaxed.constraints.len());
            relaxed.constraints[at].limit += more;
            prop_assert!(optimum(&relaxed) >= before);
        }
        let mut grown = parts;
        grown.experts.push("late comer".into());
        for (row, u) in grown.utility.iter_mut().zip(&fresh) {
            row.push(*u);
        }
        for (row, c) in grown.constraints.iter_mut().zip(fresh.iter().rev()) {
            if let Some(cost) = costs(row) {
                cost.push(4.0 * c);
            }
        }
        prop_assert!(optimum(&grown) >= before);
    }

    #[test]
    fn the_order_of_the_experts_and_the_scale_of_a_row_do_not_matter(
        (parts, order) in contested().prop_flat_map(|parts| {
            let order: Vec<usize> = (0..parts.experts.len()).collect();
            (Just(parts), Just(order).prop_shuffle())
        }),
        factor in prop::sample::select(vec![1e-12, 0.3, 7.7, 1e9, 1e200]),
    ) {
        let optimum = |parts: ProblemParts| run(FULL, &Problem::new(parts).unwrap()).objective;
        let before = optimum(parts.clone());
        prop_assert!(close(optimum(select(&parts, |n| order[n])), before));
        let mut scaled = parts;
        for row in &mut scaled.constraints {
            if let Some(cost) = costs(row) {
                cost.iter_mut().for_each(|c| *c *= factor);
                row.limit *= factor;
            }
        }
        prop_assert!(close(optimum(scaled), before));
    }
}

#[test]
fn it_proves_optima_far_beyond_enumeration() {
    for (seed, binary, k) in [(1, true, 1), (2, false, 1), (3, true, 2), (4, false, 3)] {
        let mut parts = skilled(40, 300, seed, binary);
        parts.k = k;
        let problem = Problem::new(parts).unwrap();
        let solution = run(FULL, &problem);
        assert_eq!(solution.status, Status::Optimal, "{solution:?}");
        assert_eq!(check(&problem, &solution), Ok(()));
        assert!(solution.selected.len() > 2);
    }
}

/// Against HiGHS where it is built in; microlp takes minutes at these sizes.
#[cfg(feature = "highs")]
#[test]
fn it_agrees_with_the_integer_programme_up_to_forty_experts() {
    for seed in 0..36u64 {
        let experts = 16 + (seed as usize * 7) % 25;
        let mut parts = skilled(experts, 30 + seed as usize, seed, seed % 2 == 0);
        parts.k = 1 + seed as usize % 3;
        if seed % 4 == 3 {
            let cost = costs(&mut parts.constraints[0]).unwrap().clone();
            let limit = 1.2 * cost.iter().copied().fold(0.0, f64::max);
            let kind = Kind::TopSum { top: 2, cost };
            parts.constraints.push(Constraint {
                name: "prompt".into(),
                limit,
                kind,
            });
        }
        let problem = Problem::new(parts).unwrap();
        let (exact, milp) = (run(FULL, &problem), solve("milp", &problem));
        assert_eq!(
            (&exact.status, &milp.status),
            (&Status::Optimal, &Status::Optimal)
        );
        assert!(
            close(exact.objective, milp.objective),
            "{seed}: {exact:?} {milp:?}"
        );
    }
}

/// Wide enough that the first bounds settle many experts and the search starts afresh.
#[test]
fn a_fresh_start_with_fewer_experts_loses_nothing() {
    let careful = BranchAndBound {
        fixing: false,
        ..FULL
    };
    for seed in 0..12 {
        let mut parts = skilled(90, 120, 100 + seed, seed % 3 == 0);
        parts.k = 1 + seed as usize % 2;
        // The first expert is worth having in any case.
        for (x, row) in parts.utility.iter_mut().enumerate() {
            row[0] = if x % 2 == 0 { 1.0 } else { row[0] };
        }
        let problem = Problem::new(parts).unwrap();
        let (full, slow) = (run(FULL, &problem), run(careful, &problem));
        assert!(
            close(full.objective, slow.objective),
            "{seed}: {full:?} {slow:?}"
        );
        assert_eq!(full.status, Status::Optimal);
    }
}

#[test]
fn a_run_is_the_same_every_time() {
    let problem = Problem::new(skilled(40, 200, 5, true)).unwrap();
    assert_eq!(run(FULL, &problem), run(FULL, &problem));
}

#[test]
fn a_stopped_run_has_a_true_bound_and_says_so() {
    let problem = Problem::new(skilled(40, 300, 6, true)).unwrap();
    let best = run(FULL, &problem).objective;
    let slow = BranchAndBound {
        dive: false,
        ..FULL
    };
    for nodes in [0, 1, 3, 10] {
        let limits = &mut Limits::default().with_nodes(nodes);
        let stopped = slow.solve(&problem, limits).unwrap();
        assert_eq!(stopped.status, Status::Stopped);
        assert!(stopped.bound >= best && stopped.objective <= best);
        assert_eq!(check(&problem, &stopped), Ok(()));
    }
}

#[test]
fn twins_beside_a_cheaper_original_are_dropped_and_k_of_them_are_kept() {
    let parts = |k| ProblemParts {
        experts: ["dear twin", "cheap", "middling twin"]
            .map(String::from)
            .into(),
        utility: vec![vec![0.5; 3], vec![0.25; 3]],
        weights: None,
        k,
        constraints: vec![Constraint {
            name: "power".into(),
            limit: 10.0,
            kind: Kind::Sum {
                cost: vec![7.0, 1.0, 4.0],
            },
        }],
    };
    let selected = |k| run(FULL, &Problem::new(parts(k)).unwrap()).selected;
    assert_eq!(selected(1), [1]);
    assert_eq!(selected(2), [1, 2]);
}
