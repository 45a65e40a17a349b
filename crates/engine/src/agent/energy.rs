//! Which job used which joules.
//!
//! Between two readings of the meter the device drew so much. What it draws without work is *standing*
//! energy and belongs to no job; the rest is shared by the jobs that were busy, in proportion to their
//! token-work: tokens, weighted by what they cost, times the size of the model that every token goes
//! through. A job's work is known when it ends, so while it runs its expert's last speed stands for it.
//! Bills and standing energy together are the meter's total, no more and no less. A job is billed at the
//! first reading after its end. Without a meter the dynamic power of the device (busy minus idle) takes
//! the meter's place, and bills are ready at once.
//!
//! Every bill carries the most by which it may be off. Errors add up as they are: those of one sensor have
//! one cause and do not cancel.

mod idle;
mod job;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_model::{DispatchId, EnergySource, Figure, Joules, Seconds, Time};

use idle::Idle;
use job::Account;
pub(super) use job::work;

/// How far the truth may be from a modelled figure, as a share of it. Assumed: boards at work draw 0.5 to
/// 1.5 times what the table of defaults says, processors 0.4 to 1.8 times, and nobody has measured.
const MODEL_ERROR: f64 = 1.0;

/// Readings further apart than this are not compared, as meters that integrate power bridge no longer gap:
/// meanwhile the model takes over.
const SILENCE: Duration = Duration::from_secs(5);

/// What a meter says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeterReading {
    /// When it was read.
    pub at: Time,
    /// Running totals of joules and of what they may be off by; only differences count, and only those of
    /// one source.
    pub total: Figure,
    /// By how much what it shows may be out of date.
    pub lag: Seconds,
}

/// A time in which the same jobs were busy, with what each of them counts; nobody, if idle.
#[derive(Debug, Clone, PartialEq)]
struct Stretch {
    from: Time,
    to: Time,
    shares: Vec<(DispatchId, f64)>,
}

impl Stretch {
    fn seconds(&self) -> f64 {
        self.to.seconds_since(self.from).get()
    }
}

/// Keeps the account of every busy job, and of the time without.
#[derive(Debug)]
pub(crate) struct Accountant {
    /// Up to here everything is booked, or in `open`.
    at: Time,
    dynamic_watts: f64,
    idle: Idle,
    mark: Option<MeterReading>,
    /// Since the mark.
    open: Vec<Stretch>,
    /// What every busy job counts now, and whether that is new since the last stretch.
    shares: Vec<(DispatchId, f64)>,
    changed: bool,
    jobs: BTreeMap<DispatchId, Account>,
    /// Token-work per busy second, by worker.
    speeds: BTreeMap<usize, f64>,
    settled: Vec<(DispatchId, Figure)>,
    standing: Figure,
    /// Billed by the model in a time the meter counted too: it is taken from standing energy.
    owed: f64,
}

impl Accountant {
    pub(crate) fn new(now: Time, idle_watts: f64, dynamic_watts: f64) -> Self {
        Self {
            at: now,
            dynamic_watts: dynamic_watts.max(0.0),
            idle: Idle::assumed(idle_watts),
            mark: None,
            open: Vec::new(),
            shares: Vec::new(),
            changed: true,
            jobs: BTreeMap::new(),
            speeds: BTreeMap::new(),
            settled: Vec::new(),
            standing: Figure::NONE,
            owed: 0.0,
        }
    }

    /// Whether joules come from readings by now.
    pub(crate) fn is_measuring(&self) -> bool {
        self.mark.is_some()
    }

    /// Time passed.
    pub(crate) fn advance(&mut self, now: Time) {
        if now <= self.at {
            return;
        }
        let from = std::mem::replace(&mut self.at, now);
        if self.mark.is_none() {
            let stretch = Stretch {
                from,
                to: now,
                shares: std::mem::take(&mut self.shares),
            };
            self.model(&stretch);
            self.shares = stretch.shares;
            return;
        }
        match self.open.last_mut() {
            Some(last) if !self.changed => last.to = now,
            _ => self.open.push(Stretch {
                from,
                to: now,
                shares: self.shares.clone(),
            }),
        }
        self.changed = false;
        if self.mark.is_some_and(|mark| now.since(mark.at) > SILENCE) {
            self.meter_lost();
        }
    }

