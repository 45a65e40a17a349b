//! How far a node's calendar is off, and when to speak of it.
//!
//! Nothing is timed by it: each side measures spans on its own. But certificates are judged by calendars, and logs of
//! two machines are read side by side.

use std::time::Duration;

use moe2_model::Time;

/// Differences smaller than this are no news: a heartbeat may take that long on its way.
const NEWS_S: f64 = 1.0;
/// Between two times that a node's calendar is spoken of: an agent may say what it likes.
const PAUSE: Duration = Duration::from_mins(1);

/// What is known of a node's calendar.
#[derive(Debug, Default)]
pub(crate) struct Calendar {
    ahead: Option<f64>,
    told: Option<(Time, f64)>,
}

impl Calendar {
    /// Seconds ahead of ours by the last heartbeat; below zero if behind.
    pub(crate) const fn ahead(&self) -> Option<f64> {
        self.ahead
    }

    /// A heartbeat says how far ahead it is. Whether people are to hear of it.
    pub(crate) fn note(&mut self, now: Time, ahead: f64) -> bool {
        self.ahead = Some(ahead);
        let news = self
            .told
            .is_none_or(|(at, before)| now.since(at) >= PAUSE && (ahead - before).abs() >= NEWS_S);
        if news {
            self.told = Some((now, ahead));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_change_is_told_once_and_not_more_often_than_once_a_minute() {
        let mut calendar = Calendar::default();
        assert!(calendar.note(at(1), -0.01));
        assert!(!calendar.note(at(2), 3_600.0), "too soon");
        assert_eq!(calendar.ahead(), Some(3_600.0));
        assert!(calendar.note(at(61), 3_600.0));
        assert!(!calendar.note(at(200), 3_600.4), "no news");
        assert!(calendar.note(at(201), 0.2));
    }
}
