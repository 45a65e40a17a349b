//! Any bytes as a selection instance: refused with a reason, or solved with an answer that passes its
//! check.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moe2_solve::{Limits, check, parse_instance, solvers};

fuzz_target!(|bytes: &[u8]| {
    let Ok(problem) = parse_instance(bytes) else {
        return;
    };
    if problem.expert_count() * problem.row_count() > 400 || problem.k() > 8 {
        return;
    }
    for solver in solvers() {
        if solver.applies(&problem).is_ok() && solver.name() != "milp" {
            let limits = &mut Limits::default().with_nodes(2_000);
            let solution = solver.solve(&problem, limits).expect("it takes this problem");
            assert_eq!(check(&problem, &solution), Ok(()), "{solution:?}");
        }
    }
});
