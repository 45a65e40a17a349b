//! A limit on an amount within a stretch of time: joules a day, requests a minute.
//!
//! A calendar window starts anew at each turn of the minute, hour, day, week or month (UTC, weeks on
//! Monday). A rolling one always looks back over its whole length; it is kept in sixty parts, and a part
//! counts until all of it is out of sight, so the window errs towards too little by at most a sixtieth
//! of its length, never towards too much.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Parts of a rolling window.
const PARTS: u64 = 60;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Seconds since 1970-01-01, UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize,
)]
pub struct Wall(pub u64);

/// How long a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// 60 s.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
    /// 7 days.
    Week,
    /// A month of the calendar; 30 days if rolling.
    Month,
}

impl Span {
    /// As people say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// Its length in seconds, of a month 30 days.
    pub(crate) const fn seconds(self) -> u64 {
        match self {
            Self::Minute => MINUTE,
            Self::Hour => HOUR,
            Self::Day => DAY,
            Self::Week => 7 * DAY,
            Self::Month => 30 * DAY,
        }
    }

    /// The start of the calendar's stretch around `at`, and of the next one.
    fn stretch(self, Wall(at): Wall) -> (u64, u64) {
        // 1970-01-01 was a Thursday: the Monday before it is three days earlier.
        let since_monday = 3 * DAY;
        match self {
            Self::Minute | Self::Hour | Self::Day => {
                let start = at - at % self.seconds();
                (start, start + self.seconds())
            }
            Self::Week => {
                let into = (at + since_monday) % (7 * DAY);
                (at.saturating_sub(into), at + 7 * DAY - into)
            }
            Self::Month => {
                let (year, month) = month_of(at / DAY);
                let next = if month == 12 {
                    (year + 1, 1)
                } else {
                    (year, month + 1)
                };
                (
                    first_day(year, month) * DAY,
                    first_day(next.0, next.1) * DAY,
                )
            }
        }
    }
}

/// Year and month (1 to 12) of a day since 1970-01-01.
fn month_of(day: u64) -> (u64, u64) {
    let mut year = 1970 + day / 366;
    while first_day(year + 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|m| first_day(year, *m) <= day);
    (year, month.unwrap_or(1))
}

/// The first day of a month, in days since 1970-01-01, in the Gregorian calendar.
fn first_day(year: u64, month: u64) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let leap_day = u64::from(is_leap && month > 2);
    365 * (year - 1970) + leaps(year - 1) - leaps(1969) + BEFORE[month as usize - 1] + leap_day
}

/// A window with what it holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    pub(crate) span: Span,
    pub(crate) rolling: bool,
    pub(crate) limit: f64,
    /// Starts of parts, rising, with their amounts.
    parts: VecDeque<(u64, f64)>,
}

impl Window {
    pub(crate) fn new(span: Span, rolling: bool, limit: f64) -> Self {
        Self {
            span,
            rolling,
            limit,
            parts: VecDeque::new(),
        }
    }

    fn part(&self, at: Wall) -> u64 {
        if self.rolling {
            at.0 - at.0 % (self.span.seconds() / PARTS)
        } else {
            self.span.stretch(at).0
        }
    }

    /// Where what still counts begins.
    fn horizon(&self, now: Wall) -> u64 {
        if self.rolling {
            // A part is out of sight once its end is a whole length ago.
            let part = self.span.seconds() / PARTS;
            (now.0 + 1).saturating_sub(self.span.seconds() + part)
        } else {
            self.span.stretch(now).0
        }
    }

    /// What belongs to an earlier time does not count.
    pub(crate) fn since(&self, now: Wall) -> Wall {
        Wall(self.horizon(now))
    }

    /// Forgets what does not count any more.
    fn turn(&mut self, now: Wall) {
        let horizon = self.horizon(now);
        while self.parts.front().is_some_and(|part| part.0 < horizon) {
            self.parts.pop_front();
        }
    }

    /// Adds an amount, or takes one back, that belongs to `at`. What belongs to a stretch that is over
    /// changes nothing.
    pub(crate) fn add(&mut self, now: Wall, at: Wall, amount: f64) {
        self.turn(now);
        let start = self.part(at);
        if start < self.horizon(now) {
            return;
        }
        let place = self.parts.partition_point(|part| part.0 < start);
        match self.parts.get_mut(place) {
            Some(part) if part.0 == start => part.1 += amount,
            _ => self.parts.insert(place, (start, amount)),
        }
    }

