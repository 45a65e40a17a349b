//! Which experts are in memory.
//!
//! An agent may host more than its memory holds. It begins with what fits, in the order of its configuration, and
//! keeps from then on what the coordinator asks for ([`ToAgent::Keep`](moe2_wire::ToAgent::Keep)): what leaves
//! finishes its work first, and what comes waits until there is room. Whatever is asked, never more is in memory
//! than it holds: a process counts until it has ended.

use moe2_model::{Bytes, ExpertName, ExpertOffer, ExpertState, Seconds, Time};
use moe2_wire::FromAgent;

use super::{Engine, Output};

/// Reading weights from a disk that nobody has measured: a solid-state disk on a small machine's bus. Assumed.
const DISK_BYTES_PER_S: f64 = 5e8;
/// Starting a process and making its cache, whatever the weights.
const START_S: f64 = 0.5;

/// How long weights take into memory before that was measured.
#[must_use]
#[allow(clippy::cast_precision_loss)] // exact below 2^53 bytes
pub fn load_time(weights: Bytes) -> Seconds {
    Seconds::saturating(START_S + weights.0 as f64 / DISK_BYTES_PER_S)
}

/// Of experts in the order of an agent's configuration, whether each is in memory before a coordinator has spoken: first
/// what cannot leave it, then what fits.
#[must_use]
pub fn at_first(offers: &[ExpertOffer], memory: Bytes) -> Vec<bool> {
    let mut room = Room::of(memory);
    let mut fits = vec![false; offers.len()];
    for leaves in [false, true] {
        let these = offers.iter().zip(&mut fits);
        for (offer, fits) in these.filter(|(offer, _)| offer.load.is_some() == leaves) {
            *fits = room.take(offer) || !leaves;
        }
    }
    fits
}

/// Memory that is left.
struct Room(u64);

impl Room {
    /// A machine that does not know its memory is taken to have enough.
    fn of(memory: Bytes) -> Self {
        Self(if memory.0 == 0 { u64::MAX } else { memory.0 })
    }

    /// Takes what an expert needs; false if that is not there.
    fn take(&mut self, offer: &ExpertOffer) -> bool {
        let left = self.0.checked_sub(offer.resident().0);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    /// The same of what is there anyway: what cannot leave may be more than fits, which is the operator's business.
    const fn take_what_there_is(&mut self, offer: &ExpertOffer) {
        self.0 = self.0.saturating_sub(offer.resident().0);
    }
}

impl Engine {
    /// Takes what is to be in memory from now on.
    pub(super) fn keep(&mut self, now: Time, experts: &[ExpertName]) {
        let offers = &self.config.experts;
        let mut room = Room::of(self.config.device.memory);
        let fixed = offers.iter().filter(|offer| offer.load.is_none());
        fixed.for_each(|offer| room.take_what_there_is(offer));
        let mut wanted: Vec<usize> = Vec::new();
        for worker in experts.iter().filter_map(|name| self.index.get(name)) {
            let offer = &offers[*worker];
            if !wanted.contains(worker) && (offer.load.is_none() || room.take(offer)) {
                wanted.push(*worker);
            }
        }
        self.wanted = wanted;
        self.settle(now);
    }

    /// What is there is what a coordinator hears of, and what is wanted until it says more.
    pub(super) fn keep_what_is_there(&mut self) {
        let there = |n: &usize| {
            let worker = &self.workers[*n];
            worker.runs && worker.state != ExpertState::Unloading
        };
        let back = |n: &usize| self.workers[*n].state.is_failed() && self.wanted.contains(n);
        let wanted = (0..self.workers.len()).filter(|n| there(n) || back(n));
        self.wanted = wanted.collect();
    }

    /// Brings memory nearer to what is wanted.
    pub(super) fn settle(&mut self, now: Time) {
        for worker in 0..self.workers.len() {
            let leaves = self.config.experts[worker].load.is_some();
            if leaves && !self.wanted.contains(&worker) {
                self.leave(worker);
            }
        }
        if self.draining {
            return;
        }
        for worker in self.wanted.clone() {
            self.come(now, worker);
        }
    }

