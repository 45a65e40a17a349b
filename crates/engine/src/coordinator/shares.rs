//! How much of the machines of one kind each tenant takes, and how much of them it may have at once.
//!
//! Turns in a line bound how much is served before a query. They do not keep a machine free for it: a tenant
//! that asks ten times its share takes every place that comes free, and everyone else meets work under
//! way. So a tenant that has lately had half as much again as its fair share of a kind, or more, is held to
//! that, or to what the others leave if that is more: all but what they have had lately, and twice its square root
//! for their bursts. That is how many servers it takes for arrivals at random to find one free nearly always
//! (square-root staffing; Halfin and Whitt, "Heavy-traffic limits for queues with many exponential servers",
//! 1981). Of what others have not used lately nothing is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use moe2_model::{Seconds, TenantId, Time};

use super::line::Held;

/// Machines that do the same work in the same time: the device's model, as its agent names it.
pub(crate) type Kind = Arc<str>;

/// Time constant of "lately", s: long against a query, short against a working day.
const LATELY_S: f64 = 300.0;
/// Fair shares that a tenant may have without being held.
const TOLERATED: f64 = 1.5;
/// Places kept for others beyond what they take on average, per square root of it.
const SPARE: f64 = 2.0;
/// Who has had fewer places than this lately, and has nothing under way, does not count any more.
const FORGOTTEN: f64 = 0.01;

/// What somebody has of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Use {
    /// Work under way.
    running: u32,
    /// Exponential mean of it, at `at`.
    mean: f64,
    at: Time,
    weight: f64,
    /// Work that waits, and its device-seconds.
    waiting: u32,
    seconds: f64,
}

impl Use {
    fn new(now: Time) -> Self {
        Self {
            running: 0,
            mean: 0.0,
            at: now,
            weight: 1.0,
            waiting: 0,
            seconds: 0.0,
        }
    }

    fn lately(&self, now: Time) -> f64 {
        let running = f64::from(self.running);
        let passed = now.seconds_since(self.at).get();
        running + (self.mean - running) * (-passed / LATELY_S).exp()
    }

    fn change(&mut self, now: Time, by: i32) {
        (self.mean, self.at) = (self.lately(now), now);
        debug_assert!(by >= 0 || self.running > 0, "what ends has begun");
        self.running = self.running.saturating_add_signed(by);
    }

    fn is_forgotten(&self, now: Time) -> bool {
        self.running == 0 && self.waiting == 0 && self.lately(now) < FORGOTTEN
    }
}

/// One kind of machine.
#[derive(Debug)]
struct Shared {
    all: Use,
    tenants: BTreeMap<TenantId, Use>,
}

impl Shared {
    fn weights(&self) -> f64 {
        self.tenants.values().map(|own| own.weight).sum()
    }

    fn is_forgotten(&self, now: Time) -> bool {
        let mut tenants = self.tenants.values();
        self.all.running == 0 && tenants.all(|own| own.is_forgotten(now))
    }

    /// Places that a tenant may have without being held, per weight.
    fn fair(&self, places: usize) -> f64 {
        TOLERATED * places as f64 / self.weights()
    }

    fn hold(&self, now: Time, places: usize, (own, per_weight): (&Use, f64)) -> Option<Hold> {
        let (lately, fair) = (own.lately(now), per_weight * own.weight);
        if lately <= fair {
            return None;
        }
        let others = (self.all.lately(now) - lately).max(0.0);
        // Whoever is alone has nobody to leave anything to.
        if others < FORGOTTEN {
            return None;
        }
        let left = places as f64 - others - SPARE * others.sqrt();
        let most = left.max(fair).round().max(1.0);
        Some(Hold {
            places: most,
            full: f64::from(own.running) >= most,
            seconds: Seconds::saturating(own.seconds),
        })
    }

    fn forget(&mut self, now: Time) {
        self.tenants.retain(|_, own| !own.is_forgotten(now));
    }
}

/// What a tenant is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Hold {
    /// Most it may have under way at once.
    pub(crate) places: f64,
    /// Whether it has that many.
    pub(crate) full: bool,
    /// Device-seconds of its work that waits.
    pub(crate) seconds: Seconds,
}

impl Hold {
    /// How long work that takes `busy` has to wait for the tenant's own places, after so much of its own that
    /// waits.
    pub(crate) fn wait(&self, ahead: Seconds, busy: Seconds) -> Seconds {
        if self.full {
            // And on average half of what is under way.
            (ahead + busy * 0.5) * (1.0 / self.places)
        } else {
            Seconds::ZERO
        }
    }
}

/// All kinds.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    kinds: BTreeMap<Kind, Shared>,
}

