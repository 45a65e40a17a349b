//! All work that waits for a place, wherever it does, and in which order it is looked at when a node comes free.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use moe2_model::{DispatchId, ExpertId, QueryId, Seconds, TenantId, Time};

use super::shares::Kind;

/// Where a dispatch waits, and for whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wait {
    pub(crate) expert: ExpertId,
    pub(crate) query: QueryId,
    pub(crate) tenant: TenantId,
    /// What machine it waits for, and for how long that is forecast to be at work on it.
    pub(crate) kind: Kind,
    pub(crate) busy: Seconds,
    /// When it has to begin to be in time.
    pub(crate) begin_by: Time,
}

/// Dispatches that wait for a place at their node.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    waits: BTreeMap<DispatchId, Wait>,
    /// The same by tenant, the most pressing first.
    tenants: BTreeMap<TenantId, BTreeSet<(Time, DispatchId)>>,
}

impl Waits {
    pub(crate) fn insert(&mut self, dispatch: DispatchId, wait: Wait) {
        let own = self.tenants.entry(wait.tenant.clone()).or_default();
        own.insert((wait.begin_by, dispatch));
        self.waits.insert(dispatch, wait);
    }

    pub(crate) fn remove(&mut self, dispatch: DispatchId) -> Option<Wait> {
        let wait = self.waits.remove(&dispatch)?;
        if let Some(own) = self.tenants.get_mut(&wait.tenant) {
            own.remove(&(wait.begin_by, dispatch));
            if own.is_empty() {
                self.tenants.remove(&wait.tenant);
            }
        }
        Some(wait)
    }

    pub(crate) fn get(&self, dispatch: DispatchId) -> Option<&Wait> {
        self.waits.get(&dispatch)
    }

    /// All of it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DispatchId, &Wait)> {
        self.waits.iter().map(|(dispatch, wait)| (*dispatch, wait))
    }

    pub(crate) fn len(&self) -> usize {
        self.waits.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Device-seconds of the same tenant's work for the same kind of machine that are more pressing than a piece of it.
    /// Looks at no more than `most` of them.
    pub(crate) fn ahead(&self, now: Time, dispatch: DispatchId, most: usize) -> Seconds {
        let own = self.waits.get(&dispatch).and_then(|wait| {
            let own = self.tenants.get(&wait.tenant)?;
            Some((wait, own))
        });
        let Some((wait, own)) = own else {
            return Seconds::ZERO;
        };
        let (at, border) = ((wait.begin_by, dispatch), (now, DispatchId(0)));
        let seconds = |(_, other): &(Time, DispatchId)| {
            let other = self.waits.get(other)?;
            (other.kind == wait.kind).then_some(other.busy)
        };
        if at >= border {
            own.range(border..at).take(most).filter_map(seconds).sum()
        } else {
            let late = own.range((Bound::Excluded(at), Bound::Excluded(border)));
            let before = own.range(border..).chain(late);
            before.take(most).filter_map(seconds).sum()
        }
    }

    /// At most so many, of the tenants that are admitted: first what can still be in time, by when it has to
    /// begin (earliest deadline first; Liu and Layland, 1973), then what is late anyhow, the least late first.
    pub(crate) fn by_urgency(
        &self,
        now: Time,
        most: usize,
        admits: impl Fn(&TenantId) -> bool,
    ) -> Vec<DispatchId> {
        let lanes = self.tenants.iter().filter(|(tenant, _)| admits(tenant));
        let lanes: Vec<_> = lanes.map(|(_, own)| own).collect();
        let border = (now, DispatchId(0));
        let in_time = lanes.iter().map(|own| own.range(border..)).collect();
        let mut urgent = merged(in_time, most, |a, b| a < b);
        let late = lanes.iter().map(|own| own.range(..border).rev()).collect();
        urgent.extend(merged(late, most - urgent.len(), |a, b| a > b));
        urgent
    }
}

