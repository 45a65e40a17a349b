//! The coordinator's process: its engine, its clock, its books on their way to disk, and its death.
//!
//! What the driver of the real one does between engine and world is done here with the same parts: the
//! engine's outbox says what waits for which commit, and a restart charges what the disk has marked.

use std::collections::VecDeque;
use std::time::Duration;

use moe2_engine::coordinator::{
    Config, EnergyWindow, Engine, Held, Input, Outbox, Output, Pass, PlanLimits, Span, Spending,
    TenantLimits, Wall, Write,
};
use moe2_gate::Gate;
use moe2_model::{Joules, Rng, TenantId, Time};

use crate::case::{Ambient, Case};
use crate::clients::TENANTS;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::host::clock;
use crate::mutant::Mutant;
use crate::scenario::Scenario;
use crate::world::{Happening, World};

/// Longest a query may take.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Microseconds of the calendar at the start, or a little later: a minute begins then.
const EPOCH: u64 = 36_000_000_000;
/// Between attempts to start on a full disk.
const START_AGAIN: Duration = Duration::from_millis(500);
/// How long a commit takes.
const COMMIT: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(15));

#[derive(Debug)]
pub(crate) struct Coordinator {
    /// `None` while the process is down.
    pub(crate) engine: Option<Engine>,
    /// Counts the processes.
    pub(crate) life: u64,
    pub(crate) clock: Clock,
    /// Microseconds of the calendar at the clock's zero.
    epoch: u64,
    pub(crate) stalled_until: Time,
    pub(crate) outbox: Outbox<()>,
    /// What is written next, and what is being committed.
    unwritten: VecDeque<(u64, Write)>,
    committing: Vec<(u64, Write)>,
    pub(crate) disk: Disk,
    rng: Rng,
    skew_ppm: u32,
}

impl Coordinator {
    pub(crate) fn new(case: &Case, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let skew_ppm = if case.is_without(Ambient::Skew) {
            0
        } else {
            case.scenario.skew_ppm
        };
        let clock = clock(&mut rng, Time::ZERO, skew_ppm);
        let epoch = EPOCH + clock.read(Time::ZERO).as_micros();
        let clock = clock.since_start();
        let mut coordinator = Self {
            engine: None,
            life: 0,
            clock,
            epoch,
            stalled_until: Time::ZERO,
            outbox: Outbox::default(),
            unwritten: VecDeque::new(),
            committing: Vec::new(),
            disk: Disk::default(),
            rng,
            skew_ppm,
        };
        let config = Config {
            epoch,
            ..config(&case.scenario)
        };
        coordinator.engine = Some(Engine::new(config, Gate::builtin()));
        coordinator
    }

    /// Whether nobody would answer a dial.
    pub(crate) fn is_away(&self, now: Time) -> bool {
        self.engine.is_none() || self.stalled_until > now
    }

    /// What its own clock says.
    pub(crate) fn read(&self, now: Time) -> Time {
        self.clock.read(now)
    }

    /// What the calendar says by its clock.
    pub(crate) fn wall(&self, now: Time) -> Wall {
        Wall((self.epoch + self.read(now).as_micros()) / 1_000_000)
    }

    /// When its next timer is due.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let local = self.engine.as_ref()?.next_deadline()?;
        Some(self.clock.when(local).max(self.stalled_until))
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.rng.chance(probability)
    }

    /// Delay of something that it does beside its engine.
    pub(crate) fn within(&mut self, range: (Duration, Duration)) -> Duration {
        self.rng.within(range)
    }
}

