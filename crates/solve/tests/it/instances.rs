//! Random instances small enough for the oracle, rich in what breaks solvers: ties, zero costs and
//! limits, duplicate experts, every kind of row, sets that fill a limit exactly.

use moe2_solve::{Constraint, Kind, Limits, Problem, ProblemParts, Solution, solver};
use proptest::collection::vec;
use proptest::prelude::*;

/// Utilities of one instance are all 0/1, all from a coarse grid, or real.
fn utility(rows: usize, experts: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
    let binary = (0u8..=1).prop_map(f64::from).boxed();
    let grid = (0u8..=4).prop_map(|u| f64::from(u) / 4.0).boxed();
    let real = (0.0..1.0).boxed();
    prop_oneof![Just(binary), Just(grid), Just(real)]
        .prop_flat_map(move |cell| vec(vec(cell, experts), rows))
}

/// Some rows count for nothing, some are copies of others in all but this.
fn weight() -> impl Strategy<Value = f64> {
    prop_oneof![1 => Just(0.0), 3 => Just(1.0), 4 => 0.01..2.0f64]
}

fn cost(experts: usize) -> impl Strategy<Value = Vec<f64>> {
    let whole = vec((0u8..6).prop_map(f64::from), experts);
    prop_oneof![whole, vec(0.0..5.0f64, experts)]
}

fn constraint(experts: usize) -> impl Strategy<Value = Constraint> {
    let kind = prop_oneof![
        3 => cost(experts).prop_map(|cost| Kind::Sum { cost }),
        1 => cost(experts).prop_map(|cost| Kind::Max { cost }),
        2 => (1usize..4, cost(experts)).prop_map(|(top, cost)| Kind::TopSum { top, cost }),
        1 => Just(Kind::Count),
    ];
    let limit = prop_oneof![
        1 => Just(0.0),
        6 => (1u8..14).prop_map(f64::from),
        3 => 0.0..12.0f64,
    ];
    (kind, limit).prop_map(|(kind, limit)| Constraint {
        name: String::new(),
        limit,
        kind,
    })
}

/// The ingredients of a valid problem with at most ten experts.
pub(crate) fn parts() -> impl Strategy<Value = ProblemParts> {
    sized(10, 6)
}

/// The ingredients of a valid problem with at most that many experts and rows.
pub(crate) fn sized(experts: usize, rows: usize) -> impl Strategy<Value = ProblemParts> {
    (1..=experts, 1..=rows, 1usize..=3).prop_flat_map(|(experts, rows, k)| {
        let weights = prop_oneof![
            Just(None),
            vec(weight(), rows)
                .prop_filter("some weight", |weights| weights.iter().any(|&w| w > 0.0))
                .prop_map(Some)
        ];
        let twins = proptest::option::of((0..experts, 0..experts));
        let constraints = vec(constraint(experts), 0..5);
        (utility(rows, experts), weights, constraints, twins).prop_map(
            move |(utility, weights, mut constraints, twins)| {
                for (r, row) in constraints.iter_mut().enumerate() {
                    row.name = format!("row {r}");
                }
                let names = (0..experts).map(|n| format!("expert {n}")).collect();
                let mut parts = ProblemParts {
                    experts: names,
                    utility,
                    weights,
                    k,
                    constraints,
                };
                if let Some((from, to)) = twins {
                    parts = select(&parts, |n| if n == to { from } else { n });
                    parts.experts[to] = format!("expert {to}");
                }
                parts
            },
        )
    })
}

