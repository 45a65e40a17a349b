//! Tenants made through the admin API, and who changed them when.

use std::path::{Path, PathBuf};

use moe2_model::TenantId;
use rusqlite::params;
use serde::Serialize;

use crate::config::change::Line;
use crate::config::{Settings, Tenant};
use crate::store::connect;

/// The tenants' table.
#[derive(Debug, Clone)]
pub(crate) struct Tenants {
    path: PathBuf,
}

/// A line of the audit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Audit {
    /// Seconds since 1970, UTC.
    pub(crate) at: u64,
    pub(crate) who: String,
    pub(crate) action: String,
    pub(crate) tenant: String,
    /// The settings from then on, as JSON; of a file that changed, what changed from what to what.
    pub(crate) detail: String,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TenantError {
    /// There is one of that name.
    #[error("there is a tenant of that name: `moe2 tenant set` changes it")]
    Exists,
    /// There is none of that name.
    #[error("there is no tenant of that name among those made here")]
    Unknown,
    /// It is the configuration's.
    #[error(
        "{0} comes from the coordinator's configuration: change it there, or make another tenant"
    )]
    Fixed(TenantId),
    /// A tenant of the configuration has that key.
    #[error("a tenant of the coordinator's configuration has that key: each needs its own")]
    KeyTaken,
    /// The database's.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// Settings are always JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Tenants {
    /// Tenants in this file, whose tables are there.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Result<Vec<Tenant>, TenantError> {
        let database = connect(&self.path)?;
        let mut select = database.prepare("SELECT name, key_sha256, settings FROM tenant")?;
        let rows = select.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, [u8; 32]>(1)?,
                row.get::<_, String>(2)?,
            ))
        })?;
        let mut all = Vec::new();
        for row in rows {
            let (name, key_sha256, settings) = row?;
            let Ok(name) = TenantId::new(&name) else {
                continue;
            };
            let settings: Settings = match serde_json::from_str(&settings) {
                Ok(settings) => settings,
                Err(error) => {
                    // Of another release, perhaps: nobody else is kept out for it.
                    tracing::error!(tenant = %name, %error, "its settings cannot be read; its key is refused");
                    continue;
                }
            };
            all.push(Tenant {
                name,
                key_sha256,
                settings,
            });
        }
        Ok(all)
    }

    /// Adds one.
    pub(crate) fn add(&self, tenant: &Tenant, who: &str, now: u64) -> Result<(), TenantError> {
        let settings = serde_json::to_string(&tenant.settings)?;
        let mut database = connect(&self.path)?;
        let transaction = database.transaction()?;
        let name = tenant.name.as_str();
        let added = transaction.execute(
            "INSERT OR IGNORE INTO tenant VALUES (?1, ?2, ?3, ?4, ?4)",
            params![name, tenant.key_sha256, settings, now],
        )?;
        if added == 0 {
            return Err(TenantError::Exists);
        }
        audit(&transaction, (now, who), "add", (name, &settings))?;
        Ok(transaction.commit()?)
    }

    /// Changes the settings.
    pub(crate) fn set(
        &self,
        name: &TenantId,
        settings: &Settings,
        who: &str,
        now: u64,
    ) -> Result<(), TenantError> {
        let settings = serde_json::to_string(settings)?;
        self.change((name, who, now), ("set", &settings), |database| {
            database.execute(
                "UPDATE tenant SET settings = ?2, changed_at = ?3 WHERE name = ?1",
                params![name.as_str(), settings, now],
            )
        })
    }

    /// Changes the key; the old one is good for nothing from then on.
    pub(crate) fn rotate(
        &self,
        name: &TenantId,
        key_sha256: [u8; 32],
        who: &str,
        now: u64,
    ) -> Result<(), TenantError> {
        self.change((name, who, now), ("rotate-key", ""), |database| {
            database.execute(
                "UPDATE tenant SET key_sha256 = ?2, changed_at = ?3 WHERE name = ?1",
                params![name.as_str(), key_sha256, now],
            )
        })
    }

    /// Removes one; what it used stays in the books.
    pub(crate) fn remove(&self, name: &TenantId, who: &str, now: u64) -> Result<(), TenantError> {
        self.change((name, who, now), ("remove", ""), |database| {
            database.execute("DELETE FROM tenant WHERE name = ?1", [name.as_str()])
        })
    }

    fn change(
        &self,
        (name, who, now): (&TenantId, &str, u64),
        (action, detail): (&str, &str),
        make: impl Fn(&rusqlite::Connection) -> rusqlite::Result<usize>,
    ) -> Result<(), TenantError> {
        let mut database = connect(&self.path)?;
        let transaction = database.transaction()?;
        if make(&transaction)? == 0 {
            return Err(TenantError::Unknown);
        }
        audit(&transaction, (now, who), action, (name.as_str(), detail))?;
        Ok(transaction.commit()?)
    }

    /// Notes changes that were made elsewhere: all of them or none.
    pub(crate) fn note(&self, lines: &[Line], who: &str, at: u64) -> Result<(), TenantError> {
        let mut database = connect(&self.path)?;
        let transaction = database.transaction()?;
        for line in lines {
            let what = (line.tenant.as_str(), line.detail.as_str());
            audit(&transaction, (at, who), line.action, what)?;
        }
        Ok(transaction.commit()?)
    }

    /// The last changes, the newest first.
    pub(crate) fn audit(&self, most: u32) -> Result<Vec<Audit>, TenantError> {
        let database = connect(&self.path)?;
        let mut select = database.prepare(
            "SELECT at, who, action, tenant, detail FROM audit ORDER BY rowid DESC LIMIT ?1",
        )?;
        let rows = select.query_map([most], |row| {
            Ok(Audit {
                at: row.get(0)?,
                who: row.get(1)?,
                action: row.get(2)?,
                tenant: row.get(3)?,
                detail: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn audit(
    database: &rusqlite::Connection,
    (at, who): (u64, &str),
    action: &str,
    (tenant, detail): (&str, &str),
) -> rusqlite::Result<()> {
    database.execute(
        "INSERT INTO audit VALUES (?1, ?2, ?3, ?4, ?5)",
        params![at, who, action, tenant, detail],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_engine::coordinator::Wall;
    use std::time::Duration;

    #[test]
    fn tenants_come_change_and_go_and_every_change_is_audited() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("moe2.db");
        drop(super::super::open(&path, Wall(0), Duration::from_secs(1)).expect("a database"));
        let tenants = Tenants::new(&path);
        let stored = Tenant {
            name: TenantId::new("t").expect("a valid name"),
            key_sha256: [7; 32],
            settings: Settings::default(),
        };
        tenants.add(&stored, "admin", 1).expect("added");
        let twice = tenants.add(&stored, "admin", 2);
        assert!(matches!(twice, Err(TenantError::Exists)));
        let heavier = Settings {
            weight: 2.0,
            ..Settings::default()
        };
        tenants
            .set(&stored.name, &heavier, "admin", 3)
            .expect("set");
        assert_eq!(tenants.all().expect("read")[0].settings, heavier);
        tenants
            .rotate(&stored.name, [8; 32], "admin", 4)
            .expect("rotated");
        assert_eq!(tenants.all().expect("read")[0].key_sha256, [8; 32]);
        tenants.remove(&stored.name, "admin", 5).expect("removed");
        let gone = tenants.remove(&stored.name, "admin", 6);
        assert!(matches!(gone, Err(TenantError::Unknown)));
        let audit = tenants.audit(10).expect("read");
        let actions: Vec<&str> = audit.iter().map(|a| a.action.as_str()).collect();
        assert_eq!(actions, ["remove", "rotate-key", "set", "add"]);
    }
}
