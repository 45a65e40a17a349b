//! All tenants: those of the configuration, which only its file changes, and those made through the admin
//! API.
//!
//! A change is made ready first ([`Members`]), and then [`Roster::put`] has it hold: for the engine, then for
//! keys. The other way round a new key would be good for a moment in which its budgets are not known.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use anyhow::Result;
use moe2_engine::coordinator::{Input, TenantLimits};
use moe2_model::TenantId;

use crate::books::{TenantError, Tenants};
use crate::config::{Config, Faults, Settings, Tenant};
use crate::handle::{EngineHandle, ShuttingDown};
use crate::http::auth::KeyTable;
use crate::state::{self, StateDir};

/// Who may ask, and within what.
pub(crate) struct Roster {
    pub(crate) tenants: Tenants,
    pub(crate) keys: Arc<KeyTable>,
    members: RwLock<Members>,
    /// Held through a change, from the table to the engine: an older state must not arrive last.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// Everyone at one time; no two have one name or one key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Members {
    /// Those of the configuration.
    fixed: Vec<Tenant>,
    made: Vec<Tenant>,
}

/// One tenant as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: TenantId,
    pub(crate) settings: Settings,
    /// Whether the admin API may change it.
    pub(crate) changeable: bool,
}

/// The tenants of a configuration. One without any has a tenant named `default`, with a key made on first
/// use: this reads files and may write one.
pub(crate) fn fixed(config: &Config, state: &StateDir) -> Result<Vec<Tenant>> {
    if !config.tenant.is_empty() {
        return Ok(config.tenant.clone());
    }
    Ok(vec![Tenant {
        name: TenantId::new("default")?,
        key_sha256: state::hash(&state.secret("api.key")?),
        settings: Settings::default(),
    }])
}

impl Members {
    /// A name in the configuration is the configuration's. A key there that a tenant made here has would be
    /// two tenants'.
    fn of(fixed: Vec<Tenant>, mut made: Vec<Tenant>) -> Result<Self, Faults> {
        made.retain(|tenant| fixed.iter().all(|f| f.name != tenant.name));
        let mut faults = Faults(Vec::new());
        for tenant in &fixed {
            if let Some(other) = made.iter().find(|m| m.key_sha256 == tenant.key_sha256) {
                let key = format!("tenant {}.key_sha256", tenant.name);
                let why = format!(
                    "the tenant {}, made with `moe2 tenant add`, has it: each needs its own",
                    other.name
                );
                faults.add(key, why);
            }
        }
        if faults.0.is_empty() {
            Ok(Self { fixed, made })
        } else {
            Err(faults)
        }
    }

    /// Those of the configuration.
    pub(crate) fn fixed(&self) -> &[Tenant] {
        &self.fixed
    }

    /// Those made through the admin API whose name was the configuration's before, and is not any more.
    pub(crate) fn uncovered<'m>(&'m self, before: &'m Self) -> impl Iterator<Item = &'m TenantId> {
        let names = self.made.iter().map(|tenant| &tenant.name);
        names.filter(|name| before.fixed.iter().any(|f| f.name == **name))
    }

    /// Everyone's limits, for the engine.
    pub(crate) fn limits(&self) -> Vec<TenantLimits> {
        let shown = self.shown().into_iter();
        shown.map(|m| m.settings.limits(m.name)).collect()
    }

    fn keys(&self) -> impl Iterator<Item = ([u8; 32], TenantId)> {
        let all = self.fixed.iter().chain(&self.made);
        all.map(|t| (t.key_sha256, t.name.clone()))
    }

    /// Everyone, by name.
    fn shown(&self) -> Vec<Member> {
        let member = |tenant: &Tenant, changeable| Member {
            name: tenant.name.clone(),
            settings: tenant.settings.clone(),
            changeable,
        };
        let fixed = self.fixed.iter().map(|tenant| member(tenant, false));
        let made = self.made.iter().map(|tenant| member(tenant, true));
        let mut all: Vec<Member> = fixed.chain(made).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

impl Roster {
    /// Those of the configuration, and those made before.
    pub(crate) fn new(fixed: Vec<Tenant>, tenants: Tenants) -> Result<Self> {
        let members = Members::of(fixed, tenants.all()?)?;
        Ok(Self {
            keys: Arc::new(KeyTable::new(members.keys())),
            members: RwLock::new(members),
            changing: tokio::sync::Mutex::new(()),
            tenants,
        })
    }

    /// These of the configuration, beside those made here.
    pub(crate) fn with(&self, fixed: Vec<Tenant>) -> Result<Members, Faults> {
        let made = self.tenants.all();
        let made =
            made.map_err(|error| Faults::one(format!("the books cannot be read: {error}")))?;
        Members::of(fixed, made)
    }

    /// Those made here as the table has them now, beside those of the configuration.
    pub(crate) fn reread(&self) -> Result<Members, TenantError> {
        let fixed = self.now().fixed.clone();
        Members::of(fixed, self.tenants.all()?).map_err(|_| TenantError::KeyTaken)
    }

    /// Has members hold: the engine is told with `input`, which has their limits, then their keys are good.
    pub(crate) async fn put(
        &self,
        engine: &EngineHandle,
        input: Input,
        members: Members,
    ) -> Result<(), ShuttingDown> {
        engine.input(input).await?;
        self.keys.replace(members.keys());
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        Ok(())
    }

    /// Refuses a change of a tenant that is the configuration's, or to a key that one of those has.
    pub(crate) fn may_change(
        &self,
        name: &TenantId,
        key_sha256: Option<[u8; 32]>,
    ) -> Result<(), TenantError> {
        let now = self.now();
        if now.fixed.iter().any(|tenant| tenant.name == *name) {
            return Err(TenantError::Fixed(name.clone()));
        }
        let taken = |key| now.fixed.iter().any(|tenant| tenant.key_sha256 == key);
        if key_sha256.is_some_and(taken) {
            return Err(TenantError::KeyTaken);
        }
        Ok(())
    }

    /// Everyone that holds now.
    pub(crate) fn now(&self) -> RwLockReadGuard<'_, Members> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everyone, by name.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.now().shown()
    }

    /// Everyone's limits, for the engine.
    pub(crate) fn limits(&self) -> Vec<TenantLimits> {
        self.now().limits()
    }
}
