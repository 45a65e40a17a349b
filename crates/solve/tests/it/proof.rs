//! Proofs: those that are written are accepted, and no change to one is.

use crate::instances::{contested, sized, skilled, solve};
use moe2_solve::proof::{Case, Multipliers, Row};
use moe2_solve::{
    Constraint, Kind, Limits, Problem, Proof, ProofError, Solution, Status, prove, verify,
};
use proptest::prelude::*;

fn proof(problem: &Problem, solution: &Solution) -> Proof {
    let proof = prove(problem, solution, &mut Limits::default());
    proof.expect("an optimum without limits on time can be proven")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_optimum_has_a_proof_that_is_accepted(parts in prop_oneof![sized(12, 12), contested()]) {
        let problem = Problem::new(parts).unwrap();
        let solution = solve("bnb", &problem);
        if solution.status != Status::Optimal {
            return Ok(());
        }
        let proof = proof(&problem, &solution);
        prop_assert_eq!(verify(&problem, &proof), Ok(()));
        // It survives being written down.
        let text = serde_json::to_string(&proof).unwrap();
        let read: Proof = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(verify(&problem, &read), Ok(()));
    }

    /// A set that is worth less can be claimed to be the best, with any proof that was written for the
    /// best one: it must not pass.
    #[test]
    fn a_lesser_set_never_passes(parts in contested(), leave in any::<prop::sample::Index>()) {
        let problem = Problem::new(parts).unwrap();
        let solution = solve("bnb", &problem);
        let mut forged = proof(&problem, &solution);
        if forged.selected.len() < 2 {
            return Ok(());
        }
        forged.selected.remove(leave.index(forged.selected.len()));
        let index = |name: &String| problem.experts().iter().position(|e| e == name).unwrap();
        let members: Vec<usize> = forged.selected.iter().map(index).collect();
        forged.objective = moe2_solve::value(&problem, &members);
        if forged.objective < solution.objective * (1.0 - 1e-6) {
            prop_assert!(verify(&problem, &forged).is_err());
        }
    }

    /// Removing a case, or giving a box a case that belongs to another one, leaves something open
    /// or refers to nothing.
    #[test]
    fn cases_cannot_be_left_out(parts in contested(), at in any::<prop::sample::Index>()) {
        let problem = Problem::new(parts).unwrap();
        let solution = solve("bnb", &problem);
        let honest = proof(&problem, &solution);
        let mut forged = honest.clone();
        let removed = forged.cases.remove(at.index(honest.cases.len()));
        let last = forged.cases.is_empty();
        prop_assert!(verify(&problem, &forged).is_err() || !last, "{removed:?}");
        let mut doubled = honest;
        let splits = doubled.cases.iter_mut().filter_map(|case| match case {
            Case::Split { with, without, .. } => Some((with, without)),
            _ => None,
        });
        let mut any = false;
        for (with, without) in splits {
            *without = *with;
            any = true;
        }
        prop_assert!(!any || verify(&problem, &doubled).is_err());
    }
}

#[test]
fn proofs_of_large_instances_are_accepted_and_short() {
    for (seed, binary, k) in [(1, true, 1), (2, false, 1), (3, true, 2), (4, false, 3)] {
        let mut parts = skilled(40, 300, seed, binary);
        parts.k = k;
        if k > 1 {
            let cost = parts.constraints[0].clone();
            let Kind::Sum { cost } = cost.kind else {
                panic!()
            };
            let limit = 1.5 * cost.iter().copied().fold(0.0, f64::max);
            parts.constraints.push(Constraint {
                name: "prompt".into(),
                limit,
                kind: Kind::TopSum { top: k, cost },
            });
        }
        let problem = Problem::new(parts).unwrap();
        let proof = proof(&problem, &solve("bnb", &problem));
        assert_eq!(verify(&problem, &proof), Ok(()));
        assert!(proof.cases.len() < 5_000, "{} cases", proof.cases.len());
    }
}

/// Two experts of which one fits: the proof is one case.
fn small() -> (Problem, Proof) {
    let mut parts = skilled(12, 40, 7, true);
    parts.k = 2;
    parts.constraints.push(Constraint {
        name: "prompt".into(),
        limit: 3.0,
        kind: Kind::TopSum {
            top: 2,
            cost: (0..12).map(|n| 0.5 + 0.2 * f64::from(n)).collect(),
        },
    });
    let problem = Problem::new(parts).unwrap();
    let proof = proof(&problem, &solve("bnb", &problem));
    assert_eq!(verify(&problem, &proof), Ok(()));
    (problem, proof)
}