    /// Books what was drawn until a reading. The first of a source only sets the zero. `quiet` means that
    /// a time without jobs is one without work, too.
    pub(crate) fn measured(&mut self, reading: MeterReading, quiet: bool) {
        let source = reading.total.source;
        let Some(mark) = self.mark.filter(|mark| mark.total.source == source) else {
            self.meter_lost();
            // What was until now has been modelled.
            let at = reading.at.max(self.at);
            self.mark = Some(MeterReading { at, ..reading });
            self.idle.forget();
            return;
        };
        let reading = MeterReading {
            at: reading.at.min(self.at),
            ..reading
        };
        if reading.at <= mark.at {
            self.settle(mark.at);
            return;
        }
        let before = self.close(reading.at);
        let drawn = Figure {
            joules: reading.total.joules - mark.total.joules,
            error: reading.total.error - mark.total.error,
            source,
        };
        let seconds = reading.at.seconds_since(mark.at).get();
        self.mark = Some(reading);
        let busy: f64 = before
            .iter()
            .filter(|s| !s.shares.is_empty())
            .map(Stretch::seconds)
            .sum();
        if busy > 0.0 {
            self.share(&before, drawn, (seconds, busy), reading.lag.get());
        } else {
            self.stand(drawn);
            if quiet {
                self.idle.learn(seconds, drawn);
            }
        }
        self.settle(reading.at);
    }

    /// No more readings: the model takes over from the last one.
    pub(crate) fn meter_lost(&mut self) {
        self.mark = None;
        for stretch in std::mem::take(&mut self.open) {
            self.model(&stretch);
        }
        self.settle(self.at);
    }

    /// The job is busy from now on.
    pub(crate) fn begin(&mut self, job: DispatchId, worker: usize) {
        if self.jobs.contains_key(&job) {
            // A coordinator that was started again counts from the start. The one from before is billed by
            // the model, so that its time is not this one's.
            self.meter_lost();
        }
        self.jobs.insert(job, Account::new(worker, self.at));
        self.count();
    }

    /// The job is not busy any more; its bill if that is known already. If it is not, it is among the
    /// settled ones after one of the next readings.
    pub(crate) fn end(&mut self, job: DispatchId) -> Option<Figure> {
        let Some(account) = self.jobs.get_mut(&job) else {
            return Some(Figure::NONE);
        };
        account.ended = Some(self.at);
        self.count();
        if self.is_measuring() {
            return None;
        }
        let account = self.jobs.remove(&job)?;
        Some(account.bill)
    }

    /// An expert did so much token-work in so many seconds.
    pub(crate) fn learn(&mut self, worker: usize, work: f64, busy: Seconds) {
        if work > 0.0 && busy > Seconds::ZERO {
            self.speeds.insert(worker, work / busy.get());
            self.count();
        }
    }

    /// Jobs whose bills have become known.
    pub(crate) fn take_settled(&mut self) -> Vec<(DispatchId, Figure)> {
        std::mem::take(&mut self.settled)
    }

    /// What was drawn for no job, since the last time this was asked.
    pub(crate) fn take_standing(&mut self) -> Figure {
        std::mem::replace(&mut self.standing, Figure::NONE)
    }

    /// Sees anew what every busy job counts. An expert that has not ended a job yet counts as those that
    /// have.
    fn count(&mut self) {
        let busy = || self.jobs.iter().filter(|(_, a)| a.ended.is_none());
        let speed = |account: &Account| self.speeds.get(&account.worker).copied();
        let (sum, known) = busy()
            .filter_map(|(_, a)| speed(a))
            .fold((0.0, 0.0), |(sum, n), speed| (sum + speed, n + 1.0));
        let usual = if known > 0.0 { sum / known } else { 1.0 };
        self.shares = busy()
            .map(|(job, account)| (*job, speed(account).unwrap_or(usual)))
            .collect();
        self.changed = true;
    }

