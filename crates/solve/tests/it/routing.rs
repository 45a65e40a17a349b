//! Priced routing against the linear programme, its budgets, and the worst-case formulation.

use crate::instances::solve;
use moe2_solve::{
    Constraint, Kind, Problem, ProblemParts, Routing, RoutingCheckError, RoutingInfeasible,
    RoutingLimits, RoutingParts, RoutingSolution, RoutingStatus, check_routing, parse_routing,
    price, routing_programme,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Prompts of up to three categories; coarse numbers make ties, which is where splits happen.
fn parts(prompts: usize) -> impl Strategy<Value = RoutingParts> {
    (1usize..=6, 1..=prompts, any::<bool>()).prop_flat_map(|(experts, prompts, coarse)| {
        let cell = move |most: f64| {
            let whole = (0u8..5).prop_map(move |c| f64::from(c) * most / 4.0);
            if coarse {
                whole.boxed()
            } else {
                (0.0..most).boxed()
            }
        };
        let table = move |most| vec(vec(cell(most), experts), prompts);
        let weights = proptest::option::of(vec(0.01..1.0f64, prompts));
        let limits = (
            proptest::option::of(0.5..8.0f64),
            vec(proptest::option::of(0.2..4.0f64), 3),
        );
        (
            table(1.0),
            table(10.0),
            table(5.0),
            vec(0usize..3, prompts),
            weights,
            limits,
        )
            .prop_map(
                move |(utility, energy_j, latency_s, category, weights, (energy_j_mean, late))| {
                    let name = |c: usize| ["chat", "code", "math"][c].to_owned();
                    let limited = late
                        .into_iter()
                        .enumerate()
                        .filter(|(c, _)| category.contains(c));
                    let latency_s_mean = limited.filter_map(|(c, l)| Some((name(c), l?))).collect();
                    let total: f64 = weights.iter().flatten().sum();
                    RoutingParts {
                        experts: (0..experts).map(|n| format!("expert {n}")).collect(),
                        utility,
                        energy_j,
                        latency_s,
                        category: category.into_iter().map(name).collect(),
                        weights: weights.map(|w| w.iter().map(|w| w / total).collect()),
                        limits: RoutingLimits {
                            energy_j_mean,
                            latency_s_mean,
                        },
                    }
                },
            )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn it_agrees_with_the_linear_programme_and_passes_the_check(parts in parts(40)) {
        let problem = Routing::new(parts).unwrap();
        let solution = price(&problem);
        prop_assert_eq!(check_routing(&problem, &solution), Ok(()), "{:?}", solution);
        match routing_programme(&problem).unwrap() {
            Some(optimum) => {
                prop_assert_eq!(&solution.status, &RoutingStatus::Optimal, "{:?}", solution);
                prop_assert!((solution.value - optimum).abs() <= 1e-6, "{} {optimum}", solution.value);
            }
            // The two may differ on a problem that is feasible by a rounding error.
            None => prop_assert!(matches!(solution.status, RoutingStatus::Infeasible(_))),
        }
    }

    #[test]
    fn limits_named_as_needed_can_be_kept(parts in parts(30)) {
        let problem = Routing::new(parts.clone()).unwrap();
        let RoutingStatus::Infeasible(reason) = price(&problem).status else { return Ok(()) };
        let mut raised = parts;
        for (category, _, needed) in reason.latency {
            let name = &problem.categories()[category].0;
            let limits = raised.limits.latency_s_mean.iter_mut();
            limits.filter(|l| l.0 == *name).for_each(|l| l.1 = needed * (1.0 + 1e-9));
        }
        if let Some(short) = reason.energy {
            prop_assert!(short.needed > short.limit);
            raised.limits.energy_j_mean = Some(short.needed * (1.0 + 1e-9));
        } else {
            // Joules are judged once seconds can be kept.
            raised.limits.energy_j_mean = None;
        }
        let solution = price(&Routing::new(raised).unwrap());
        prop_assert!(!matches!(solution.status, RoutingStatus::Infeasible(_)), "{solution:?}");
    }

    #[test]
    fn relaxing_a_limit_never_lowers_the_value(parts in parts(30), more in 0.0..3.0f64) {
        let mut relaxed = parts.clone();
        relaxed.limits.energy_j_mean = relaxed.limits.energy_j_mean.map(|l| l + more);
        relaxed.limits.latency_s_mean.iter_mut().for_each(|l| l.1 += more);
        let value = |parts| price(&Routing::new(parts).unwrap()).value;
        prop_assert!(value(relaxed) >= value(parts) - 1e-9);
    }

    /// A set whose every member keeps the limits on every prompt is one way to route.
    #[test]
    fn it_is_worth_at_least_what_fixed_worst_cases_are(parts in parts(30)) {
        let problem = Routing::new(parts.clone()).unwrap();
        let solution = price(&problem);
        let worst = |table: &[Vec<f64>], x: &dyn Fn(usize) -> bool| -> Vec<f64> {
            let rows = || table.iter().enumerate().filter(|(at, _)| x(*at)).map(|(_, row)| row);
            (0..parts.experts.len()).map(|n| rows().map(|row| row[n]).fold(0.0, f64::max)).collect()
        };
        let mut constraints = Vec::new();
        if let Some(limit) = parts.limits.energy_j_mean {
            let cost = worst(&parts.energy_j, &|_| true);
            constraints.push(Constraint { name: "joules".into(), limit, kind: Kind::Max { cost } });
        }
        for (name, limit) in parts.limits.latency_s_mean.clone() {
            let cost = worst(&parts.latency_s, &|x| parts.category[x] == name);
            constraints.push(Constraint { name, limit, kind: Kind::Max { cost } });
        }
        let fixed = Problem::new(ProblemParts {
            experts: parts.experts.clone(),
            utility: parts.utility.clone(),
            weights: parts.weights.clone(),
            k: 1,
            constraints,
        });
        let fixed = solve("brute", &fixed.unwrap());
        if !fixed.selected.is_empty() {
            prop_assert!(solution.value >= fixed.objective - 1e-9, "{} {}", solution.value, fixed.objective);
        }
    }
}

/// Two prompts; the better expert costs 4 J, the other 1 J; 2.5 J on average is half of each.
fn halved() -> (Routing, RoutingSolution) {
    let problem = Routing::new(RoutingParts {
        experts: vec!["thrifty".into(), "good".into()],
        utility: vec![vec![0.2, 0.8], vec![0.5, 0.7]],
        energy_j: vec![vec![1.0, 4.0]; 2],
        latency_s: vec![vec![1.0, 1.0]; 2],
        category: vec![],
        weights: None,
        limits: RoutingLimits {
            energy_j_mean: Some(2.5),
            latency_s_mean: vec![],
        },
    })
    .unwrap();
    let solution = price(&problem);
    assert_eq!(check_routing(&problem, &solution), Ok(()));
    (problem, solution)
}

#[test]
fn joules_go_where_they_buy_most() {
    let (_, solution) = halved();
    assert_eq!(solution.assignment, [vec![(1, 1.0)], vec![(0, 1.0)]]);
    assert!((solution.value - 0.65).abs() < 1e-12);
    // Between what the first prompt pays for a joule (0.2) and the second (0.0667).
    assert!(
        (0.066..=0.2).contains(&solution.prices.energy),
        "{:?}",
        solution.prices
    );
    assert_eq!(solution.spent.energy_j_mean, 2.5);
}

#[test]
fn false_claims_are_refused() {
    let refuse = |change: fn(&mut RoutingSolution)| {
        let (problem, mut solution) = halved();
        change(&mut solution);
        check_routing(&problem, &solution).unwrap_err()
    };
    assert!(matches!(
        refuse(|s| s.value += 0.01),
        RoutingCheckError::Value { .. }
    ));
    assert!(matches!(
        refuse(|s| s.bound -= 0.01),
        RoutingCheckError::Bound { .. }
    ));
    assert!(matches!(
        refuse(|s| s.prices.energy = 0.0),
        RoutingCheckError::Bound { .. }
    ));
    assert!(matches!(
        refuse(|s| s.prices.energy = -1.0),
        RoutingCheckError::Bound { .. }
    ));
    assert!(matches!(
        refuse(|s| s.assignment[1] = vec![(1, 1.0)]),
        RoutingCheckError::Spent { .. }
    ));
    assert!(matches!(
        refuse(|s| s.spent.energy_j_mean = 2.0),
        RoutingCheckError::Spent { .. }
    ));
    assert!(matches!(
        refuse(|s| s.assignment[0] = vec![(1, 0.9)]),
        RoutingCheckError::Shares { .. }
    ));
    assert!(matches!(
        refuse(|s| s.assignment[0] = vec![(7, 1.0)]),
        RoutingCheckError::Shares { .. }
    ));
    assert!(matches!(
        refuse(|s| drop(s.assignment.pop())),
        RoutingCheckError::Shares { .. }
    ));
    let split = |s: &mut RoutingSolution| {
        s.assignment = vec![vec![(0, 0.5), (1, 0.5)]; 2];
    };
    assert!(matches!(refuse(split), RoutingCheckError::Split { .. }));
    let gap = |s: &mut RoutingSolution| s.bound += 0.01;
    assert!(matches!(refuse(gap), RoutingCheckError::Gap { .. }));
}

/// One prompt, one category whose limit every expert meets exactly, so that its price cancels.
fn exact() -> (Routing, RoutingSolution) {
    let problem = Routing::new(RoutingParts {
        experts: vec!["weak".into(), "good".into()],
        utility: vec![vec![0.2, 0.8]],
        energy_j: vec![vec![1.0, 4.0]],
        latency_s: vec![vec![1.0, 1.0]],
        category: vec!["chat".into()],
        weights: None,
        limits: RoutingLimits {
            energy_j_mean: None,
            latency_s_mean: vec![("chat".into(), 1.0)],
        },
    })
    .unwrap();
    let solution = price(&problem);
    assert_eq!(check_routing(&problem, &solution), Ok(()));
    (problem, solution)
}

#[test]
fn claims_that_are_short_or_swallowed_by_large_prices_are_refused() {
    let refuse = |change: fn(&mut RoutingSolution)| {
        let (problem, mut solution) = exact();
        change(&mut solution);
        check_routing(&problem, &solution).unwrap_err()
    };
    assert!(matches!(
        refuse(|s| s.spent.latency_s_mean.clear()),
        RoutingCheckError::Length { .. }
    ));
    assert!(matches!(
        refuse(|s| s.prices.latency.clear()),
        RoutingCheckError::Length { .. }
    ));
    let lesser = |s: &mut RoutingSolution| {
        s.assignment[0] = vec![(0, 1.0)];
        (s.value, s.bound, s.spent.energy_j_mean) = (0.2, 0.2, 1.0);
        s.prices.latency[0] = 1e30;
    };
    assert!(matches!(refuse(lesser), RoutingCheckError::Bound { .. }));
    let nothing = |s: &mut RoutingSolution| {
        s.status = RoutingStatus::Infeasible(RoutingInfeasible {
            latency: vec![],
            energy: None,
        });
    };
    assert!(matches!(
        refuse(nothing),
        RoutingCheckError::NotInfeasible { .. }
    ));
    let elsewhere = |s: &mut RoutingSolution| {
        s.status = RoutingStatus::Infeasible(RoutingInfeasible {
            latency: vec![(7, 1.0, 2.0)],
            energy: None,
        });
    };
    assert!(matches!(
        refuse(elsewhere),
        RoutingCheckError::Length { .. }
    ));
}

#[test]
fn a_limit_that_can_only_just_be_kept_has_prices_to_route_by() {
    let energy: Vec<Vec<f64>> = vec![
        vec![0.3, 0.5, 0.2],
        vec![0.1, 0.4, 0.3],
        vec![0.25, 0.2, 0.6],
    ];
    let least: f64 = (0.2 + 0.1 + 0.2) / 3.0;
    for limit in [least * (1.0 - 5e-10), least * (1.0 + 1e-10)] {
        let problem = Routing::new(RoutingParts {
            experts: vec!["a".into(), "b".into(), "c".into()],
            utility: vec![
                vec![0.9, 0.3, 0.5],
                vec![0.2, 0.9, 0.4],
                vec![0.6, 0.1, 0.8],
            ],
            energy_j: energy.clone(),
            latency_s: vec![vec![1.0; 3]; 3],
            category: vec![],
            weights: None,
            limits: RoutingLimits {
                energy_j_mean: Some(limit),
                latency_s_mean: vec![],
            },
        })
        .unwrap();
        let solution = price(&problem);
        assert_eq!(check_routing(&problem, &solution), Ok(()));
        assert_eq!(solution.status, RoutingStatus::Optimal);
        assert!(
            solution.prices.energy < 100.0,
            "{limit}: {:?}",
            solution.prices
        );
    }
}

#[test]
fn an_expert_that_costs_a_billion_times_the_limit_breaks_no_limit_by_rounding() {
    for (weights, dear) in [([2.5, 0.5], 8e8), ([1.5, 0.5], 8e8), ([2.5, 5.5], 8e7)] {
        let problem = Routing::new(RoutingParts {
            experts: vec!["a".into(), "b".into()],
            utility: vec![vec![0.2, 0.8], vec![0.5, 0.7]],
            energy_j: vec![vec![1.0, 0.0], vec![0.0, dear]],
            latency_s: vec![vec![1.0, 2.0], vec![1.0, 0.0]],
            category: vec!["chat".into(), "chat".into()],
            weights: Some(weights.to_vec()),
            limits: RoutingLimits {
                energy_j_mean: Some(2.5),
                latency_s_mean: vec![("chat".into(), 1.0)],
            },
        })
        .unwrap();
        let solution = price(&problem);
        assert_eq!(check_routing(&problem, &solution), Ok(()), "{solution:?}");
        assert!(solution.bound - solution.value <= 1e-3, "{solution:?}");
    }
}

#[test]
fn two_limits_for_one_category_and_a_table_without_prompts_are_named() {
    let refusal = |text: &str| parse_routing(text.as_bytes()).unwrap_err().to_string();
    let twice = r#"{"format":"moe2-routing/1","experts":["a"],"utility":[[1]],"energy_j":[[1]],"latency_s":[[9]],
        "category":["chat"],"limits":{"latency_s_mean":{"chat":1.0,"chat":100.0}}}"#;
    assert!(
        refusal(twice).starts_with("limits.latency_s_mean: \"chat\" has two limits"),
        "{}",
        refusal(twice)
    );
    let empty = r#"{"format":"moe2-routing/1","experts":["a"],"utility":[],"energy_j":[],"latency_s":[],"limits":{}}"#;
    assert!(refusal(empty).starts_with("utility:"), "{}", refusal(empty));
}

#[test]
fn a_limit_below_the_thriftiest_routing_is_infeasible_and_the_claim_is_checked() {
    let (mut problem, _) = halved();
    let parts = RoutingParts {
        experts: problem.experts().to_vec(),
        utility: vec![vec![0.2, 0.8]],
        energy_j: vec![vec![1.0, 4.0]],
        latency_s: vec![vec![9.0, 2.0]],
        category: vec!["chat".into()],
        weights: None,
        limits: RoutingLimits {
            energy_j_mean: Some(1.5),
            latency_s_mean: vec![("chat".into(), 5.5)],
        },
    };
    problem = Routing::new(parts.clone()).unwrap();
    let solution = price(&problem);
    assert_eq!(check_routing(&problem, &solution), Ok(()));
    let RoutingStatus::Infeasible(reason) = &solution.status else {
        panic!("{solution:?}")
    };
    // Half of each: 5.5 s and 2.5 J.
    assert!((reason.energy.as_ref().unwrap().needed - 2.5).abs() < 1e-6);
    assert_eq!(
        reason.describe(&problem).split(" (").next(),
        Some("energy_j_mean needs a limit of at least 2.5")
    );
    let mut wider = parts;
    wider.limits.energy_j_mean = Some(2.6);
    let wider = Routing::new(wider).unwrap();
    assert!(matches!(
        check_routing(&wider, &solution),
        Err(RoutingCheckError::NotInfeasible { .. })
    ));
}
