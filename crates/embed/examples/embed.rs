//! Embeds JSON lines: `embed NAME DIR < texts.jsonl > vectors.jsonl`.
//!
//! Each line in is `{"id", "text"}`, each line out `{"id", "v"}`, in the same order. The time per
//! text goes to standard error at the end; with `RAYON_NUM_THREADS=1` it is that of one core.

use std::error::Error;
use std::io::{self, BufRead, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use moe2_cost::percentile;
use serde::{Deserialize, Serialize};

/// Texts between two words on how far it got.
const PROGRESS_EVERY: usize = 1_000;

#[derive(Deserialize)]
struct Line {
    /// Passed through, whatever it is.
    id: serde_json::Value,
    text: String,
}

#[derive(Serialize)]
struct Embedded {
    id: serde_json::Value,
    v: Vec<f32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, dir] = arguments.as_slice() else {
        let known = moe2_embed::names().collect::<Vec<_>>().join(" or ");
        return Err(format!("usage: embed NAME DIR, where NAME is {known}").into());
    };
    let encoder = moe2_embed::open(name, Path::new(dir))?;
    let mut output = BufWriter::new(io::stdout().lock());
    let mut errors = io::stderr();
    let mut micros = Vec::new();
    for line in io::stdin().lock().lines() {
        let Line { id, text } = serde_json::from_str(&line?)?;
        let start = Instant::now();
        let v = encoder.embed(&text);
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        serde_json::to_writer(&mut output, &Embedded { id, v })?;
        output.write_all(b"\n")?;
        if micros.len().is_multiple_of(PROGRESS_EVERY) {
            writeln!(errors, "{} texts", micros.len())?;
        }
    }
    output.flush()?;
    if let (Some(p50), Some(p99)) = (percentile(&micros, 0.5), percentile(&micros, 0.99)) {
        let texts = micros.len();
        writeln!(errors, "{texts} texts, µs each: p50 {p50:.0}, p99 {p99:.0}")?;
    }
    Ok(())
}
