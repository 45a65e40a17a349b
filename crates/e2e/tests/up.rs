//! `moe2 up`: everything it starts ends with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use moe2_e2e::{alone, binary, descendants, eventually, is_alive, run, signal, until};
use tempfile::TempDir;

const UP_WITHIN: Duration = Duration::from_secs(60);
const DOWN_WITHIN: Duration = Duration::from_secs(6);
/// Five questions on one slow core.
const ONCE_WITHIN: Duration = Duration::from_secs(120);
/// A coordinator, three agents and their three workers.
const PROCESSES: usize = 7;

fn command(state: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(binary("moe2"));
    command
        .arg("up")
        .args(["--http", "127.0.0.1:0", "--quic", "127.0.0.1:0"])
        .arg("--state-dir")
        .arg(state)
        .args(["--threads", "1"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// `moe2 up`, killed if the test fails; its children then end by themselves.
struct Up {
    process: Child,
    said: PathBuf,
}

impl Up {
    fn start(state: &Path, more: &[&str]) -> Self {
        let said = state.join("up.log");
        let log = File::create(&said).expect("a temporary directory can be written");
        let started = command(state, more).stderr(log).spawn();
        let process = started.expect("the binary runs");
        Self { process, said }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it says that it is up.
    fn is_up(&self) {
        until("it is up", UP_WITHIN, || {
            fs::read_to_string(&self.said).is_ok_and(|said| said.contains("The fleet is up"))
        });
    }

    /// Waits until all it starts is there.
    fn everything(&self) -> BTreeSet<u32> {
        eventually("everything runs", UP_WITHIN, || {
            let all = descendants(self.pid());
            (all.len() == PROCESSES).then_some(all)
        })
    }

    fn ends(&mut self, limit: Duration) -> Option<i32> {
        eventually("it ends", limit, || self.process.try_wait().ok().flatten()).code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Fails only when it has ended, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn none_is_left(all: &BTreeSet<u32>) {
    until("no process is left", DOWN_WITHIN, || {
        !all.iter().any(|pid| is_alive(*pid))
    });
}

fn scratch() -> TempDir {
    TempDir::new().expect("a temporary directory can be made")
}

#[test]
fn up_once_answers_and_leaves_no_process() {
    let _alone = alone();
    let state = scratch();
    let mut up = Up::start(state.path(), &["--once"]);
    let all = up.everything();
    assert_eq!(up.ends(ONCE_WITHIN), Some(0));
    let left: Vec<_> = all.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(left.is_empty(), "still there right after its end: {left:?}");
}

#[test]
fn ctrl_c_ends_up_in_order_and_leaves_no_process() {
    let _alone = alone();
    let state = scratch();
    let mut up = Up::start(state.path(), &["--no-questions"]);
    up.is_up();
    let all = up.everything();
    signal(up.pid(), "INT");
    assert_eq!(up.ends(DOWN_WITHIN), Some(0));
    none_is_left(&all);
}

#[test]
fn ctrl_c_while_starting_says_so_and_leaves_no_process() {
    let _alone = alone();
    let state = scratch();
    let mut up = Up::start(state.path(), &["--no-questions"]);
    let first = eventually("something runs", UP_WITHIN, || {
        let some = descendants(up.pid());
        (!some.is_empty()).then_some(some)
    });
    signal(up.pid(), "INT");
    assert_eq!(up.ends(DOWN_WITHIN), Some(1), "it did not come up");
    none_is_left(&first);
    let said = fs::read_to_string(&up.said).unwrap_or_default();
    assert!(said.contains("interrupted"), "{said}");
}

#[test]
fn up_that_is_killed_leaves_no_process() {
    let _alone = alone();
    let state = scratch();
    let mut up = Up::start(state.path(), &["--no-questions"]);
    let all = up.everything();
    signal(up.pid(), "KILL");
    assert_eq!(up.ends(DOWN_WITHIN), None);
    none_is_left(&all);
}

#[test]
fn a_second_up_on_the_same_state_is_refused() {
    let _alone = alone();
    let state = scratch();
    let first = Up::start(state.path(), &["--no-questions"]);
    first.everything();
    let second = run(
        &mut command(state.path(), &["--no-questions"]),
        Duration::from_secs(20),
    );
    assert_eq!(second.code, Some(1), "{}", second.said);
    assert!(second.said.contains("already runs"), "{}", second.said);
    assert!(second.said.contains("--state-dir"), "{}", second.said);
    assert_eq!(descendants(first.pid()).len(), PROCESSES, "undisturbed");
}
