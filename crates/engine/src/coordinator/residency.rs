//! Which experts a machine keeps in memory where it hosts more than fit.
//!
//! The planner's active set keeps the limit on each machine's memory, so what it chose is what is to be in memory.
//! Four things are between the choice and the machine:
//!
//! - **Need.** Work that waits for an expert which is not in memory has it loaded, the oldest work first. Nobody is
//!   starved by an expert that is asked without a pause.
//! - **Idleness.** What was used lately stays until it was left alone for [`LINGER`]; a planned change waits for that
//!   and costs nobody's answer anything.
//! - **Thrift.** Loading costs time and joules in which nothing is answered. Beyond the first [`BURST`] a machine spends
//!   no more than [`LOADING`] of its time with it, whatever is asked of it and however often the plan changes: over T
//!   seconds at most BURST + LOADING·T seconds of loading, by forecast. Who needs an expert that may not be loaded yet
//!   is told so by its forecast, and is sent elsewhere if that is better.
//! - **Worth.** A change that the plan wants is made when it pays ([`plan`](super::plan)).
//!
//! A load is part of an expert's forecast: its seconds are waited for, its joules are counted. They are nobody's
//! bill, since no query alone is their cause; they are standing energy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moe2_model::{
    DispatchId, Event, ExpertId, ExpertName, ExpertState, Joules, NodeId, Seconds, Time,
};
use moe2_wire::ToAgent;

use super::fleet::{Expert, Fleet, Node};
use super::{Engine, Output, Timer};

/// How long an expert stays that was in use: a conversation goes on after a while.
const LINGER: Duration = Duration::from_secs(30);
/// Share of a machine's time that loading may take in the long run.
const LOADING: f64 = 0.05;
/// Seconds of loading that a machine has at once; one long load is always possible.
const BURST: f64 = 60.0;
/// Longest that a load is believed to take.
const LONGEST: Seconds = Seconds::saturating(600.0);
/// Share of an agent's guess that a load takes at least.
const LEAST_OF_GUESS: f64 = 0.25;
/// Share of a load's time that is left when it takes longer than it should.
const OVERDUE: f64 = 0.1;

/// Who decides what is in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Residency {
    /// The plan, ahead of need, and need; loading is bounded.
    #[default]
    Planned,
    /// Need alone; what was used least lately makes room, as often as it has to. Servers of single machines do it so:
    /// it is here to be compared with.
    LeastRecentlyUsed,
}

/// Seconds of loading that a machine may still spend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LoadBudget {
    left: f64,
    since: Time,
}

impl LoadBudget {
    pub(crate) const fn new(now: Time) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    fn left(&self, now: Time) -> f64 {
        (self.left + LOADING * now.seconds_since(self.since).get()).min(BURST)
    }

    /// Until a load of so many seconds may begin. One that takes longer than there ever is may begin when all is
    /// there, and is paid off afterwards.
    fn wait(&self, now: Time, load: Seconds) -> Seconds {
        let missing = load.get().min(BURST) - self.left(now);
        // A little more, so that rounding does not find it missing again.
        if missing > 1e-6 {
            Seconds::saturating(missing / LOADING + 1e-6)
        } else {
            Seconds::ZERO
        }
    }

    fn spend(&mut self, now: Time, load: Seconds) {
        *self = Self {
            left: self.left(now) - load.get(),
            since: now,
        };
    }
}

/// What a machine was told to keep, and what it may still load.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Whether it hosts more than it holds, and can change what it holds.
    tight: bool,
    /// Whether any of its experts has been there since it joined.
    worked: bool,
    /// What may be sent work.
    kept: BTreeSet<ExpertName>,
    /// What it was told to keep: the same, and what has to finish first.
    told: BTreeSet<ExpertName>,
    budget: LoadBudget,
}

impl Memory {
    /// Of a machine that joins with these experts; `budget` is from its last session.
    pub(crate) fn new(
        memory: u64,
        experts: &BTreeMap<ExpertName, Expert>,
        budget: LoadBudget,
    ) -> Self {
        let needed = experts.values().map(|e| e.offer.resident().0);
        let needed = needed.fold(0_u64, u64::saturating_add);
        let there = experts.iter().filter(|(_, expert)| expert.is_there());
        let kept: BTreeSet<ExpertName> = there.map(|(name, _)| name.clone()).collect();
        Self {
            worked: experts.values().any(|e| e.state == ExpertState::Ready),
            // One that does not know how much it has is taken to have enough.
            tight: memory > 0
                && needed > memory
                && experts.values().any(|e| e.offer.load.is_some()),
            told: kept.clone(),
            kept,
            budget,
        }
    }