impl Shares {
    fn shared(&mut self, now: Time, kind: &Kind) -> &mut Shared {
        if !self.kinds.contains_key(kind) {
            // Kinds have names that agents give: those of machines that are gone do not stay.
            self.kinds.retain(|_, shared| !shared.is_forgotten(now));
        }
        let shared = self.kinds.entry(kind.clone());
        shared.or_insert_with(|| Shared {
            all: Use::new(now),
            tenants: BTreeMap::new(),
        })
    }

    fn own(&mut self, now: Time, kind: &Kind, tenant: &TenantId) -> &mut Use {
        let tenants = &mut self.shared(now, kind).tenants;
        let own = tenants.entry(tenant.clone());
        own.or_insert_with(|| Use::new(now))
    }

    /// Work of a tenant is put in a line.
    pub(crate) fn waits(
        &mut self,
        now: Time,
        kind: &Kind,
        (tenant, weight): (&TenantId, f64),
        busy: Seconds,
    ) {
        let own = self.own(now, kind, tenant);
        own.weight = weight;
        own.waiting += 1;
        own.seconds += busy.get();
    }

    /// Work is taken out of a line.
    pub(crate) fn waits_no_more(
        &mut self,
        now: Time,
        kind: &Kind,
        tenant: &TenantId,
        busy: Seconds,
    ) {
        let own = self.own(now, kind, tenant);
        debug_assert!(own.waiting > 0, "what is taken out was put in");
        own.waiting = own.waiting.saturating_sub(1);
        own.seconds = match own.waiting {
            0 => 0.0,
            _ => (own.seconds - busy.get()).max(0.0),
        };
    }

    /// Work begins.
    pub(crate) fn begins(&mut self, now: Time, kind: &Kind, tenant: &TenantId) {
        self.own(now, kind, tenant).change(now, 1);
        let shared = self.shared(now, kind);
        shared.all.change(now, 1);
        shared.forget(now);
    }

    /// Work has ended.
    pub(crate) fn ends(&mut self, now: Time, kind: &Kind, tenant: &TenantId) {
        self.own(now, kind, tenant).change(now, -1);
        self.shared(now, kind).all.change(now, -1);
    }

    /// Work under way everywhere.
    pub(crate) fn running(&self) -> usize {
        let all = self
            .kinds
            .values()
            .map(|shared| shared.all.running as usize);
        all.sum()
    }

    /// Whether tenants have as much as they may of a kind that has so many places.
    pub(crate) fn full(
        &self,
        now: Time,
        (kind, places): (&str, usize),
    ) -> impl Fn(&TenantId) -> bool {
        let shared = self.kinds.get(kind);
        let shared = shared.map(|shared| (shared, shared.fair(places)));
        move |tenant| {
            let hold = shared.and_then(|(shared, fair)| {
                let own = shared.tenants.get(tenant)?;
                shared.hold(now, places, (own, fair))
            });
            hold.is_some_and(|hold| hold.full)
        }
    }

