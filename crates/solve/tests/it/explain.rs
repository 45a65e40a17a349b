//! Reasons for what was dropped, and what would bring it in, against exhaustive search.

use crate::instances::{contested, solve};
use moe2_solve::{
    Constraint, Dropped, Kind, Problem, ProblemParts, Shortfall, admission, dropped, load, value,
};
use proptest::prelude::*;

fn sum(name: &str, limit: f64, cost: &[f64]) -> Constraint {
    Constraint {
        name: name.into(),
        limit,
        kind: Kind::Sum {
            cost: cost.to_vec(),
        },
    }
}

/// Utilities that no two of these experts share.
fn five() -> Problem {
    Problem::new(ProblemParts {
        experts: ["best", "second", "huge", "copy", "useless"]
            .map(String::from)
            .into(),
        utility: vec![
            vec![0.9, 0.2, 1.0, 0.9, 0.1],
            vec![0.8, 0.1, 1.0, 0.8, 0.1],
            vec![0.1, 0.6, 1.0, 0.1, 0.1],
        ],
        weights: None,
        k: 1,
        constraints: vec![sum("watts", 5.0, &[3.0, 4.0, 8.0, 3.5, 0.5])],
    })
    .unwrap()
}

#[test]
fn every_dropped_expert_has_its_reason() {
    let problem = five();
    let solution = solve("bnb", &problem);
    assert_eq!(solution.selected, [0]);
    let reasons = dropped(&problem, &solution);
    assert_eq!(reasons.len(), 4);
    let short = |needed| Shortfall {
        row: 0,
        limit: 5.0,
        needed,
    };
    let Dropped::Outweighed { gain, rows } = &reasons[0].1 else {
        panic!("{reasons:?}")
    };
    assert!((gain - 0.5 / 3.0).abs() < 1e-12);
    assert_eq!(rows, &[short(7.0)]);
    assert_eq!(
        reasons[1].1,
        Dropped::TooLarge {
            rows: vec![short(8.0)]
        }
    );
    assert_eq!(reasons[2].1, Dropped::Dominated { by: 0 });
    assert_eq!(reasons[3].1, Dropped::Idle);
}

#[test]
fn the_price_of_an_outweighed_expert_and_the_limit_that_admits_it() {
    let never = &mut || false;
    let admitted = admission(&five(), 1, never).unwrap();
    // Alone it is worth 0.3; at 7 watts it joins the best.
    assert!(
        (admitted.forced.unwrap() - 0.3).abs() < 1e-12,
        "{admitted:?}"
    );
    let limit = admitted.limit.unwrap();
    assert!(
        limit.needed >= 7.0 && limit.needed < 7.0 * 1.002,
        "{limit:?}"
    );
    let large = admission(&five(), 2, never).unwrap();
    assert_eq!(large.forced, None);
    assert!(
        (8.0..8.02).contains(&large.limit.unwrap().needed),
        "{large:?}"
    );
    // No limit makes a copy worth having.
    assert_eq!(admission(&five(), 3, never).unwrap().limit, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn forced_values_and_limits_are_those_of_exhaustive_search(parts in contested(), pick in any::<prop::sample::Index>()) {
        let problem = Problem::new(parts.clone()).unwrap();
        let solution = solve("bnb", &problem);
        let reasons = dropped(&problem, &solution);
        if reasons.is_empty() {
            return Ok(());
        }
        let (expert, reason) = &reasons[pick.index(reasons.len())];
        let admitted = admission(&problem, *expert, &mut || false).unwrap();
        let forced = best_with(&parts, *expert);
        prop_assert_eq!(admitted.forced.is_some(), forced.is_some());
        if let (Some(found), Some(best)) = (admitted.forced, forced) {
            prop_assert!((found - best).abs() <= 1e-8 * best.max(1e-3), "{found} {best}");
        }
        if let Some(short) = admitted.limit {
            let mut wider = parts.clone();
            wider.constraints[short.row].limit = short.needed * (1.0 + 1e-9);
            let best = solve("brute", &Problem::new(wider.clone()).unwrap()).objective;
            prop_assert!((best_with(&wider, *expert).unwrap() - best).abs() <= 1e-8 * best.max(1e-3));
        }
        if let Dropped::Outweighed { gain, rows } = reason {
            prop_assert!(*gain > 0.0 && !rows.is_empty());
        }
    }
}

/// The best value of a set with this expert, over all subsets.
fn best_with(parts: &ProblemParts, expert: usize) -> Option<f64> {
    let problem = Problem::new(parts.clone()).unwrap();
    let sets = (1u32..1 << parts.experts.len()).filter(|mask| mask >> expert & 1 == 1);
    let feasible = sets.filter_map(|mask| {
        let set: Vec<usize> = (0..parts.experts.len())
            .filter(|n| mask >> n & 1 == 1)
            .collect();
        let holds = |row: &Constraint| load(row, &set) <= row.limit * (1.0 + 1e-9);
        problem
            .constraints()
            .iter()
            .all(holds)
            .then(|| value(&problem, &set))
    });
    feasible.max_by(f64::total_cmp)
}
