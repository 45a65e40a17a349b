//! Any bytes as a routing problem: refused with a reason, or priced with an answer that passes its
//! check.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moe2_solve::{check_routing, parse_routing, price};

fuzz_target!(|bytes: &[u8]| {
    let Ok(problem) = parse_routing(bytes) else {
        return;
    };
    if problem.experts().len() * problem.prompt_count() > 400 {
        return;
    }
    let solution = price(&problem);
    assert_eq!(check_routing(&problem, &solution), Ok(()), "{solution:?}");
});
