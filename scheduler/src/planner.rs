//! Solving selection problems off the engine's task, and proving the answers.
//!
//! The answer is used as soon as it is found and checked. Proving it again in a way that can be checked
//! takes longer and changes nothing but what the operator may believe, so it comes afterwards and ends
//! when there is a newer problem.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use moe2_engine::coordinator::{Input, PlanRequest};
use moe2_model::Seconds;
use moe2_solve::{Limits, Problem, Solution, check, prove, solver, verify};
use tokio::task::spawn_blocking;

use crate::handle::EngineHandle;

/// Longest the solver may search; what it has then is used with its true bound.
const PLAN_TIME: Duration = Duration::from_secs(10);
/// Longest that proving an optimum may take.
const PROOF_TIME: Duration = Duration::from_secs(10);

/// Solves a problem, tells the engine, and proves the answer unless a newer problem came.
pub(crate) async fn plan(request: PlanRequest, newer: Arc<AtomicBool>, engine: EngineHandle) {
    let (generation, problem) = (request.generation, request.problem.clone());
    let solved = {
        let problem = problem.clone();
        spawn_blocking(move || solve(&problem)).await
    };
    let failed = |reason: String| Input::PlanFailed { generation, reason };
    match solved {
        Ok(Ok((solution, took))) => {
            let (asked, found) = (request.clone(), solution.clone());
            // Without prices the plan holds all the same, and means are kept from what is used.
            let prices = spawn_blocking(move || asked.price(&found)).await;
            let planned = Input::Planned {
                request: Box::new(request),
                solution: Box::new(solution.clone()),
                prices: prices.unwrap_or_default(),
                took,
            };
            // Fails only when the process is ending.
            let _ = engine.input(planned).await;
            let proven = spawn_blocking(move || proven(&problem, &solution, &newer)).await;
            match proven {
                Ok(Ok(Some(cases))) => {
                    let _ = engine.input(Input::Proven { generation, cases }).await;
                }
                Ok(Ok(None)) => {}
                Ok(Err(reason)) => tracing::error!(reason, "a plan's proof does not hold"),
                Err(error) => tracing::error!(%error, "the proof's thread failed"),
            }
        }
        Ok(Err(reason)) => {
            let _ = engine.input(failed(reason)).await;
        }
        Err(error) => {
            let _ = engine.input(failed(error.to_string())).await;
        }
    }
    engine.planner_free().await;
}

/// The checked answer and how long it took.
fn solve(problem: &Problem) -> Result<(Solution, Seconds), String> {
    let started = Instant::now();
    let mut stop = |_: &moe2_solve::Progress| started.elapsed() > PLAN_TIME;
    let mut limits = Limits::default().with_stop(&mut stop);
    let solution = solver("auto")
        .map_err(|e| e.to_string())?
        .solve(problem, &mut limits)
        .map_err(|e| e.to_string())?;
    check(problem, &solution).map_err(|e| e.to_string())?;
    let took = Seconds::saturating(started.elapsed().as_secs_f64());
    Ok((solution, took))
}

/// Cases of a verified proof; nothing if there is none within the time.
fn proven(
    problem: &Problem,
    solution: &Solution,
    newer: &AtomicBool,
) -> Result<Option<usize>, String> {
    let started = Instant::now();
    let mut stop =
        |_: &moe2_solve::Progress| started.elapsed() > PROOF_TIME || newer.load(Ordering::Relaxed);
    let mut limits = Limits::default().with_stop(&mut stop);
    let Some(proof) = prove(problem, solution, &mut limits) else {
        return Ok(None);
    };
    verify(problem, &proof).map_err(|e| e.to_string())?;
    Ok(Some(proof.cases.len()))
}