    /// What it holds; rounding never makes it negative.
    pub(crate) fn used(&self, now: Wall) -> f64 {
        let horizon = self.horizon(now);
        let counted = self.parts.iter().filter(|part| part.0 >= horizon);
        counted.map(|part| part.1).sum::<f64>().max(0.0)
    }

    /// What may still be added once an amount that belongs to `at` is taken back; never negative.
    pub(crate) fn left_without(&self, now: Wall, at: Wall, amount: f64) -> f64 {
        let counts = self.part(at) >= self.horizon(now);
        let back = if counts { amount } else { 0.0 };
        (self.limit - (self.used(now) - back).max(0.0)).max(0.0)
    }

    /// What may still be added; never negative.
    pub(crate) fn left(&self, now: Wall) -> f64 {
        self.left_without(now, now, 0.0)
    }

    /// How long until `amount` fits, if nothing else is added; nothing if it never does.
    pub(crate) fn fits_in(&self, now: Wall, amount: f64) -> Option<Duration> {
        if amount > self.limit {
            return None;
        }
        // Below nothing where the limit was lowered, or work took more than was set aside for it.
        let mut left = self.limit - self.used(now);
        if amount <= left {
            return Some(Duration::ZERO);
        }
        if !self.rolling {
            let (_, next) = self.span.stretch(now);
            return Some(Duration::from_secs(next - now.0));
        }
        let length = self.span.seconds() + self.span.seconds() / PARTS;
        let horizon = self.horizon(now);
        for (start, held) in self.parts.iter().filter(|part| part.0 >= horizon) {
            left += held;
            if amount <= left {
                return Some(Duration::from_secs((start + length).saturating_sub(now.0)));
            }
        }
        Some(Duration::from_secs(length))
    }

