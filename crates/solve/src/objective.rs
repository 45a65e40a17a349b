//! `F_k(S)`: what a set of experts is worth.
//!
//! Each row's k best utilities are added from the largest down, so the result depends only on the
//! multiset of utilities: listing the experts in another order gives the same bits, and ties
//! between sets are exact rather than a matter of rounding. An incremental delta would be faster
//! but would drift; solvers that keep state finish with this sum.

use crate::problem::Problem;

/// Value of the set `members` (indices without repeats), in the unit of weight × utility.
///
/// # Panics
/// If an index is not below [`Problem::expert_count`].
pub fn value(problem: &Problem, members: &[usize]) -> f64 {
    let mut best = vec![0.0; problem.k().min(members.len())];
    let worth = |(row, weight): (usize, &f64)| {
        let utilities = problem.row(row);
        best.fill(0.0);
        for &n in members {
            let mut carry = utilities[n];
            for place in &mut best {
                if carry > *place {
                    std::mem::swap(place, &mut carry);
                }
            }
        }
        weight * best.iter().sum::<f64>()
    };
    problem.weights().iter().enumerate().map(worth).sum()
}
