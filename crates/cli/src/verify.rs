//! `moe2 verify`: is a set of experts the best one? Checked from the instance and a proof alone.
//!
//! No solver runs. The proof is a list of cases, each closed by multipliers that anyone can evaluate;
//! docs/solver.md says how.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use moe2_solve::{parse_instance, parse_proof, verify};
use serde_json::json;

use crate::{BadInput, input, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  moe2 solve instance.json --proof proof.json\n  moe2 verify instance.json proof.json\n\nExit codes: 0 the proof holds, 1 it does not, 2 a file is not acceptable."
)]
pub(crate) struct Args {
    /// The instance, `moe2-selection/1`, plain or zstd; `-` for standard input.
    instance: PathBuf,
    /// The proof, `moe2-proof/1`, plain or zstd; `-` for standard input.
    proof: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.instance == args.proof && args.proof == Path::new("-") {
        bail!(BadInput(
            "only one of the two can come from standard input: give the other as a file".to_owned()
        ));
    }
    let problem = input::read(&args.instance, parse_instance)?;
    let proof = input::read(&args.proof, parse_proof)?;
    let began = Instant::now();
    verify(&problem, &proof).context("the proof does not hold")?;
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        let verified = json!({"verified": true, "objective": proof.objective,
            "selected": proof.selected, "cases": proof.cases.len(), "seconds": seconds});
        out::json(&verified)?;
    } else {
        out::data(&format!(
            "verified: no set is worth more than {:.6}, that of {}; {} cases in {seconds:.4} s",
            proof.objective,
            proof.selected.join(", "),
            proof.cases.len(),
        ));
    }
    Ok(())
}