/// The first `most` of sorted lanes, in the same order.
fn merged<'a>(
    lanes: Vec<impl Iterator<Item = &'a (Time, DispatchId)>>,
    most: usize,
    before: impl Fn(&(Time, DispatchId), &(Time, DispatchId)) -> bool,
) -> Vec<DispatchId> {
    let mut lanes: Vec<_> = lanes.into_iter().map(Iterator::peekable).collect();
    let mut merged = Vec::new();
    while merged.len() < most {
        let heads = lanes.iter_mut().filter_map(|lane| {
            let head = *lane.peek()?;
            Some((head, lane))
        });
        let first = heads.reduce(|a, b| if before(b.0, a.0) { b } else { a });
        let Some(((_, dispatch), lane)) = first else {
            break;
        };
        merged.push(*dispatch);
        lane.next();
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{ExpertName, NodeId};
    use proptest::prelude::*;

    fn tenant(n: u64) -> TenantId {
        TenantId::new(&format!("t{n}")).expect("a valid name")
    }

    fn wait(n: u64, begin_by: u64) -> Wait {
        Wait {
            expert: ExpertId {
                name: ExpertName::new("m").expect("a valid name"),
                node: NodeId::new("n").expect("a valid name"),
            },
            query: QueryId(n),
            tenant: tenant(n),
            kind: Kind::from("k"),
            busy: Seconds::ZERO,
            begin_by: Time::from_micros(begin_by),
        }
    }

    fn urgent(waits: &Waits, now: u64, most: usize) -> Vec<u64> {
        let admits = |of: &TenantId| *of != tenant(9);
        let urgent = waits.by_urgency(Time::from_micros(now), most, admits);
        urgent.into_iter().map(|dispatch| dispatch.0).collect()
    }

    #[test]
    fn what_can_still_be_in_time_is_first_and_then_what_is_least_late() {
        let mut waits = Waits::default();
        for (dispatch, of, begin_by) in [(1, 0, 30), (2, 0, 10), (3, 1, 20), (4, 1, 40), (5, 9, 25)]
        {
            waits.insert(DispatchId(dispatch), wait(of, begin_by));
        }
        assert_eq!(urgent(&waits, 0, 16), [2, 3, 1, 4]);
        assert_eq!(urgent(&waits, 20, 16), [3, 1, 4, 2]);
        assert_eq!(urgent(&waits, 35, 16), [4, 1, 3, 2]);
        assert_eq!(urgent(&waits, 20, 2), [3, 1]);
        assert_eq!(urgent(&waits, 20, 0), [0; 0]);
    }

    #[test]
    fn what_is_taken_out_is_gone_with_its_tenant() {
        let mut waits = Waits::default();
        waits.insert(DispatchId(1), wait(0, 30));
        assert_eq!(
            waits.remove(DispatchId(1)).map(|w| w.query),
            Some(QueryId(0))
        );
        assert_eq!(waits.remove(DispatchId(1)), None);
        assert!(waits.is_empty() && waits.tenants.is_empty());
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_sorting_everything(
            own in prop::collection::vec((0..5_u64, 0..50_u64), 0..40),
            now in 0..50_u64,
            most in 0..20_usize,
        ) {
            let mut waits = Waits::default();
            for (dispatch, (of, begin_by)) in own.iter().enumerate() {
                waits.insert(DispatchId(dispatch as u64), wait(*of, *begin_by));
            }
            let mut all: Vec<(u64, u64)> = own.iter().zip(0..).map(|((_, by), n)| (*by, n)).collect();
            all.sort_unstable();
            let (mut late, in_time): (Vec<_>, Vec<_>) = all.into_iter().partition(|(by, _)| *by < now);
            late.reverse();
            let sorted = in_time.into_iter().chain(late).map(|(_, n)| n).take(most);
            prop_assert_eq!(urgent(&waits, now, most), sorted.collect::<Vec<_>>());
        }
    }
}
