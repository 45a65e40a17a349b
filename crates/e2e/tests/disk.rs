//! Disks that fail under a coordinator: full, turned read-only by an error, read-only at start.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use moe2_e2e::{Agent, Api, Coordinator, Reply, alone, free_port, run, stub, until};
use serde_json::json;
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(60);
/// More joules than are asked for here.
const WINDOW: f64 = 500_000.0;

/// Runs a command; false if it fails or is not there.
fn done(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are plain")
}

/// A small file system of its own; unmounted when dropped.
struct Disk {
    at: PathBuf,
    /// For one that can be broken, the file that it is in.
    image: Option<PathBuf>,
}

impl Disk {
    /// `None` where it cannot be mounted.
    fn mounted(self) -> Option<Self> {
        std::fs::create_dir_all(&self.at).expect("the temporary directory can be written");
        let at = text(&self.at);
        let mounted = match &self.image {
            None => done("mount", &["-t", "tmpfs", "-o", "size=2m", "tmpfs", at]),
            // As servers mount theirs.
            Some(image) => done("mount", &["-o", "loop,errors=remount-ro", text(image), at]),
        };
        mounted.then_some(self)
    }

    /// One that only ever fills up.
    fn in_memory(at: PathBuf) -> Option<Self> {
        Self { at, image: None }.mounted()
    }

    /// One that can also be broken.
    fn in_file(at: PathBuf, image: PathBuf) -> Option<Self> {
        let file = File::create(&image).expect("the temporary directory can be written");
        file.set_len(16 << 20).expect("a file may have holes");
        let made = done("mkfs.ext4", &["-q", text(&image)]);
        let image = Some(image);
        made.then_some(Self { at, image })?.mounted()
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let arguments = ["-o", options.as_str(), text(&self.at)];
        assert!(done("mount", &arguments), "{options} is possible");
    }

    /// Has the kernel find an error on it, upon which it takes no more writes; false if that cannot be had.
    fn fails(&self) -> bool {
        let mut named = Command::new("findmnt");
        let named = run(named.args(["-no", "SOURCE", text(&self.at)]), WITHIN).said;
        let device = named.trim().trim_start_matches("/dev/");
        let trigger = Path::new("/sys/fs/ext4")
            .join(device)
            .join("trigger_fs_error");
        std::fs::write(trigger, "1").is_ok()
    }

    /// What an operator does about it.
    fn repaired(&mut self) {
        assert!(done("umount", &[text(&self.at)]), "nobody uses it any more");
        let image = self.image.clone().expect("it is in a file");
        // It fails in a way, for it says that there was something to repair.
        done("e2fsck", &["-fy", text(&image)]);
        let arguments = ["-o", "loop", text(&image), text(&self.at)];
        assert!(done("mount", &arguments), "it is sound again");
    }

    /// Writes until nothing is left but what others have already; what was written.
    fn fill(&self) -> PathBuf {
        let ballast = self.at.join("ballast");
        let fill = |size: usize| {
            let file = OpenOptions::new().create(true).append(true).open(&ballast);
            file.is_ok_and(|mut file| file.write_all(&vec![0; size]).is_ok())
        };
        for size in [1 << 16, 1 << 12, 1 << 9, 1] {
            while fill(size) {}
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the coordinator may still be ending.
        done("umount", &["-l", text(&self.at)]);
    }
}

/// A coordinator with an agent and a tenant, which counts what it is answered.
struct Site {
    dir: PathBuf,
    ports: (u16, u16),
    coordinator: Coordinator,
    agent: Agent,
    key: String,
    answered: Cell<u64>,
    joules: Cell<f64>,
}

impl Site {
    fn start(dir: &Path) -> Self {
        let ports = (free_port(), free_port());
        let coordinator = Coordinator::start(dir, ports.0, ports.1);
        let mut spec = stub("edge-1");
        spec.token = Some(coordinator.token("edge-1", 600));
        let agent = Agent::start(dir, &coordinator.quic, &spec);
        let alice = coordinator.tenant("alice", &["--window", &format!("{WINDOW}J/day,rolling")]);
        let site = Self {
            dir: dir.to_owned(),
            ports,
            key: alice.key().to_owned(),
            coordinator,
            agent,
            answered: Cell::default(),
            joules: Cell::default(),
        };
        site.ready();
        for _ in 0..3 {
            assert_eq!(site.ask().status, 200);
        }
        site
    }

