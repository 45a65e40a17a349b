//! Instances at the edge of what doubles can hold, made to break a claim of optimality.

use moe2_solve::{Constraint, Kind, Problem, ProblemParts, Solution, Status, check};

use crate::instances::solve;

/// Pseudo-random numbers in [0, 1) that need no seed to be kept.
fn unit(n: usize) -> f64 {
    (n as f64 * 0.754_877_666_246_693 + 0.1).fract()
}

fn sum(name: &str, cost: Vec<f64>, limit: f64) -> Constraint {
    Constraint {
        name: name.to_owned(),
        limit,
        kind: Kind::Sum { cost },
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("e{n}")).collect()
}

fn checked(name: &str, problem: &Problem) -> Solution {
    let solution = solve(name, problem);
    assert_eq!(check(problem, &solution), Ok(()));
    assert_eq!(solution.status, Status::Optimal);
    solution
}

/// Two experts whose values differ by less than what rounding to ticks may hide, the better one with the
/// fewer ticks; only one of them fits beside the third.
#[test]
fn sets_that_rounding_makes_equal_are_told_apart() {
    let (rows, total) = (400, 1000.0);
    let tick = total / (f64::from(u32::MAX) - f64::from(rows + 1));
    let count = |n: usize| (900_000.0 + 200_000.0 * unit(n)).floor();
    for surplus in [1.0, 4.0, 31.0, 301.0] {
        let a: Vec<f64> = (0..rows as usize)
            .map(|n| (count(n) + 0.999) * tick)
            .collect();
        let mut b: Vec<f64> = (0..rows as usize)
            .map(|n| (count(n) + 0.001) * tick)
            .collect();
        b[0] += surplus * tick;
        let most: f64 = a.iter().zip(&b).map(|(a, b)| a.max(*b)).sum();
        let mut utility: Vec<Vec<f64>> = a.iter().zip(&b).map(|(a, b)| vec![*a, *b, 0.0]).collect();
        utility.push(vec![0.0, 0.0, total - most]);
        let problem = Problem::new(ProblemParts {
            experts: names(3),
            weights: Some(vec![1.0; utility.len()]),
            utility,
            k: 1,
            constraints: vec![Constraint {
                name: "two".to_owned(),
                limit: 10.0,
                kind: Kind::TopSum {
                    top: 2,
                    cost: vec![6.0, 6.0, 1.0],
                },
            }],
        })
        .unwrap();
        let (found, best) = (checked("bnb", &problem), checked("brute", &problem));
        let apart = (found.objective - best.objective).abs();
        assert!(
            apart <= 1e-9 * best.objective,
            "{surplus}: {found:?} {best:?}"
        );
    }
}

#[test]
fn a_row_whose_weighted_utility_is_too_small_for_a_double_counts_for_nothing() {
    let experts = 24;
    let mut utility: Vec<Vec<f64>> = (0..60)
        .map(|x| {
            (0..experts)
                .map(|n| f64::from(unit(37 * x + n * 11) < 0.3))
                .collect()
        })
        .collect();
    let mut weights: Vec<f64> = (0..60).map(|x| unit(x + 5)).collect();
    let cost = (0..experts).map(|n| 1.0 + unit(n + 3)).collect();
    let mut parts = ProblemParts {
        experts: names(experts),
        utility: utility.clone(),
        weights: Some(weights.clone()),
        k: 1,
        constraints: vec![sum("s", cost, 8.0)],
    };
    let without = checked("bnb", &Problem::new(parts.clone()).unwrap());
    let mut tiny = vec![0.0; experts];
    tiny[0] = 1e-200;
    utility.push(tiny);
    weights.push(1e-200);
    (parts.utility, parts.weights) = (utility, Some(weights));
    let with = checked("bnb", &Problem::new(parts).unwrap());
    assert_eq!(with.objective, without.objective);
}

/// A load exactly at the tolerance leaves no room, and a cost of almost nothing beside no room is a
/// density beyond all numbers.
#[test]
fn a_cost_of_almost_nothing_closes_no_box() {
    let count = 36;
    let cost = |row: usize, n: usize| 1.0 + 99.0 * unit(row * 101 + n * 7);
    let worth = |n: usize| (0..5).map(|r| cost(r, n)).sum::<f64>() / 5.0 + 20.0 * unit(n + 900);
    let instance = |tiny: f64| {
        let mut utility = vec![vec![0.0; count + 2]; count + 2];
        (utility[0][0], utility[1][1]) = (1e4, 1.234);
        (0..count).for_each(|n| utility[n + 2][n + 2] = worth(n));
        let mut one = vec![tiny; count + 2];
        (one[0], one[1]) = (1.000_000_001, 0.5);
        let mut constraints = vec![sum("one", one, 1.0)];
        for row in 0..5 {
            let mut costs = vec![0.0; count + 2];
            (0..count).for_each(|n| costs[n + 2] = cost(row, n));
            let limit = 0.4 * costs.iter().sum::<f64>();
            constraints.push(sum(&format!("r{row}"), costs, limit));
        }
        let problem = ProblemParts {
            experts: names(count + 2),
            weights: Some(vec![1.0; utility.len()]),
            utility,
            k: 1,
            constraints,
        };
        checked("bnb", &Problem::new(problem).unwrap()).objective
    };
    let (plain, tiny) = (instance(0.0), instance(1e-320));
    assert!((plain - tiny).abs() <= 1e-9 * plain, "{plain} {tiny}");
}
