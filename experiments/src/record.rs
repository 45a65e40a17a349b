//! Records: raw results with what a reader needs to judge and repeat them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};

/// Writes `record.json` into a fresh folder under `root` and returns its path. Lists under `samples` of the
/// result go into a file each beside it, `NAME.jsonl`.
///
/// # Errors
/// The folder or a file cannot be written.
pub(crate) fn write(
    root: &Path,
    name: &str,
    what: &str,
    mut result: Value,
) -> anyhow::Result<PathBuf> {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let dir = root.join(format!("{unix}-{name}"));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    if let Some(Value::Object(samples)) = result.as_object_mut().and_then(|r| r.remove("samples")) {
        for (of, list) in samples {
            write_lines(&dir.join(format!("{of}.jsonl")), list.as_array())?;
        }
    }
    let whole = json!({"experiment": name, "what": what, "unix_seconds": unix,
        "command": command(name), "machine": machine(), "result": result});
    let file = dir.join("record.json");
    fs::write(&file, pretty(&whole)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn write_lines(file: &Path, samples: Option<&Vec<Value>>) -> anyhow::Result<()> {
    let lines = samples.into_iter().flatten().map(|s| format!("{s}\n"));
    fs::write(file, lines.collect::<String>())
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Indented, but with every innermost object on one line: records have thousands of samples.
fn pretty(value: &Value) -> anyhow::Result<String> {
    let mut text = String::new();
    write_value(value, 0, &mut text)?;
    text.push('\n');
    Ok(text)
}

fn write_value(value: &Value, depth: usize, text: &mut String) -> anyhow::Result<()> {
    let flat = |v: &Value| !v.is_object() && !v.is_array();
    let leaf = match value {
        Value::Object(map) => map.values().all(flat),
        Value::Array(list) => list.iter().all(flat),
        _ => true,
    };
    if leaf {
        text.push_str(&serde_json::to_string(value)?);
        return Ok(());
    }
    let indent = "  ".repeat(depth + 1);
    let (open, close) = if value.is_object() {
        ('{', '}')
    } else {
        ('[', ']')
    };
    let members: Vec<(Option<&String>, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (Some(k), v)).collect(),
        Value::Array(list) => list.iter().map(|v| (None, v)).collect(),
        _ => Vec::new(),
    };
    text.push(open);
    for (at, (key, member)) in members.iter().enumerate() {
        text.push_str(if at == 0 { "\n" } else { ",\n" });
        text.push_str(&indent);
        if let Some(key) = key {
            text.push_str(&serde_json::to_string(key)?);
            text.push_str(": ");
        }
        write_value(member, depth + 1, text)?;
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(close);
    Ok(())
}

/// What was typed, from the experiment's name on; folders are of this machine and left out.
fn command(name: &str) -> String {
    let given: Vec<String> = std::env::args().collect();
    let of = |option: &str| {
        let at = given.iter().position(|word| word == option)?;
        Some(format!(" {option} {}", given.get(at + 1)?))
    };
    let options: String = ["--rounds", "--minutes", "--seed"]
        .into_iter()
        .filter_map(of)
        .collect();
    format!("moe2-experiments run {name}{options}")
}

/// What a reader needs to know of the machine.
fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let threads = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({"cpu": model.map(|(_, name)| name), "threads": threads})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let value =
            json!({"a": [{"x": 1.5, "y": "z"}, {"x": null}], "b": {"c": [1, 2], "d": {}}, "e": []});
        let text = pretty(&value).expect("it is JSON");
        assert_eq!(
            serde_json::from_str::<Value>(&text).expect("it is JSON"),
            value
        );
        assert!(text.contains("{\"x\":1.5,\"y\":\"z\"}"), "{text}");
    }
}
