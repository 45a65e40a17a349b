//! Replays cases of the simulator, or looks for failing ones and makes them small.
//!
//! ```text
//! cargo run -p moe2-sim --example replay -- 'everything:4711/nodes=0,2/queries=3'
//! cargo run -p moe2-sim --example replay -- everything 0 1000
//! ```
//!
//! Ends with 1 if a promise was broken. Failing seeds of a range are shrunk, and the line that replays each
//! is printed.

use std::io::Write;
use std::process::ExitCode;

use moe2_sim::{Case, Scenario, play, shrink};

/// Runs that may be spent on making one case small.
const MOST_RUNS: usize = 2_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let kept = match words.as_slice() {
        [line] => line.parse().map_err(|e| format!("{e}")).and_then(replay),
        [name, from, to] => search(name, (from, to)),
        _ => Err("usage: replay CASE, or replay SCENARIO FROM TO".to_owned()),
    };
    match kept {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            // Nothing else can be done about a standard error that is closed.
            let _ = writeln!(std::io::stderr(), "replay: {why}");
            ExitCode::from(2)
        }
    }
}

fn say(line: impl std::fmt::Display) -> Result<(), String> {
    writeln!(std::io::stdout(), "{line}").map_err(|e| e.to_string())
}

fn replay(case: Case) -> Result<bool, String> {
    let report = play(&case);
    for violation in &report.violations {
        say(violation)?;
    }
    say(format_args!(
        "{} queries, {} answered, {} faults, {:.1} virtual seconds, {} broken promises",
        report.queries,
        report.answered,
        report.faults,
        report.virtual_seconds,
        report.violations.len()
    ))?;
    Ok(report.violations.is_empty())
}

fn search(name: &str, (from, to): (&str, &str)) -> Result<bool, String> {
    let scenario = Scenario::named(name).ok_or_else(|| format!("`{name}` is no scenario"))?;
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("`{text}`: {e}"));
    let mut failing = 0;
    for seed in number(from)?..number(to)? {
        if let Some(shrunk) = shrink(&Case::new(scenario.clone(), seed), MOST_RUNS) {
            failing += 1;
            say(format_args!("{} ({} runs)", shrunk.case, shrunk.runs))?;
            for violation in shrunk.report.violations.iter().take(2) {
                say(format_args!("    {violation}"))?;
            }
        }
    }
    say(format_args!("{failing} seeds of {name} fail"))?;
    Ok(failing == 0)
}
