//! The repository against the house rules: each test names one rule and lists every breach at once.
//!
//! Files are those Git knows or would add, so build output and caches never count. The checkers and
//! their self-tests live in the library; this file only reads the tree and hands it over.

use moe2_tidy::Finding;
use moe2_tidy::docs::{self, Tree};
use moe2_tidy::graph::{self, Edge};
use moe2_tidy::rules::{RULES, Rust};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository is here")
}

fn output(command: &mut Command) -> Vec<u8> {
    let done = command
        .current_dir(root())
        .output()
        .expect("the program is installed");
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    done.stdout
}

fn tree() -> Tree {
    let mut git = Command::new("git");
    // A checkout owned by another user (a container, a CI machine) is as good as one's own here.
    git.args(["-c", "safe.directory=*", "ls-files", "-z"]);
    git.args(["--cached", "--others", "--exclude-standard"]);
    let listed = String::from_utf8(output(&mut git)).expect("paths are UTF-8");
    let there = |path: &&str| !path.is_empty() && root().join(path).is_file();
    Tree::new(listed.split('\0').filter(there).map(str::to_owned))
}

fn text(path: &str) -> Option<String> {
    // Binary files have no lines to judge.
    std::fs::read(root().join(path))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
}

fn texts(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let tree = tree();
    let paths = tree.files().filter(|p| wanted(p)).map(str::to_owned);
    paths.filter_map(|p| text(&p).map(|t| (p, t))).collect()
}

fn metadata() -> Value {
    let args = [
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ];
    serde_json::from_slice(&output(Command::new(env!("CARGO")).args(args)))
        .expect("cargo prints JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"]
        .as_array()
        .expect("metadata lists packages")
        .iter()
}

fn name(value: &Value) -> String {
    value["name"]
        .as_str()
        .expect("packages have names")
        .to_owned()
}

/// Directory of a package, from the repository root, with a slash at its end.
fn directory(metadata: &Value, package: &Value) -> String {
    let top = metadata["workspace_root"]
        .as_str()
        .expect("metadata names the workspace");
    let manifest = package["manifest_path"]
        .as_str()
        .expect("packages have manifests");
    let inside = manifest
        .strip_prefix(top)
        .expect("the package is in the workspace");
    inside
        .trim_start_matches('/')
        .trim_end_matches("Cargo.toml")
        .to_owned()
}

fn report(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

#[test]
fn dependencies_point_the_way_the_table_says() {
    let metadata = metadata();
    let names: Vec<String> = packages(&metadata).map(name).collect();
    let edges: Vec<Edge> = packages(&metadata)
        .flat_map(|package| {
            let listed = package["dependencies"]
                .as_array()
                .expect("packages list dependencies");
            let kept = listed.iter().filter(|d| d["kind"] != "dev");
            kept.map(|d| Edge {
                from: name(package),
                to: name(d),
            })
            .collect::<Vec<_>>()
        })
        .collect();
    report(&graph::check(&names, &edges));
}

#[test]
fn rust_files_keep_the_house_rules() {
    let metadata = metadata();
    let pure: Vec<String> = packages(&metadata)
        .filter(|p| graph::PURE.contains(&name(p).as_str()))
        .map(|p| format!("{}src/", directory(&metadata, p)))
        .collect();
    let files = texts(|p| p.ends_with(".rs"));
    assert!(
        files.len() >= graph::ALLOWED.len(),
        "only {} Rust files were found",
        files.len()
    );
    let mut findings = Vec::new();
    for (path, text) in &files {
        let file = Rust::new(path, text, pure.iter().any(|src| path.starts_with(src)));
        findings.extend(RULES.iter().flat_map(|(_, check)| check(&file)));
    }
    report(&findings);
}

/// A C library for tests of the agent's meter exports symbols, which counts as unsafe code; its own lints
/// are in its manifest.
const OWN_LINTS: &[&str] = &["moe2-fake-nvml"];

#[test]
fn every_crate_inherits_the_workspace_lints() {
    let metadata = metadata();
    let mut findings = Vec::new();
    for package in packages(&metadata) {
        let path = format!("{}Cargo.toml", directory(&metadata, package));
        let manifest = text(&path).expect("every package has a readable manifest");
        let own = OWN_LINTS.contains(&name(package).as_str());
        if !own && !inherits_lints(&manifest) {
            findings.push(Finding::new(
                &path,
                0,
                "needs `[lints]` with `workspace = true`",
            ));
        }
    }
    report(&findings);
}

fn inherits_lints(manifest: &str) -> bool {
    let manifest: toml::Table = manifest.parse().expect("manifests are TOML");
    let workspace = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"));
    workspace.and_then(toml::Value::as_bool) == Some(true)
}

#[test]
fn a_manifest_without_the_workspace_lints_is_told_apart() {
    assert!(inherits_lints("[lints]\nworkspace = true"));
    assert!(!inherits_lints("[lints.rust]\nunsafe_code = 'allow'"));
    assert!(!inherits_lints("[package]\nname = 'x'"));
}

#[test]
fn every_crate_is_tested_by_make_test() {
    let makefile = text("Makefile").expect("the Makefile is readable");
    report(&untested(
        &makefile,
        &packages(&metadata()).map(name).collect::<Vec<_>>(),
    ));
}

fn untested(makefile: &str, packages: &[String]) -> Vec<Finding> {
    let named: Vec<&str> = makefile.split_whitespace().collect();
    let missing = packages.iter().filter(|p| !named.contains(&p.as_str()));
    missing
        .map(|p| Finding::new("Makefile", 0, format!("`make test` leaves out {p}")))
        .collect()
}

#[test]
fn a_crate_left_out_of_make_test_is_found() {
    let packages = ["moe2-model", "moe2-new"].map(str::to_owned);
    assert_eq!(
        untested("PURE := moe2-model moe2-newer", &packages).len(),
        1
    );
}

#[test]
fn deploy_files_parse() {
    let mut findings = Vec::new();
    for (path, text) in texts(|p| p.starts_with("deploy/")) {
        findings.extend(unparsable(&path, &text));
    }
    report(&findings);
}

fn unparsable(path: &str, text: &str) -> Option<Finding> {
    let problem = match path.rsplit('.').next()? {
        "toml" => text.parse::<toml::Table>().err().map(|e| e.to_string()),
        "json" => serde_json::from_str::<Value>(text)
            .err()
            .map(|e| e.to_string()),
        _ => None,
    };
    problem.map(|message| Finding::new(path, 0, message))
}

#[test]
fn a_deploy_file_that_does_not_parse_is_found() {
    assert!(unparsable("deploy/a.toml", "a = ").is_some());
    assert!(unparsable("deploy/a.json", "{,}").is_some());
    assert!(unparsable("deploy/a.toml", "a = 1").is_none());
}

#[test]
fn documentation_names_only_things_that_exist() {
    let tree = tree();
    let mut findings = Vec::new();
    for (path, text) in texts(|p| p.ends_with(".md")) {
        findings.extend(docs::dead_references(&path, &text, &tree));
    }
    report(&findings);
}

#[test]
fn the_readme_is_there_and_short() {
    let readme = text("README.md").expect("README.md is there");
    report(&docs::too_long("README.md", &readme));
}

#[test]
fn no_plans_or_reports_lie_in_the_tree() {
    report(&tree().files().flat_map(docs::diary).collect::<Vec<_>>());
}

#[test]
fn no_file_mentions_a_place_on_one_machine() {
    let files = texts(|_| true);
    report(
        &files
            .iter()
            .flat_map(|(p, t)| docs::machine_paths(p, t))
            .collect::<Vec<_>>(),
    );
}
