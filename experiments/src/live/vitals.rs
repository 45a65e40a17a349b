//! What a process takes of the machine, as Linux counts it.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

/// Ticks of `/proc/PID/stat` in a second: fixed for programs, whatever the kernel's own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// One look at a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Vitals {
    /// Bytes in memory, shared ones too.
    pub(crate) resident: u64,
    /// Bytes in memory, shared ones divided by those who share them.
    pub(crate) proportional: u64,
    /// Bytes of its own that no file has, swapped out or not: what a leak leaks.
    pub(crate) anonymous: u64,
    pub(crate) open: Descriptors,
    pub(crate) threads: u64,
    /// Seconds of a core, of all its threads, since it began.
    pub(crate) cpu: f64,
}

/// Open descriptors by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Descriptors {
    pub(crate) sockets: u64,
    pub(crate) pipes: u64,
    /// With a path in the file system, devices too.
    pub(crate) files: u64,
    /// Timers, polls and the like.
    pub(crate) others: u64,
}

impl Descriptors {
    pub(crate) const fn all(self) -> u64 {
        self.sockets + self.pipes + self.files + self.others
    }
}

impl Vitals {
    /// Looks at a process.
    ///
    /// # Errors
    /// It has ended, or is another user's.
    pub(crate) fn read(pid: u32) -> anyhow::Result<Self> {
        let dir = Path::new("/proc").join(pid.to_string());
        let text = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (maps, status, stat) = (text("smaps_rollup")?, text("status")?, text("stat")?);
        let kib = |name: &str| field(&maps, name).map(|kib| kib * 1024);
        Ok(Self {
            resident: kib("Rss:")?,
            proportional: kib("Pss:")?,
            anonymous: kib("Anonymous:")? + kib("Swap:")?,
            open: descriptors(&dir.join("fd"))?,
            threads: field(&status, "Threads:")?,
            cpu: cpu(&stat)?,
        })
    }

    /// For a record.
    pub(crate) fn row(&self) -> Value {
        let open = self.open;
        json!({"rss": self.resident, "pss": self.proportional, "anonymous": self.anonymous, "fds": open.all(),
            "sockets": open.sockets, "pipes": open.pipes, "files": open.files, "others": open.others,
            "threads": self.threads, "cpu_s": self.cpu})
    }
}

/// The first number of the line that begins with `name`.
fn field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    let number = word.and_then(|word| word.parse().ok());
    number.with_context(|| format!("the system does not say {name}"))
}

/// User and system time, which follow the name; a name may have any characters.
fn cpu(stat: &str) -> anyhow::Result<f64> {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: Vec<f64> = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|word| word.parse().ok())
        .collect();
    anyhow::ensure!(ticks.len() == 2, "the system does not say its CPU time");
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn descriptors(dir: &Path) -> anyhow::Result<Descriptors> {
    let mut open = Descriptors::default();
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        // One that was closed meanwhile is none.
        let Ok(to) = fs::read_link(entry?.path()) else {
            continue;
        };
        let to = to.to_string_lossy();
        match &*to {
            socket if socket.starts_with("socket:") => open.sockets += 1,
            pipe if pipe.starts_with("pipe:") => open.pipes += 1,
            file if file.starts_with('/') => open.files += 1,
            _ => open.others += 1,
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::net::UdpSocket;

    #[test]
    fn a_process_is_read_and_what_it_opens_is_told_apart() {
        let own = std::process::id();
        let before = Vitals::read(own).expect("it runs");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let held = black_box(vec![1_u8; 64 << 20]);
        let after = Vitals::read(own).expect("it runs");
        // Other tests of this process open and free, too.
        assert!(after.open.sockets > 0, "{socket:?}");
        assert!(after.anonymous >= black_box(held).len() as u64);
        assert!(after.resident >= after.proportional && after.threads >= 1);
        assert!(after.cpu >= before.cpu);
    }

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_move_the_columns() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1";
        assert_eq!(cpu(stat).expect("two numbers"), 2.0);
        assert!(cpu("7 (a) S 1").is_err());
    }
}