    pub(crate) const fn budget(&self) -> LoadBudget {
        self.budget
    }

    /// Whether it hosts more than it holds, and can change what it holds.
    pub(crate) const fn is_tight(&self) -> bool {
        self.tight
    }

    /// Whether nothing is there because one makes room for another, which is no reason to send it no work.
    pub(crate) const fn only_changes(&self) -> bool {
        self.tight && self.worked
    }

    /// A load took so much longer than was counted.
    pub(crate) fn took_longer(&mut self, now: Time, beyond: Seconds) {
        self.budget.spend(now, beyond);
    }

    /// One of its experts is there.
    pub(crate) const fn works(&mut self) {
        self.worked = true;
    }
}

impl Expert {
    /// Whether its weights are in memory or on their way there.
    fn is_there(&self) -> bool {
        matches!(self.state, ExpertState::Ready | ExpertState::Loading)
    }

    /// What a load takes, as measured or as its agent guesses.
    fn load_time(&self) -> Seconds {
        self.loads_in.unwrap_or(self.guessed_load())
    }

    fn guessed_load(&self) -> Seconds {
        self.offer.load.unwrap_or(Seconds::ZERO).min(LONGEST)
    }

    /// A load took so long, by its agent's word. Nobody's loads cost nothing, and one that hung does not end all that
    /// come after it.
    pub(crate) fn loaded_in(&mut self, took: Seconds) -> Seconds {
        let before = self.load_time();
        let least = self.guessed_load() * LEAST_OF_GUESS;
        let took = took.max(least).min(LONGEST);
        self.loads_in = Some(took);
        (took - before).max(Seconds::ZERO)
    }
}

/// What comes before an expert can begin with anything.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    pub(crate) seconds: Seconds,
    pub(crate) joules: Joules,
}

impl Node {
    /// Whether an expert may be sent work now, as far as memory goes.
    pub(crate) fn holds(&self, expert: &Expert) -> bool {
        let stays = !self.memory.tight || self.memory.kept.contains(&expert.offer.name);
        stays && expert.state == ExpertState::Ready
    }

    /// What comes before an expert can take work; `None` if it does not take any. A load begins when what has to make
    /// room has finished and what is needed longer has been loaded.
    pub(crate) fn load(&self, now: Time, expert: &Expert) -> Option<Load> {
        if self.holds(expert) {
            return Some(Load::default());
        }
        if !self.memory.tight || expert.state.is_failed() {
            return None;
        }
        let whole = expert.load_time();
        let name = &expert.offer.name;
        if self.memory.kept.contains(name) {
            let seconds = if expert.state == ExpertState::Loading {
                let taken = now.seconds_since(expert.since);
                (whole - taken).max(whole * OVERDUE)
            } else {
                self.making_room(now, expert) + whole
            };
            return Some(Load {
                seconds,
                joules: Joules::ZERO,
            });
        }
        let before = self.experts.values().filter(|other| {
            let other_name = &other.offer.name;
            other_name != name && !other.is_there() && self.line.has_work_for(other_name)
        });
        let before: Seconds = before.map(Expert::load_time).sum();
        let allowed = self.memory.budget.wait(now, whole + before);
        let watts = (self.device.busy_power - self.device.idle_power).get();
        Some(Load {
            seconds: allowed.max(self.making_room(now, expert)) + before + whole,
            joules: Joules::saturating(watts.max(0.0) * whole.get()),
        })
    }

    /// Until work that keeps others in memory leaves room for an expert.
    fn making_room(&self, now: Time, expert: &Expert) -> Seconds {
        let works = self.experts.values().filter(|e| !e.in_flight.is_empty());
        let taken = works.map(|e| e.offer.resident().0);
        let taken = taken.fold(0_u64, u64::saturating_add);
        let needed = expert.offer.resident().0;
        if taken.saturating_add(needed) <= self.device.memory.0 {
            Seconds::ZERO
        } else {
            self.next_place(expert, now)
        }
    }

