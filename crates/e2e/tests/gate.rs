//! A trained gate in a running coordinator: it routes, and a newer file takes over without a restart.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moe2_e2e::{System, alone, binary, run, stub, until};
use serde_json::json;
use tempfile::TempDir;

/// The file is looked at every two seconds.
const LOADED_WITHIN: Duration = Duration::from_secs(15);
const TRAINED_WITHIN: Duration = Duration::from_secs(120);
/// A question about nature that no gate was trained on.
const QUESTION: &str = "river cloud stone river river cloud?";

/// A gate for two experts, of which `knows` is right about nature and the other about money.
fn train(dir: &Path, name: &str, knows: &str, other: &str) {
    let words = [["river", "stone", "cloud"], ["price", "market", "tax"]];
    let mut outcomes = String::new();
    for at in 0..300_usize {
        let (topic, n) = (at % 2, at / 2);
        let word = |k: u32| words[topic][(n / 3usize.pow(k)) % 3];
        let lucky = n % 10 == 0;
        let scores = [
            (knows, (topic == 0) != lucky),
            (other, (topic == 1) != lucky),
        ];
        let scores: serde_json::Map<String, serde_json::Value> = scores
            .into_iter()
            .map(|(e, right)| {
                (
                    e.to_owned(),
                    json!({"score": u8::from(right), "choice": u8::from(right)}),
                )
            })
            .collect();
        let item = json!({
            "id": at.to_string(), "domain": format!("d{topic}"), "choices": ["no", "yes"], "answer": 1,
            "prompt": format!("{} {} {} {} {at}", word(0), word(1), word(2), word(3)),
            "outcomes": scores,
        });
        let _ = writeln!(outcomes, "{item}");
    }
    let data = dir.join("outcomes.jsonl");
    std::fs::write(&data, outcomes).expect("the temporary directory can be written");
    // Written beside and renamed, as an operator should.
    let new = dir.join("new.json");
    let mut command = Command::new(binary("moe2"));
    command
        .args(["gate", "train", "--quiet", "--data"])
        .arg(&data);
    let ended = run(command.arg("--out").arg(&new), TRAINED_WITHIN);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    std::fs::rename(new, dir.join(name)).expect("the temporary directory can be written");
}

#[test]
fn a_newer_gate_takes_over_and_a_broken_one_does_not() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let gate = dir.path().join("gate.json");
    train(dir.path(), "gate.json", "stub-edge-1", "stub-edge-2");
    let mut system = System::configured(&format!("gate = {gate:?}\n"));
    system.join_all(&[stub("edge-1"), stub("edge-2")]);
    let body = json!({
        "structured_outputs": {"choice": ["no", "yes"]},
        "moe2": {"mode": "single", "explain": true},
    });
    let answers = || {
        let reply = system.api().chat(QUESTION, &body);
        assert_eq!(reply.status, 200, "{:?}", reply.json);
        reply.model().to_owned()
    };
    assert_eq!(answers(), "stub-edge-1@edge-1");

    train(dir.path(), "gate.json", "stub-edge-2", "stub-edge-1");
    until("the newer gate routes", LOADED_WITHIN, || {
        answers() == "stub-edge-2@edge-2"
    });

    let whole = std::fs::read(&gate).expect("it was written");
    std::fs::write(&gate, &whole[..whole.len() / 2]).expect("it can be written");
    let log = &system.coordinator.process;
    log.says("the old gate stays", LOADED_WITHIN);
    assert_eq!(answers(), "stub-edge-2@edge-2");
    assert!(
        log.log().contains("copy it again or train the gate again"),
        "{}",
        log.log()
    );
}
