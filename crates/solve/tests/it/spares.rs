//! What still fits beside a set, against looking at the whole set each time.

use moe2_solve::{Constraint, FEASIBILITY_TOLERANCE, Problem, load, spares};
use proptest::prelude::*;

use crate::instances::parts;

proptest! {
    #[test]
    fn spares_are_all_that_still_fits(parts in parts(), inside: u16) {
        let problem = Problem::new(parts).expect("a valid instance");
        let holds = |set: &[usize]| {
            let fits = |row: &Constraint| load(row, set) <= row.limit * (1.0 + FEASIBILITY_TOLERANCE);
            problem.constraints().iter().all(fits)
        };
        let all = 0..problem.expert_count();
        let members: Vec<usize> = all.clone().filter(|n| inside >> n & 1 == 1).collect();
        let mut whole = members.clone();
        for extra in all.filter(|n| inside >> n & 1 == 0) {
            whole.push(extra);
            if !holds(&whole) {
                whole.pop();
            }
        }
        prop_assert_eq!(spares(&problem, &members), &whole[members.len()..]);
    }
}
