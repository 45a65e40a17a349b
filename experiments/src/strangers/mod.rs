//! Strangers at the coordinator's port: thousands of handshakes that are begun and never finished, and certificates
//! that say nothing. Agents that mean it have to get in all the same, and the memory has to come back.
//!
//! Each stranger is a real QUIC client behind a socket of its own (`valve`) that lets through what the case allows.
//! The agents are real processes on another address of this machine.

mod valve;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Setting;
use crate::live::files;
use crate::live::herd::Herd;
use crate::live::processes::{Coordinator, Hosted, Node, Programs, wait};
use crate::live::vitals::Vitals;
use crate::live::way::Way;
use valve::{Opening, Valves};

/// An agent has to be ready so soon after its start: two tries, each as long as the coordinator is patient.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Memory beyond that before the strangers came, while they are there: places for handshakes, and room.
const MOST: u64 = 64 << 20;
/// And when they have gone, beyond that before any came: allocators keep some of what was in use at once.
const LEFT: u64 = 24 << 20;
/// And beyond what the same strangers left when they came before: what is kept is used again.
const LEFT_AGAIN: u64 = 4 << 20;
/// What the strangers began is forgotten within so long.
const FORGOTTEN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The experiment.
pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let (strangers, agents) = if setting.smoke { (300, 1) } else { (10_000, 5) };
    // A socket for each, and what else there is.
    files::open(strangers as u64 + 1_024)?;
    let dir = TempDir::new().context("no folder for temporary files")?;
    let programs = Programs {
        coordinator: setting.program("moe2-coordinator")?,
        agent: setting.program("moe2-agent")?,
    };
    let coordinator = Coordinator::start(&programs, dir.path(), "127.0.0.1")?;
    let before = Vitals::read(coordinator.pid())?;
    let scene = Scene {
        setting,
        before,
        programs: &programs,
        coordinator: &coordinator,
        dir: dir.path(),
        agents,
        forgotten: if setting.smoke {
            FORGOTTEN / 5
        } else {
            FORGOTTEN
        },
    };
    let mut missed = Vec::new();
    let mut cases = vec![scene.case("none", &mut missed, || Ok(()))?];
    for (name, opening) in [
        ("first packet and no more", Opening::Nothing),
        ("address proven, handshake not finished", Opening::Retry),
    ] {
        cases.extend(scene.twice(name, &mut missed, |_| {
            Valves::open(coordinator.port, strangers, opening)
        })?);
    }
    let (nodes, each) = if setting.smoke { (2, 10) } else { (20, 20) };
    let name = "certificates that say nothing";
    cases.extend(scene.twice(name, &mut missed, |time| {
        let dir = dir.path().join(format!("silent-{time}"));
        let herd = Herd::tokens(&coordinator, &dir, nodes)?;
        let swarm = herd.start(&programs, &coordinator, Some(each))?;
        wait("every node has its certificate", || {
            Ok(herd.have_joined().then_some(()))
        })?;
        Ok(swarm)
    })?);
    Ok(
        json!({"strangers": strangers, "silent": {"nodes": nodes, "connections_of_each": each},
        "before": before.row(), "cases": cases, "missed": missed}),
    )
}

struct Scene<'a> {
    setting: &'a Setting,
    programs: &'a Programs,
    coordinator: &'a Coordinator,
    dir: &'a Path,
    agents: usize,
    forgotten: Duration,
    /// The coordinator when nobody had come yet.
    before: Vitals,
}

impl Scene<'_> {
    /// The same strangers come, and when they have gone they come again.
    fn twice<T>(
        &self,
        name: &str,
        missed: &mut Vec<String>,
        come: impl Fn(u32) -> anyhow::Result<T>,
    ) -> anyhow::Result<[Value; 2]> {
        let cases = [
            self.case(name, missed, || come(1))?,
            self.case(&format!("{name}, again"), missed, || come(2))?,
        ];
        let [first, again] = cases
            .each_ref()
            .map(|case| case["after"]["anonymous"].as_u64().unwrap_or_default());
        if again > first + LEFT_AGAIN {
            missed.push(format!(
                "{name}: {first} bytes were left, and {again} after the second time"
            ));
        }
        Ok(cases)
    }

    /// Agents join, one after the other, while strangers of a kind are there.
    fn case<T>(
        &self,
        name: &str,
        missed: &mut Vec<String>,
        come: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<Value> {
        let pid = self.coordinator.pid();
        let before = Vitals::read(pid)?;
        let strangers = come()?;
        let mut most = Vitals::read(pid)?;
        let mut joined = Vec::new();
        for number in 0..self.agents {
            let took = self.join(&format!("{}-{number}", plain(name)), &mut most)?;
            joined.push(took.as_secs_f64());
            if took > READY_WITHIN {
                missed.push(format!("{name}: an agent took {took:?} to join"));
            }
        }
        drop(strangers);
        thread::sleep(self.forgotten);
        let after = Vitals::read(pid)?;
        if most.anonymous > before.anonymous + MOST {
            missed.push(format!(
                "{name}: {} bytes while they were there",
                most.anonymous
            ));
        }
        if after.anonymous > self.before.anonymous + LEFT {
            missed.push(format!("{name}: {} bytes were left", after.anonymous));
        }
        self.setting.say(&format!(
            "{name}: joined in {joined:.2?} s; {:.1} MB before, {:.1} at most, {:.1} after",
            before.anonymous as f64 / 1e6,
            most.anonymous as f64 / 1e6,
            after.anonymous as f64 / 1e6
        ));
        Ok(
            json!({"strangers": name, "joined_s": joined, "before": before.row(), "most": most.row(),
            "after": after.row()}),
        )
    }

    /// Has a new agent join, and says how long that took from its start to being given work.
    fn join(&self, name: &str, most: &mut Vitals) -> anyhow::Result<Duration> {
        let hosted = Hosted {
            experts: "[[expert]]\nname = \"stub-a\"\nbackend = \"stub\"\npace_ms = 5\n".to_owned(),
            watts: (5.0, 25.0),
        };
        let joining = (self.coordinator, Way::loopback(self.coordinator.port));
        let began = Instant::now();
        let _node = Node::join(name, (self.programs, self.dir), joining, &hosted)?;
        wait("an agent is ready", || {
            let now = Vitals::read(self.coordinator.pid())?;
            if now.anonymous > most.anonymous {
                *most = now;
            }
            thread::sleep(LOOK_EVERY);
            let fleet = self.coordinator.admin.get("/admin/v1/fleet")?;
            let mut nodes = fleet["nodes"].as_array().into_iter().flatten();
            Ok(nodes
                .any(|n| n["node"] == name && n["state"] == "ready")
                .then_some(()))
        })?;
        Ok(began.elapsed())
    }
}

/// A name for nodes.
fn plain(name: &str) -> String {
    let letters = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    letters.take(40).collect()
}
