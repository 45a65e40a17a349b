//! Proofs written by someone who wants a lesser set to pass: none may.

use moe2_solve::{
    Constraint, Kind, Problem, ProblemParts, Proof, parse_instance, parse_proof, verify,
};
use proptest::prelude::*;

use crate::instances::solve;

fn problem(text: &str) -> Problem {
    parse_instance(text.as_bytes()).unwrap()
}

fn passes(problem: &Problem, selected: &str, cases: &str, unit: &str) -> bool {
    let text = format!(
        r#"{{"format": "moe2-proof/1", "selected": ["{selected}"], "objective": 0.1, "unit": {unit}, "cases": [{cases}]}}"#
    );
    verify(problem, &parse_proof(text.as_bytes()).unwrap()).is_ok()
}

const ONE_OF_TWO: &str = r#"{"format": "moe2-selection/1", "experts": ["a", "b"], "utility": [[0.9, 0.1]], "k": 1,
    "constraints": [{"name": "experts", "kind": "count", "limit": 1}]}"#;

#[test]
fn a_unit_that_everything_is_nothing_beside_is_no_unit() {
    let cases = r#"{"bounded": {"phantoms": [0.0], "prices": []}}"#;
    assert!(!passes(&problem(ONE_OF_TWO), "b", cases, "1e9"));
}

#[test]
fn a_price_that_swallows_the_utilities_proves_nothing() {
    let cases = r#"{"split": {"expert": 0, "with": 1, "without": 2}},
        {"bounded": {"phantoms": [0.0], "prices": [{"constraint": 0, "row": "whole", "price": 1e30}]}}, "whole""#;
    assert!(!passes(&problem(ONE_OF_TWO), "b", cases, "null"));
}

#[test]
fn an_expert_that_is_out_cannot_be_settled_in() {
    let problem = problem(
        r#"{"format": "moe2-selection/1", "experts": ["a", "b", "c"], "utility": [[0.9, 0.2, 0.1]], "k": 1,
        "constraints": [{"name": "w", "kind": "sum", "cost": [10, 2, 4], "limit": 4}]}"#,
    );
    let cases = r#"{"settled": {"by": {"phantoms": [0.0], "prices": []}, "out": [], "inside": [0], "rest": 1}}, "whole""#;
    assert!(!passes(&problem, "c", cases, "null"));
}

/// Numbers that break arithmetic.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        0.0..2.0f64,
        prop::sample::select(vec![
            1e-320,
            1e-300,
            1e-17,
            1e-9,
            1e9,
            1e17,
            1e30,
            1e300,
            f64::MAX
        ]),
    ]
}

fn row() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(serde_json::json!("whole")),
        prop::collection::vec(0..4usize, 0..4).prop_map(|n| serde_json::json!({"heaviest": n})),
        (0..4usize).prop_map(|t| serde_json::json!({"tier": t})),
    ]
}

fn multipliers() -> impl Strategy<Value = serde_json::Value> {
    let price = (0..3usize, row(), number())
        .prop_map(|(c, row, p)| serde_json::json!({"constraint": c, "row": row, "price": p}));
    (
        prop::collection::vec(number(), 2),
        prop::collection::vec(price, 0..3),
    )
        .prop_map(|(phantoms, prices)| serde_json::json!({"phantoms": phantoms, "prices": prices}))
}

/// The case at `at`; it refers to later ones, of which there are `of` in all.
fn case(at: usize, of: usize) -> impl Strategy<Value = serde_json::Value> {
    let later = (at + 1)..(of + 2).max(at + 2);
    let some = || prop::collection::vec(0..4usize, 0..3);
    prop_oneof![
        Just(serde_json::json!("whole")),
        multipliers().prop_map(|by| serde_json::json!({"bounded": by})),
        (multipliers(), some(), some(), later.clone())
            .prop_map(|(by, out, inside, rest)| serde_json::json!({"settled":
                {"by": by, "out": out, "inside": inside, "rest": rest}})),
        (some(), later.clone()).prop_map(
            |(experts, rest)| serde_json::json!({"free": {"experts": experts, "rest": rest}})
        ),
        (0..4usize, some(), later.clone()).prop_map(
            |(n, by, rest)| serde_json::json!({"dominated": {"experts": [[n, by]], "rest": rest}})
        ),
        (0..4usize, later.clone(), later)
            .prop_map(|(n, with, without)| serde_json::json!({"split":
                {"expert": n, "with": with, "without": without}})),
    ]
}

fn cases() -> impl Strategy<Value = Vec<serde_json::Value>> {
    (1..5usize).prop_flat_map(|of| (0..of).map(|at| case(at, of).boxed()).collect::<Vec<_>>())
}

fn small() -> impl Strategy<Value = ProblemParts> {
    let utility = prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64, Just(1e-200)];
    let cost = || prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..3.0f64], 4);
    let kind = prop_oneof![
        cost().prop_map(|cost| Kind::Sum { cost }),
        cost().prop_map(|cost| Kind::Max { cost }),
        (2..4usize, cost()).prop_map(|(top, cost)| Kind::TopSum { top, cost }),
        Just(Kind::Count),
    ];
    (
        prop::collection::vec(prop::collection::vec(utility, 4), 2),
        1..3usize,
        prop::collection::vec((kind, 1.0..4.0f64), 1..3),
    )
        .prop_map(|(utility, k, constraints)| ProblemParts {
            experts: (0..4).map(|n| format!("e{n}")).collect(),
            utility,
            weights: None,
            k,
            constraints: constraints
                .into_iter()
                .enumerate()
                .map(|(at, (kind, limit))| Constraint {
                    name: format!("c{at}"),
                    limit,
                    kind,
                })
                .collect(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn whatever_is_written_a_lesser_set_does_not_pass(
        parts in small(), cases in cases(), member in 0..4usize,
        unit in prop::option::weighted(0.3, number()),
    ) {
        let problem = Problem::new(parts).unwrap();
        let best = solve("brute", &problem);
        let objective = moe2_solve::value(&problem, &[member]);
        if objective >= best.objective * (1.0 - 1e-6) {
            return Ok(());
        }
        let proof = serde_json::json!({"format": "moe2-proof/1", "selected": [format!("e{member}")],
            "objective": objective, "unit": unit, "cases": cases});
        let proof: Proof = serde_json::from_value(proof).unwrap();
        prop_assert!(verify(&problem, &proof).is_err(), "{proof:?} for {problem:?}, best {best:?}");
    }
}
