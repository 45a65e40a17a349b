//! Joules per tenant: reserved before dispatch, settled after.
//!
//! Reserving the upper forecast first is what keeps a window from being overrun by many queries
//! that each looked affordable when they were admitted. Here the books are kept in memory and no
//! window is enforced yet; what is reserved, what was spent and what is still owed by cancelled work
//! is exact, and conserved by every sequence of calls.

use std::collections::BTreeMap;

use moe2_model::{DispatchId, Joules, TenantId};

/// What one tenant owes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Account {
    /// Settled energy.
    pub spent: Joules,
    /// Upper bounds of work under way.
    pub reserved: Joules,
}

/// All tenants' books.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<TenantId, Account>,
    open: BTreeMap<DispatchId, (TenantId, Joules)>,
}

impl Ledger {
    /// Sets an upper bound aside for a dispatch. Each dispatch is reserved once.
    pub(crate) fn reserve(&mut self, dispatch: DispatchId, tenant: &TenantId, bound: Joules) {
        let previous = self.open.insert(dispatch, (tenant.clone(), bound));
        debug_assert!(previous.is_none(), "dispatch {dispatch} is reserved once");
        self.accounts.entry(tenant.clone()).or_default().reserved += bound;
    }

    /// Replaces a dispatch's reservation by what it used. Settling twice is ignored, so a repeated
    /// report bills nobody twice.
    pub(crate) fn settle(&mut self, dispatch: DispatchId, used: Joules) {
        let Some((tenant, bound)) = self.open.remove(&dispatch) else {
            return;
        };
        let account = self.accounts.entry(tenant).or_default();
        account.reserved = account.reserved - bound;
        account.spent += used;
    }

    /// What a tenant owes.
    pub(crate) fn account(&self, tenant: &TenantId) -> Account {
        self.accounts.get(tenant).copied().unwrap_or_default()
    }

    /// Reservations still open.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn settled_energy_is_the_sum_of_first_settlements_and_nothing_stays_reserved(
            steps in prop::collection::vec((0u64..8, 0.0f64..9.0, any::<bool>()), 0..60),
        ) {
            let tenant = TenantId::new("t").expect("a valid name");
            let mut ledger = Ledger::default();
            let mut open = BTreeMap::new();
            let mut spent = 0.0;
            for (n, joules, reserve) in steps {
                let dispatch = DispatchId(n);
                let amount = Joules::saturating(joules);
                if reserve {
                    open.entry(dispatch).or_insert_with(|| {
                        ledger.reserve(dispatch, &tenant, amount);
                    });
                } else {
                    if open.remove(&dispatch).is_some() {
                        spent += joules;
                    }
                    ledger.settle(dispatch, amount);
                }
            }
            for dispatch in open.keys() {
                ledger.settle(*dispatch, Joules::ZERO);
            }
            let account = ledger.account(&tenant);
            prop_assert!((account.spent.get() - spent).abs() < 1e-9);
            prop_assert!(account.reserved.get() < 1e-9);
            prop_assert_eq!(ledger.open(), 0);
        }
    }
}
