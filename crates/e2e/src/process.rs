//! Processes under test: started, watched through `/proc`, signalled, and always ended.
//!
//! Each gets `--exit-on-stdin-close` and a pipe as standard input, so that even a test run that is
//! killed leaves nothing behind. Signals go through `kill(1)`: the standard library sends only
//! SIGKILL, and a crate for one call is not worth its weight.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::{eventually, fail};

/// How long a process may take to end in order when its test is over.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A binary of the release build.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    let path = target.join("release").join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make build`",
        path.display()
    );
    path
}

/// A long-running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, which knows `--exit-on-stdin-close`, with its standard error in the file `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the temporary directory can be written");
        let child = command
            .arg("--exit-on-stdin-close")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("a binary that is there can be started");
        let log = log.to_owned();
        Self { child, log }
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log has `words`.
    ///
    /// # Panics
    /// If they do not come within `limit`; the log is shown.
    pub fn says(&self, words: &str, limit: Duration) {
        let began = Instant::now();
        while !self.log().contains(words) {
            assert!(
                began.elapsed() < limit,
                "no {words:?} within {limit:?} in:\n{}",
                self.log()
            );
            std::thread::sleep(crate::LOOK_EVERY);
        }
    }

    /// `kill -9`, and gone when this returns.
    pub fn kill(&mut self) {
        // Both fail only when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends `TERM`, `INT` and the like.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within `limit`.
    pub fn ends(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log.clone();
        let what = format!("the process ends (log: {})", log.display());
        eventually(&what, limit, || self.child.try_wait().ok().flatten())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let began = Instant::now();
        while began.elapsed() < STOP_WITHIN && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(crate::LOOK_EVERY);
        }
        self.kill();
        if std::thread::panicking() {
            // The test has failed: its processes' own words are the best lead.
            let log = self.log();
            let from = log.len().saturating_sub(6_000);
            let tail = log.get(from..).unwrap_or(&log);
            let mut out = std::io::stderr().lock();
            let _ = std::io::Write::write_all(
                &mut out,
                format!("--- {}\n{tail}\n", self.log.display()).as_bytes(),
            );
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, then standard error.
    pub said: String,
}

/// Runs a command to its end.
///
/// # Panics
/// If it does not end within `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Ended {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is installed");
    let pid = child.id();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = ended.recv_timeout(limit);
    if output.is_err() {
        signal(pid, "KILL");
    }
    let Ok(output) = output else {
        fail(&format!("{command:?} did not end within {limit:?}"))
    };
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("its output can be read");
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ended {
        code: status.code(),
        said: said.concat(),
    }
}

/// `kill -NAME pid`; a process that is gone already is no error.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .stderr(Stdio::null())
        .status();
}

/// The processes that `pid` has started and that run.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|child| stat(*child).is_some_and(|(state, parent)| parent == pid && state != 'Z'))
        .collect()
}

/// Children, their children and so on.
#[must_use]
pub fn descendants(pid: u32) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    let mut new = children(pid);
    while let Some(next) = new.pop() {
        if all.insert(next) {
            new.extend(children(next));
        }
    }
    all
}

/// Whether it exists and is not just waiting to be reaped.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// State and parent; the program's name before them may hold spaces and brackets.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
