//! Lines of a log that strangers cause: so many at once, then one a second, with how many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines at once.
const BURST: f64 = 20.0;
/// Lines a second after that.
const PER_SECOND: f64 = 1.0;

/// Says when a line may be written.
#[derive(Debug)]
pub(crate) struct Sparing(Mutex<State>);

#[derive(Debug)]
struct State {
    left: f64,
    at: Instant,
    unsaid: u64,
}

impl Sparing {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            left: BURST,
            at: now,
            unsaid: 0,
        }))
    }

    /// Whether a line may be written now, and how many were not since the last.
    pub(crate) fn line(&self, now: Instant) -> Option<u64> {
        // Nothing that holds it can panic half-way through a change.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(state.at).as_secs_f64();
        state.at = now;
        state.left = (state.left + since * PER_SECOND).min(BURST);
        if state.left < 1.0 {
            state.unsaid += 1;
            return None;
        }
        state.left -= 1.0;
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn after_a_burst_there_is_a_line_a_second_and_the_others_are_counted() {
        let begin = Instant::now();
        let sparing = Sparing::new(begin);
        let at_once = (0..100).filter_map(|_| sparing.line(begin)).count();
        assert_eq!(at_once, 20);
        let later = |quarters: u64| begin + Duration::from_millis(250 * quarters);
        let next: Vec<u64> = (1..=8).filter_map(|t| sparing.line(later(t))).collect();
        assert_eq!(next, [80 + 3, 3]);
        let quiet = later(1_000);
        let again = (0..100).filter_map(|_| sparing.line(quiet)).count();
        assert_eq!(again, 20, "a quiet while is no credit for more");
    }
}
