//! The table of speeds and powers measured elsewhere (`profiles`).
//!
//! A CSV file with a line of headings. Columns that nobody here reads, such as where a figure is from, are welcome.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use moe2_cost::{Profile, Profiles};
use moe2_model::Watts;
use serde::Deserialize;

/// Longest file that is read.
const LARGEST: u64 = 4 << 20;
/// Columns that there have to be.
const COLUMNS: [&str; 6] = [
    "device",
    "params_B",
    "quant",
    "prefill_tok_s",
    "decode_tok_s",
    "power_W",
];

/// A line. A cell that is empty or no number says nothing.
#[derive(Debug, Deserialize)]
struct Line {
    device: String,
    #[serde(rename = "params_B", deserialize_with = "csv::invalid_option")]
    billions: Option<f64>,
    quant: String,
    #[serde(rename = "prefill_tok_s", deserialize_with = "csv::invalid_option")]
    prefill: Option<f64>,
    #[serde(rename = "decode_tok_s", deserialize_with = "csv::invalid_option")]
    decode: Option<f64>,
    #[serde(rename = "power_W", deserialize_with = "csv::invalid_option")]
    power: Option<f64>,
}

impl Line {
    fn profile(self) -> Option<Profile> {
        Some(Profile {
            device: self.device,
            billions: self.billions?,
            quantisation: self.quant,
            prefill: self.prefill,
            decode: self.decode,
            power: self.power.and_then(|watts| Watts::new(watts).ok()),
        })
    }
}

/// Reads a table.
///
/// # Errors
///
/// When the file cannot be read, is larger than 4 MiB, is no CSV, lacks a column, or has no line that says anything:
/// a table that is not used should not look as if it were.
pub(crate) fn read(path: &Path) -> Result<Profiles> {
    let told = || format!("`profiles`: {}", path.display());
    let file = File::open(path).with_context(told)?;
    let mut text = String::new();
    let read = file.take(LARGEST + 1).read_to_string(&mut text);
    read.with_context(told)?;
    ensure!(
        text.len() as u64 <= LARGEST,
        "{}: more than {} MiB, which is no table of devices",
        told(),
        LARGEST >> 20
    );
    parse(&text).with_context(told)
}

fn parse(text: &str) -> Result<Profiles> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let there = reader.headers()?;
    let missing = COLUMNS.iter().filter(|c| !there.iter().any(|h| h == **c));
    let missing: Vec<&str> = missing.copied().collect();
    ensure!(
        missing.is_empty(),
        "the first line has to name the columns {}; missing: {}",
        COLUMNS.join(", "),
        missing.join(", ")
    );
    let lines: Vec<Line> = reader.deserialize().collect::<Result<_, _>>()?;
    let profiles = Profiles::new(lines.into_iter().filter_map(Line::profile));
    ensure!(
        !profiles.is_empty(),
        "no line has params_B and a speed or a power"
    );
    Ok(profiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "row,device,params_B,quant,prefill_tok_s,decode_tok_s,power_W\n";

    #[test]
    fn lines_that_say_something_are_taken_and_others_left() {
        let lines = "1,Orin,8.03,Q4_K_M,,22.0,47.6\n2,Orin,,,,,11.2\n3,Orin,1-3,Q4_0,300,20,\n";
        let profiles = parse(&format!("{HEAD}{lines}")).expect("a table");
        assert_eq!(profiles.len(), 1);
    }

    #[test]
    fn what_is_wrong_with_a_table_is_told() {
        for (text, why) in [
            ("", "missing: device, params_B"),
            (
                "device,params_B,quant,decode_tok_s\n",
                "missing: prefill_tok_s, power_W",
            ),
            (HEAD, "no line has"),
            (&format!("{HEAD}1,2\n"), "found record with 2 fields"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
        let missing = read(Path::new("/nowhere/profiles.csv")).expect_err("no file");
        let told = format!("{missing:#}");
        assert!(told.contains("`profiles`: /nowhere/profiles.csv"), "{told}");
    }

    #[test]
    fn a_public_table_of_edge_devices_is_read() {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
        let named = std::env::var_os("MOE2_DATA").map(std::path::PathBuf::from);
        let table = named.unwrap_or(beside).join("device_profiles.csv");
        if !table.is_file() {
            println!("skipped: no data sets; set MOE2_DATA to their folder");
            return;
        }
        let profiles = read(&table).expect("a table");
        assert!(profiles.len() > 40, "{}", profiles.len());
    }
}
