//! How likely it is that a tenant asks about a topic in the next minutes.
//!
//! What was asked in the last minutes mostly goes on; what is asked at this hour of most days comes back. Both are
//! rates of a Poisson process, and the larger one counts: a busy quarter of an hour is believed although it is a
//! quiet hour of the day, and nine o'clock on a working day is believed before its first query came.
//!
//! The planner weighs prompts by it where memory is short: an expert that nobody is about to need makes room for one
//! that somebody is.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_gate::Topic;
use moe2_model::{TenantId, Time};

use super::super::ledger::Wall;

/// How far ahead a plan looks: several reviews, so that a change is in memory before it is needed.
pub(crate) const HORIZON: Duration = Duration::from_secs(600);
/// How long what was asked counts.
const MEMORY_S: f64 = 600.0;
/// Weight of the last day beside all days before it.
const LAST_DAY: f64 = 0.5;
/// Least chance: what was never asked may be.
const LEAST: f64 = 0.05;
const HOURS: usize = 24;
const HOUR_S: u64 = 3_600;
/// Tenants that are remembered, as in the calibration set.
const MAX_TENANTS: usize = 256;

/// Queries of one tenant on one topic.
#[derive(Debug, Clone)]
struct Habit {
    /// Decayed count, and when it was that.
    lately: (f64, Time),
    /// Queries in an hour of the day, a mean over days; nothing of hours that have not passed.
    by_hour: [Option<f64>; HOURS],
    /// The hour since 1970 that is being counted, and its queries.
    hour: (u64, f64),
}

impl Habit {
    fn new(now: Time, hour: u64) -> Self {
        Self {
            lately: (0.0, now),
            by_hour: [None; HOURS],
            hour: (hour, 0.0),
        }
    }

    fn decayed(&self, now: Time) -> f64 {
        self.lately.0 * (-now.seconds_since(self.lately.1).get() / MEMORY_S).exp()
    }

    /// Puts the hours that are over into the days' mean; those without a query count, too.
    fn turn(&mut self, hour: u64) {
        let (last, mut count) = self.hour;
        // A day at most: more of silence says no more.
        for over in last..hour.min(last.saturating_add(HOURS as u64)) {
            let mean = &mut self.by_hour[slot(over)];
            *mean = Some(mean.map_or(count, |mean| mean + LAST_DAY * (count - mean)));
            count = 0.0;
        }
        if hour > last {
            self.hour = (hour, 0.0);
        }
    }

    fn note(&mut self, now: Time, hour: u64) {
        self.turn(hour);
        self.lately = (self.decayed(now) + 1.0, now);
        self.hour.1 += 1.0;
    }

    /// Queries to be expected within the horizon.
    fn expected(&self, now: Time, wall: Wall) -> f64 {
        let ahead = HORIZON.as_secs();
        let lately = self.decayed(now) / MEMORY_S * ahead as f64;
        let by_day = |seconds: u64, at: u64| {
            let mean = self.by_hour[slot(at / HOUR_S)].unwrap_or(0.0);
            mean * seconds as f64 / HOUR_S as f64
        };
        let this = ahead.min(HOUR_S - wall.0 % HOUR_S);
        let daily = by_day(this, wall.0) + by_day(ahead - this, wall.0 + ahead);
        lately.max(daily)
    }
}

#[allow(clippy::cast_possible_truncation)] // below 24
fn slot(hour: u64) -> usize {
    (hour % HOURS as u64) as usize
}

/// What all tenants are wont to ask.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    tenants: BTreeMap<TenantId, BTreeMap<Topic, Habit>>,
}

impl Demand {
    /// Takes note of a query.
    pub(crate) fn note(&mut self, (now, wall): (Time, Wall), tenant: &TenantId, topic: Topic) {
        if self.tenants.len() >= MAX_TENANTS && !self.tenants.contains_key(tenant) {
            return;
        }
        let hour = wall.0 / HOUR_S;
        let own = self.tenants.entry(tenant.clone()).or_default();
        let habit = own.entry(topic).or_insert_with(|| Habit::new(now, hour));
        habit.note(now, hour);
    }

    /// Closes the hours that are over.
    pub(crate) fn turn(&mut self, wall: Wall) {
        let all = self.tenants.values_mut().flat_map(BTreeMap::values_mut);
        all.for_each(|habit| habit.turn(wall.0 / HOUR_S));
    }

    /// Queries to be expected of everybody within the horizon.
    pub(crate) fn expected(&self, (now, wall): (Time, Wall)) -> f64 {
        let all = self.tenants.values().flat_map(BTreeMap::values);
        all.map(|habit| habit.expected(now, wall)).sum()
    }

    /// Probability that a tenant asks about a topic within the horizon, from [`LEAST`] to 1.
    pub(crate) fn chance(&self, (now, wall): (Time, Wall), tenant: &TenantId, topic: Topic) -> f64 {
        let habit = self.tenants.get(tenant).and_then(|own| own.get(&topic));
        let expected = habit.map_or(0.0, |habit| habit.expected(now, wall));
        (1.0 - (-expected).exp()).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: u64 = 86_400;

    fn tenant() -> TenantId {
        TenantId::new("t").expect("a valid name")
    }

    fn at(seconds: u64) -> (Time, Wall) {
        (Time::from_micros(seconds * 1_000_000), Wall(seconds))
    }

    /// Asks once a minute from nine to ten o'clock, on so many days.
    fn mornings(days: u64) -> Demand {
        let mut demand = Demand::default();
        for day in 0..days {
            for minute in 0..60 {
                let now = at(day * DAY_S + 9 * HOUR_S + minute * 60);
                demand.note(now, &tenant(), Topic::Code);
            }
        }
        demand
    }

    #[test]
    fn what_is_asked_every_morning_is_expected_before_it_comes() {
        let mut demand = mornings(3);
        let mut chance = |second: u64| {
            let now = at(3 * DAY_S + second);
            demand.turn(now.1);
            demand.chance(now, &tenant(), Topic::Code)
        };
        assert_eq!(chance(4 * HOUR_S), LEAST, "at night");
        assert!(chance(9 * HOUR_S - 300) > 0.95, "just before nine");
        assert!(chance(9 * HOUR_S + 60) > 0.95);
        assert_eq!(chance(9 * HOUR_S - 3_600), LEAST, "an hour before");
    }

    #[test]
    fn what_is_asked_now_goes_on_for_some_minutes_at_any_hour() {
        let mut demand = Demand::default();
        for second in 0..30 {
            demand.note(at(4 * HOUR_S + second), &tenant(), Topic::Math);
        }
        let chance = |second: u64| demand.chance(at(4 * HOUR_S + second), &tenant(), Topic::Math);
        assert!(chance(60) > 0.99);
        assert!(chance(3_000) < 0.25, "{}", chance(3_000));
        assert_eq!(demand.chance(at(4 * HOUR_S), &tenant(), Topic::Code), LEAST);
    }

    #[test]
    fn a_habit_that_has_ended_is_forgotten_within_days() {
        let mut demand = mornings(3);
        let mut before = 1.0;
        for day in 3..12 {
            let now = at(day * DAY_S + 9 * HOUR_S - 300);
            demand.turn(now.1);
            let chance = demand.chance(now, &tenant(), Topic::Code);
            assert!(chance <= before, "day {day}: {chance}");
            before = chance;
        }
        assert!(before < 0.1, "{before}");
    }
}
