//! Model files that are not what they should be: found before anything starts, and named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use moe2_e2e::{Ended, alone, binary, run};
use tempfile::TempDir;

const ENDS_WITHIN: Duration = Duration::from_secs(30);
const MODEL: &str = "smollm2-135m-instruct";

fn scratch() -> TempDir {
    TempDir::new().expect("a temporary directory can be made")
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).expect("a temporary directory can be written");
    path
}

/// What `moe2-agent --check-config` says of a configuration with this model.
fn check(dir: &Path, model: &Path) -> Ended {
    let text = format!(
        "coordinator = \"127.0.0.1:1\"\nnode = \"edge-1\"\nstate_dir = {dir:?}\n\n[[expert]]\nmodel = {model:?}\n"
    );
    let config = write(dir, "agent.toml", text.as_bytes());
    let mut command = Command::new(binary("moe2-agent"));
    command.arg("--config").arg(config).arg("--check-config");
    run(&mut command, ENDS_WITHIN)
}

fn refused_by_name(ended: &Ended, path: &Path) {
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    let name = path.display().to_string();
    assert!(ended.said.contains(&name), "{}", ended.said);
    assert!(!ended.said.contains("panicked"), "{}", ended.said);
}

fn pull(cache: &Path, arguments: &[&str]) -> Ended {
    let mut command = Command::new(binary("moe2"));
    command.args(["models", "pull", MODEL]).args(arguments);
    run(command.env("MOE2_CACHE", cache), ENDS_WITHIN)
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_file_that_is_no_model_is_refused_by_name() {
    let _alone = alone();
    let dir = scratch();
    let garbage = write(dir.path(), "garbage.gguf", &[0xA5; 4_096]);
    refused_by_name(&check(dir.path(), &garbage), &garbage);
}

#[test]
fn a_truncated_model_is_refused_by_name() {
    let _alone = alone();
    let dir = scratch();
    let listed = Command::new(binary("moe2"))
        .args(["models", "list", "--json"])
        .output()
        .expect("the binary runs");
    let listed: serde_json::Value =
        serde_json::from_slice(&listed.stdout).expect("the list is JSON");
    let whole = listed["models"][0]["path"].as_str().expect("it has a path");
    let bytes = fs::read(whole).expect("run `moe2 models pull --all` first");
    // Inside the header, just behind the magic, and inside the weights.
    for length in [bytes.len() / 2, 100_000, 20, 5] {
        let cut = write(dir.path(), "cut.gguf", &bytes[..length]);
        let ended = check(dir.path(), &cut);
        refused_by_name(&ended, &cut);
    }
}

#[test]
fn a_missing_file_is_named() {
    let _alone = alone();
    let dir = scratch();
    let missing = dir.path().join("missing.gguf");
    refused_by_name(&check(dir.path(), &missing), &missing);
}

#[test]
fn a_directory_in_place_of_a_file_is_named() {
    let _alone = alone();
    let dir = scratch();
    let directory = dir.path().join("directory.gguf");
    fs::create_dir(&directory).expect("a temporary directory can be written");
    refused_by_name(&check(dir.path(), &directory), &directory);
}

#[test]
fn a_wrong_file_is_not_pulled_and_leaves_nothing() {
    let _alone = alone();
    let (dir, cache) = (scratch(), scratch());
    let wrong = write(dir.path(), "wrong.gguf", b"GGUF, but not this one");
    let source = wrong.display().to_string();
    let ended = pull(cache.path(), &["--from", &source]);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains(&source), "{}", ended.said);
    assert!(ended.said.contains("expected"), "{}", ended.said);
    assert!(wrong.exists(), "the user's own file stays");
    let mut left = files(cache.path());
    left.retain(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_file_of_the_right_size_and_wrong_bytes_is_not_pulled() {
    let _alone = alone();
    let (dir, cache) = (scratch(), scratch());
    // As long as the manifest says, but all zeros; sparse, so it costs no disk.
    let path = write(dir.path(), "zeros.gguf", b"");
    let file = fs::File::options().write(true).open(&path);
    let file = file.expect("it was just written");
    file.set_len(98_362_432).expect("sparse files are possible");
    let ended = pull(cache.path(), &["--from", &path.display().to_string()]);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("SHA-256"), "{}", ended.said);
    let mut left = files(cache.path());
    left.retain(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let _alone = alone();
    let dir = scratch();
    // A directory below a regular file cannot be made, not even by root.
    let file = write(dir.path(), "file", b"");
    let cache = file.join("cache");
    let wrong = write(dir.path(), "any.gguf", b"GGUF");
    let ended = pull(&cache, &["--from", &wrong.display().to_string()]);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(
        ended.said.contains(&cache.display().to_string()),
        "{}",
        ended.said
    );
    assert!(ended.said.contains("MOE2_CACHE"), "{}", ended.said);
}

#[test]
fn faults_of_the_coordinators_configuration_are_data() {
    let _alone = alone();
    let dir = scratch();
    let report = |text: &[u8]| {
        let config = write(dir.path(), "coordinator.toml", text);
        let mut command = Command::new(binary("moe2-coordinator"));
        command.arg("--config").arg(config);
        let ended = run(command.args(["--check-config", "--json"]), ENDS_WITHIN);
        let report: serde_json::Value = serde_json::from_str(&ended.said).expect("only JSON");
        (ended.code, report)
    };
    let sound = serde_json::json!({"sound": true, "faults": []});
    assert_eq!(report(b"[limits]\nqueries = 5\n"), (Some(0), sound));
    let (code, faulty) = report(b"[limits]\nqueries = 0\n[plan]\nmax_experts = 0\n");
    assert_eq!((code, &faulty["sound"]), (Some(1), &false.into()));
    let faults = faulty["faults"].as_array().expect("faults");
    let keys: Vec<_> = faults.iter().map(|fault| &fault["key"]).collect();
    assert_eq!(keys, ["plan.max_experts", "limits.queries"]);
    assert_eq!(faults[0]["why"], "at least 1");
}
