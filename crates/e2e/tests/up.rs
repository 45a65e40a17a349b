//! `moe2 up`: everything it starts ends with it.

use std::collections::BTreeSet;
use std::path::Path;
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
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// `moe2 up`, killed if the test fails; its children then end by themselves.
struct Up(Child);

impl Up {
    fn start(state: &Path, more: &[&str]) -> Self {
        let started = command(state, more).spawn();
        Self(started.expect("the binary runs"))
    }

    /// Waits until all it starts is there.
    fn everything(&self) -> BTreeSet<u32> {
        eventually("everything runs", UP_WITHIN, || {
            let all = descendants(self.0.id());
            (all.len() == PROCESSES).then_some(all)
        })
    }

    fn ends(&mut self, limit: Duration) -> Option<i32> {
        eventually("it ends", limit, || self.0.try_wait().ok().flatten()).code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Fails only when it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
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
    let all = up.everything();
    signal(up.0.id(), "INT");
    assert_eq!(up.ends(DOWN_WITHIN), Some(0));
    none_is_left(&all);
}

#[test]
fn up_that_is_killed_leaves_no_process() {
    let _alone = alone();
    let state = scratch();
    let mut up = Up::start(state.path(), &["--no-questions"]);
    let all = up.everything();
    signal(up.0.id(), "KILL");
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
    assert_eq!(descendants(first.0.id()).len(), PROCESSES, "undisturbed");
}