    /// Tenants whose work waits for a kind that has so many places, and that have as much of it as they may.
    pub(crate) fn held(&self, now: Time, kind: (&str, usize)) -> Held {
        let full = self.full(now, kind);
        let shared = self.kinds.get(kind.0).into_iter();
        let tenants = shared.flat_map(|shared| &shared.tenants);
        let held = tenants.filter(|(tenant, own)| own.waiting > 0 && full(tenant));
        held.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// What a tenant is held to on a kind that has so many places; nothing if it may take what is free.
    pub(crate) fn hold(
        &self,
        now: Time,
        (kind, places): (&str, usize),
        tenant: &TenantId,
    ) -> Option<Hold> {
        let shared = self.kinds.get(kind)?;
        let own = shared.tenants.get(tenant)?;
        shared.hold(now, places, (own, shared.fair(places)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACES: usize = 12;

    fn tenant(n: usize) -> TenantId {
        TenantId::new(&format!("t{n}")).expect("a valid name")
    }

    fn at(seconds: f64) -> Time {
        Time::from_micros((seconds * 1e6) as u64)
    }

    fn kind() -> Kind {
        Kind::from("a")
    }

    /// Tenants that have had so many places each for an hour.
    fn had(running: &[u32]) -> Shares {
        let mut shares = Shares::default();
        for (n, running) in running.iter().enumerate() {
            (0..*running).for_each(|_| shares.begins(Time::ZERO, &kind(), &tenant(n)));
        }
        shares
    }

    fn hold(shares: &Shares, seconds: f64, n: usize) -> Option<Hold> {
        shares.hold(at(seconds), ("a", PLACES), &tenant(n))
    }

    #[test]
    fn whoever_is_alone_may_have_everything() {
        let shares = had(&[12]);
        assert_eq!(hold(&shares, 3_600.0, 0), None, "all is its fair share");
    }

    #[test]
    fn whoever_has_too_much_leaves_what_others_had_and_a_spare_for_their_bursts() {
        let shares = had(&[10, 1]);
        let held = hold(&shares, 3_600.0, 0).expect("10 of 12 are more than 1.5 halves");
        // 12 − 1 − 2·√1.
        assert!((held.places - 9.0).abs() < 1e-9 && held.full, "{held:?}");
        let shares = had(&[8, 1, 1, 2]);
        let held = hold(&shares, 3_600.0, 0).expect("8 of 12 are more than 1.5 quarters");
        // 12 − 4 − 2·√4 is 4, and a quarter and a half are 4.5.
        assert!((held.places - 5.0).abs() < 1e-9 && held.full, "{held:?}");
        (1..4).for_each(|n| assert_eq!(hold(&shares, 3_600.0, n), None));
    }

    #[test]
    fn a_burst_is_not_held_and_a_flood_is() {
        let mut shares = had(&[0, 2, 2]);
        (0..8).for_each(|_| shares.begins(at(3_600.0), &kind(), &tenant(0)));
        assert_eq!(hold(&shares, 3_601.0, 0), None, "it has had nothing lately");
        assert!(hold(&shares, 7_200.0, 0).is_some_and(|held| held.full));
    }

    #[test]
    fn what_others_had_long_ago_is_not_kept_for_them() {
        let mut shares = had(&[3, 4, 4]);
        for n in [1, 2] {
            (0..4).for_each(|_| shares.ends(at(3_600.0), &kind(), &tenant(n)));
        }
        (0..8).for_each(|_| shares.begins(at(3_600.0), &kind(), &tenant(0)));
        // They count as long as they are remembered.
        assert!(hold(&shares, 3_900.0, 0).is_some_and(|held| held.places < 11.0));
        shares.begins(at(7_200.0), &kind(), &tenant(0));
        assert_eq!(hold(&shares, 7_200.0, 0), None);
    }

    #[test]
    fn a_weight_is_a_larger_fair_share() {
        let mut shares = had(&[7, 4]);
        assert!(
            hold(&shares, 3_600.0, 0).is_none(),
            "7 of 12 are within 1.5 halves"
        );
        let busy = Seconds::saturating(1.0);
        shares.waits(at(3_600.0), &kind(), (&tenant(1), 4.0), busy);
        assert!(
            hold(&shares, 3_600.0, 0).is_some(),
            "a fifth of 12 is its share"
        );
    }

    #[test]
    fn who_is_held_waits_for_its_own_places() {
        let mut shares = had(&[8, 1, 1, 2]);
        let busy = Seconds::saturating(3.0);
        (0..5).for_each(|_| shares.waits(at(3_600.0), &kind(), (&tenant(0), 1.0), busy));
        let wait = |shares: &Shares| {
            hold(shares, 3_600.0, 0).map(|held| held.wait(held.seconds, busy).get())
        };
        // 5 · 3 s and half of one's own 3 s, on 5 places.
        assert!((wait(&shares).expect("held") - 3.3).abs() < 1e-9);
        for _ in 0..4 {
            shares.ends(at(3_600.0), &kind(), &tenant(0));
        }
        assert_eq!(wait(&shares), Some(0.0), "it has a place free");
    }

    proptest! {
        /// Held or not, everyone has a place of each kind; who is held leaves the others room; and who
        /// is not has had no more than 1.5 fair shares.
        #[test]
        fn nobody_is_starved_and_nobody_is_left_without_room(
            steps in prop::collection::vec((0..4_usize, any::<bool>(), 0.0..200.0_f64), 1..200),
        ) {
            let mut shares = Shares::default();
            let (mut now, mut running) = (0.0, [0_u32; 4]);
            for (n, begins, passes) in steps {
                now += passes;
                if begins && running.iter().sum::<u32>() < PLACES as u32 {
                    shares.begins(at(now), &kind(), &tenant(n));
                    running[n] += 1;
                } else if running[n] > 0 {
                    shares.ends(at(now), &kind(), &tenant(n));
                    running[n] -= 1;
                }
            }
            prop_assert_eq!(shares.running(), running.iter().sum::<u32>() as usize);
            for (n, running) in running.into_iter().enumerate() {
                let Some(held) = hold(&shares, now, n) else { continue };
                prop_assert!(held.places >= 1.0 && held.places <= PLACES as f64);
                prop_assert_eq!(held.full, f64::from(running) >= held.places);
                let others = shares.kinds["a"].all.lately(at(now)) - shares.kinds["a"].tenants[&tenant(n)].lately(at(now));
                let fair = 1.5 * PLACES as f64 / shares.kinds["a"].weights();
                prop_assert!(held.places <= fair.max(1.0) + 0.5 || held.places + others <= PLACES as f64 + 0.5);
            }
        }
    }
}
