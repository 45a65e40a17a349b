//! `moe2 price`: who answers what when budgets are on the mean, and the prices that say so.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use moe2_solve::{
    Routing, RoutingResultFile, RoutingSolution, RoutingStatus, check_routing, parse_routing, price,
};

use crate::progress::Watch;
use crate::table::{Table, shorten};
use crate::{Infeasible, input, out};

/// Widest name shown.
const NAME: usize = 40;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 price routing.json\n  moe2 price routing.json.zst --json\n  generate | moe2 price -\n\nThe file format is described in docs/solver.md. Exit codes: 0 a routing was found, 2 the file is not\nacceptable, 3 no routing keeps the limits."
)]
pub(crate) struct Args {
    /// The routing problem, `moe2-routing/1`, plain or zstd; `-` for standard input.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let problem = input::read(&args.file, parse_routing)?;
    let watch = Watch::new("pricing", args.quiet);
    let began = Instant::now();
    let solution = price(&problem);
    let seconds = began.elapsed().as_secs_f64();
    watch.finish();
    check_routing(&problem, &solution)
        .context("the answer did not pass its check; please report this")?;
    let whole: f64 = problem.weights().iter().sum();
    if (whole - 1.0).abs() > 1e-6 {
        out::note(&format!(
            "moe2: the weights sum to {whole}, so that limits are on weighted sums rather than means"
        ));
    }
    if args.json {
        let result = RoutingResultFile::new(&problem, &solution, seconds);
        out::json(&result)?;
    } else if !matches!(solution.status, RoutingStatus::Infeasible(_)) {
        out::data(&render(&problem, &solution, seconds));
    }
    match &solution.status {
        RoutingStatus::Infeasible(reason) => bail!(Infeasible(reason.describe(&problem))),
        _ => Ok(()),
    }
}

fn render(problem: &Routing, solution: &RoutingSolution, seconds: f64) -> String {
    let head = format!(
        "{}: value {:.6}, bound {:.6}\n{} prompts, {} experts; {} split; {} rounds in {seconds:.4} s; checked",
        solution.status.name(),
        solution.value,
        solution.bound,
        problem.prompt_count(),
        problem.experts().len(),
        solution.split(),
        solution.rounds,
    );
    let mut budgets = Table::new(&["BUDGET", "SPENT", "LIMIT", "PRICE"]);
    if let Some(limit) = problem.energy_limit() {
        budgets.row([
            "joules per prompt".to_owned(),
            format!("{:.4}", solution.spent.energy_j_mean),
            format!("{limit:.4}"),
            format!("{:.6} per J", solution.prices.energy),
        ]);
    }
    for (c, (name, limit)) in problem.categories().iter().enumerate() {
        budgets.row([
            format!("seconds, {}", shorten(name, NAME)),
            format!("{:.4}", solution.spent.latency_s_mean[c]),
            format!("{limit:.4}"),
            format!("{:.6} per s", solution.prices.latency[c]),
        ]);
    }
    let mut share = vec![0.0; problem.experts().len()];
    for (shares, weight) in solution.assignment.iter().zip(problem.weights()) {
        shares
            .iter()
            .for_each(|&(n, part)| share[n] += weight * part);
    }
    let whole: f64 = problem.weights().iter().sum();
    let mut who = Table::new(&["EXPERT", "ANSWERS"]);
    for (name, share) in problem
        .experts()
        .iter()
        .zip(&share)
        .filter(|(_, share)| **share > 0.0)
    {
        who.row([
            shorten(name, NAME),
            format!("{:.2} %", 100.0 * share / whole),
        ]);
    }
    format!("{head}\n\n{budgets}\n\n{who}")
}
