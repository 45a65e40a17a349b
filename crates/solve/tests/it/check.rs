//! The judge must refuse every kind of false claim.

use crate::instances::{parts, solve};
use moe2_solve::{
    CheckError, Constraint, Infeasible, Kind, Problem, ProblemParts, Shortfall, Solution, Status,
    check,
};
use proptest::prelude::*;

/// Three experts, room for two; the best pair is 0 and 2 with value 1.7 / 2.
fn instance() -> (Problem, Solution) {
    let problem = Problem::new(ProblemParts {
        experts: vec!["a".into(), "b".into(), "c".into()],
        utility: vec![vec![0.9, 0.8, 0.1], vec![0.2, 0.1, 0.8]],
        weights: None,
        k: 1,
        constraints: vec![
            Constraint {
                name: "power".into(),
                limit: 5.0,
                kind: Kind::Sum {
                    cost: vec![2.0, 2.0, 3.0],
                },
            },
            Constraint {
                name: "experts".into(),
                limit: 3.0,
                kind: Kind::Count,
            },
        ],
    })
    .unwrap();
    let solution = solve("brute", &problem);
    assert_eq!(solution.selected, [0, 2]);
    assert_eq!(solution.binding, [0]);
    assert_eq!(check(&problem, &solution), Ok(()));
    (problem, solution)
}

fn refused(change: impl Fn(&mut Solution)) -> CheckError {
    let (problem, mut solution) = instance();
    change(&mut solution);
    check(&problem, &solution).unwrap_err()
}

#[test]
fn a_wrong_objective_is_refused() {
    let error = refused(|s| s.objective -= 1e-6);
    assert!(matches!(error, CheckError::Objective { .. }), "{error}");
    let error = refused(|s| s.objective = f64::NAN);
    assert!(matches!(error, CheckError::Objective { .. }), "{error}");
}

#[test]
fn a_set_that_breaks_a_limit_is_refused() {
    let error = refused(|s| s.selected = vec![0, 1, 2]);
    assert_eq!(
        error,
        CheckError::Broken {
            row: 0,
            load: 7.0,
            limit: 5.0
        }
    );
}

#[test]
fn a_bound_below_the_objective_is_refused() {
    for bound in [0.5, f64::NAN] {
        let error = refused(|s| s.bound = bound);
        assert!(matches!(error, CheckError::Bound { .. }), "{error}");
    }
}

#[test]
fn a_bound_below_a_single_expert_is_refused_even_if_it_suits_the_set() {
    let error = refused(|s| {
        (s.status, s.selected, s.binding) = (Status::Feasible, vec![1], vec![]);
        (s.objective, s.bound) = (0.45, 0.45);
    });
    assert!(matches!(error, CheckError::Bound { .. }), "{error}");
}

#[test]
fn optimality_with_a_gap_is_refused() {
    let error = refused(|s| s.bound += 0.01);
    assert!(matches!(error, CheckError::Gap { .. }), "{error}");
}

#[test]
fn optimality_of_a_set_that_can_grow_is_refused() {
    let error = refused(|s| {
        (s.selected, s.binding) = (vec![0], vec![]);
        (s.objective, s.bound) = (0.55, 0.55);
    });
    assert!(
        matches!(error, CheckError::NotMaximal { expert: 2, .. }),
        "{error}"
    );
}

#[test]
fn a_malformed_selection_is_refused() {
    for selected in [vec![2, 0], vec![0, 0], vec![0, 3]] {
        let error = refused(|s| s.selected.clone_from(&selected));
        assert_eq!(error, CheckError::Selection { at: 1 });
    }
    assert_eq!(refused(|s| s.selected.clear()), CheckError::Emptiness);
}

#[test]
fn a_wrong_list_of_binding_rows_is_refused() {
    assert_eq!(
        refused(|s| s.binding.clear()),
        CheckError::Binding { row: 0 }
    );
    assert_eq!(
        refused(|s| s.binding = vec![0, 1]),
        CheckError::Binding { row: 1 }
    );
    assert_eq!(
        refused(|s| s.binding = vec![0, 9]),
        CheckError::Binding { row: 9 }
    );
}

#[test]
fn infeasibility_of_a_feasible_problem_is_refused() {
    let error = refused(|s| {
        s.selected.clear();
        s.status = Status::Infeasible(Infeasible {
            expert: 0,
            short: vec![],
        });
    });
    assert_eq!(error, CheckError::NotInfeasible { expert: 0 });
}

#[test]
fn a_way_out_that_does_not_lead_out_is_refused() {
    let problem = Problem::new(ProblemParts {
        experts: vec!["a".into()],
        utility: vec![vec![1.0]],
        weights: None,
        k: 1,
        constraints: vec![Constraint {
            name: "cap".into(),
            limit: 0.0,
            kind: Kind::Count,
        }],
    })
    .unwrap();
    let mut solution = solve("auto", &problem);
    assert_eq!(check(&problem, &solution), Ok(()));
    let short = vec![Shortfall {
        row: 0,
        limit: 0.0,
        needed: 0.5,
    }];
    solution.status = Status::Infeasible(Infeasible { expert: 0, short });
    assert_eq!(
        check(&problem, &solution),
        Err(CheckError::Reason { expert: 0 })
    );
}

proptest! {
    #[test]
    fn no_change_of_the_numbers_survives(parts in parts(), by in 1e-6..0.5f64) {
        let problem = Problem::new(parts).unwrap();
        let honest = solve("brute", &problem);
        // Nothing to forge in relative terms.
        if honest.objective == 0.0 {
            return Ok(());
        }
        for sign in [1.0 + by, 1.0 - by] {
            let forged = Solution { objective: honest.objective * sign, ..honest.clone() };
            prop_assert!(check(&problem, &forged).is_err());
            let forged = Solution { bound: honest.bound * sign, ..honest.clone() };
            prop_assert!(check(&problem, &forged).is_err());
        }
    }

    #[test]
    fn dropping_a_member_and_claiming_optimality_never_survives(parts in parts()) {
        let problem = Problem::new(parts).unwrap();
        let honest = solve("brute", &problem);
        for at in 0..honest.selected.len() {
            let mut forged = honest.clone();
            forged.selected.remove(at);
            prop_assert!(honest.selected.len() == 1 || honest.objective > 0.0);
            forged.objective = moe2_solve::value(&problem, &forged.selected);
            forged.bound = forged.objective;
            prop_assert!(check(&problem, &forged).is_err());
        }
    }
}
