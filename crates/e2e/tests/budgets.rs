//! Tenants' budgets in a running system: made with the tool, kept under a crowd, and across crashes.

use std::time::Duration;

use moe2_e2e::{Agent, Api, Coordinator, System, alone, free_port, stub, until};
use serde_json::{Value, json};
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// Crashes in a test run; a record needs more: set `MOE2_CRASHES`.
const CRASHES: u32 = 4;
const CROWD: usize = 16;

fn body() -> Value {
    json!({"max_tokens": 8})
}

/// Everyone asks until nobody is answered any more, or the coordinator is gone. Answers and the joules in
/// them.
fn crowd(api: &Api, rounds: usize) -> (u64, f64, u64) {
    let ask = |_| {
        let (mut answered, mut joules, mut quota) = (0_u64, 0.0, 0_u64);
        for _ in 0..rounds {
            let Some(reply) = api.try_chat("Hello!", &body()) else {
                break;
            };
            match reply.status {
                200 => {
                    answered += 1;
                    joules += reply.json["moe2"]["energy_j"].as_f64().expect("joules");
                }
                429 if reply.json["error"]["code"] == "insufficient_quota" => {
                    assert_eq!(reply.should_retry.as_deref(), Some("false"));
                    quota += 1;
                    break;
                }
                429 | 503 => {}
                status => assert_eq!(status, 200, "{:?}", reply.json),
            }
        }
        (answered, joules, quota)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..CROWD).map(|n| scope.spawn(move || ask(n))).collect();
        let each = all.into_iter().map(|t| t.join().expect("no client fails"));
        each.fold((0, 0.0, 0), |sum, one| {
            (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2)
        })
    })
}

#[test]
fn a_crowd_cannot_overdraw_a_window_and_the_books_say_what_it_used() {
    let _alone = alone();
    let mut system = System::empty();
    system.join_all(&[stub("edge-1"), stub("edge-2")]);
    let coordinator = &system.coordinator;
    // What answers are forecast to take at most, and take.
    let first = system.api().chat(
        "Hello!",
        &json!({"max_tokens": 8, "moe2": {"explain": true}}),
    );
    let joules = first.json["moe2"]["energy_j"].as_f64().expect("joules");
    let window = format!("{}J/day,rolling", joules * 40.0);
    let alice = coordinator.tenant("alice", &["--window", &window]);
    let (answered, said, quota) = crowd(&alice, 200);
    let used = coordinator.usage("alice");
    assert!(
        answered > 5 && quota > 0,
        "{answered} answers, {quota} refusals"
    );
    assert_eq!(used["queries"], answered);
    let spent = used["energy_j"].as_f64().expect("joules");
    assert!(
        (spent - said).abs() < 1e-6 * spent,
        "{spent} J booked, {said} J said"
    );
    // A window is exceeded by at most what dispatches used beyond their own reservations.
    let (limit, beyond) = (joules * 40.0, used["over_j"].as_f64().expect("joules"));
    assert!(
        spent <= limit + beyond + 1e-9,
        "{spent} J of {limit} J, {beyond} J beyond"
    );
    assert!(beyond < 0.05 * limit, "{beyond} J beyond what was reserved");

    // More joules, fewer requests, another key, and an end.
    let set = ["tenant", "set", "alice", "--unset", "energy_windows"];
    let _ = coordinator.moe2(&[&set[..], &["--requests-per-minute", "2"]].concat());
    let codes: Vec<u16> = (0..3)
        .map(|_| alice.chat("Hello!", &body()).status)
        .collect();
    assert_eq!(codes, [200, 200, 429]);
    let rotated = coordinator.moe2(&["tenant", "rotate-key", "alice"]);
    assert_eq!(alice.chat("Hello!", &body()).status, 401);
    let alice = Api::new(
        coordinator.api.base(),
        rotated["key"].as_str().expect("a key"),
    );
    assert_eq!(
        alice.chat("Hello!", &body()).status,
        429,
        "the key changed, the tenant did not"
    );
    let _ = coordinator.moe2(&["tenant", "remove", "alice"]);
    assert_eq!(alice.chat("Hello!", &body()).status, 401);
    let audit = coordinator.moe2(&["tenant", "audit"]);
    let actions = audit["audit"].as_array().into_iter().flatten();
    let actions: Vec<&str> = actions.filter_map(|a| a["action"].as_str()).collect();
    assert_eq!(actions, ["remove", "rotate-key", "set", "add"]);
}

#[test]
fn a_killed_coordinator_loses_no_settlement_bills_none_twice_and_overdraws_no_window() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let (http, quic) = (free_port(), free_port());
    let mut coordinator = Coordinator::start(dir.path(), http, quic);
    let agents: Vec<Agent> = ["edge-1", "edge-2"]
        .map(|node| {
            let mut spec = stub(node);
            spec.token = Some(coordinator.token(node, 600));
            Agent::start(dir.path(), &coordinator.quic, &spec)
        })
        .into();
    let ready = |coordinator: &Coordinator| {
        until("the agents are back", READY_WITHIN, || {
            agents.iter().all(|agent| coordinator.is_ready(&agent.node))
        });
    };
    ready(&coordinator);
    let made = coordinator.tenant("alice", &["--window", "500kJ/day,rolling"]);
    let key = made.key().to_owned();
    let crashes = std::env::var("MOE2_CRASHES")
        .ok()
        .and_then(|n| n.parse().ok());
    let crashes: u32 = crashes.unwrap_or(CRASHES);
    let (mut answered, mut said, mut marked) = (0, 0.0, 0);
    for n in 0..crashes {
        let alice = Api::new(coordinator.api.base(), &key);
        // Not the same moment each time, and the same ones in every run.
        let moment = Duration::from_millis(u64::from(n.wrapping_mul(2_654_435_761) % 700) + 20);
        let (more, joules, _) = std::thread::scope(|scope| {
            let load = scope.spawn(|| crowd(&alice, 10_000));
            std::thread::sleep(moment);
            coordinator.process.kill();
            load.join().expect("no client fails")
        });
        answered += more;
        said += joules;
        drop(coordinator);
        coordinator = Coordinator::start(dir.path(), http, quic);
        ready(&coordinator);
        let used = coordinator.usage("alice");
        let (queries, spent) = (used["queries"].as_u64(), used["energy_j"].as_f64());
        let (queries, spent) = (queries.unwrap_or(0), spent.unwrap_or(0.0));
        assert!(
            queries >= answered,
            "crash {n}: {answered} answers, {queries} booked"
        );
        assert!(
            spent >= said - 1e-6,
            "crash {n}: {said} J said, {spent} J booked"
        );
        // At most those under way were booked without their client having heard.
        let under_way = CROWD as u64 * u64::from(n + 1);
        assert!(
            queries <= answered + under_way,
            "crash {n}: {queries} booked, {answered} answers"
        );
        // What was under way is charged as well: at least the joules that the agents report of it.
        let left = coordinator.moe2(&["tenant", "show", "alice"]);
        let left = left["left"]["joules"][0]["left"]
            .as_f64()
            .expect("it has a window");
        let charged = 500_000.0 - left;
        assert!(
            charged >= spent - 1e-6,
            "crash {n}: {charged} J charged, {spent} J spent"
        );
        marked += u32::from(charged > spent + 1e-6);
    }
    assert!(
        marked > crashes / 2,
        "{marked} crashes were charged for work under way"
    );
    assert!(answered > u64::from(crashes), "{answered} answers");
}
