//! The ground a fleet stands on: a network namespace for each machine where the system allows it.
//!
//! The namespaces have no names. Each lives as long as a process in it, and each such process ends when its
//! standard input closes, so that nothing is left behind however the experiment ends: bridge, links and rules
//! vanish with their namespaces. The experiment's own thread enters one, and with it all that it starts.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sched::CloneFlags;

/// From the range that RFC 2544 sets aside for tests of networks.
const NETWORK: &str = "198.18.77";
/// The bridge that all machines hang on, in the namespace of the experiment.
const BRIDGE: &str = "hub";
/// Making a namespace takes milliseconds.
const MADE_WITHIN: Duration = Duration::from_secs(5);

/// What the system allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ground {
    /// Every machine has a network of its own.
    pub(crate) namespaces: bool,
    /// The kernel delays and drops packets; if not, a relay in the way does.
    pub(crate) netem: bool,
}

impl Ground {
    /// Finds out what the system allows, by doing it in a thread of its own. The reason is why there are no
    /// namespaces, or no `netem`.
    pub(crate) fn survey() -> (Self, Option<String>) {
        let tried = thread::spawn(|| {
            enter()?;
            let machine = Machine::make(1)?;
            anyhow::Ok(machine.netem(Duration::from_millis(1), 0.0))
        });
        let tried = tried.join();
        let tried = tried.unwrap_or_else(|_| Err(anyhow::anyhow!("the attempt failed")));
        let netem = matches!(tried, Ok(Ok(())));
        let namespaces = tried.is_ok();
        let why = match tried {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(format!("{error:#}")),
        };
        (Self { namespaces, netem }, why)
    }

    /// Where the coordinator and relays listen: the address that machines dial.
    pub(crate) fn address(self) -> String {
        if self.namespaces {
            format!("{NETWORK}.1")
        } else {
            "127.0.0.1".to_owned()
        }
    }
}

/// Puts the calling thread into a network of its own, with a bridge for machines. What it starts from now on,
/// threads and processes, is there too.
///
/// # Errors
/// This user may not, or `ip` is missing.
pub(crate) fn enter() -> anyhow::Result<()> {
    // Before there is no way back: without `ip` even loopback would stay down.
    run("ip", &["-V"]).context("install iproute2")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).context("no network namespaces for this user")?;
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["link", "add", "name", BRIDGE, "type", "bridge"])?;
    let address = format!("{NETWORK}.1/24");
    run("ip", &["addr", "add", &address, "dev", BRIDGE])?;
    run("ip", &["link", "set", BRIDGE, "up"])
}

/// A machine with a network of its own, hanging on the bridge.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Keeps the namespace; ends when its standard input closes.
    holder: Child,
    /// The bridge's end of its cable.
    port: String,
}

impl Machine {
    /// The machine with this number, from 1 on.
    ///
    /// # Errors
    /// As [`enter`].
    pub(crate) fn make(number: usize) -> anyhow::Result<Self> {
        let mut holder = Command::new("unshare");
        let holder = holder.args(["--net", "--", "cat"]).stdin(Stdio::piped());
        let holder = holder.stdout(Stdio::null()).spawn();
        let made = Self {
            holder: holder.context("`unshare` of util-linux is missing")?,
            port: format!("m{number}"),
        };
        made.has_own_namespace()?;
        let pid = made.holder.id().to_string();
        let cable = ["link", "add", "name", &made.port, "type", "veth", "peer"];
        run(
            "ip",
            &[&cable[..], &["name", "eth0", "netns", &pid]].concat(),
        )?;
        run("ip", &["link", "set", &made.port, "master", BRIDGE, "up"])?;
        let address = format!("{NETWORK}.{}/24", number + 10);
        made.run("ip", &["addr", "add", &address, "dev", "eth0"])?;
        made.run("ip", &["link", "set", "lo", "up"])?;
        made.run("ip", &["link", "set", "eth0", "up"])?;
        Ok(made)
    }

    /// Waits until the holder is where it is to be: before, its namespace is still ours.
    fn has_own_namespace(&self) -> anyhow::Result<()> {
        let ours = fs::read_link("/proc/thread-self/ns/net")?;
        let began = Instant::now();
        while fs::read_link(self.namespace()).is_ok_and(|its| its == ours) {
            if began.elapsed() > MADE_WITHIN {
                bail!("a network namespace was not made within {MADE_WITHIN:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// A program on this machine; its process is the program's own.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace()));
        command.arg("--").arg(program);
        command
    }

    /// Has the bridge drop whatever comes from or goes to this machine, or not; nobody is told.
    pub(crate) fn cut(&self, cut: bool) -> anyhow::Result<()> {
        let state = if cut { "0" } else { "3" };
        run(
            "bridge",
            &["link", "set", "dev", &self.port, "state", state],
        )
    }

    /// Has the kernel delay and lose packets, on both ends of the cable: once each way.
    pub(crate) fn netem(&self, delay: Duration, loss: f64) -> anyhow::Result<()> {
        let (delay, loss) = (
            format!("{}ms", delay.as_millis()),
            format!("{}%", loss * 100.0),
        );
        let on = |device| {
            let rule = ["qdisc", "replace", "dev", device, "root", "netem"];
            [&rule[..], &["delay", delay.as_str(), "loss", loss.as_str()]].concat()
        };
        run("tc", &on(&self.port))?;
        self.run("tc", &on("eth0"))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        finish(self.command(Path::new(program)).args(arguments))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // Only if something else has ended it.
        let _ = self.holder.wait();
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    finish(Command::new(program).args(arguments))
}

fn finish(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}", said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_machine_has_a_network_that_can_be_cut_and_leaves_nothing_behind() {
        let (ground, why) = Ground::survey();
        if !ground.namespaces {
            println!("skipped: {why:?}");
            return;
        }
        let before = fs::read_link("/proc/thread-self/ns/net").expect("there is a namespace");
        let made = thread::spawn(|| {
            enter()?;
            let machine = Machine::make(1)?;
            let here = UdpSocket::bind((format!("{NETWORK}.1"), 0))?;
            here.set_read_timeout(Some(Duration::from_millis(300)))?;
            let port = here.local_addr()?.port();
            let send = format!("echo x > /dev/udp/{NETWORK}.1/{port}");
            let arrives = || {
                machine.run("bash", &["-c", &send])?;
                anyhow::Ok(here.recv(&mut [0; 8]).is_ok())
            };
            assert!(arrives()?);
            machine.cut(true)?;
            assert!(!arrives()?, "the cable is cut");
            machine.cut(false)?;
            assert!(arrives()?);
            let namespace = machine.namespace();
            drop(machine);
            anyhow::Ok(namespace)
        });
        let namespace = made.join().expect("no panic").expect("it can be made");
        assert!(!Path::new(&namespace).exists());
        let after = fs::read_link("/proc/thread-self/ns/net").expect("there is a namespace");
        assert_eq!(before, after, "only that thread had left");
    }
}
