//! A machine: how long work takes there now, and what it draws.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moe2_engine::agent::at_first;
use moe2_model::{
    DeviceInfo, EnergySource, ExpertName, ExpertOffer, ExpertState, Joules, NodeId, Rng, Seconds,
    SessionId, Time, Usage,
};

use super::memory::Memory;

/// What an expert does on a machine at its nominal speed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Seconds per token of prompt.
    pub prefill: f64,
    /// Seconds per token of answer.
    pub decode: f64,
    /// Power of the whole machine meanwhile, W.
    pub watts: f64,
}

/// One expert there.
#[derive(Debug, Clone, PartialEq)]
pub struct Hosted {
    /// As the agent offers it.
    pub offer: ExpertOffer,
    /// What it really does.
    pub rates: Rates,
    /// How long its weights take into memory, where that does not hold all.
    pub load: Duration,
}

/// One machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Its name.
    pub node: NodeId,
    /// As its agent describes it; nothing of its real speed need be in there.
    pub device: DeviceInfo,
    /// Its experts; those that fit in memory when it starts are there.
    pub experts: BTreeMap<ExpertName, Hosted>,
}

impl Machine {
    /// What is in memory when it starts.
    pub(super) fn at_first(&self) -> BTreeSet<ExpertName> {
        let offers: Vec<ExpertOffer> = self.experts.values().map(|e| e.offer.clone()).collect();
        let fits = at_first(&offers, self.device.memory);
        let fits = self.experts.keys().zip(fits).filter(|(_, fits)| *fits);
        fits.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn offers(&self, there: &Memory) -> Vec<(ExpertOffer, ExpertState)> {
        let state = |name: &ExpertName| {
            if there.has(name) {
                ExpertState::Ready
            } else {
                ExpertState::Unloaded
            }
        };
        let offers = self.experts.iter();
        offers
            .map(|(name, e)| (e.offer.clone(), state(name)))
            .collect()
    }

    pub(super) fn rates(&self, expert: &ExpertName) -> Rates {
        self.experts[expert].rates
    }
}

/// How speeds change: a slow wave per machine, each with its own period and phase, and noise per request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Largest change of speed, as a share of the nominal one, below 1.
    pub amplitude: f64,
    /// Shortest and longest period.
    pub period: (Duration, Duration),
    /// Standard deviation of the logarithm of a request's own factor.
    pub noise: f64,
}

impl Drift {
    /// Machines that always do what they do.
    pub const NONE: Self = Self {
        amplitude: 0.0,
        period: (Duration::from_secs(3_600), Duration::from_secs(3_600)),
        noise: 0.0,
    };
}

/// A piece of work at a machine.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) machine: usize,
    pub(super) expert: ExpertName,
    asked: Time,
    began: Time,
    pub(super) first: Time,
    pub(super) done: Time,
    /// As planned when it began.
    whole: Time,
    tokens: (u32, u32),
    watts: f64,
}

impl Job {
    /// Whether it was told to stop before its time.
    pub(super) fn was_cut(&self) -> bool {
        self.done < self.whole
    }

    /// What it used if it ends now: all of it, or the share that was done.
    pub(super) fn usage(&self, now: Time, idle: f64) -> Usage {
        let end = now.max(self.began).min(self.whole);
        let prefill = end.min(self.first).seconds_since(self.began);
        let decode = end.max(self.first).seconds_since(self.first);
        let share = |done: Seconds, from: Time, to: Time| {
            let whole = to.seconds_since(from).get();
            if whole > 0.0 {
                (done.get() / whole).min(1.0)
            } else {
                1.0
            }
        };
        let read = share(prefill, self.began, self.first);
        let written = share(decode, self.first, self.whole);
        let seconds = prefill + decode;
        let energy = Joules::saturating(seconds.get() * (self.watts - idle).max(0.0));
        Usage {
            prompt_tokens: (f64::from(self.tokens.0) * read).round() as u32,
            cached_tokens: 0,
            output_tokens: (f64::from(self.tokens.1) * written).round() as u32,
            queue: self.began.min(end).seconds_since(self.asked),
            prefill,
            decode,
            energy,
            energy_source: EnergySource::Modelled,
            energy_error: energy,
        }
    }
}

/// A machine's state.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) session: Option<SessionId>,
    pub(super) memory: Memory,
    since: Time,
    there: f64,
    free: Time,
    /// In [0, 1): where between the shortest and the longest period, and where in it.
    wave: (f64, f64),
}

impl Site {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            session: None,
            memory: Memory::default(),
            since: Time::ZERO,
            there: 0.0,
            free: Time::ZERO,
            wave: (rng.unit(), rng.unit()),
        }
    }

    pub(super) fn join(&mut self, now: Time, session: SessionId) {
        (self.session, self.since, self.free) = (Some(session), now, now);
    }

    pub(super) fn leave(&mut self, now: Time) -> Option<SessionId> {
        let session = self.session.take()?;
        self.there += now.seconds_since(self.since).get();
        Some(session)
    }

    /// Seconds it was there.
    pub(super) fn there(&self, now: Time) -> f64 {
        let last = self
            .session
            .map_or(0.0, |_| now.seconds_since(self.since).get());
        self.there + last
    }

    /// By how much longer than nominal work takes that begins now.
    pub(super) fn slowdown(&self, drift: &Drift, now: Time, rng: &mut Rng) -> f64 {
        let (short, long) = (drift.period.0.as_secs_f64(), drift.period.1.as_secs_f64());
        let period = short + self.wave.0 * (long - short);
        let turns = now.seconds_since(Time::ZERO).get() / period + self.wave.1;
        let speed = 1.0 + drift.amplitude * (turns * std::f64::consts::TAU).sin();
        (drift.noise * rng.normal()).exp() / speed
    }

    /// One piece of work after another.
    pub(super) fn begin(
        &mut self,
        now: Time,
        (machine, expert): (usize, &ExpertName),
        (rates, slow): (Rates, f64),
        tokens: (u32, u32),
    ) -> Job {
        let took = |tokens: u32, rate: f64| {
            Duration::try_from_secs_f64(f64::from(tokens) * rate * slow).unwrap_or(Duration::MAX)
        };
        let began = self.free.max(now);
        let first = began + took(tokens.0, rates.prefill);
        let done = first + took(tokens.1, rates.decode);
        self.free = done;
        Job {
            machine,
            expert: expert.clone(),
            asked: now,
            began,
            first,
            done,
            whole: done,
            tokens,
            watts: rates.watts,
        }
    }

    /// Work that ends before its time lets the next begin; what was to follow it keeps its own time.
    pub(super) fn end(&mut self, now: Time, job: &Job) {
        if self.free == job.whole {
            self.free = now;
        }
    }
}