impl World<'_> {
    /// The process dies, and with it all that was not on disk.
    pub(crate) fn restart(&mut self, away: Duration) {
        let coordinator = &mut self.coordinator;
        if coordinator.engine.take().is_none() {
            return;
        }
        coordinator.life += 1;
        coordinator.stalled_until = Time::ZERO;
        coordinator.outbox = Outbox::default();
        coordinator.unwritten.clear();
        // What was being committed is there as a whole or not at all.
        let batch = std::mem::take(&mut coordinator.committing);
        if !coordinator.disk.full && coordinator.rng.chance(0.5) {
            batch
                .iter()
                .for_each(|(_, write)| coordinator.disk.write(write));
        }
        self.judge.report.restarts += 1;
        self.judge.coordinator_died();
        self.streams.clear();
        self.lose_coordinator();
        self.after(away, Happening::CoordinatorBoots);
    }

    /// A new process begins with the books as they were found.
    pub(crate) fn coordinator_boots(&mut self) {
        let now = self.now;
        if self.coordinator.disk.full {
            // The real one says so and ends; its supervisor starts it again.
            self.after(START_AGAIN, Happening::CoordinatorBoots);
            return;
        }
        let forgets = self.case.mutant == Some(Mutant::ForgetMarks);
        let reuses = self.case.mutant == Some(Mutant::ReuseNumbers);
        let coordinator = &mut self.coordinator;
        // The machine's calendar goes on; what the process counts from is new.
        let calendar = coordinator.epoch + coordinator.read(now).as_micros();
        let clock = clock(&mut coordinator.rng, now, coordinator.skew_ppm);
        (coordinator.clock, coordinator.epoch) = (clock.since_start(), calendar);
        let past = coordinator.disk.open(Wall(calendar / 1_000_000), forgets);
        let config = Config {
            epoch: coordinator.epoch,
            past,
            // As the driver does.
            first_dispatch: if reuses { 1 } else { calendar.max(1) },
            ..config(&self.case.scenario)
        };
        coordinator.engine = Some(Engine::new(config, Gate::builtin()));
        let wall = self.coordinator.wall(now);
        if let Some(engine) = &self.coordinator.engine {
            let local = self.coordinator.read(now);
            let left = |tenant: &TenantId| engine.room(local, tenant).joules.map(|j| j.left);
            self.judge.compare_windows(wall.0 / 60, left);
        }
    }

    /// Holds an output until what it follows from is committed, as the driver does.
    pub(crate) fn put(&mut self, output: Output) {
        match (self.case.mutant, &output) {
            (Some(Mutant::EndEarly), Output::Reply { .. })
            | (Some(Mutant::SendEarly), Output::Dispatch { .. }) => {
                self.coordinator_wants(output);
                return;
            }
            _ => {}
        }
        match self.coordinator.outbox.pass(output, || ()) {
            Pass::Now(output) => self.coordinator_wants(output),
            Pass::Later => {}
            Pass::Never { dispatch, reason } => {
                self.judge.never_left(dispatch);
                let (life, reason) = (self.coordinator.life, reason.to_owned());
                let lost = Happening::Unsent {
                    life,
                    dispatch,
                    reason,
                };
                self.after(Duration::from_micros(20), lost);
            }
        }
    }

    /// Does what waits no longer.
    pub(crate) fn release(&mut self) {
        while let Some(held) = self.coordinator.outbox.released() {
            match held {
                Held::Reply(query, reply) => {
                    self.coordinator_wants(Output::Reply { query, reply });
                }
                Held::Dispatch {
                    dispatch,
                    session,
                    work,
                    note: (),
                } => self.put(Output::Dispatch {
                    dispatch,
                    session,
                    work,
                }),
            }
        }
    }

    /// Has something written with the next commit.
    pub(crate) fn write(&mut self, numbered: (u64, Write)) {
        self.coordinator.unwritten.push_back(numbered);
        self.commit_next();
    }

    fn commit_next(&mut self) {
        let coordinator = &mut self.coordinator;
        let busy = !coordinator.committing.is_empty();
        let waits = coordinator.disk.full && coordinator.outbox.is_broken();
        if busy || waits || coordinator.unwritten.is_empty() {
            return;
        }
        coordinator.committing = coordinator.unwritten.drain(..).collect();
        let took = coordinator.rng.within(COMMIT);
        let life = coordinator.life;
        self.after(took, Happening::Committed { life });
    }

    pub(crate) fn committed(&mut self, life: u64) {
        let coordinator = &mut self.coordinator;
        if life != coordinator.life || coordinator.engine.is_none() {
            return;
        }
        let batch = std::mem::take(&mut coordinator.committing);
        if coordinator.disk.full {
            // It is written when there is room again, before all that came since.
            for write in batch.into_iter().rev() {
                coordinator.unwritten.push_front(write);
            }
            coordinator.outbox.broken();
            self.release();
            let why = Some("the disk is full".to_owned());
            self.tell_coordinator(Input::BooksClosed(why));
            return;
        }
        for (_, write) in &batch {
            coordinator.disk.write(write);
        }
        let Some((last, _)) = batch.last() else {
            return;
        };
        let mended = coordinator.outbox.is_broken();
        let lower = coordinator.outbox.committed(*last);
        coordinator.unwritten.extend(lower);
        self.release();
        if mended {
            self.tell_coordinator(Input::BooksClosed(None));
        }
        self.commit_next();
    }

    /// There is room on the disk again.
    pub(crate) fn disk_emptied(&mut self) {
        self.coordinator.disk.full = false;
        self.commit_next();
    }
}

fn config(scenario: &Scenario) -> Config {
    let mut plan = scenario.window.map(limits).unwrap_or_default();
    plan.experts = scenario.active;
    Config {
        plan,
        query_timeout: QUERY_TIMEOUT,
        stall_grace: Duration::from_secs(2),
        max_queries: 12,
        records: true,
        ..Config::default()
    }
}

/// Every tenant has so many joules for a minute.
fn limits(joules: f64) -> PlanLimits {
    let tenant = |name: &&str| TenantLimits {
        spending: Spending {
            energy_windows: vec![EnergyWindow {
                joules: Joules::saturating(joules),
                per: Span::Minute,
                rolling: false,
                soft: false,
            }],
            ..Spending::default()
        },
        ..TenantLimits::unlimited(TenantId::new(name).expect("a literal name is valid"))
    };
    PlanLimits {
        tenants: TENANTS.iter().map(tenant).collect(),
        ..PlanLimits::default()
    }
}
