//! How many are there of each kind, and no more than may be.
//!
//! A limit on all together lets one who comes often take every place; this one is for each address, or each node.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts, up to a limit for each key. Clones count together.
#[derive(Debug, Clone)]
pub struct Crowd<K> {
    there: Arc<Mutex<HashMap<K, usize>>>,
    most: usize,
}

/// One who is there until this is dropped.
#[derive(Debug)]
pub struct Present<K: Eq + Hash> {
    key: K,
    crowd: Crowd<K>,
}

impl<K> Crowd<K> {
    /// At most so many of each.
    #[must_use]
    pub fn of(most: usize) -> Self {
        Self {
            there: Arc::default(),
            most,
        }
    }

    fn there(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Nothing that holds it can panic half-way through a change.
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Crowd<K> {
    /// One more with this key; `None` if there are as many as may be.
    #[must_use]
    pub fn enter(&self, key: K) -> Option<Present<K>> {
        let mut there = self.there();
        let count = there.entry(key.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(there);
        Some(Present {
            key,
            crowd: self.clone(),
        })
    }
}

impl<K: Eq + Hash> Drop for Present<K> {
    fn drop(&mut self) {
        let mut there = self.crowd.there();
        if let Some(count) = there.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                there.remove(&self.key);
            }
        }
    }
}

/// Who can use an address can use its whole network in IPv6, where one customer has 64 bits of them.
pub(crate) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_places_and_gets_them_back() {
        let crowd = Crowd::of(2);
        let held: Vec<_> = (0..2).filter_map(|_| crowd.enter("a")).collect();
        assert_eq!(held.len(), 2);
        assert!(crowd.enter("a").is_none());
        assert!(crowd.clone().enter("b").is_some());
        drop(held);
        assert!(crowd.enter("a").is_some());
        assert!(crowd.there().is_empty(), "who has gone is forgotten");
        assert!(Crowd::of(0).enter("a").is_none());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_a_mapped_address_as_what_it_maps() {
        let near = |text: &str| neighbourhood(text.parse().expect("an address"));
        assert_eq!(near("2001:db8:1:2::1"), near("2001:db8:1:2:ffff::9"));
        assert_ne!(near("2001:db8:1:2::1"), near("2001:db8:1:3::1"));
        assert_eq!(near("::ffff:192.0.2.7"), near("192.0.2.7"));
        assert_ne!(near("192.0.2.7"), near("192.0.2.8"));
    }
}
