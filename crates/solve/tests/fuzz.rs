//! Any bytes as a selection problem, as a routing problem and as a proof: refused with a reason, or solved
//! with an answer that passes its check; and no proof proves what is not so.
//!
//! The targets are tests, which replay their corpus here; `docs/security.md` says how to run them longer.

#[cfg(test)]
mod targets {
    use std::sync::OnceLock;

    use moe2_solve::{
        Limits, Problem, check, check_routing, parse_instance, parse_proof, parse_routing, price,
        solver, solvers, value, verify, write_instance,
    };

    /// Cells of the largest table that is solved: beyond it the solvers would be timed, not the readers.
    const CELLS: usize = 64;
    /// Nodes that a solver may look at.
    const NODES: u64 = 200;

    #[test]
    fn instance() {
        bolero::check!(name = "instance").for_each(|bytes: &[u8]| {
            let problem = match parse_instance(bytes) {
                Ok(problem) => problem,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
            };
            if problem.expert_count() * problem.row_count() > CELLS || problem.k() > 8 {
                return;
            }
            let written = write_instance(&problem);
            let again = parse_instance(written.as_bytes()).expect("it reads back");
            assert_eq!(write_instance(&again), written);
            for solver in solvers() {
                if solver.applies(&problem).is_ok() && solver.name() != "milp" {
                    let limits = &mut Limits::default().with_nodes(NODES);
                    let solution = solver
                        .solve(&problem, limits)
                        .expect("it takes this problem");
                    assert_eq!(check(&problem, &solution), Ok(()), "{solution:?}");
                }
            }
        });
    }

    #[test]
    fn routing() {
        bolero::check!(name = "routing").for_each(|bytes: &[u8]| {
            let problem = match parse_routing(bytes) {
                Ok(problem) => problem,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
            };
            if problem.experts().len() * problem.prompt_count() > CELLS {
                return;
            }
            let solution = price(&problem);
            assert_eq!(check_routing(&problem, &solution), Ok(()), "{solution:?}");
        });
    }

    /// What the proofs of the corpus are about: `seed-sound` proves it.
    const PROVEN: &str = r#"{"format": "moe2-selection/1", "experts": ["a", "b", "c"], "k": 1,
        "utility": [[0.9, 0.1, 0.3], [0.2, 0.8, 0.4], [0.5, 0.6, 0.7], [0.1, 0.2, 0.9]],
        "constraints": [{"name": "watts", "kind": "sum", "cost": [3.0, 2.0, 2.0], "limit": 5.0}]}"#;

    /// The problem and its optimum.
    fn proven() -> &'static (Problem, f64) {
        static PROBLEM: OnceLock<(Problem, f64)> = OnceLock::new();
        PROBLEM.get_or_init(|| {
            let problem = parse_instance(PROVEN.as_bytes()).expect("a sound file");
            let brute = solver("brute").expect("it is in the table");
            let solution = brute.solve(&problem, &mut Limits::default());
            let best = value(&problem, &solution.expect("it is small").selected);
            (problem, best)
        })
    }

    #[test]
    fn proof() {
        bolero::check!(name = "proof").for_each(|bytes: &[u8]| {
            let Ok(proof) = parse_proof(bytes) else {
                return;
            };
            let (problem, best) = proven();
            if verify(problem, &proof).is_ok() {
                let claimed = proof.objective;
                assert!((claimed - best).abs() < 1e-9, "{claimed} is not {best}");
            }
        });
    }

    #[test]
    fn the_corpus_has_a_proof_that_holds() {
        let seed = include_bytes!("__fuzz__/proof/corpus/seed-sound");
        let proof = parse_proof(&seed[..]).expect("a sound file");
        assert_eq!(verify(&proven().0, &proof), Ok(()));
    }
}