    /// What is to be in memory, the most needed first, and when to look again.
    fn to_keep(&self, now: Time, policy: Residency) -> (Vec<ExpertName>, Option<Time>) {
        let planned = policy == Residency::Planned;
        let mut choice = Choice {
            node: self,
            now,
            room: self.device.memory.0,
            spent: self.memory.budget,
            bounded: planned,
            reserve: 0.0,
            missed: false,
            kept: Vec::new(),
            again: None,
        };
        let fixed = |e: &&Expert| e.offer.load.is_none() && e.is_there();
        self.experts
            .values()
            .filter(fixed)
            .for_each(|e| choice.add(e));
        let mut needed: BTreeMap<&ExpertName, DispatchId> = BTreeMap::new();
        for job in self.line.jobs() {
            let first = needed.entry(&job.expert).or_insert(job.dispatch);
            *first = job.dispatch.min(*first);
        }
        let mut needed: Vec<_> = needed.into_iter().map(|(name, job)| (job, name)).collect();
        needed.sort_unstable();
        let needed = needed
            .iter()
            .filter_map(|(_, name)| self.experts.get(*name));
        needed.for_each(|expert| choice.add(expert));
        // The plan is not to use up what need may come to.
        choice.reserve = BURST / 2.0;
        let mut recent: Vec<&Expert> = self.experts.values().filter(|e| e.is_there()).collect();
        recent.sort_by_key(|expert| std::cmp::Reverse(expert.last_used(now)));
        let lately = |used: Time| now.since(used) < LINGER;
        let in_use = |e: &&&Expert| e.last_used(now).is_some_and(lately);
        if planned {
            let used = recent.iter().filter(in_use);
            used.for_each(|expert| choice.add(expert));
            let chosen = self.experts.values().filter(|e| e.selected);
            chosen.for_each(|expert| choice.add(expert));
            let waits = self.experts.values().any(|e| {
                let kept = choice.kept.contains(&e.offer.name);
                e.selected && !kept && !e.state.is_failed()
            });
            if waits {
                let used = recent.iter().filter(in_use);
                let left_alone = used.filter_map(|e| Some(e.last_used(now)? + LINGER)).min();
                choice.look_again(left_alone);
            }
        }
        recent.iter().for_each(|expert| choice.add(expert));
        (choice.kept, choice.again)
    }
}

impl Node {
    /// Sends work to these alone from now on. What the machine is to be told, if that is something else, and what it
    /// has to load.
    fn keeps(
        &mut self,
        now: Time,
        experts: Vec<ExpertName>,
    ) -> Option<(Vec<ExpertName>, Vec<ExpertName>)> {
        self.memory.kept = experts.iter().cloned().collect();
        // What is on its way to an expert would find it gone: it leaves when its work has ended, and until then
        // comes first in what the machine is told.
        let works = |e: &&Expert| !e.in_flight.is_empty() && !experts.contains(&e.offer.name);
        let works = self.experts.values().filter(works);
        let works: Vec<ExpertName> = works.map(|e| e.offer.name.clone()).collect();
        let all: Vec<ExpertName> = works.into_iter().chain(experts).collect();
        let told: BTreeSet<ExpertName> = all.iter().cloned().collect();
        if told == self.memory.told {
            return None;
        }
        let before = std::mem::replace(&mut self.memory.told, told);
        let mut loads = Vec::new();
        for (expert, known) in &mut self.experts {
            let (was, is) = (before.contains(expert), self.memory.told.contains(expert));
            if is && !was {
                self.memory.budget.spend(now, known.load_time());
                loads.push(expert.clone());
            }
            if was && !is && known.is_there() {
                // It will say so itself.
                (known.state, known.since) = (ExpertState::Unloading, now);
            }
        }
        Some((all, loads))
    }

    /// Whether it takes work that something has to be loaded for.
    pub(crate) fn may_load(&self, expert: &Expert) -> bool {
        self.memory.tight && !expert.state.is_failed() && self.health.is_ready()
    }
}

impl Expert {
    /// When it last worked: now, if it does.
    fn last_used(&self, now: Time) -> Option<Time> {
        if self.in_flight.is_empty() {
            self.used
        } else {
            Some(now)
        }
    }
}

/// What is to be kept, as far as it is chosen.
struct Choice<'a> {
    node: &'a Node,
    now: Time,
    room: u64,
    spent: LoadBudget,
    bounded: bool,
    /// Seconds of loading that are to be left.
    reserve: f64,
    /// Something that is needed longer has to wait until it may be loaded: nothing is loaded before it.
    missed: bool,
    kept: Vec<ExpertName>,
    again: Option<Time>,
}

