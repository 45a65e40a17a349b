//! `moe2 gate` from the outside: outcomes in, a gate out, and what it says of bad input.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

fn gate(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moe2"))
        .arg("gate")
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Questions about two subjects, of which each of two experts knows one.
fn outcomes(from: usize, to: usize) -> String {
    let words = [["river", "stone", "cloud"], ["price", "market", "tax"]];
    let mut text = String::new();
    for at in from..to {
        let (topic, n) = (at % 2, at / 2);
        let word = |k: usize| words[topic][(n / 3usize.pow(k as u32)) % 3];
        let lucky = u8::from(n % 10 == 0);
        let (a, b) = if topic == 0 {
            (1 - lucky, lucky)
        } else {
            (lucky, 1 - lucky)
        };
        let prompt = format!("{} {} {} {} {at}", word(0), word(1), word(2), word(3));
        let _ = writeln!(
            text,
            r#"{{"id":"q{at}","domain":"d{topic}","prompt":"{prompt}","choices":["no","yes"],"answer":1,"outcomes":{{"a":{{"score":{a},"choice":{a}}},"b":{{"score":{b},"choice":{b}}}}}}}"#
        );
    }
    text
}

#[test]
fn a_gate_is_trained_judged_on_other_questions_only_and_inspected() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).expect("the file is written");
    };
    write("train.jsonl", &outcomes(0, 300));
    write("test.jsonl", &outcomes(300, 400));
    let train = [
        "train",
        "--data",
        "train.jsonl",
        "--out",
        "gate.json",
        "--json",
    ];
    let trained = gate(dir.path(), &train);
    assert!(trained.status.success(), "{}", stderr(&trained));

    let seen = gate(
        dir.path(),
        &["eval", "--gate", "gate.json", "--data", "train.jsonl"],
    );
    assert_eq!(seen.status.code(), Some(2));
    assert!(
        stderr(&seen).contains("was trained on 300 of these 300"),
        "{}",
        stderr(&seen)
    );

    let eval = [
        "eval",
        "--gate",
        "gate.json",
        "--data",
        "test.jsonl",
        "--json",
    ];
    let judged = gate(dir.path(), &eval);
    assert!(judged.status.success(), "{}", stderr(&judged));
    let judged: serde_json::Value = serde_json::from_slice(&judged.stdout).expect("JSON");
    let value = |name: &str| judged[name]["value"].as_f64().expect(name);
    assert_eq!(judged["n"], 100);
    for name in ["random", "majority", "vote_k3", "ece", "brier", "auc"] {
        assert!((0.0..=1.0).contains(&value(name)), "{name}");
        assert!(judged[name]["low"].as_f64() <= judged[name]["high"].as_f64());
    }
    assert!(value("top1") > value("best_single") + 0.2, "{judged}");
    assert!(value("oracle") >= value("top1"));
    assert!(judged["baselines"]["knn"]["top1"]["value"].is_number());
    assert!(judged["baselines"]["ridge"]["top1"]["value"].is_number());

    let shown = gate(dir.path(), &["inspect", "gate.json"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("train.jsonl (300 questions"));

    let bytes = std::fs::read_to_string(dir.path().join("gate.json")).expect("it is there");
    write("bad.json", &bytes.replacen("\"trust\":", "\"trust\": ", 1));
    let bad = gate(dir.path(), &["inspect", "bad.json"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(stderr(&bad).contains("SHA-256") && bad.stdout.is_empty());
}

#[test]
fn bad_outcomes_name_their_line_and_records_without_texts_ask_for_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |text: &str| {
        std::fs::write(dir.path().join("bad.jsonl"), text).expect("the file is written");
        let output = gate(
            dir.path(),
            &["train", "--data", "bad.jsonl", "--out", "gate.json"],
        );
        assert_eq!(output.status.code(), Some(2));
        assert!(!dir.path().join("gate.json").exists());
        stderr(&output)
    };
    let two = outcomes(0, 1) + r#"{"prompt":"x","outcomes":{"a":{"score":7}}}"#;
    assert!(refused(&two).contains("line 2: outcomes.a.score"));
    assert!(refused(&outcomes(0, 20)).contains("too few"));
    let blank = outcomes(0, 100).replacen("\"prompt\":\"river", "\"prompt\":\"\",\"x\":\"", 1);
    assert!(refused(&blank).contains("--questions"));
}
