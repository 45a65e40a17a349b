//! Tenants' budgets in a running system: made with the tool, kept under a crowd, and across crashes.

use std::sync::Barrier;
use std::thread::Builder;
use std::time::{Duration, Instant};

use moe2_e2e::{Agent, Api, Coordinator, Reply, System, alone, free_port, slow_stub, stub, until};
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

/// SHA-256 of the key `sk-bob`.
const BOBS_KEY: &str = "36c76b48bb2ee1d9d37140550e9d7ed7d395cf56f41050dc2a72e5291c0011f0";

#[test]
fn a_changed_configuration_holds_without_a_restart() {
    let _alone = alone();
    let mut system = System::empty();
    system.join_all(&[stub("edge-1")]);
    let (coordinator, dir) = (&system.coordinator, system.dir());
    let write = |settings: &str| {
        let tenant =
            format!("[[tenant]]\nname = \"bob\"\nkey_sha256 = \"{BOBS_KEY}\"\n{settings}\n");
        std::fs::write(dir.join("coordinator.toml"), tenant).expect("the file is written");
    };
    let bob = Api::new(coordinator.api.base(), "sk-bob");
    let ask = || bob.chat("Hello!", &body()).status;
    assert_eq!(ask(), 401);
    write("requests_per_minute = 1");
    coordinator.process.signal("HUP");
    until("the new tenant is let in", READY_WITHIN, || ask() == 200);
    assert_eq!(ask(), 429);
    assert_eq!(system.api().chat("Hello!", &body()).status, 401, "gone");
    // Nobody says that the file has changed.
    write("requests_per_minute = 1000");
    until("there is more room", READY_WITHIN, || ask() == 200);
    write("requests_per_minute = 0");
    coordinator.process.signal("HUP");
    until("the faulty file is refused", READY_WITHIN, || {
        let log = std::fs::read_to_string(dir.join("coordinator.log"));
        log.is_ok_and(|log| log.contains("tenant bob.requests_per_minute"))
    });
    assert_eq!(ask(), 200, "the old one stays");
    let audit = coordinator.moe2(&["tenant", "audit"]);
    let lines = audit["audit"].as_array().into_iter().flatten();
    let lines: Vec<_> = lines
        .map(|l| (&l["who"], &l["action"], &l["tenant"]))
        .collect();
    let line = |action, tenant| (json!("config"), json!(action), json!(tenant));
    let expected = [
        line("set", "bob"),
        line("add", "bob"),
        line("remove", "default"),
    ];
    let expected: Vec<_> = expected.iter().map(|(w, a, t)| (w, a, t)).collect();
    assert_eq!(lines, expected);
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

/// Clients that ask at the same moment, and how many of them the window has room for.
const AT_ONCE: usize = 1_000;
const FIT: usize = 100;
/// What an expert takes to answer here: nothing is settled before all have asked.
const ANSWER_TAKES: Duration = Duration::from_secs(8);

/// Everyone asks once, at the same moment, on a connection that is there; how they were answered, and when
/// the last was told to try again.
fn all_at_once(api: &Api) -> (Vec<Reply>, Duration) {
    let start = Barrier::new(AT_ONCE + 1);
    let ask = || {
        // A connection of its own, opened before.
        let own = Api::new(api.base(), api.key());
        let connected = own.get("/healthz").is_some_and(|reply| reply.status == 200);
        start.wait();
        assert!(connected, "everyone finds a connection");
        let reply = own.chat("Hello!", &body());
        (reply, Instant::now())
    };
    let (ended, began) = std::thread::scope(|scope| {
        let spawn = |_| {
            let small = Builder::new().stack_size(256 << 10);
            small.spawn_scoped(scope, ask).expect("threads are cheap")
        };
        let all: Vec<_> = (0..AT_ONCE).map(spawn).collect();
        start.wait();
        let began = Instant::now();
        let ended = all.into_iter().map(|t| t.join().expect("no client fails"));
        (ended.collect::<Vec<_>>(), began)
    });
    let refused = ended.iter().filter(|(reply, _)| reply.status != 200);
    let last = refused.map(|(_, at)| *at).max().unwrap_or(began);
    let replies = ended.into_iter().map(|(reply, _)| reply);
    (replies.collect(), last - began)
}

#[test]
fn of_a_thousand_at_once_exactly_as_many_are_taken_as_the_window_has_room_for() {
    let _alone = alone();
    let mut system = System::empty();
    // Of its 5 W nearly all is drawn idle as well, so that no answer takes more than was reserved for it,
    // however slow it is.
    let slow = slow_stub("edge-1", ANSWER_TAKES / 8).idling_at(4.5);
    system.join_all(&[slow]);
    let coordinator = &system.coordinator;
    // What is reserved for an answer: the smallest budget that would do. Nobody has answered yet, so nothing
    // changes it until the first of the crowd has.
    let refused = system.api().chat(
        "Hello!",
        &json!({"max_tokens": 8, "moe2": {"energy_budget_j": 1e-9}}),
    );
    let bound = refused.json["error"]["moe2"]["smallest_energy_j"].as_f64();
    let bound = bound.expect("the refusal says what would do");
    // A hair more than a hundred of them, for sums of floating-point numbers.
    let limit = bound * FIT as f64 * (1.0 + 1e-9);
    let alice = coordinator.tenant("alice", &["--window", &format!("{limit}J/day,rolling")]);
    let (replies, told) = all_at_once(&alice);
    let with = |status: u16, code: Value| {
        let same = |r: &&Reply| r.status == status && r.json["error"]["code"] == code;
        replies.iter().filter(same).count()
    };
    assert!(told < ANSWER_TAKES, "the last was told after {told:?}");
    assert_eq!(with(200, Value::Null), FIT);
    // What work under way does not use comes back: they may try again.
    assert_eq!(with(429, "rate_limit_exceeded".into()), AT_ONCE - FIT);
    let used = coordinator.usage("alice");
    assert_eq!(used["queries"], FIT);
    assert_eq!(used["over_j"], 0.0, "{used}");
    let spent = used["energy_j"].as_f64().expect("joules");
    assert!(spent > 0.0 && spent <= limit, "{spent} J of {limit} J");

    // With nothing under way and nothing left, waiting does not help, and everyone is told so.
    let none = format!("{spent}J/day,rolling");
    let _ = coordinator.moe2(&["tenant", "set", "alice", "--window", &none]);
    let (replies, _) = all_at_once(&alice);
    for reply in replies {
        let code = &reply.json["error"]["code"];
        assert_eq!((reply.status, code), (429, &json!("insufficient_quota")));
        assert_eq!(reply.should_retry.as_deref(), Some("false"));
    }
    assert_eq!(coordinator.usage("alice")["energy_j"], used["energy_j"]);
}
