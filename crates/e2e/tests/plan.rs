//! The active set of a live fleet: planned, applied, explained, and planned again.

use std::process::Command;
use std::time::Duration;

use moe2_e2e::{Ended, Spec, System, alone, binary, eventually, run, until};
use serde_json::Value;

/// A plan, with its solve, after a change of the fleet.
const PLANNED_WITHIN: Duration = Duration::from_secs(20);
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// Each of the three machines idles at the default watts; two of them fit.
const TWO_OF_THREE: &str = "[plan]\nstanding_watts = 12\n";

fn moe2(system: &System, arguments: &[&str]) -> Ended {
    let state = system.dir().join("coordinator");
    let mut command = Command::new(binary("moe2"));
    command.args(arguments);
    if arguments[0] == "plan" {
        command.args(["--url", system.coordinator.admin.base()]);
        command.arg("--key-file").arg(state.join("admin.key"));
    }
    run(&mut command, COMMAND_WITHIN)
}

fn json(outcome: &Ended) -> Value {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.said).expect("it prints one JSON object")
}

fn plan(system: &System) -> Option<Value> {
    let plan = system.coordinator.admin.get("/admin/v1/plan")?;
    (plan.status == 200).then_some(plan.json)
}

fn experts(plan: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<&str> {
    let all = plan["experts"].as_array().into_iter().flatten();
    all.filter(|e| wanted(e))
        .filter_map(|e| e["expert"].as_str())
        .collect()
}

/// People get reasons and what would change them; the problem can be solved
/// by hand, and its proof is checked by another programme.
fn explained(system: &System, plan: &Value, dropped: &str) {
    let text = moe2(system, &["plan", "--explain"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    for part in [
        "no set is worth more than",
        "verified",
        "standing_w 15 > 12",
        "TO ADMIT",
        dropped,
    ] {
        assert!(
            text.said.contains(part),
            "{part:?} is missing:\n{}",
            text.said
        );
    }
    let explained = json(&moe2(system, &["plan", "--explain", "--json"]));
    let raise = &explained["admissions"][0]["raise"];
    assert_eq!(
        (raise["constraint"].as_str(), raise["from"].as_f64()),
        (Some("standing_w"), Some(12.0))
    );
    assert!(
        raise["to"]
            .as_f64()
            .is_some_and(|to| (15.0..15.1).contains(&to)),
        "{raise}"
    );
    let file = system.dir().join("plan.json");
    let instance = moe2(system, &["plan", "--instance"]);
    std::fs::write(&file, &instance.said).expect("the temporary directory can be written");
    let solved = json(&moe2(
        system,
        &["solve", "--json", file.to_str().unwrap_or_default()],
    ));
    assert_eq!(solved["objective"], plan["objective"]);
    let proof = system.dir().join("proof.json");
    let (file, proof) = (
        file.to_str().unwrap_or_default(),
        proof.to_str().unwrap_or_default(),
    );
    moe2(system, &["solve", "--quiet", "--proof", proof, file]);
    let verified = json(&moe2(system, &["verify", "--json", file, proof]));
    assert_eq!(verified["objective"], plan["objective"]);
}

#[test]
fn a_live_fleet_is_planned_inside_its_limits_and_planned_again_when_a_machine_is_lost() {
    let _alone = alone();
    let mut system = System::configured(TWO_OF_THREE);
    let specs: Vec<Spec> = Spec::all_real()
        .into_iter()
        .map(|s| s.idling_at(5.0))
        .collect();
    system.join_all(&specs);
    let first = eventually("all three experts are planned", PLANNED_WITHIN, || {
        let three = |p: &Value| p["experts"].as_array().is_some_and(|e| e.len() == 3);
        plan(&system).filter(|p| three(p) && p["proof"].is_u64())
    });
    assert_eq!(
        (first["status"].as_str(), first["gap"].as_f64()),
        (Some("optimal"), Some(0.0))
    );
    let active = experts(&first, |e| e["chosen"] == true || e["spare"] == true);
    let dropped = experts(&first, |e| e["chosen"] == false && e["spare"] == false);
    assert_eq!((active.len(), dropped.len()), (2, 1), "{first}");

    // The fleet routes by it.
    let selected = |name: &str| {
        let (_, node) = name.split_once('@').unwrap_or_default();
        system.coordinator.node(node)["experts"][0]["selected"] == true
    };
    until("the plan is in force", PLANNED_WITHIN, || {
        active.iter().all(|name| selected(name)) && !selected(dropped[0])
    });

    explained(&system, &first, dropped[0]);

    // A machine of the active set dies: the dropped expert takes its place.
    let lost = active[0]
        .split_once('@')
        .map_or("", |(_, node)| node)
        .to_owned();
    let at = system.agents.iter().position(|agent| agent.node == lost);
    let mut agent = system
        .agents
        .remove(at.expect("the expert's node is an agent"));
    agent.process.kill();
    until("the dropped expert is active", PLANNED_WITHIN, || {
        selected(dropped[0])
    });
    let answered = system.api().post(
        "/v1/chat/completions",
        &serde_json::json!({"model": "auto", "max_tokens": 4,
            "messages": [{"role": "user", "content": "Hello"}]}),
    );
    assert_eq!(answered.status, 200, "{:?}", answered.json);
}

#[test]
fn limits_that_nobody_keeps_let_nobody_answer_and_say_so() {
    let _alone = alone();
    let mut system = System::configured("[plan]\nstanding_watts = 1\n");
    system.join_all(&[moe2_e2e::stub("edge-1").idling_at(5.0)]);
    until("the plan is infeasible", PLANNED_WITHIN, || {
        plan(&system).is_some_and(|p| p["status"] == "infeasible")
    });
    let text = moe2(&system, &["plan"]);
    assert_eq!(text.code, Some(3), "{text:?}");
    for part in [
        "standing_w needs a limit of at least 5 (is 1)",
        "No expert is active.",
    ] {
        assert!(text.said.contains(part), "{part:?} is missing: {text:?}");
    }
    system
        .coordinator
        .process
        .says("no active set keeps the limits", PLANNED_WITHIN);
    let answered = system.api().post(
        "/v1/chat/completions",
        &serde_json::json!({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}),
    );
    assert_eq!(answered.status, 503, "{:?}", answered.json);
    let message = answered.json["error"]["message"]
        .as_str()
        .unwrap_or_default();
    assert!(message.contains("moe2 plan"), "{message}");
    let ready = system.coordinator.admin.get("/readyz").map(|r| r.status);
    assert_eq!(ready, Some(503));
}
