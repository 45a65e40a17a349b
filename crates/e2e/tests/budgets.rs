//! Tenants' budgets in a running system: made with the tool, kept under a crowd, and across crashes.

use std::process::Command;
use std::time::Duration;

use moe2_e2e::{Agent, Api, Coordinator, System, alone, binary, free_port, run, stub, until};
use serde_json::{Value, json};
use tempfile::TempDir;

const COMMAND_WITHIN: Duration = Duration::from_secs(60);
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Crashes in a test run; a record needs more: set `MOE2_CRASHES`.
const CRASHES: u32 = 4;
const CROWD: usize = 16;

/// `moe2` as the operator, with JSON out.
fn moe2(coordinator: &Coordinator, dir: &std::path::Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(binary("moe2"));
    command
        .args(arguments)
        .arg("--json")
        .args(["--url", coordinator.admin.base()])
        .arg("--key-file")
        .arg(dir.join("coordinator").join("admin.key"));
    let ended = run(&mut command, COMMAND_WITHIN);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.said).expect("it prints one JSON object")
}

fn usage(coordinator: &Coordinator, dir: &std::path::Path) -> Value {
    let usage = moe2(coordinator, dir, &["usage", "--tenant", "alice"]);
    usage["usage"][0].clone()
}

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
    let (coordinator, dir) = (&system.coordinator, system.dir());
    // What answers are forecast to take at most, and take.
    let first = system.api().chat(
        "Hello!",
        &json!({"max_tokens": 8, "moe2": {"explain": true}}),
    );
    let joules = first.json["moe2"]["energy_j"].as_f64().expect("joules");
    let window = format!("{}J/day,rolling", joules * 40.0);
    let made = moe2(
        coordinator,
        dir,
        &["tenant", "add", "alice", "--window", &window],
    );
    let alice = Api::new(coordinator.api.base(), made["key"].as_str().expect("a key"));
    let (answered, said, quota) = crowd(&alice, 200);
    let used = usage(coordinator, dir);
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
    moe2(
        coordinator,
        dir,
        &[
            "tenant",
            "set",
            "alice",
            "--unset",
            "energy_windows",
            "--requests-per-minute",
            "2",
        ],
    );
    let codes: Vec<u16> = (0..3)
        .map(|_| alice.chat("Hello!", &body()).status)
        .collect();
    assert_eq!(codes, [200, 200, 429]);
    let rotated = moe2(coordinator, dir, &["tenant", "rotate-key", "alice"]);
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
    moe2(coordinator, dir, &["tenant", "remove", "alice"]);
    assert_eq!(alice.chat("Hello!", &body()).status, 401);
    let audit = moe2(coordinator, dir, &["tenant", "audit"]);
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
    let audit = moe2(coordinator, dir, &["tenant", "audit"]);
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
    let made = moe2(
        &coordinator,
        dir.path(),
        &["tenant", "add", "alice", "--window", "500kJ/day,rolling"],
    );
    let key = made["key"].as_str().expect("a key").to_owned();
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
        let used = usage(&coordinator, dir.path());
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
        let left = moe2(&coordinator, dir.path(), &["tenant", "show", "alice"]);
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

/// A small file system of its own; unmounted when dropped. `None` where that is not allowed.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(at: &std::path::Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("the temporary directory can be written");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the coordinator may still be ending.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_refuses_new_work_and_loses_nothing_settled() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let Some(disk) = Disk::mount(&dir.path().join("coordinator")) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let (http, quic) = (free_port(), free_port());
    let coordinator = Coordinator::start(dir.path(), http, quic);
    let mut spec = stub("edge-1");
    spec.token = Some(coordinator.token("edge-1", 600));
    let _agent = Agent::start(dir.path(), &coordinator.quic, &spec);
    until("the agent is ready", READY_WITHIN, || {
        coordinator.is_ready("edge-1")
    });
    let made = moe2(&coordinator, dir.path(), &["tenant", "add", "alice"]);
    let alice = Api::new(coordinator.api.base(), made["key"].as_str().expect("a key"));
    let answered = std::cell::Cell::new(0_u64);
    let ask = || {
        let reply = alice.chat("Hello!", &body());
        answered.set(answered.get() + u64::from(reply.status == 200));
        reply
    };
    for _ in 0..3 {
        assert_eq!(ask().status, 200);
    }
    // Nothing is left but what the database has already.
    let ballast = disk.0.join("ballast");
    let fill = |size: usize| {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&ballast)
            .ok();
        file.as_mut()
            .is_some_and(|f| f.write_all(&vec![0; size]).is_ok())
    };
    for size in [1 << 16, 1 << 12, 1 << 9, 1] {
        while fill(size) {}
    }
    until("new work is refused", READY_WITHIN, || {
        let reply = ask();
        reply.status == 503 && reply.json["error"]["code"] == "ledger_unavailable"
    });
    std::fs::remove_file(&ballast).expect("it was written");
    until("new work is taken again", READY_WITHIN, || {
        ask().status == 200
    });
    // Those that were answered while nothing could be written are in the books too.
    let after = usage(&coordinator, dir.path());
    assert_eq!(after["queries"], answered.get());
}
