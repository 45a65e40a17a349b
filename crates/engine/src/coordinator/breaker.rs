//! A circuit breaker for each expert: who fails again and again is left alone for a while.
//!
//! Three failures in a row of the expert's own making open it: nothing new is sent there, what waits goes to
//! others. After a pause one piece of work is sent as a trial; its success closes the breaker, its failure opens it
//! for twice as long (Nygard, "Release It!", 2007). What lies in the request or in the machine's load does not
//! count, and a query that has failed elsewhere before does not either: a prompt that kills every worker it comes
//! to must not cost its tenant's neighbours the fleet.

use std::time::Duration;

use moe2_model::Time;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Of one expert.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaker {
    /// In a row, since the last answer.
    failures: u32,
    /// The pause that begins when it opens next; nothing before the first.
    pause: Option<Duration>,
    until: Option<Time>,
    /// When a failure was counted last.
    last: Option<Time>,
}

impl Breaker {
    /// Whether the expert may be sent work that would be its only piece (`alone`), or one more.
    pub(crate) fn admits(&self, now: Time, alone: bool) -> bool {
        self.is_closed() || self.until.is_some_and(|until| alone && now >= until)
    }

    /// Whether the expert may be sent work whatever it has already.
    pub(crate) fn is_closed(&self) -> bool {
        self.until.is_none()
    }

    /// How long it stays open.
    pub(crate) fn open_for(&self, now: Time) -> Option<Duration> {
        let left = self.until?.since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Work that was sent at a time came to nothing by the expert's own fault. If that opens it, for how long.
    pub(crate) fn failed(&mut self, now: Time, sent: Time) -> Option<Duration> {
        // One crash ends all that was under way, and counts once.
        if self.last.is_some_and(|last| sent < last) {
            return None;
        }
        self.last = Some(now);
        self.failures += 1;
        // The trial has failed, or it was not open.
        if self.until.is_none() && self.failures < FAILURES {
            return None;
        }
        let pause = self.pause.unwrap_or(FIRST_PAUSE);
        self.pause = Some((pause * 2).min(LONGEST_PAUSE));
        self.until = Some(now + pause);
        Some(pause)
    }

    /// The expert answered.
    pub(crate) fn worked(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1_000)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.failed(at(0), at(0)), None);
        assert_eq!(breaker.failed(at(0), at(0)), None);
        assert_eq!(breaker.failed(at(0), at(0)), Some(FIRST_PAUSE));
        breaker
    }

    #[test]
    fn the_third_failure_in_a_row_opens_it() {
        let breaker = opened();
        assert!(!breaker.admits(at(999), true));
        assert_eq!(breaker.open_for(at(400)), Some(Duration::from_millis(600)));
        let mut shaky = Breaker::default();
        for _ in 0..10 {
            assert_eq!(shaky.failed(at(0), at(0)), None);
            assert_eq!(shaky.failed(at(0), at(0)), None);
            shaky.worked();
        }
        assert!(shaky.admits(at(0), false));
    }

    #[test]
    fn after_its_pause_one_piece_of_work_is_a_trial() {
        let mut breaker = opened();
        assert!(breaker.admits(at(1_000), true) && !breaker.admits(at(1_000), false));
        assert_eq!(breaker.failed(at(1_000), at(1_000)), Some(FIRST_PAUSE * 2));
        assert!(!breaker.admits(at(2_999), true) && breaker.admits(at(3_000), true));
        breaker.worked();
        assert!(breaker.admits(at(3_000), false));
        assert_eq!(breaker.failed(at(3_000), at(3_000)), None, "it begins anew");
    }

    #[test]
    fn what_was_under_way_at_a_failure_is_the_same_failure() {
        let mut breaker = Breaker::default();
        for _ in 0..8 {
            assert_eq!(breaker.failed(at(100), at(50)), None);
        }
        assert_eq!(breaker.failed(at(200), at(150)), None);
        assert_eq!(breaker.failed(at(300), at(250)), Some(FIRST_PAUSE));
        // Sent before, and not the trial.
        assert_eq!(breaker.failed(at(1_500), at(299)), None);
        assert!(breaker.admits(at(1_500), true));
    }

    proptest! {
        #[test]
        fn no_pause_is_longer_than_a_minute_and_an_answer_always_closes_it(
            steps in proptest::collection::vec((0_u64..100_000, any::<bool>()), 0..60)
        ) {
            let (mut breaker, mut now) = (Breaker::default(), 0);
            for (gap, works) in steps {
                now += gap;
                if works {
                    breaker.worked();
                    prop_assert!(breaker.admits(at(now), false));
                } else if let Some(pause) = breaker.failed(at(now), at(now)) {
                    prop_assert!(pause <= LONGEST_PAUSE);
                    prop_assert!(!breaker.admits(at(now), true));
                    prop_assert!(breaker.admits(at(now) + pause, true));
                }
            }
        }
    }
}
