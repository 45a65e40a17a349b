//! `moe2 solve`: the best set of experts under limits, from a file, with a proof.
//!
//! It needs no coordinator: the same solvers that the planner uses, on any instance. Whatever a solver
//! returns is judged before it is printed.

mod report;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use moe2_model::Rng;
use moe2_solve::{
    Limits, Problem, Progress, ResultFile, Solution, SolveError, Status, check, parse_instance,
    prove, solver, solvers, verify,
};

use crate::duration::duration;
use crate::plot::Moment;
use crate::progress::Watch;
use crate::{BadInput, Infeasible, input, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 solve instance.json\n  moe2 solve instance.json.zst --time-limit 10s --json\n  moe2 solve instance.json --explain\n  moe2 solve instance.json --proof proof.json && moe2 verify instance.json proof.json\n  generate | moe2 solve -\n\nThe file format is described in docs/solver.md. Exit codes: 0 a set was found, 2 the file is not\nacceptable, 3 no set keeps the limits."
)]
pub(crate) struct Args {
    /// The instance, `moe2-selection/1`, plain or zstd; `-` for standard input.
    file: PathBuf,
    /// Which solver; `auto` proves an optimum unless time ends first.
    #[arg(long, default_value = "auto", value_parser = known())]
    solver: String,
    /// When to stop with the best set so far and a true bound: a number with ms, s, m or h.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    time_limit: Option<Duration>,
    /// Shuffles the experts first, which decides between equally good sets; 0 keeps the file's order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also find, by further exact solves, what would bring each dropped expert in.
    #[arg(long, conflicts_with = "json")]
    explain: bool,
    /// Also write a proof that no set is worth more, for `moe2 verify`; needs an optimum.
    #[arg(long, value_name = "PROOF")]
    proof: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(long)]
    quiet: bool,
}

fn known() -> clap::builder::PossibleValuesParser {
    solvers()
        .iter()
        .map(|solver| solver.name())
        .collect::<Vec<_>>()
        .into()
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let problem = input::read(&args.file, parse_instance)?;
    let problem = shuffled(problem, args.seed);
    let watch = Watch::new("solving", args.quiet);
    let began = Instant::now();
    let (solution, moments) = solve(args, &problem, &watch, began)?;
    let seconds = began.elapsed().as_secs_f64();
    watch.finish();
    check(&problem, &solution).context("the answer did not pass its check; please report this")?;
    if args.json {
        let result = ResultFile::new(&problem, &solution, seconds);
        out::data(&serde_json::to_string(&result)?);
    } else if !matches!(solution.status, Status::Infeasible(_)) {
        out::data(&report::render(&problem, &solution, seconds, &moments));
        if args.explain {
            explain(args, &problem, &solution)?;
        }
    }
    if let Some(path) = &args.proof {
        write_proof(args, &problem, &solution, path)?;
    }
    match &solution.status {
        Status::Infeasible(reason) => bail!(Infeasible(reason.describe(&problem))),
        _ => Ok(()),
    }
}

/// Solves within the time limit and notes how value and bound moved.
fn solve(
    args: &Args,
    problem: &Problem,
    watch: &Watch,
    began: Instant,
) -> anyhow::Result<(Solution, Vec<Moment>)> {
    let mut moments: Vec<Moment> = Vec::new();
    let mut follow = |progress: &Progress| {
        let moment = Moment {
            seconds: began.elapsed().as_secs_f64(),
            objective: progress.objective,
            bound: progress.bound,
        };
        let same = |last: &Moment| (last.objective, last.bound) == (moment.objective, moment.bound);
        if !moments.last().is_some_and(same) {
            moments.push(moment);
        }
        watch.say(|| {
            format!(
                "best {:.6}, bound {:.6}, {} nodes",
                progress.objective, progress.bound, progress.nodes
            )
        });
        args.time_limit
            .is_some_and(|limit| began.elapsed() >= limit)
    };
    let mut limits = Limits::default().with_stop(&mut follow);
    if let Some(limit) = args.time_limit {
        limits = limits.with_seconds(limit.as_secs_f64());
    }
    let solved = solver(&args.solver)?.solve(problem, &mut limits);
    let solution = solved.map_err(|error| match error {
        SolveError::Unfit { .. } => anyhow::Error::from(BadInput(error.to_string())),
        SolveError::Backend { .. } => error.into(),
    })?;
    moments.push(Moment {
        seconds: began.elapsed().as_secs_f64(),
        objective: solution.objective,
        bound: solution.bound,
    });
    Ok((solution, moments))
}

fn explain(args: &Args, problem: &Problem, solution: &Solution) -> anyhow::Result<()> {
    let watch = Watch::new("asking what would bring others in", args.quiet);
    let text = report::admissions(problem, solution, args.time_limit, &watch)?;
    watch.finish();
    out::data(&text);
    Ok(())
}

/// Proves the optimum once more, in a way that can be checked, and writes that down.
fn write_proof(
    args: &Args,
    problem: &Problem,
    solution: &Solution,
    path: &Path,
) -> anyhow::Result<()> {
    if solution.status != Status::Optimal {
        bail!(
            "no proof was written: the set is {}, not optimal; give it more time",
            solution.status.name()
        );
    }
    let watch = Watch::new("proving", args.quiet);
    let began = Instant::now();
    let mut follow = |progress: &Progress| {
        watch.say(|| format!("{} cases", progress.nodes));
        args.time_limit
            .is_some_and(|limit| began.elapsed() >= limit)
    };
    let proof = prove(
        problem,
        solution,
        &mut Limits::default().with_stop(&mut follow),
    );
    watch.finish();
    let proof =
        proof.context("no proof was written: the time limit ended it; give it more time")?;
    verify(problem, &proof).context("the proof did not pass its check; please report this")?;
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    serde_json::to_writer(&mut file, &proof)?;
    file.flush()
        .with_context(|| format!("cannot write {}", path.display()))?;
    let cases = proof.cases.len();
    out::note(&format!(
        "proof with {cases} cases in {}, verified",
        path.display()
    ));
    Ok(())
}

/// The problem with its experts in an order that the seed decides.
fn shuffled(problem: Problem, seed: u64) -> Problem {
    if seed == 0 {
        return problem;
    }
    let mut order: Vec<usize> = (0..problem.expert_count()).collect();
    Rng::new(seed).shuffle(&mut order);
    problem.reordered(&order)
}
