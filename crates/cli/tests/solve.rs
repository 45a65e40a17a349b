//! `moe2 solve`, `price` and `verify` as a script sees them: exit codes, and what goes where.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const TWO: &str = r#"{"format": "moe2-selection/1", "experts": ["b", "a", "c"],
    "utility": [[0.1, 0.9, 0.0], [0.8, 0.2, 0.4]], "k": 1,
    "constraints": [{"name": "experts", "kind": "count", "limit": 1}]}"#;

struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("it is writable");
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn moe2(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moe2"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = moe2(args).output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn str(path: &std::path::Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Two dozen experts on sixty prompts, with a little of everything.
fn dozens() -> String {
    let unit = |n: usize| (n as f64 * 0.754_877_666_246_693 + 0.1).fract();
    let experts: Vec<String> = (0..24).map(|n| format!("e{n}")).collect();
    let utility: Vec<Vec<f64>> = (0..60)
        .map(|x| (0..24).map(|n| unit(31 * x + 7 * n)).collect())
        .collect();
    let cost: Vec<f64> = (0..24).map(|n| 1.0 + unit(n)).collect();
    serde_json::json!({"format": "moe2-selection/1", "experts": experts, "utility": utility, "k": 2,
        "constraints": [{"name": "w", "kind": "sum", "cost": cost, "limit": 6.0}]})
    .to_string()
}

#[test]
fn a_seed_changes_neither_the_proof_nor_the_order_of_names() {
    let scene = Scene::new();
    let instance = scene.file("i.json", &dozens());
    let plain: Value = {
        let (code, out, _) = run(&["solve", str(&instance), "--json"]);
        assert_eq!(code, 0);
        serde_json::from_str(&out).expect("JSON")
    };
    let proof = scene.path("p.json");
    for seed in ["1", "5", "77"] {
        let args = [
            "solve",
            str(&instance),
            "--json",
            "--seed",
            seed,
            "--proof",
            str(&proof),
        ];
        let (code, out, err) = run(&args);
        assert_eq!(code, 0, "{err}");
        let shuffled: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(shuffled["selected"], plain["selected"]);
        let (code, out, err) = run(&["verify", str(&instance), str(&proof)]);
        assert_eq!(code, 0, "{out}{err}");
    }
    let changed = scene.file("other.json", &dozens().replace("6.0", "7.0"));
    let (code, out, err) = run(&["verify", str(&changed), str(&proof)]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("does not hold"), "{err}");
}

#[test]
fn what_cannot_be_kept_is_3_and_says_what_would_do() {
    let scene = Scene::new();
    let none = scene.file("none.json", &TWO.replace("\"limit\": 1", "\"limit\": 0"));
    let proof = scene.path("p.json");
    for more in [
        vec![],
        vec!["--json"],
        vec!["--proof", str(&proof)],
        vec!["--seed", "3"],
    ] {
        let args: Vec<&str> = ["solve", str(&none)].into_iter().chain(more).collect();
        let (code, _, err) = run(&args);
        assert_eq!(code, 3, "{err}");
        assert!(
            err.contains("experts needs a limit of at least 1 (is 0)"),
            "{err}"
        );
    }
    assert!(!proof.exists());
}

#[test]
fn what_cannot_be_read_is_2_and_prints_no_data() {
    let scene = Scene::new();
    let good = scene.file("good.json", TWO);
    let bad = scene.file("bad.json", &TWO.replace("0.9", "-0.9"));
    let missing = scene.path("missing.json");
    let cut = scene.path("cut.zst");
    fs::write(&cut, [0x28, 0xb5, 0x2f, 0xfd, 0]).expect("it is writable");
    for (args, says) in [
        (vec!["solve", str(&bad)], "utility[0][1]"),
        (vec!["solve", str(&missing)], "missing.json"),
        (vec!["solve", str(scene.dir.path())], "cannot read"),
        (vec!["solve", str(&cut)], "zstd"),
        (vec!["price", str(&good)], "format"),
        (vec!["verify", "-", "-"], "standard input"),
        (vec!["solve", str(&good), "--solver", "magic"], "magic"),
    ] {
        let (code, out, err) = run(&args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
    }
}

#[test]
fn a_solver_without_a_proof_says_which_one_has_one() {
    let scene = Scene::new();
    let instance = scene.file("i.json", &dozens());
    let proof = scene.path("p.json");
    let args = [
        "solve",
        str(&instance),
        "--solver",
        "greedy",
        "--proof",
        str(&proof),
    ];
    let (code, _, err) = run(&args);
    assert_eq!(code, 1);
    assert!(err.contains("use --solver auto"), "{err}");
}

#[test]
fn explanations_are_in_the_json_too_and_unfinished_ones_say_so() {
    let scene = Scene::new();
    let instance = scene.file("two.json", TWO);
    let ask = |more: &[&str]| -> Value {
        let args: Vec<&str> = ["solve", str(&instance), "--explain", "--json"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let (code, out, err) = run(&args);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).expect("JSON")
    };
    let b = &ask(&[])["admissions"][0];
    assert_eq!(b["expert"], "b");
    assert!(
        (b["cost"].as_f64().expect("a number") - 0.1).abs() < 1e-9,
        "{b}"
    );
    assert_eq!(b["raise"]["constraint"], "experts");
    let late = &ask(&["--time-limit", "0s"])["admissions"][0];
    assert_eq!(late["unfinished"], true, "{late}");
    assert!(late["cost"].is_null() && late["raise"].is_null(), "{late}");
}

#[test]
fn lost_output_is_an_error_and_a_reader_that_went_away_is_none() {
    let scene = Scene::new();
    let instance = scene.file("i.json", &dozens());
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let full = full.expect("Linux has one");
    let done = moe2(&["solve", str(&instance)]).stdout(full).output();
    let done = done.expect("it starts");
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("not complete"), "{said}");
    let mut child = moe2(&["solve", str(&instance)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn names_cannot_command_the_terminal() {
    let scene = Scene::new();
    let instance = scene.file("i.json", &TWO.replace("\"a\"", "\"a\\u001b[2J\\u009b\""));
    let (code, out, _) = run(&["solve", str(&instance)]);
    assert_eq!(code, 0);
    assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
    let (_, out, _) = run(&["solve", str(&instance), "--json"]);
    assert!(!out.trim_end().chars().any(char::is_control), "{out:?}");
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["selected"][0], "a\u{1b}[2J\u{9b}");
}