    fn leave(&mut self, worker: usize) {
        // One that failed is about to end or has; its reason is shown, and it is left alone, for as long as if it
        // were wanted.
        if let ExpertState::Ready | ExpertState::Loading = self.workers[worker].state {
            self.set_state(worker, ExpertState::Unloading);
        }
        let works = |job: &super::Job| job.worker == worker;
        let idle = !self.jobs.values().any(works);
        let known = &mut self.workers[worker];
        if known.state == ExpertState::Unloading && idle && known.runs && !known.ending {
            known.ending = true;
            let expert = self.config.experts[worker].name.clone();
            self.outputs.push_back(Output::KillWorker { expert });
        }
    }

    fn come(&mut self, now: Time, worker: usize) {
        match self.workers[worker].state {
            // What has loaded may have had work to finish first.
            ExpertState::Unloading if !self.workers[worker].ending => {
                self.set_state(worker, ExpertState::Ready);
                self.start_next(now);
            }
            ExpertState::Unloaded if self.fits(worker) => self.load(now, worker),
            _ => {}
        }
    }

    /// Whether an expert needs more memory than there is.
    fn too_large(&self, worker: usize) -> bool {
        let offer = &self.config.experts[worker];
        offer.load.is_some() && !Room::of(self.config.device.memory).take(offer)
    }

    /// Says of those that need more memory than there is that they cannot work.
    pub(super) fn refuse_too_large(&mut self) {
        let too_large: Vec<usize> = (0..self.workers.len())
            .filter(|n| self.too_large(*n))
            .collect();
        for worker in too_large {
            let mb = |bytes: u64| bytes.div_ceil(1 << 20);
            let needs = mb(self.config.experts[worker].resident().0);
            let has = mb(self.config.device.memory.0);
            let reason = format!(
                "it needs {needs} MiB of memory with its whole context, and {has} MiB are there: lower its context, or raise memory_mb"
            );
            self.workers[worker].state = ExpertState::Failed { reason };
        }
    }

    /// Whether there is room for an expert beside all that is in memory, or is about to be there again.
    fn fits(&self, worker: usize) -> bool {
        let mut room = Room::of(self.config.device.memory);
        let there = self.workers.iter().zip(&self.config.experts);
        // One that failed has its place for when it is started again.
        let there = there.enumerate().filter(|(n, (worker, _))| {
            worker.runs || (worker.state.is_failed() && self.wanted.contains(n))
        });
        there.for_each(|(_, (_, offer))| room.take_what_there_is(offer));
        room.take(&self.config.experts[worker])
    }

    /// The time is over for which an expert that failed is left alone.
    pub(super) fn restart(&mut self, now: Time, worker: usize) {
        if self.draining {
            return;
        }
        // Its memory may have been given away meanwhile.
        self.workers[worker].state = ExpertState::Unloaded;
        if self.wanted.contains(&worker) && self.fits(worker) {
            self.load(now, worker);
        } else {
            self.set_state(worker, ExpertState::Unloaded);
        }
    }

    /// Starts a worker's process.
    pub(super) fn load(&mut self, now: Time, worker: usize) {
        self.set_state(worker, ExpertState::Loading);
        let known = &mut self.workers[worker];
        (known.began, known.runs, known.loaded) = (now, true, false);
        let expert = self.config.experts[worker].name.clone();
        self.outputs.push_back(Output::StartWorker { expert });
    }

    /// A worker takes work: tells how long that took.
    pub(super) fn loaded(&mut self, now: Time, worker: usize) {
        let known = &mut self.workers[worker];
        let took = now.seconds_since(known.began);
        (known.took, known.loaded) = (Some(took), true);
        if self.session.is_up() {
            let name = self.config.experts[worker].name.clone();
            let message = FromAgent::Loaded { name, took };
            self.outputs.push_back(Output::Control(message));
        }
    }

    /// A process that was told to leave memory has ended. False if it ended by itself.
    pub(super) fn left(&mut self, now: Time, worker: usize) -> bool {
        let known = &mut self.workers[worker];
        if known.state != ExpertState::Unloading {
            return false;
        }
        known.ending = false;
        self.set_state(worker, ExpertState::Unloaded);
        self.settle(now);
        true
    }

    /// Work of an expert has ended; it may have been what kept it in memory.
    pub(super) fn work_ended(&mut self, now: Time, worker: usize) {
        if self.workers[worker].state == ExpertState::Unloading {
            self.settle(now);
        }
    }
}