    /// How long until it holds nothing of now.
    pub(crate) fn resets_in(&self, now: Wall) -> Duration {
        if self.rolling {
            Duration::from_secs(self.span.seconds())
        } else {
            Duration::from_secs(self.span.stretch(now).1 - now.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2024-02-29 12:34:56, a Thursday.
    const LEAP: Wall = Wall(1_709_210_096);

    #[test]
    fn stretches_are_those_of_the_calendar() {
        let cases = [
            (Span::Minute, 1_709_210_040, 1_709_210_100),
            (Span::Hour, 1_709_208_000, 1_709_211_600),
            (Span::Day, 1_709_164_800, 1_709_251_200),
            // Monday 2024-02-26 and 2024-03-04.
            (Span::Week, 1_708_905_600, 1_709_510_400),
            (Span::Month, 1_706_745_600, 1_709_251_200),
        ];
        for (span, start, next) in cases {
            assert_eq!(span.stretch(LEAP), (start, next), "{span:?}");
        }
        // 2023-12-31 23:59:59 and a second later.
        assert_eq!(
            Span::Month.stretch(Wall(1_704_067_199)),
            (1_701_388_800, 1_704_067_200)
        );
        assert_eq!(Span::Month.stretch(Wall(1_704_067_200)).0, 1_704_067_200);
        assert_eq!(Span::Week.stretch(Wall(0)), (0, 4 * DAY));
    }

    #[test]
    fn a_calendar_window_starts_anew_and_a_rolling_one_slides() {
        let mut calendar = Window::new(Span::Minute, false, 10.0);
        let mut rolling = Window::new(Span::Minute, true, 10.0);
        let at = |s: u64| Wall(6_000 + s);
        for window in [&mut calendar, &mut rolling] {
            window.add(at(50), at(50), 8.0);
            assert_eq!(window.left(at(59)), 2.0);
        }
        assert_eq!(calendar.fits_in(at(50), 5.0), Some(Duration::from_secs(10)));
        assert_eq!(rolling.fits_in(at(50), 5.0), Some(Duration::from_secs(61)));
        assert_eq!(calendar.left(at(60)), 10.0);
        assert_eq!(rolling.left(at(60)), 2.0);
        assert_eq!(rolling.left(at(110)), 2.0);
        assert_eq!(rolling.left(at(111)), 10.0);
        assert_eq!(rolling.fits_in(at(50), 10.5), None);
    }

    #[test]
    fn what_is_taken_back_belongs_to_when_it_was_added() {
        let mut window = Window::new(Span::Minute, false, 10.0);
        window.add(Wall(30), Wall(30), 9.0);
        // In the next minute the reservation of the last one is settled: nothing of that is left.
        window.add(Wall(70), Wall(30), -4.0);
        assert_eq!(window.used(Wall(70)), 0.0);
    }

    #[test]
    fn lengths_and_names_are_those_of_the_words() {
        let all = [Span::Minute, Span::Hour, Span::Day, Span::Week, Span::Month];
        let seconds = [60, 3_600, 86_400, 604_800, 2_592_000];
        assert_eq!(all.map(Span::seconds), seconds);
        let names = ["minute", "hour", "day", "week", "month"];
        assert_eq!(all.map(Span::as_str), names);
    }

    #[test]
    fn a_window_resets_at_the_next_stretch_or_a_length_from_now() {
        let at = Wall(7_000);
        let calendar = Window::new(Span::Hour, false, 1.0);
        assert_eq!(calendar.resets_in(at), Duration::from_secs(200));
        assert_eq!(calendar.since(at), Wall(3_600));
        let rolling = Window::new(Span::Hour, true, 1.0);
        assert_eq!(rolling.resets_in(at), Duration::from_secs(3_600));
        // A part of a minute more than an hour ago, and the second that is now.
        assert_eq!(rolling.since(at), Wall(7_001 - 3_660));
    }

    #[test]
    fn a_window_keeps_no_more_than_its_parts() {
        let mut window = Window::new(Span::Hour, true, 1.0);
        (0..100_000).for_each(|at| window.add(Wall(at), Wall(at), 0.1));
        assert!(window.parts.len() as u64 <= PARTS + 2);
    }

    proptest! {
        /// Amounts in any order of their times, in windows of any kind, against a list of them.
        #[test]
        fn amounts_count_while_their_part_is_in_sight(
            amounts in prop::collection::vec((0u64..9_000, 0.1f64..5.0), 1..60), wanted in 0.1f64..40.0,
        ) {
            let now = Wall(9_000);
            for rolling in [false, true] {
                let mut window = Window::new(Span::Hour, rolling, 50.0);
                let counts = |at: u64| if rolling { at / 60 * 60 + 3_660 > now.0 } else { at >= 7_200 };
                for (at, amount) in &amounts {
                    window.add(now, Wall(*at), *amount);
                }
                let held: f64 = amounts.iter().filter(|a| counts(a.0)).map(|a| a.1).sum();
                prop_assert!((window.used(now) - held).abs() < 1e-9);
                let wait = window.fits_in(now, wanted).expect("below the limit").as_secs();
                // As soon as that and not sooner.
                prop_assert!(window.left(Wall(now.0 + wait)) >= wanted - 1e-9);
                prop_assert!(wait == 0 || window.left(Wall(now.0 + wait - 1)) < wanted);
            }
        }

        /// Against the list of everything ever added.
        #[test]
        fn a_rolling_window_never_holds_less_than_its_length(
            steps in prop::collection::vec((0u64..40, 0.0f64..5.0), 1..80),
        ) {
            let mut window = Window::new(Span::Minute, true, 50.0);
            let (mut now, mut all) = (1_000, Vec::new());
            for (pause, amount) in steps {
                now += pause;
                window.add(Wall(now), Wall(now), amount);
                all.push((now, amount));
                let within = |length: u64| -> f64 {
                    let recent = all.iter().filter(|(at, _)| now - at < length);
                    recent.map(|(_, amount)| amount).sum()
                };
                let used = window.used(Wall(now));
                prop_assert!(used >= within(60) - 1e-9 && used <= within(62) + 1e-9);
                let wait = window.fits_in(Wall(now), 3.0).expect("3 is below the limit");
                prop_assert!(window.left(Wall(now + wait.as_secs())) >= 3.0 - 1e-9);
            }
        }
    }
}
