//! Clever against stupid, and what must hold however an instance is rewritten.

use crate::instances::{costs, optimum, parts, select, solve};
use moe2_solve::{
    Constraint, Kind, Limits, Problem, ProblemParts, Progress, SolveError, Status, check, load,
    solver, solvers, value,
};
use proptest::prelude::*;

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-8 * a.abs().max(b.abs()).max(1e-3)
}

/// The optimum by bit masks, from the definition and nothing else.
fn definition(parts: &ProblemParts) -> f64 {
    let experts = parts.experts.len();
    let uniform = vec![1.0 / parts.utility.len() as f64; parts.utility.len()];
    let weights = parts.weights.as_ref().unwrap_or(&uniform);
    let top = |mut values: Vec<f64>, count: usize| -> f64 {
        values.sort_by(|a, b| b.total_cmp(a));
        values.iter().take(count).sum()
    };
    let mut best = 0.0f64;
    for mask in 1u32..1 << experts {
        let set: Vec<usize> = (0..experts).filter(|n| mask >> n & 1 == 1).collect();
        let pick = |row: &[f64]| set.iter().map(|&n| row[n]).collect::<Vec<f64>>();
        let fits = parts.constraints.iter().all(|row| {
            let load = match &row.kind {
                Kind::Sum { cost } => top(pick(cost), set.len()),
                Kind::Max { cost } => top(pick(cost), 1),
                Kind::TopSum { top: j, cost } => top(pick(cost), *j),
                Kind::Count => set.len() as f64,
            };
            load <= row.limit * (1.0 + 1e-9)
        });
        if fits {
            let rows = parts.utility.iter().zip(weights);
            best = best.max(rows.map(|(row, w)| w * top(pick(row), parts.k)).sum());
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn brute_force_agrees_with_the_definition(parts in parts()) {
        let problem = Problem::new(parts.clone()).unwrap();
        let solution = solve("brute", &problem);
        prop_assert!(close(solution.objective, definition(&parts)));
        prop_assert!(matches!(solution.status, Status::Optimal | Status::Infeasible(_)));
    }

    #[test]
    fn milp_agrees_with_brute_force(parts in parts()) {
        let problem = Problem::new(parts).unwrap();
        let (milp, brute) = (solve("milp", &problem), solve("brute", &problem));
        prop_assert!(close(milp.objective, brute.objective), "{milp:?} {brute:?}");
        prop_assert_eq!(milp.status, brute.status);
    }

    #[test]
    fn the_optimum_lies_between_greedy_and_its_bound(parts in parts()) {
        let problem = Problem::new(parts).unwrap();
        let (greedy, brute) = (solve("greedy", &problem), solve("brute", &problem));
        prop_assert!(greedy.objective <= brute.objective);
        prop_assert!(brute.objective <= greedy.bound);
        if greedy.status == Status::Optimal {
            prop_assert!(close(greedy.objective, brute.objective));
        }
    }

    #[test]
    fn every_solver_in_the_table_passes_the_check(parts in parts()) {
        let problem = Problem::new(parts).unwrap();
        for solver in solvers() {
            let solution = solver.solve(&problem, &mut Limits::default()).unwrap();
            prop_assert_eq!(check(&problem, &solution), Ok(()), "{:?}", solution);
        }
    }

    #[test]
    fn a_stopped_run_still_returns_a_true_answer(parts in parts(), nodes in 0u64..20) {
        let problem = Problem::new(parts).unwrap();
        let best = solve("brute", &problem).objective;
        for solver in solvers() {
            let mut sane = true;
            let mut stop = |p: &Progress| {
                sane &= p.bound >= p.objective && p.bound >= best && p.objective <= best;
                p.nodes >= nodes
            };
            let stopped = solver.solve(&problem, &mut Limits::default().with_stop(&mut stop));
            let stopped = stopped.unwrap();
            prop_assert!(sane, "{} reported a false bound", solver.name());
            prop_assert_eq!(check(&problem, &stopped), Ok(()));
            prop_assert!(stopped.bound >= best * (1.0 - 1e-12));
            let counted = solver.solve(&problem, &mut Limits::default().with_nodes(nodes));
            prop_assert_eq!(counted.unwrap(), stopped);
        }
    }

    #[test]
    fn relaxing_a_limit_never_lowers_the_optimum(
        parts in parts(), row in any::<prop::sample::Index>(), more in 0.0..6.0f64,
    ) {
        if parts.constraints.is_empty() {
            return Ok(());
        }
        let before = optimum(&parts);
        let mut relaxed = parts;
        let at = row.index(relaxed.constraints.len());
        relaxed.constraints[at].limit += more;
        prop_assert!(optimum(&relaxed) >= before);
    }

    #[test]
    fn adding_an_expert_never_lowers_the_optimum(
        parts in parts(), fresh in prop::collection::vec(0.0..1.0f64, 12),
    ) {
        let before = optimum(&parts);
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
    fn the_order_of_the_experts_does_not_matter(
        (parts, order) in parts().prop_flat_map(|parts| {
            let order: Vec<usize> = (0..parts.experts.len()).collect();
            (Just(parts), Just(order).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(optimum(&select(&parts, |n| order[n])), optimum(&parts));
    }

    #[test]
    fn scaling_a_row_with_its_limit_changes_nothing(
        parts in parts(),
        factor in prop::sample::select(vec![1e-12, 0.3, 7.7, 1e9, 1e200]),
    ) {
        let mut scaled = parts.clone();
        for row in &mut scaled.constraints {
            if let Some(cost) = costs(row) {
                cost.iter_mut().for_each(|c| *c *= factor);
                row.limit *= factor;
            }
        }
        let (one, other) = (Problem::new(parts).unwrap(), Problem::new(scaled).unwrap());
        for name in ["brute", "greedy", "milp", "bnb"] {
            let (one, other) = (solve(name, &one), solve(name, &other));
            prop_assert!(close(one.objective, other.objective), "{}", name);
        }
        prop_assert_eq!(solve("brute", &one).selected, solve("brute", &other).selected);
    }
}

/// Real-valued utilities and costs from a small congruential generator.
fn synthetic(experts: usize, rows: usize, share: f64) -> Problem {
    let mut seed = 7u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as f64 / f64::from(1u32 << 31)
    };
    let utility = (0..rows)
        .map(|_| (0..experts).map(|_| next()).collect())
        .collect();
    let constraints = ["power", "memory"].map(|name| {
        let cost: Vec<f64> = (0..experts).map(|_| 0.2 + next()).collect();
        let limit = share * cost.iter().sum::<f64>();
        Constraint {
            name: name.into(),
            limit,
            kind: Kind::Sum { cost },
        }
    });
    Problem::new(ProblemParts {
        experts: (0..experts).map(|n| n.to_string()).collect(),
        utility,
        weights: None,
        k: 1,
        constraints: constraints.into(),
    })
    .unwrap()
}

#[test]
fn greedy_is_near_its_bound_on_a_fleet_too_large_to_enumerate() {
    let problem = synthetic(40, 120, 0.3);
    let solution = solve("greedy", &problem);
    assert_eq!(check(&problem, &solution), Ok(()));
    assert!(solution.gap() < 0.2, "gap {}", solution.gap());
    assert!(solution.selected.len() > 3);
}

#[test]
fn milp_never_does_worse_than_greedy_beyond_the_oracle() {
    let problem = synthetic(18, 24, 0.25);
    let (milp, greedy) = (solve("milp", &problem), solve("greedy", &problem));
    assert!(milp.objective >= greedy.objective - 1e-9);
    assert!(milp.objective <= greedy.bound);
    assert_eq!(check(&problem, &milp), Ok(()));
}

#[test]
fn solvers_refuse_what_is_too_large_for_them_and_say_why() {
    let mut refusals = vec![("brute", "the number of experts")];
    if cfg!(not(feature = "highs")) {
        refusals.push(("milp", "(rows + constraints) × experts"));
    }
    let problem = synthetic(40, 240, 0.3);
    for (name, what) in refusals {
        let error = solver(name)
            .unwrap()
            .solve(&problem, &mut Limits::default())
            .unwrap_err();
        let SolveError::Unfit { reason, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(reason.what, what);
    }
}

#[test]
fn an_unknown_solver_is_answered_with_the_known_ones() {
    let message = solver("simplex").err().unwrap().to_string();
    assert_eq!(
        message,
        "no solver is called \"simplex\"; choose one of auto, bnb, greedy, milp, brute"
    );
}

#[test]
fn infeasible_names_the_nearest_expert_and_the_smallest_limits_that_admit_it() {
    let parts = ProblemParts {
        experts: vec!["far".into(), "near".into()],
        utility: vec![vec![1.0, 0.5]],
        weights: None,
        k: 1,
        constraints: vec![
            Constraint {
                name: "energy_j".into(),
                limit: 2.0,
                kind: Kind::Sum {
                    cost: vec![9.0, 3.0],
                },
            },
            Constraint {
                name: "latency_s".into(),
                limit: 1.0,
                kind: Kind::Max {
                    cost: vec![0.5, 1.25],
                },
            },
        ],
    };
    let problem = Problem::new(parts.clone()).unwrap();
    for solver in solvers() {
        let solution = solver.solve(&problem, &mut Limits::default()).unwrap();
        let Status::Infeasible(reason) = &solution.status else {
            panic!("{solution:?}")
        };
        assert_eq!(
            reason.describe(&problem),
            "no expert fits; the closest is \"near\": energy_j needs a limit of at least 3 (is 2), \
             latency_s needs a limit of at least 1.25 (is 1)"
        );
        let mut raised = parts.clone();
        for short in &reason.short {
            raised.constraints[short.row].limit = short.needed;
        }
        assert_eq!(optimum(&raised), 0.5);
    }
}

#[test]
fn an_expert_that_adds_nothing_is_left_off() {
    let mut parts = ProblemParts {
        experts: vec!["twin".into(), "copy".into()],
        utility: vec![vec![0.5, 0.5], vec![1.0, 1.0]],
        weights: None,
        k: 1,
        constraints: vec![],
    };
    for name in ["brute", "greedy", "bnb"] {
        assert_eq!(
            solve(name, &Problem::new(parts.clone()).unwrap()).selected,
            [0]
        );
    }
    parts.k = 2;
    for name in ["brute", "greedy", "milp", "bnb"] {
        assert_eq!(
            solve(name, &Problem::new(parts.clone()).unwrap()).selected,
            [0, 1]
        );
    }
}

#[test]
fn one_expert_is_chosen_even_if_nothing_is_worth_anything() {
    let problem = Problem::new(ProblemParts {
        experts: vec!["useless".into(), "also".into()],
        utility: vec![vec![0.0, 0.0]],
        weights: None,
        k: 3,
        constraints: vec![],
    })
    .unwrap();
    for solver in solvers() {
        let solution = solver.solve(&problem, &mut Limits::default()).unwrap();
        assert_eq!(
            (solution.status.name(), solution.objective),
            ("optimal", 0.0)
        );
        assert!(!solution.selected.is_empty());
    }
}

#[test]
fn values_and_loads_follow_their_definitions() {
    let cost = vec![1.0, 4.0, 2.0];
    let row = |kind| Constraint {
        name: "row".into(),
        limit: 9.0,
        kind,
    };
    let all = [0, 1, 2];
    assert_eq!(load(&row(Kind::Sum { cost: cost.clone() }), &all), 7.0);
    assert_eq!(load(&row(Kind::Max { cost: cost.clone() }), &all), 4.0);
    assert_eq!(load(&row(Kind::TopSum { top: 2, cost }), &all), 6.0);
    assert_eq!(load(&row(Kind::Count), &all), 3.0);
    let problem = Problem::new(ProblemParts {
        experts: all.iter().map(|n| n.to_string()).collect(),
        utility: vec![vec![0.2, 0.9, 0.4], vec![1.0, 0.0, 0.5]],
        weights: Some(vec![0.5, 0.25]),
        k: 2,
        constraints: vec![],
    })
    .unwrap();
    assert!(close(value(&problem, &all), 0.5 * 1.3 + 0.25 * 1.5));
    assert!(close(value(&problem, &[1]), 0.45));
    assert_eq!(value(&problem, &[]), 0.0);
}