    fn ready(&self) {
        until("the agent is ready", WITHIN, || {
            self.coordinator.is_ready(&self.agent.node)
        });
    }

    fn ask(&self) -> Reply {
        let alice = Api::new(self.coordinator.api.base(), &self.key);
        let reply = alice.chat("Hello!", &json!({"max_tokens": 8}));
        if reply.status == 200 {
            let joules = reply.json["moe2"]["energy_j"].as_f64().expect("joules");
            self.answered.update(|n| n + 1);
            self.joules.update(|sum| sum + joules);
        }
        reply
    }

    fn stop(&mut self) {
        self.coordinator.process.signal("TERM");
        self.coordinator.process.ends(WITHIN);
    }

    /// Starts the coordinator again.
    fn again(&mut self) {
        self.coordinator = Coordinator::start(&self.dir, self.ports.0, self.ports.1);
        self.ready();
    }

    fn refuses_new_work(&self) {
        until("new work is refused", WITHIN, || {
            let reply = self.ask();
            reply.status == 503 && reply.json["error"]["code"] == "ledger_unavailable"
        });
    }

    fn takes_new_work(&self) {
        until("new work is taken", WITHIN, || self.ask().status == 200);
    }

    fn booked(&self) -> u64 {
        let queries = &self.coordinator.usage("alice")["queries"];
        queries.as_u64().expect("there are some")
    }

    /// What is charged to the tenant's window.
    fn charged(&self) -> f64 {
        let shown = self.coordinator.moe2(&["tenant", "show", "alice"]);
        let left = shown["left"]["joules"][0]["left"].as_f64();
        WINDOW - left.expect("it has a window")
    }
}

#[test]
fn a_full_disk_refuses_new_work_and_loses_nothing_settled() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let Some(disk) = Disk::in_memory(dir.path().join("coordinator")) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let site = Site::start(dir.path());
    let ballast = disk.fill();
    site.refuses_new_work();
    std::fs::remove_file(&ballast).expect("it was written");
    site.takes_new_work();
    // Those that were answered while nothing could be written are in the books too.
    assert_eq!(site.booked(), site.answered.get());
}

#[test]
fn a_disk_that_turns_read_only_refuses_new_work_and_after_repair_all_is_booked_or_charged() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let (at, image) = (dir.path().join("coordinator"), dir.path().join("disk"));
    let Some(mut disk) = Disk::in_file(at, image) else {
        println!("skipped: no ext4 can be made and mounted here");
        return;
    };
    let mut site = Site::start(dir.path());
    // Books are synchronised at checkpoints only; as with a loss of power, what was not is lost.
    assert!(done("sync", &["-f", text(&disk.at)]));
    let settled = site.answered.get();
    if !disk.fails() {
        println!("skipped: this kernel does not break file systems on demand");
        return;
    }
    site.refuses_new_work();
    let api = &site.coordinator.api;
    assert!(api.get("/v1/models").is_some_and(|r| r.status == 200));
    let log = site.coordinator.process.log();
    assert!(log.contains("the books cannot be written"), "{log}");

    site.stop();
    disk.repaired();
    site.again();
    assert!(site.booked() >= settled, "{} of {settled}", site.booked());
    // Those answered meanwhile are in no book: the mark that was made before them is charged instead.
    let (charged, said) = (site.charged(), site.joules.get());
    assert!(charged >= said - 1e-6, "{charged} J charged, {said} J said");
    let before = site.booked();
    site.takes_new_work();
    assert_eq!(site.booked(), before + 1);
}

#[test]
fn a_coordinator_on_a_read_only_disk_says_so_and_starts_when_it_is_writable() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let Some(disk) = Disk::in_memory(dir.path().join("coordinator")) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let mut site = Site::start(dir.path());
    site.stop();
    disk.remount("ro");
    let mut command = Coordinator::command(&site.dir, site.ports.0, site.ports.1);
    let ended = run(&mut command, WITHIN);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.said.contains("Read-only file system") || ended.said.contains("readonly database"),
        "{ended:?}"
    );
    disk.remount("rw");
    site.again();
    assert_eq!(site.booked(), site.answered.get());
    site.takes_new_work();
    assert_eq!(site.booked(), site.answered.get());
}
