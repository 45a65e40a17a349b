//! The judge's books: what was set aside for each dispatch, what it used, and what windows hold of it.

use std::collections::{BTreeMap, BTreeSet};

use moe2_engine::coordinator::{Account, Settled};
use moe2_model::{DispatchId, TenantId};

use crate::disk::Disk;

/// What a dispatch takes from its tenant's window.
#[derive(Debug)]
struct Charge {
    tenant: TenantId,
    minute: u64,
    bound: f64,
    /// The bound until it is known what was used.
    joules: f64,
    /// It was sent to an agent.
    left: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Joules that each tenant has for a minute.
    window: Option<f64>,
    charges: BTreeMap<DispatchId, Charge>,
    /// Reserved by this coordinator and not settled yet.
    reserved: BTreeSet<DispatchId>,
    settled: BTreeSet<DispatchId>,
    /// What this coordinator has settled.
    spent: BTreeMap<TenantId, f64>,
    /// The most that anything was: liars name amounts beside which others are lost.
    most: f64,
}

/// Sums in another order may differ by so much, where so many joules were in them once.
fn about(joules: f64) -> f64 {
    1e-6 + joules.abs() * 1e-11
}

impl Ledger {
    pub(crate) fn new(window: Option<f64>) -> Self {
        Self {
            window,
            ..Self::default()
        }
    }

    /// Set aside for a dispatch. With it the tenant's window holds no more than it may, but for what
    /// dispatches used beyond their own bounds. What is wrong, if anything is.
    pub(crate) fn reserve(
        &mut self,
        dispatch: DispatchId,
        tenant: &TenantId,
        bound: f64,
        minute: u64,
    ) -> Option<String> {
        self.most = self.most.max(bound);
        let charge = Charge {
            tenant: tenant.clone(),
            minute,
            bound,
            joules: bound,
            left: false,
        };
        let fresh = self.charges.insert(dispatch, charge).is_none();
        if !self.reserved.insert(dispatch) || !fresh {
            return Some(format!("dispatch {dispatch} is reserved twice"));
        }
        let limit = self.window?;
        let (held, beyond) = self.held(tenant, minute);
        (held > limit + beyond + about(self.most))
            .then(|| format!("{tenant} holds {held} J of {limit} J in minute {minute}"))
    }

    /// Whether so many joules are what is left of sums that came to nothing.
    pub(crate) fn is_nothing(&self, joules: f64) -> bool {
        joules < about(self.most)
    }

    /// What a window holds, and what of it was used beyond what was set aside.
    fn held(&self, tenant: &TenantId, minute: u64) -> (f64, f64) {
        let charges = self.charges.values();
        let own = charges.filter(|c| c.minute == minute && c.tenant == *tenant);
        own.fold((0.0, 0.0), |(held, beyond), c| {
            (held + c.joules, beyond + (c.joules - c.bound).max(0.0))
        })
    }

    /// A dispatch leaves for its agent: its mark must cover it and all that is under way of its tenant.
    pub(crate) fn left(&mut self, dispatch: DispatchId, disk: &Disk) -> Option<String> {
        let charge = self.charges.get_mut(&dispatch)?;
        charge.left = true;
        let tenant = charge.tenant.clone();
        let under_way = self.charges.iter().filter(|(id, charge)| {
            charge.left && charge.tenant == tenant && self.reserved.contains(id)
        });
        let under_way: f64 = under_way.map(|(_, charge)| charge.bound).sum();
        let mark = disk.mark(&tenant);
        (under_way > mark + about(self.most))
            .then(|| format!("{under_way} J of {tenant} are under way, {mark} J are marked"))
    }

    /// It is known what a dispatch used.
    pub(crate) fn used(&mut self, dispatch: DispatchId, joules: f64) {
        self.most = self.most.max(joules);
        if let Some(charge) = self.charges.get_mut(&dispatch) {
            charge.joules = joules;
        }
    }

    /// Nothing will be known of a dispatch, and nothing is charged.
    pub(crate) fn lost(&mut self, dispatch: DispatchId) {
        self.used(dispatch, 0.0);
    }

    pub(crate) fn release(&mut self, dispatch: DispatchId) -> bool {
        self.used(dispatch, 0.0);
        self.reserved.remove(&dispatch)
    }

    pub(crate) fn is_settled(&self, dispatch: DispatchId) -> bool {
        self.settled.contains(&dispatch)
    }

    /// What is wrong with a settlement, if anything is.
    pub(crate) fn settle(&mut self, settled: &Settled) -> Option<String> {
        let dispatch = settled.dispatch;
        let once = self.reserved.remove(&dispatch) && self.settled.insert(dispatch);
        let Some(charge) = self.charges.get(&dispatch).filter(|_| once) else {
            return Some(format!("dispatch {dispatch} is settled and was not open"));
        };
        let (bound, energy) = (settled.bound.get(), settled.energy.get());
        *self.spent.entry(charge.tenant.clone()).or_default() += energy;
        let same = charge.tenant == settled.tenant && charge.bound == bound;
        (!same || charge.joules != energy).then(|| {
            let Charge { joules, .. } = charge;
            format!("dispatch {dispatch} is settled with {energy} J of {bound} J, {joules} J were reported")
        })
    }

    /// How the engine's account of a tenant differs from ours.
    pub(crate) fn differs(&self, tenant: &TenantId, account: Account) -> Option<String> {
        let own = self.reserved.iter().filter_map(|d| self.charges.get(d));
        let own = own.filter(|charge| charge.tenant == *tenant);
        let reserved: f64 = own.map(|charge| charge.bound).sum();
        let spent = self.spent.get(tenant).copied().unwrap_or(0.0);
        let theirs = (account.spent.get(), account.reserved.get());
        let same = (theirs.0 - spent).abs() < about(self.most)
            && (theirs.1 - reserved).abs() < about(self.most);
        (!same).then(|| {
            let (s, r) = theirs;
            format!("{tenant}: {s} J spent and {r} J reserved, by the entries {spent} J and {reserved} J")
        })
    }

    /// The coordinator is gone. What had left may have used all that was set aside for it, what had not used
    /// nothing.
    pub(crate) fn died(&mut self) {
        for dispatch in std::mem::take(&mut self.reserved) {
            if let Some(charge) = self.charges.get_mut(&dispatch)
                && !charge.left
            {
                charge.joules = 0.0;
            }
        }
        self.spent.clear();
    }

    /// What a window that was read from disk has overlooked, if anything.
    pub(crate) fn overlooked(
        &self,
        tenant: &TenantId,
        minute: u64,
        left: Option<f64>,
    ) -> Option<String> {
        let (limit, left) = (self.window?, left?);
        let (held, beyond) = self.held(tenant, minute);
        let most = (limit - (held - beyond)).max(0.0);
        (left > most + about(self.most))
            .then(|| format!("{tenant} has {left} J left in minute {minute}, at most {most} J are"))
    }
}