    /// Takes the stretches until `at` off the open ones.
    fn close(&mut self, at: Time) -> Vec<Stretch> {
        let mut before = Vec::new();
        let mut after = Vec::new();
        for stretch in std::mem::take(&mut self.open) {
            if stretch.to <= at {
                before.push(stretch);
            } else if stretch.from >= at {
                after.push(stretch);
            } else {
                let first = Stretch {
                    to: at,
                    ..stretch.clone()
                };
                before.push(first);
                after.push(Stretch {
                    from: at,
                    ..stretch
                });
            }
        }
        self.open = after;
        before
    }

    /// Gives jobs their part of what was drawn, and standing energy the rest.
    fn share(
        &mut self,
        stretches: &[Stretch],
        drawn: Figure,
        (seconds, busy): (f64, f64),
        lag: f64,
    ) {
        let joules = drawn.joules.get();
        let (idle, idle_error) = self.idle.within(joules / seconds);
        let beyond_idle = (joules - idle * seconds).max(0.0);
        // When in the interval it was drawn is not known: jobs get the part of their time, and the rest
        // may have been theirs, too.
        let theirs = beyond_idle * (busy / seconds).min(1.0);
        let error = drawn.error.get() + idle_error * busy + (beyond_idle - theirs);
        let shared = Figure {
            joules: Joules::saturating(theirs),
            error: Joules::saturating(error),
            source: drawn.source,
        };
        let counts = |stretch: &Stretch| -> f64 { stretch.shares.iter().map(|(_, s)| s).sum() };
        for stretch in stretches.iter().filter(|s| !s.shares.is_empty()) {
            let (time, all) = (stretch.seconds(), counts(stretch));
            for (job, share) in &stretch.shares {
                if let Some(account) = self.jobs.get_mut(job) {
                    let part = share / all * time;
                    account.alone += part;
                    account.add(shared, part / busy);
                }
            }
        }
        let (from, to) = match (stretches.first(), stretches.last()) {
            (Some(first), Some(last)) => (first.from, last.to),
            _ => return,
        };
        let late = joules / seconds * lag;
        for account in self.jobs.values_mut() {
            account.late_at_ends((from, to), late);
        }
        self.stand(Figure {
            joules: Joules::saturating(joules - theirs),
            error: shared.error,
            source: drawn.source,
        });
    }

    fn stand(&mut self, figure: Figure) {
        let joules = figure.joules.get();
        let paid = self.owed.min(joules);
        self.owed -= paid;
        self.standing += Figure {
            joules: Joules::saturating(joules - paid),
            ..figure
        };
    }

    /// Books a stretch without a meter.
    fn model(&mut self, stretch: &Stretch) {
        let seconds = stretch.seconds();
        self.standing += modelled(seconds * self.idle.assumption());
        let all: f64 = stretch.shares.iter().map(|(_, share)| share).sum();
        for (job, share) in &stretch.shares {
            if let Some(account) = self.jobs.get_mut(job) {
                let figure = modelled(seconds * share / all * self.dynamic_watts);
                account.bill += figure;
            }
        }
    }

    /// Bills the jobs that had ended by `at`.
    fn settle(&mut self, at: Time) {
        let done = |account: &mut Account| account.ended.is_some_and(|end| end <= at);
        let jobs: Vec<(DispatchId, Account)> = self
            .jobs
            .extract_if(.., |_, account| done(account))
            .collect();
        for (job, account) in jobs {
            let mut bill = account.bill;
            if bill.joules == Joules::ZERO && account.alone > 0.0 {
                // Too short for the meter. It took something, and the meter will count that as standing.
                bill = modelled(account.alone * self.dynamic_watts);
                self.owed += bill.joules.get();
            }
            self.settled.push((job, bill));
        }
    }
}

/// A figure of the model.
fn modelled(joules: f64) -> Figure {
    Figure {
        joules: Joules::saturating(joules),
        error: Joules::saturating(joules * MODEL_ERROR),
        source: EnergySource::Modelled,
    }
}
