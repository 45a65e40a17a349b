//! All work that waits for a place, wherever it does, and in which order it is looked at when a node comes free.

use std::collections::{BTreeMap, BTreeSet};

use moe2_model::{DispatchId, NodeId, QueryId, TenantId};

/// Where a dispatch waits, and for whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wait {
    pub(crate) node: NodeId,
    pub(crate) query: QueryId,
    pub(crate) tenant: TenantId,
}

/// Dispatches that wait for a place at their node.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    waits: BTreeMap<DispatchId, Wait>,
    /// The same by tenant, the oldest first.
    tenants: BTreeMap<TenantId, BTreeSet<DispatchId>>,
}

impl Waits {
    pub(crate) fn insert(&mut self, dispatch: DispatchId, wait: Wait) {
        let own = self.tenants.entry(wait.tenant.clone()).or_default();
        own.insert(dispatch);
        self.waits.insert(dispatch, wait);
    }

    pub(crate) fn remove(&mut self, dispatch: DispatchId) -> Option<Wait> {
        let wait = self.waits.remove(&dispatch)?;
        if let Some(own) = self.tenants.get_mut(&wait.tenant) {
            own.remove(&dispatch);
            if own.is_empty() {
                self.tenants.remove(&wait.tenant);
            }
        }
        Some(wait)
    }

    pub(crate) fn get(&self, dispatch: DispatchId) -> Option<&Wait> {
        self.waits.get(&dispatch)
    }

    pub(crate) fn len(&self) -> usize {
        self.waits.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// At most so many of them, in turns between tenants: those with the least `load` first, of each the
    /// oldest; then the second of each.
    pub(crate) fn in_turn(&self, most: usize, load: impl Fn(&TenantId) -> f64) -> Vec<DispatchId> {
        let lanes = self.tenants.iter().map(|(tenant, own)| (load(tenant), own));
        let mut lanes: Vec<_> = lanes.map(|(load, own)| (load, own.iter())).collect();
        lanes.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let mut turns = Vec::with_capacity(most.min(self.len()));
        while turns.len() < most && !lanes.is_empty() {
            lanes.retain_mut(|(_, lane)| {
                lane.next().is_some_and(|next| {
                    turns.push(*next);
                    true
                })
            });
        }
        turns.truncate(most);
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a valid name")
    }

    fn wait(name: &str, query: u64) -> Wait {
        Wait {
            node: NodeId::new("n").expect("a valid name"),
            query: QueryId(query),
            tenant: tenant(name),
        }
    }

    fn waits() -> Waits {
        let mut waits = Waits::default();
        for n in [5, 1, 3] {
            waits.insert(DispatchId(n), wait("many", n));
        }
        waits.insert(DispatchId(9), wait("few", 9));
        waits
    }

    fn turns(waits: &Waits, most: usize) -> Vec<u64> {
        let load = |of: &TenantId| if *of == tenant("many") { 3.0 } else { 1.0 };
        let turns = waits.in_turn(most, load);
        turns.into_iter().map(|dispatch| dispatch.0).collect()
    }

    #[test]
    fn whoever_has_least_is_first_and_of_each_the_oldest() {
        let waits = waits();
        assert_eq!(turns(&waits, 16), [9, 1, 3, 5]);
        assert_eq!(turns(&waits, 2), [9, 1]);
        assert_eq!(turns(&waits, 0), [0; 0]);
    }

    #[test]
    fn what_is_taken_out_is_gone_with_its_tenant() {
        let mut waits = waits();
        assert_eq!(
            waits.remove(DispatchId(9)).map(|w| w.query),
            Some(QueryId(9))
        );
        assert_eq!(waits.remove(DispatchId(9)), None);
        assert_eq!(turns(&waits, 16), [1, 3, 5]);
        assert_eq!((waits.len(), waits.tenants.len()), (3, 1));
    }
}
