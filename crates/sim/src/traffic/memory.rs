//! What a machine of the traffic has in memory: as its agent would, reduced to what it takes and when.

use std::collections::{BTreeMap, BTreeSet};

use moe2_model::{ExpertName, ExpertState, Time};

use super::machine::Machine;

/// One expert that is not out of memory.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Resident {
    state: Stage,
    working: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Loading(Time),
    Ready,
    Leaving,
}

/// What changed for an expert.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// As the agent says it.
    State(ExpertName, ExpertState),
    /// It is loaded at that time.
    Loads(ExpertName, Time),
}

/// A machine's memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    there: BTreeMap<ExpertName, Resident>,
    wanted: Vec<ExpertName>,
}

impl Memory {
    /// After a start, with these in memory.
    pub(super) fn start(&mut self, experts: BTreeSet<ExpertName>) {
        self.wanted = experts.iter().cloned().collect();
        let ready = Resident {
            state: Stage::Ready,
            working: 0,
        };
        self.there = experts.into_iter().map(|name| (name, ready)).collect();
    }

    pub(super) fn has(&self, expert: &ExpertName) -> bool {
        self.there.contains_key(expert)
    }

    pub(super) fn keep(&mut self, experts: Vec<ExpertName>) {
        self.wanted = experts;
    }

    pub(super) fn begins(&mut self, expert: &ExpertName) {
        if let Some(resident) = self.there.get_mut(expert) {
            resident.working += 1;
        }
    }

    /// Work of an expert has ended; true if that was what kept it in memory.
    pub(super) fn ends(&mut self, expert: &ExpertName) -> bool {
        let Some(resident) = self.there.get_mut(expert) else {
            return false;
        };
        resident.working = resident.working.saturating_sub(1);
        resident.working == 0 && resident.state == Stage::Leaving
    }

    /// Brings memory nearer to what is wanted.
    pub(super) fn settle(&mut self, now: Time, machine: &Machine) -> Vec<Change> {
        let mut changes = Vec::new();
        self.there.retain(|name, resident| {
            if self.wanted.contains(name) {
                return true;
            }
            if resident.working == 0 {
                changes.push(Change::State(name.clone(), ExpertState::Unloaded));
                return false;
            }
            if resident.state != Stage::Leaving {
                resident.state = Stage::Leaving;
                changes.push(Change::State(name.clone(), ExpertState::Unloading));
            }
            true
        });
        for name in &self.wanted {
            let Some(hosted) = machine.experts.get(name) else {
                continue;
            };
            if let Some(resident) = self.there.get_mut(name) {
                if resident.state == Stage::Leaving {
                    resident.state = Stage::Ready;
                    changes.push(Change::State(name.clone(), ExpertState::Ready));
                }
                continue;
            }
            let used = self.there.keys().filter_map(|n| machine.experts.get(n));
            let used: u64 = used.map(|e| e.offer.resident().0).sum();
            if used.saturating_add(hosted.offer.resident().0) > machine.device.memory.0 {
                continue;
            }
            let at = now + hosted.load;
            let resident = Resident {
                state: Stage::Loading(at),
                working: 0,
            };
            self.there.insert(name.clone(), resident);
            changes.push(Change::State(name.clone(), ExpertState::Loading));
            changes.push(Change::Loads(name.clone(), at));
        }
        changes
    }

    /// A load has come to its end. False if it was given up before.
    pub(super) fn loaded(&mut self, now: Time, expert: &ExpertName) -> bool {
        let resident = self.there.get_mut(expert);
        let Some(resident) = resident.filter(|r| r.state == Stage::Loading(now)) else {
            return false;
        };
        resident.state = Stage::Ready;
        true
    }
}