fn refused(change: impl Fn(&mut Proof)) -> ProofError {
    let (problem, mut proof) = small();
    change(&mut proof);
    verify(&problem, &proof).unwrap_err()
}

#[test]
fn a_false_heading_is_refused() {
    assert!(matches!(
        refused(|p| p.format = "moe2-proof/2".into()),
        ProofError::Format { .. }
    ));
    assert!(matches!(
        refused(|p| p.objective += 0.01),
        ProofError::Set { .. }
    ));
    assert!(matches!(
        refused(|p| p.selected.clear()),
        ProofError::Set { .. }
    ));
    assert!(matches!(
        refused(|p| p.selected.push("nobody".into())),
        ProofError::Set { .. }
    ));
    let double = |p: &mut Proof| p.selected.push(p.selected[0].clone());
    assert!(matches!(refused(double), ProofError::Set { .. }));
    assert!(matches!(
        refused(|p| p.unit = Some(0.123)),
        ProofError::Malformed { .. }
    ));
    assert!(matches!(
        refused(|p| p.unit = Some(1e-300)),
        ProofError::Malformed { .. }
    ));
    assert!(matches!(
        refused(|p| p.cases.clear()),
        ProofError::Malformed { .. }
    ));
}

fn each(proof: &mut Proof, change: fn(&mut Multipliers)) {
    for case in &mut proof.cases {
        if let Case::Bounded(by) | Case::Settled { by, .. } = case {
            change(by);
        }
    }
}

#[test]
fn false_multipliers_are_refused() {
    let nothing = |p: &mut Proof| each(p, |by| by.phantoms.fill(0.0));
    assert!(matches!(refused(nothing), ProofError::Bound { .. }));
    let negative = |p: &mut Proof| each(p, |by| by.phantoms[0] = -1.0);
    assert!(matches!(refused(negative), ProofError::Malformed { .. }));
    let short = |p: &mut Proof| each(p, |by| by.phantoms.truncate(1));
    assert!(matches!(refused(short), ProofError::Malformed { .. }));
    let free = |p: &mut Proof| each(p, |by| by.prices.iter_mut().for_each(|p| p.price = -1.0));
    assert!(matches!(
        refused(free),
        ProofError::Step { .. } | ProofError::Bound { .. }
    ));
    let elsewhere =
        |p: &mut Proof| each(p, |by| by.prices.iter_mut().for_each(|p| p.constraint = 99));
    assert!(matches!(refused(elsewhere), ProofError::Step { .. }));
    let all = |p: &mut Proof| {
        each(p, |by| {
            by.prices
                .iter_mut()
                .for_each(|p| p.row = Row::Heaviest((0..12).collect()));
        });
    };
    assert!(matches!(refused(all), ProofError::Step { .. }));
    let deep = |p: &mut Proof| {
        each(p, |by| {
            by.prices.iter_mut().for_each(|p| p.row = Row::Tier(3))
        })
    };
    assert!(matches!(refused(deep), ProofError::Step { .. }));
}

#[test]
fn false_steps_are_refused() {
    let gone = |p: &mut Proof| {
        p.cases.insert(
            0,
            Case::Dominated {
                experts: vec![(0, vec![1, 2])],
                rest: 1,
            },
        );
    };
    assert!(matches!(
        refused(gone),
        ProofError::Step { .. } | ProofError::Malformed { .. }
    ));
    let whole = |p: &mut Proof| p.cases[0] = Case::Whole;
    assert!(matches!(refused(whole), ProofError::Step { .. }));
    let free = |p: &mut Proof| {
        p.cases[0] = Case::Free {
            experts: vec![0],
            rest: 1,
        }
    };
    assert!(matches!(refused(free), ProofError::Step { .. }));
    let unknown = |p: &mut Proof| {
        p.cases[0] = Case::Split {
            expert: 99,
            with: 1,
            without: 2,
        }
    };
    assert!(matches!(refused(unknown), ProofError::Step { .. }));
}

#[test]
fn a_proof_is_not_written_for_what_is_not_known_to_be_best() {
    let problem = Problem::new(skilled(30, 100, 2, true)).unwrap();
    let mut solution = solve("greedy", &problem);
    solution.status = Status::Feasible;
    assert_eq!(prove(&problem, &solution, &mut Limits::default()), None);
    let solution = solve("bnb", &problem);
    assert_eq!(
        prove(&problem, &solution, &mut Limits::default().with_nodes(0)),
        None
    );
}
