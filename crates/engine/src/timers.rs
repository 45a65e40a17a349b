//! Deadlines of the engine, kept in one ordered set.
//!
//! A timer is a key; arming the same key again moves it, so nothing fires twice. The driver asks
//! [`Timers::next`] how long it may sleep and calls back; no thread or task per timer exists. A heap
//! with tombstones was not taken: moving a deadline is as common as firing one here.

use std::collections::{BTreeMap, BTreeSet};

use moe2_model::Time;

/// A set of keyed deadlines.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_time: BTreeSet<(Time, K)>,
    by_key: BTreeMap<K, Time>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self {
            by_time: BTreeSet::new(),
            by_key: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets or moves the deadline of `key`.
    pub(crate) fn arm(&mut self, key: K, at: Time) {
        if let Some(old) = self.by_key.insert(key, at) {
            self.by_time.remove(&(old, key));
        }
        self.by_time.insert((at, key));
    }

    /// Forgets `key`.
    pub(crate) fn disarm(&mut self, key: K) {
        if let Some(old) = self.by_key.remove(&key) {
            self.by_time.remove(&(old, key));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one key whose deadline is not after `now`, with that deadline.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<(Time, K)> {
        let (at, key) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.disarm(key);
        Some((at, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_timer_fires_once_and_in_order() {
        let mut timers = Timers::default();
        timers.arm('a', Time::from_micros(5));
        timers.arm('b', Time::from_micros(7));
        timers.arm('a', Time::from_micros(9));
        assert_eq!(timers.next(), Some(Time::from_micros(7)));
        assert_eq!(
            timers.pop_due(Time::from_micros(8)),
            Some((Time::from_micros(7), 'b'))
        );
        assert_eq!(timers.pop_due(Time::from_micros(8)), None);
        assert_eq!(
            timers.pop_due(Time::from_micros(9)),
            Some((Time::from_micros(9), 'a'))
        );
        assert_eq!(timers.next(), None);
    }
}
