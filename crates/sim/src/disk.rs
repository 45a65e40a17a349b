//! The coordinator's books on disk, as far as a restart reads them.
//!
//! Writes arrive in order and are committed together, late; what had not been committed when the process
//! died is gone. Opening them charges every tenant its mark, as the real books do.

use std::collections::{BTreeMap, BTreeSet};

use moe2_engine::coordinator::{Past, Wall, Write};
use moe2_model::{DispatchId, TenantId};

/// What is committed.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    charges: BTreeMap<TenantId, BTreeMap<u64, f64>>,
    settled: BTreeSet<DispatchId>,
    marks: BTreeMap<TenantId, f64>,
    /// Nothing can be written until it is empty again.
    pub(crate) full: bool,
}

const MINUTE: u64 = 60;

impl Disk {
    pub(crate) fn write(&mut self, write: &Write) {
        match write {
            Write::Settled(settled) => {
                if self.settled.insert(settled.dispatch) {
                    let joules = settled.energy.get();
                    self.charge(&settled.tenant, settled.reserved_at, joules);
                }
            }
            Write::Mark(mark) => {
                self.marks.insert(mark.tenant.clone(), mark.joules);
            }
        }
    }

    fn charge(&mut self, tenant: &TenantId, at: Wall, joules: f64) {
        let own = self.charges.entry(tenant.clone()).or_default();
        *own.entry(at.0 / MINUTE).or_default() += joules;
    }

    pub(crate) fn has(&self, dispatch: DispatchId) -> bool {
        self.settled.contains(&dispatch)
    }

    pub(crate) fn mark(&self, tenant: &TenantId) -> f64 {
        self.marks.get(tenant).copied().unwrap_or(0.0)
    }

    /// What a coordinator that starts is told; `forgets` is a planted fault.
    pub(crate) fn open(&mut self, now: Wall, forgets: bool) -> Past {
        for (tenant, joules) in std::mem::take(&mut self.marks) {
            if !forgets {
                self.charge(&tenant, now, joules);
            }
        }
        let mut past = Past::default();
        for (tenant, charges) in &self.charges {
            let own = past.charges.entry(tenant.clone()).or_default();
            own.extend(
                charges
                    .iter()
                    .map(|(m, joules)| (Wall(m * MINUTE), *joules)),
            );
        }
        past
    }
}
