//! What the coordinator thinks of each machine, looked at twenty times a second and more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::live::api::Api;

/// The coordinator's view is at most 50 ms old.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// A machine as the coordinator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether it is given work: the node and one of its experts in the active set are ready.
    pub(super) takes: bool,
    /// The node's state, in the coordinator's word.
    pub(super) state: String,
}

impl Seen {
    fn of(node: &Value) -> Self {
        let state = node["state"].as_str().unwrap_or_default().to_lowercase();
        let experts = node["experts"].as_array().into_iter().flatten();
        let ready = experts.filter(|e| e["selected"] == true && e["state"] == "ready");
        Self {
            takes: state == "ready" && ready.count() > 0,
            state,
        }
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) at: Instant,
    pub(super) node: usize,
    pub(super) seen: Seen,
}

/// All that was seen.
#[derive(Debug, Default)]
pub(super) struct Log {
    changes: Vec<Change>,
    /// Longest time between two looks.
    pub(super) blind: Duration,
    /// Looks that got no answer.
    pub(super) unanswered: u64,
}

impl Log {
    /// Keeps what was seen, if it is news.
    pub(super) fn note(&mut self, at: Instant, node: usize, seen: Seen) {
        if self.now(node) != Some(&seen) {
            self.changes.push(Change { at, node, seen });
        }
    }

    /// How a node was seen last.
    pub(super) fn now(&self, node: usize) -> Option<&Seen> {
        self.of(node).last().map(|change| &change.seen)
    }

    fn of(&self, node: usize) -> impl DoubleEndedIterator<Item = &Change> {
        self.changes
            .iter()
            .filter(move |change| change.node == node)
    }

    /// When a node was first seen to take work, or not to, at or after this moment; this moment itself if it
    /// was so then.
    pub(super) fn first(&self, node: usize, takes: bool, from: Instant) -> Option<Instant> {
        let before = self.of(node).take_while(|change| change.at <= from).last();
        if before.is_some_and(|change| change.seen.takes == takes) {
            return Some(from);
        }
        let mut after = self.of(node).skip_while(|change| change.at < from);
        after
            .find(|change| change.seen.takes == takes)
            .map(|change| change.at)
    }

    /// Whether a node took work all the time between.
    pub(super) fn took_throughout(&self, node: usize, (from, to): (Instant, Instant)) -> bool {
        self.first(node, true, from) == Some(from)
            && self.first(node, false, from).is_none_or(|at| at > to)
    }

    /// The states that a node went through in this time.
    pub(super) fn states(&self, node: usize, (from, to): (Instant, Instant)) -> Vec<String> {
        let within = |change: &&Change| (from..=to).contains(&change.at);
        let mut states: Vec<String> = self
            .of(node)
            .filter(within)
            .map(|c| c.seen.state.clone())
            .collect();
        states.dedup();
        states
    }
}

/// Looks until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    log: Arc<Mutex<Log>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look at these nodes.
    pub(super) fn start(admin: Api, names: Vec<String>) -> Self {
        let (log, over) = (Arc::<Mutex<Log>>::default(), Arc::<AtomicBool>::default());
        let (own, until) = (Arc::clone(&log), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                let view = admin.get("/admin/v1/fleet");
                let at = Instant::now();
                let mut log = own.lock().unwrap_or_else(PoisonError::into_inner);
                log.blind = log.blind.max(at - last);
                last = at;
                match view {
                    Ok(view) => note(&mut log, at, &names, &view),
                    Err(_) => log.unanswered += 1,
                }
                drop(log);
                thread::sleep(LOOK_EVERY);
            }
        });
        Self {
            log,
            over,
            thread: Some(thread),
        }
    }

    /// What was seen up to now.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn note(log: &mut Log, at: Instant, names: &[String], view: &Value) {
    let nodes = view["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    for (node, name) in names.iter().enumerate() {
        let shown = nodes.iter().find(|n| n["node"] == name.as_str());
        let seen = shown.map_or_else(
            || Seen {
                takes: false,
                state: "unknown".to_owned(),
            },
            Seen::of,
        );
        log.note(at, node, seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_of_changes_are_found() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut log = Log::default();
        let names = ["a".to_owned()];
        let view = |state: &str, selected: bool| {
            json!({"nodes": [{"node": "a", "state": state,
            "experts": [{"state": "ready", "selected": selected}]}]})
        };
        for (ms, state, selected) in [
            (0, "ready", true),
            (50, "ready", true),
            (100, "suspect", true),
            (200, "gone", false),
            (300, "ready", true),
        ] {
            note(&mut log, at(ms), &names, &view(state, selected));
        }
        assert_eq!(log.first(0, false, at(20)), Some(at(100)));
        assert_eq!(log.first(0, false, at(150)), Some(at(150)));
        assert_eq!(log.first(0, true, at(150)), Some(at(300)));
        assert_eq!(log.first(0, false, at(350)), None);
        assert!(log.took_throughout(0, (at(10), at(90))));
        assert!(!log.took_throughout(0, (at(10), at(110))));
        assert_eq!(log.states(0, (at(60), at(250))), ["suspect", "gone"]);
        // Ready and not in the active set is not taking work.
        note(&mut log, at(400), &names, &view("ready", false));
        assert_eq!(log.first(0, false, at(350)), Some(at(400)));
    }
}