/// Problems with something to decide: 8 to 14 experts, limits that a third or so of them fill.
pub(crate) fn contested() -> impl Strategy<Value = ProblemParts> {
    (8usize..=14, 8usize..=40, 1usize..=3).prop_flat_map(|(experts, rows, k)| {
        let kind = prop_oneof![
            4 => cost(experts).prop_map(|cost| Kind::Sum { cost }),
            1 => cost(experts).prop_map(|cost| Kind::Max { cost }),
            2 => (2usize..4, cost(experts)).prop_map(|(top, cost)| Kind::TopSum { top, cost }),
            1 => Just(Kind::Count),
        ];
        let constraints = vec((kind, 0.15..0.6f64), 1..5);
        (utility(rows, experts), constraints).prop_map(move |(utility, constraints)| {
            let constraints = constraints.into_iter().enumerate();
            ProblemParts {
                experts: (0..experts).map(|n| format!("expert {n}")).collect(),
                utility,
                weights: None,
                k,
                constraints: constraints
                    .map(|(r, (kind, share))| limited(r, kind, share))
                    .collect(),
            }
        })
    })
}

/// The row with a limit at about this share of the most that it could need.
fn limited(r: usize, kind: Kind, share: f64) -> Constraint {
    let mut row = Constraint {
        name: format!("row {r}"),
        limit: 0.0,
        kind,
    };
    let mut sorted = costs(&mut row).cloned().unwrap_or_default();
    sorted.sort_by(|a, b| b.total_cmp(a));
    row.limit = match &row.kind {
        Kind::Sum { cost } => share * cost.iter().sum::<f64>(),
        Kind::Max { .. } => sorted[(0.3 * share * sorted.len() as f64) as usize],
        Kind::TopSum { top, .. } => (0.5 + share) * sorted.iter().take(*top).sum::<f64>(),
        Kind::Count => 2.0 + (8.0 * share).floor(),
    };
    row
}

/// The instance whose expert `n` is expert `from(n)` of `parts`; names come along.
pub(crate) fn select(parts: &ProblemParts, from: impl Fn(usize) -> usize) -> ProblemParts {
    let count = parts.experts.len();
    let pick = |row: &Vec<f64>| (0..count).map(|n| row[from(n)]).collect::<Vec<f64>>();
    let mut picked = parts.clone();
    picked.experts = (0..count).map(|n| parts.experts[from(n)].clone()).collect();
    picked.utility = parts.utility.iter().map(pick).collect();
    for row in &mut picked.constraints {
        if let Some(cost) = costs(row) {
            *cost = pick(cost);
        }
    }
    picked
}

/// The costs of a row, if its kind has any.
pub(crate) fn costs(row: &mut Constraint) -> Option<&mut Vec<f64>> {
    match &mut row.kind {
        Kind::Sum { cost } | Kind::Max { cost } | Kind::TopSum { cost, .. } => Some(cost),
        Kind::Count => None,
    }
}

/// Solves without limits by the solver of that name.
pub(crate) fn solve(name: &str, problem: &Problem) -> Solution {
    solver(name)
        .unwrap()
        .solve(problem, &mut Limits::default())
        .unwrap()
}

/// The optimal value; 0 if only the empty set fits.
pub(crate) fn optimum(parts: &ProblemParts) -> f64 {
    solve("brute", &Problem::new(parts.clone()).unwrap()).objective
}

/// Rows whose utilities rise with a skill and fall with a difficulty, from a small generator.
pub(crate) fn skilled(experts: usize, rows: usize, seed: u64, binary: bool) -> ProblemParts {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31)
    };
    let skill: Vec<f64> = (0..experts).map(|_| 3.0 * next()).collect();
    let utility = (0..rows).map(|_| {
        let difficulty = 4.0 * next();
        let chances = skill.iter().map(|s| 1.0 / (1.0 + (difficulty - s).exp()));
        let mut draw = |p: f64| {
            if binary {
                f64::from(u8::from(next() < p))
            } else {
                p * next()
            }
        };
        chances.map(&mut draw).collect()
    });
    let utility = utility.collect();
    let rows = ["energy", "memory"].map(|name| {
        let cost: Vec<f64> = skill.iter().map(|s| 0.3 + s * next()).collect();
        let limit = 0.2 * cost.iter().sum::<f64>();
        Constraint {
            name: name.into(),
            limit,
            kind: Kind::Sum { cost },
        }
    });
    ProblemParts {
        experts: (0..experts).map(|n| n.to_string()).collect(),
        utility,
        weights: None,
        k: 1,
        constraints: rows.into(),
    }
}
