//! All tenants: those of the configuration, which only its file changes, and those made through the admin
//! API.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Result;
use moe2_engine::coordinator::TenantLimits;
use moe2_model::TenantId;

use crate::books::{TenantError, Tenants};
use crate::config::{Config, Settings, Tenant};
use crate::http::auth::KeyTable;
use crate::state::{self, StateDir};

/// Who may ask, and within what.
pub(crate) struct Roster {
    pub(crate) tenants: Tenants,
    pub(crate) keys: Arc<KeyTable>,
    /// Those of the configuration.
    fixed: Vec<Tenant>,
    made: RwLock<Vec<Tenant>>,
    /// Held through a change, from the table to the engine: an older state must not arrive last.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// One tenant as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: TenantId,
    pub(crate) settings: Settings,
    /// Whether the admin API may change it.
    pub(crate) changeable: bool,
}

impl Roster {
    /// Reads both sources. Without any tenant in the configuration there is one named `default` with a key
    /// made on first start.
    pub(crate) fn new(config: &Config, state: &StateDir, tenants: Tenants) -> Result<Self> {
        let mut fixed = Vec::new();
        for tenant in &config.tenant {
            fixed.push(tenant.clone());
        }
        if config.tenant.is_empty() {
            fixed.push(Tenant {
                name: TenantId::new("default")?,
                key_sha256: state::hash(&state.secret("api.key")?),
                settings: Settings::default(),
            });
        }
        let roster = Self {
            keys: Arc::new(KeyTable::new([])),
            made: RwLock::new(Vec::new()),
            changing: tokio::sync::Mutex::new(()),
            tenants,
            fixed,
        };
        roster.reload()?;
        Ok(roster)
    }

    /// Reads those made through the API again; keys are good, or good for nothing, from now on.
    pub(crate) fn reload(&self) -> Result<(), TenantError> {
        let mut made = self.tenants.all()?;
        // A name in the configuration is the configuration's.
        made.retain(|tenant| !self.is_fixed(&tenant.name));
        let all = self.fixed.iter().chain(&made);
        self.keys
            .replace(all.map(|t| (t.key_sha256, t.name.clone())));
        *self.made.write().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(())
    }

    /// Whether the configuration names this tenant.
    pub(crate) fn is_fixed(&self, name: &TenantId) -> bool {
        self.fixed.iter().any(|tenant| tenant.name == *name)
    }

    /// Everyone, by name.
    pub(crate) fn members(&self) -> Vec<Member> {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        let member = |tenant: &Tenant, changeable| Member {
            name: tenant.name.clone(),
            settings: tenant.settings.clone(),
            changeable,
        };
        let fixed = self.fixed.iter().map(|tenant| member(tenant, false));
        let mut all: Vec<Member> = fixed.chain(made.iter().map(|t| member(t, true))).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Everyone's limits, for the engine.
    pub(crate) fn limits(&self) -> Vec<TenantLimits> {
        let members = self.members().into_iter();
        members.map(|m| m.settings.limits(m.name)).collect()
    }
}
