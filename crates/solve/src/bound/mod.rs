//! Upper bounds on the best set inside a box, all of one family.
//!
//! For any ticks `v_x ≥ 0` per row, imagine k *phantom* experts that reach exactly `v_x` there and use
//! up nothing. Adding them never lowers a value, and from the phantoms alone every set S gains at most
//! the sum of what its members gain, because values are submodular:
//!
//! ```text
//! F(S) ≤ F(S + phantoms) ≤ k·Σ_x v_x + Σ_{n ∈ S} Σ_x (r_xn − v_x)⁺
//! ```
//!
//! which is linear in S (`majorant`). Maximising it over the constraints, relaxed by prices λ ≥ 0
//! (`knapsack`), bounds every feasible set. The bounds of the literature are choices of v and λ:
//!
//! | bound | v | λ |
//! |---|---|---|
//! | value of everything allowed | k-th best of everything allowed | 0 |
//! | marginal values and a fractional knapsack | k-th best of the members so far | one row at a time |
//! | linear-programming (Benders, Nemhauser–Wolsey) | the best there is, by cuts (`master`) | its duals |
//! | Lagrangian | by subgradient steps (`lagrange`) | by coordinate descent |
//!
//! Whatever proposes v and λ, the bound itself is computed from them in whole ticks, so the proof
//! rests on a few lines of integer arithmetic and not on a simplex method in floating point.

pub(crate) mod exact;
pub(crate) mod knapsack;
pub(crate) mod lagrange;
pub(crate) mod majorant;
pub(crate) mod master;
pub(crate) mod simplex;

#[cfg(test)]
mod tests {
    use super::{exact, knapsack::Row, lagrange};
    use crate::problem::{Constraint, Kind, Problem, ProblemParts};
    use crate::reduce::{ROOM, Reduced, Steps};
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever the phantoms and prices, no feasible set is worth more, in ticks and exactly;
        /// with the phantoms of a set itself and no limit the bound is its value.
        #[test]
        fn any_multipliers_bound_every_set(
            utility in vec(vec(0.0..1.0f64, 7), 1..20),
            cost in vec(0.0..1.0f64, 7),
            guesses in vec((0.0..1.2f64, 0.0..1.0f64), 20),
            price in 0.0..1.0f64,
            k in 1usize..4,
        ) {
            let problem = Problem::new(ProblemParts {
                experts: (0..7).map(|n| n.to_string()).collect(),
                utility,
                weights: None,
                k,
                constraints: vec![Constraint {
                    name: "cost".into(),
                    limit: 1.5,
                    kind: Kind::Sum { cost: cost.clone() },
                }],
            }).unwrap();
            let reduced = Reduced::of(&problem, &Steps { dominance: false, merge: false, unit: true });
            let open: Vec<usize> = (0..reduced.width()).collect();
            let free = vec![0.0; reduced.width()];
            let share = reduced.linear.first().map_or(&free, |row| &row.share);
            let rows = [Row { share, left: ROOM }];
            let region = lagrange::Region { inside: &[], open: &open, rows: &rows };
            let whole = reduced.ticks.count(1.0 / problem.row_count() as f64);
            let phantoms: Vec<u32> =
                guesses.iter().take(reduced.rows).map(|g| (g.0 * f64::from(whole)) as u32).collect();
            let prices = vec![price * f64::from(whole)];
            let exactly: Vec<f64> = phantoms.iter().enumerate()
                .map(|(row, &ticks)| exact::phantom(&reduced, &problem, row, ticks)).collect();
            let exactly = exact::bound(&reduced, &problem, region, &exactly, &prices);
            let proof = lagrange::prove(&reduced, region, phantoms, prices);
            let ticks = reduced.ticks.value(reduced.ticks.floor(proof.bound));
            for mask in 1u32..1 << 7 {
                let set: Vec<usize> = (0..7).filter(|n| mask >> n & 1 == 1).collect();
                if set.iter().map(|&n| cost[n]).sum::<f64>() > 1.5 {
                    continue;
                }
                let value = crate::objective::value(&problem, &set);
                prop_assert!(value <= ticks, "{value} {ticks}");
                prop_assert!(value <= exactly, "{value} {exactly}");
            }
            let all: Vec<usize> = (0..7).collect();
            let best = |row: usize| {
                let mut sorted = problem.row(row).to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                sorted[(k - 1).min(6)] / problem.row_count() as f64
            };
            let tight: Vec<f64> = (0..reduced.rows).map(best).collect();
            let unlimited = lagrange::Region { rows: &[], ..region };
            let bound = exact::bound(&reduced, &problem, unlimited, &tight, &[]);
            let value = crate::objective::value(&problem, &all);
            prop_assert!((bound - value).abs() <= 1e-9 * value.max(1e-9), "{bound} {value}");
        }
    }
}