impl Choice<'_> {
    /// Adds an expert if there is room for it, and time to load it.
    fn add(&mut self, expert: &Expert) {
        let name = &expert.offer.name;
        if expert.state.is_failed() || self.kept.contains(name) {
            return;
        }
        let Some(room) = self.room.checked_sub(expert.offer.resident().0) else {
            return;
        };
        let comes = !self.node.memory.told.contains(name);
        if self.bounded && comes {
            let load = expert.load_time();
            let with_reserve = Seconds::saturating(load.get() + self.reserve);
            let wait = self.spent.wait(self.now, with_reserve);
            if wait > Seconds::ZERO {
                self.missed = true;
                let wait = Duration::try_from_secs_f64(wait.get()).unwrap_or(LINGER);
                self.look_again(Some(self.now + wait));
            }
            if self.missed {
                return;
            }
            self.spent.spend(self.now, load);
        }
        self.room = room;
        self.kept.push(name.clone());
    }

    fn look_again(&mut self, at: Option<Time>) {
        self.again = [self.again, at].into_iter().flatten().min();
    }
}

impl Fleet {
    /// What bringing an expert into memory takes; nothing of one that is there or told to come.
    pub(crate) fn load_joules(&self, now: Time, id: &ExpertId) -> Joules {
        let load = self.hosted(id).filter(|(node, _)| {
            let memory = &node.memory;
            memory.tight && !memory.told.contains(&id.name)
        });
        let load = load.and_then(|(node, expert)| node.load(now, expert));
        load.map_or(Joules::ZERO, |load| load.joules)
    }
}

impl Engine {
    /// Has a machine keep what is needed there now.
    pub(super) fn settle_memory(&mut self, now: Time, name: &NodeId) {
        let tight = |node: &Node| node.memory.tight && !node.health.is_gone();
        let Some(node) = self.fleet.node(name).filter(|node| tight(node)) else {
            return;
        };
        let session = node.session;
        let (experts, again) = node.to_keep(now, self.config.residency);
        let timer = Timer::Memory(session);
        match again {
            Some(at) => self.timers.arm(timer, at),
            None => self.timers.disarm(timer),
        }
        let told = self.fleet.with(name, |node| node.keeps(now, experts));
        let Some(Some((experts, loads))) = told else {
            return;
        };
        self.outputs.push_back(Output::ToAgent {
            session,
            message: ToAgent::Keep { experts },
        });
        for expert in loads {
            let node = self.fleet.node(name);
            let needed = node.is_some_and(|node| node.line.has_work_for(&expert));
            let node = name.clone();
            self.event(Event::Loads {
                node,
                expert,
                needed,
            });
        }
    }

    /// The same for every machine, after others became active.
    pub(super) fn settle_all_memory(&mut self, now: Time) {
        let tight: Vec<NodeId> = self.fleet.tight().cloned().collect();
        for node in tight {
            self.settle_memory(now, &node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Over any time, whatever is asked for: no more loading than the bound says.
        #[test]
        fn loading_takes_its_share_of_time_and_a_burst(
            asked in prop::collection::vec((0u64..40_000_000, 0.1f64..200.0), 1..200)
        ) {
            let mut now = Time::ZERO;
            let mut budget = LoadBudget::new(now);
            let (mut loading, mut longest) = (0.0, 0.0_f64);
            for (gap, load) in asked {
                now = now + Duration::from_micros(gap);
                let load_s = Seconds::saturating(load);
                if budget.wait(now, load_s) == Seconds::ZERO {
                    budget.spend(now, load_s);
                    loading += load;
                    longest = longest.max(load);
                }
                let elapsed = now.seconds_since(Time::ZERO).get();
                let bound = BURST + LOADING * elapsed + (longest - BURST).max(0.0);
                prop_assert!(loading <= bound + 1e-5, "{loading} > {bound}");
            }
        }

        /// What has to wait may begin when it was told that it might.
        #[test]
        fn the_wait_is_long_enough(spent in prop::collection::vec(0.1f64..90.0, 0..4), load in 0.1f64..200.0) {
            let mut budget = LoadBudget::new(Time::ZERO);
            for load in spent {
                budget.spend(Time::ZERO, Seconds::saturating(load));
            }
            let load = Seconds::saturating(load);
            let wait = budget.wait(Time::ZERO, load);
            let then = Time::ZERO + Duration::from_secs_f64(wait.get() + 1e-6);
            prop_assert_eq!(budget.wait(then, load), Seconds::ZERO);
        }
    }
}
