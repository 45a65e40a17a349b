//! `moe2 solve`: the best set of experts under limits, from a file, with a proof.
//!
//! It needs no coordinator: the same solvers that the planner uses, on any instance. Whatever a solver
//! returns is judged before it is printed.

mod report;

pub(crate) use report::admissions;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use moe2_model::Rng;
use moe2_solve::{
    AdmissionRecord, Limits, Problem, Progress, ResultFile, Solution, SolveError, Solver, Status,
    admission, check, dropped, parse_instance, prove, solver, solvers, verify,
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
    #[arg(long)]
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
    let watch = Watch::new("solving", args.quiet);
    let began = Instant::now();
    let (solution, moments) = solve(args, &problem, &watch, began)?;
    let seconds = began.elapsed().as_secs_f64();
    watch.finish();
    check(&problem, &solution).context("the answer did not pass its check; please report this")?;
    let infeasible = matches!(solution.status, Status::Infeasible(_));
    let admissions = if args.explain && !infeasible {
        Some(admitting(args, &problem, &solution)?)
    } else {
        None
    };
    if args.json {
        let mut result = ResultFile::new(&problem, &solution, seconds);
        result.admissions = admissions;
        out::json(&result)?;
    } else if !infeasible {
        out::data(&report::render(&problem, &solution, seconds, &moments));
        if let Some(admissions) = &admissions {
            out::data(&format!("\n{}", report::admissions(admissions)));
        }
    }
    if let Status::Infeasible(reason) = &solution.status {
        bail!(Infeasible(reason.describe(&problem)));
    }
    if let Some(path) = &args.proof {
        write_proof(args, &problem, &solution, path)?;
    }
    Ok(())
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
    let solver = solver(&args.solver)?;
    let solved = if args.seed == 0 {
        solver.solve(problem, &mut limits)
    } else {
        shuffled(solver, problem, args.seed, &mut limits)
    };
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

/// What would bring each outweighed or too large expert in; the time limit is for each of them.
fn admitting(
    args: &Args,
    problem: &Problem,
    solution: &Solution,
) -> anyhow::Result<Vec<AdmissionRecord>> {
    let watch = Watch::new("asking what would bring others in", args.quiet);
    let mut found = Vec::new();
    for (n, why) in dropped(problem, solution) {
        if !why.can_be_admitted() {
            continue;
        }
        watch.say(|| problem.experts()[n].clone());
        let began = Instant::now();
        let mut stop = || {
            args.time_limit
                .is_some_and(|limit| began.elapsed() >= limit)
        };
        let admission = admission(problem, n, &mut stop)?;
        found.push(AdmissionRecord::new(problem, solution, n, admission));
    }
    watch.finish();
    Ok(found)
}

/// Proves the optimum once more, in a way that can be checked, and writes that down.
fn write_proof(
    args: &Args,
    problem: &Problem,
    solution: &Solution,
    path: &Path,
) -> anyhow::Result<()> {
    let help = match solution.status {
        Status::Optimal => None,
        Status::Stopped => Some("give it more time"),
        _ => Some("use --solver auto"),
    };
    if let Some(help) = help {
        let status = solution.status.name();
        bail!("no proof was written: the set is {status}, not optimal; {help}");
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

/// Solves the problem with its experts in an order that the seed decides.
fn shuffled(
    solver: &dyn Solver,
    problem: &Problem,
    seed: u64,
    limits: &mut Limits<'_>,
) -> Result<Solution, SolveError> {
    let mut order: Vec<usize> = (0..problem.expert_count()).collect();
    Rng::new(seed).shuffle(&mut order);
    let mut solution = solver.solve(&problem.reordered(&order), limits)?;
    for member in &mut solution.selected {
        *member = order[*member];
    }
    solution.selected.sort_unstable();
    if let Status::Infeasible(reason) = &mut solution.status {
        reason.expert = order[reason.expert];
    }
    Ok(solution)
}
