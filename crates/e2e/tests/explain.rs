//! `moe2 explain` against a running coordinator, and without one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moe2_e2e::{Coordinator, Ended, System, alone, binary, run, stub, until};
use serde_json::{Value, json};

const COMMAND_WITHIN: Duration = Duration::from_secs(30);
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

fn explain(arguments: &[&str], at: Option<(&Coordinator, &Path)>) -> Ended {
    let mut command = Command::new(binary("moe2"));
    command.arg("explain").args(arguments);
    if let Some((coordinator, dir)) = at {
        command.args(["--url", coordinator.admin.base()]);
        let key = dir.join("coordinator").join("admin.key");
        command.arg("--key-file").arg(key);
    }
    run(&mut command, COMMAND_WITHIN)
}

fn chosen(candidates: &Value) -> Vec<String> {
    let all = candidates.as_array().expect("a list").iter();
    let chosen = all.filter(|c| c["verdict"] == "chosen");
    chosen.map(|c| c["expert"].to_string()).collect()
}

#[test]
fn an_answer_and_a_refusal_are_explained_and_replayed_offline() {
    let _alone = alone();
    let mut system = System::empty();
    system.join_all(&[stub("edge-1"), stub("edge-2")]);
    let (dir, at) = (system.dir(), Some((&system.coordinator, system.dir())));
    let reply = system.api().chat("Hello!", &json!({"max_tokens": 8}));
    let id = reply.json["id"].as_str().expect("answers have ids");
    until("the record is written", WRITTEN_WITHIN, || {
        explain(&[id], at).code == Some(0)
    });
    let shown = explain(&[id], at).said;
    for words in ["answered by ", "Replayed here: the same choice.", "* "] {
        assert!(shown.contains(words), "{shown}");
    }
    assert!(!shown.contains("Hello"), "no word of the prompt is kept");

    // Saved, and read where there is no coordinator; then with budgets that nobody keeps.
    let saved = explain(&[id, "--json"], at).said;
    let file = dir.join("why.json");
    fs::write(&file, &saved).expect("there is room");
    let file = file.to_str().expect("a plain path");
    assert_eq!(explain(&["--file", file], None).code, Some(0));
    let what_if = explain(&["--file", file, "--energy-budget-j", "0", "--json"], None);
    assert_eq!(what_if.code, Some(0), "{what_if:?}");
    let what_if: Value = serde_json::from_str(&what_if.said).expect("JSON");
    assert_eq!(what_if["replay_same"], true);
    let made = &what_if["record"]["decisions"][0]["candidates"];
    assert_eq!(chosen(made).len(), 1);
    assert!(chosen(&what_if["what_if"][0]["candidates"]).is_empty());

    // A record that was changed does not replay.
    let mut forged: Value = serde_json::from_str(&saved).expect("JSON");
    forged["record"]["decisions"][0]["grounds"]["terms"]["prices"]["per_second"] = json!(5.0);
    fs::write(file, forged.to_string()).expect("there is room");
    let changed = explain(&["--file", file], None);
    assert_eq!(changed.code, Some(1), "{changed:?}");
    assert!(changed.said.contains("ANOTHER CHOICE"), "{changed:?}");

    // A refusal is found by its request, and listed.
    let refused = system.api().chat(
        "Hello!",
        &json!({"max_tokens": 8, "moe2": {"energy_budget_j": 1e-9}}),
    );
    assert_eq!(refused.status, 422);
    let listed = || {
        let ended = explain(&["--json"], at);
        serde_json::from_str::<Value>(&ended.said).expect("JSON")["explanations"][0].clone()
    };
    until("the refusal is written", WRITTEN_WITHIN, || {
        listed()["ending"] == "budget_infeasible"
    });
    let request = listed()["request_id"].as_str().expect("a name").to_owned();
    let shown = explain(&[&request], at).said;
    assert!(
        shown.contains("too costly") && shown.contains("refused"),
        "{shown}"
    );

    let unknown = explain(&["chatcmpl-0"], at);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.said.contains("nothing is recorded"), "{unknown:?}");
    assert_eq!(explain(&["../tenants"], at).code, Some(2));
    assert_eq!(explain(&["--file", "/dev/null"], None).code, Some(2));
}
