//! The tables, and what they say at start.

use std::path::Path;
use std::time::Duration;

use moe2_engine::coordinator::{Past, Settled, Wall};
use moe2_model::TenantId;
use rusqlite::{Connection, params};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS usage (
        dispatch INTEGER PRIMARY KEY, query INTEGER NOT NULL, tenant TEXT NOT NULL,
        expert TEXT NOT NULL, reserved_at INTEGER NOT NULL, at INTEGER NOT NULL,
        bound_j REAL NOT NULL, energy_j REAL NOT NULL, source TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, busy_s REAL NOT NULL,
        error_j REAL NOT NULL);
    CREATE INDEX IF NOT EXISTS usage_at ON usage (at);
    CREATE TABLE IF NOT EXISTS charge (
        tenant TEXT NOT NULL, minute INTEGER NOT NULL, energy_j REAL NOT NULL,
        PRIMARY KEY (tenant, minute)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS mark (
        tenant TEXT PRIMARY KEY, at INTEGER NOT NULL, energy_j REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS crash (
        at INTEGER NOT NULL, tenant TEXT NOT NULL, energy_j REAL NOT NULL);
    CREATE TABLE IF NOT EXISTS tenant (
        name TEXT PRIMARY KEY, key_sha256 BLOB NOT NULL UNIQUE, settings TEXT NOT NULL,
        created_at INTEGER NOT NULL, changed_at INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS audit (
        at INTEGER NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, tenant TEXT NOT NULL,
        detail TEXT NOT NULL);";

/// Charges older than the longest window are of no use to any.
const KEPT_CHARGES: u64 = 33 * 24 * 3_600;
const MINUTE: u64 = 60;

/// The books as they were found.
pub(crate) struct Opened {
    pub(crate) database: Connection,
    pub(crate) past: Past,
    /// Charged because the process before this one ended with work under way.
    pub(crate) crashed: Vec<(TenantId, f64)>,
}

/// Opens the books, charges what was under way when they were last closed, and forgets what is too old.
pub(crate) fn open(path: &Path, now: Wall, keep_usage: Duration) -> rusqlite::Result<Opened> {
    let mut database = crate::store::connect(path)?;
    database.pragma_update(None, "journal_mode", "wal")?;
    database.pragma_update(None, "synchronous", "normal")?;
    database.execute_batch(SCHEMA)?;
    let transaction = database.transaction()?;
    add_errors(&transaction)?;
    let marks = "SELECT tenant, at, energy_j FROM mark WHERE energy_j > 0";
    let crashed = amounts(&transaction, marks)?;
    for (tenant, at, energy) in &crashed {
        // Now, because what was marked long ago may have been under way until the end.
        charge(&transaction, tenant, now.max(Wall(*at)), *energy)?;
        transaction.execute(
            "INSERT INTO crash (at, tenant, energy_j) VALUES (?1, ?2, ?3)",
            params![now.0, tenant, energy],
        )?;
    }
    transaction.execute("DELETE FROM mark", [])?;
    prune(&transaction, now, keep_usage)?;
    transaction.commit()?;
    let past = past(&database)?;
    let named =
        |(tenant, _, energy): (String, u64, f64)| Some((TenantId::new(&tenant).ok()?, energy));
    Ok(Opened {
        database,
        past,
        crashed: crashed.into_iter().filter_map(named).collect(),
    })
}

/// Books of earlier releases have no errors. What they say is taken to be as good as a model, and for
/// what was lost, the truth to be within what was reserved.
fn add_errors(database: &Connection) -> rusqlite::Result<()> {
    let there = "SELECT count(*) FROM pragma_table_info('usage') WHERE name = 'error_j'";
    let there: u64 = database.query_row(there, [], |row| row.get(0))?;
    if there == 0 {
        database.execute_batch(
            "ALTER TABLE usage ADD COLUMN error_j REAL NOT NULL DEFAULT 0;
             UPDATE usage SET error_j = CASE source WHEN 'lost' THEN bound_j ELSE energy_j END;",
        )?;
    }
    Ok(())
}

/// Forgets what is too old to keep.
pub(super) fn prune(
    database: &Connection,
    now: Wall,
    keep_usage: Duration,
) -> rusqlite::Result<()> {
    let oldest = now.0.saturating_sub(KEPT_CHARGES) / MINUTE;
    database.execute("DELETE FROM charge WHERE minute < ?1", [oldest])?;
    let oldest = now.0.saturating_sub(keep_usage.as_secs());
    database.execute("DELETE FROM usage WHERE at < ?1", [oldest])?;
    database.execute("DELETE FROM crash WHERE at < ?1", [oldest])?;
    Ok(())
}

/// Tenants with a time and joules, as such a query lists them.
fn amounts(database: &Connection, query: &str) -> rusqlite::Result<Vec<(String, u64, f64)>> {
    let mut statement = database.prepare(query)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

fn past(database: &Connection) -> rusqlite::Result<Past> {
    let charges = "SELECT tenant, minute, energy_j FROM charge ORDER BY minute";
    let mut past = Past::default();
    for (tenant, minute, energy) in amounts(database, charges)? {
        if let Ok(tenant) = TenantId::new(&tenant) {
            let own = past.charges.entry(tenant).or_default();
            own.push((Wall(minute * MINUTE), energy));
        }
    }
    Ok(past)
}

fn charge(database: &Connection, tenant: &str, at: Wall, energy: f64) -> rusqlite::Result<()> {
    let mut add = database.prepare_cached(
        "INSERT INTO charge (tenant, minute, energy_j) VALUES (?1, ?2, ?3)
         ON CONFLICT (tenant, minute) DO UPDATE SET energy_j = energy_j + excluded.energy_j",
    )?;
    add.execute(params![tenant, at.0 / MINUTE, energy])?;
    Ok(())
}

/// Writes a settlement. A dispatch is written once.
pub(super) fn write(database: &Connection, settled: &Settled) -> rusqlite::Result<()> {
    let usage = settled.usage;
    let tokens = usage.map_or((0, 0), |u| (u.prompt_tokens, u.output_tokens));
    let busy = usage.map_or(0.0, |u| (u.prefill + u.decode).get());
    let source = usage.map_or("lost", |u| u.energy_source.as_str());
    // Nobody knows what was lost; most likely not more than was reserved.
    let error = usage.map_or(settled.bound, |u| u.energy_error);
    let mut insert = database.prepare_cached(
        "INSERT OR IGNORE INTO usage
         (dispatch, query, tenant, expert, reserved_at, at, bound_j, energy_j, source,
          prompt_tokens, output_tokens, busy_s, error_j)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    let tenant = settled.tenant.as_str();
    let new = insert.execute(params![
        settled.dispatch.0,
        settled.query.0,
        tenant,
        settled.expert.to_string(),
        settled.reserved_at.0,
        settled.at.0,
        settled.bound.get(),
        settled.energy.get(),
        source,
        tokens.0,
        tokens.1,
        busy,
        error.get(),
    ])?;
    if new == 1 {
        charge(database, tenant, settled.reserved_at, settled.energy.get())?;
    }
    Ok(())
}

/// What may be under way of a tenant's joules.
pub(super) fn mark(
    database: &Connection,
    tenant: &TenantId,
    at: Wall,
    energy: f64,
) -> rusqlite::Result<()> {
    let mut set = database.prepare_cached("INSERT OR REPLACE INTO mark VALUES (?1, ?2, ?3)")?;
    set.execute(params![tenant.as_str(), at.0, energy])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{DispatchId, EnergySource, ExpertId, Joules, QueryId, Seconds, Usage};

    fn settled(dispatch: u64, at: u64, joules: f64) -> Settled {
        Settled {
            dispatch: DispatchId(dispatch),
            query: QueryId(dispatch),
            tenant: TenantId::new("t").expect("a valid name"),
            expert: ExpertId {
                name: "e".parse().expect("a valid name"),
                node: "n".parse().expect("a valid name"),
            },
            reserved_at: Wall(at),
            at: Wall(at + 1),
            bound: Joules::saturating(joules * 2.0),
            energy: Joules::saturating(joules),
            usage: Some(Usage {
                prompt_tokens: 1,
                cached_tokens: 0,
                output_tokens: 2,
                queue: Seconds::ZERO,
                prefill: Seconds::ZERO,
                decode: Seconds::ZERO,
                energy: Joules::saturating(joules),
                energy_source: EnergySource::Rapl,
                energy_error: Joules::saturating(joules / 10.0),
            }),
        }
    }

    fn errors(database: &Connection) -> Vec<(String, f64)> {
        let mut select = database
            .prepare("SELECT source, error_j FROM usage ORDER BY dispatch")
            .expect("a column of errors");
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let rows = rows.expect("rows").collect::<rusqlite::Result<_>>();
        rows.expect("numbers")
    }

    #[test]
    fn every_row_has_an_error_and_what_was_lost_has_its_reservation() {
        let dir = tempfile::tempdir().expect("a folder");
        let opened = open(
            &dir.path().join("moe2.db"),
            Wall(9),
            Duration::from_secs(99),
        );
        let database = opened.expect("a fresh database").database;
        write(&database, &settled(1, 9, 5.0)).expect("written");
        let lost = Settled {
            energy: Joules::ZERO,
            usage: None,
            ..settled(2, 9, 5.0)
        };
        write(&database, &lost).expect("written");
        let expected = [("measured:rapl".to_owned(), 0.5), ("lost".to_owned(), 10.0)];
        assert_eq!(errors(&database), expected);
    }

    #[test]
    fn books_without_errors_get_them_once_when_they_are_opened() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("moe2.db");
        let old = crate::store::connect(&path).expect("a file");
        // The table as it was, with a modelled and a lost dispatch.
        old.execute_batch(
            "CREATE TABLE usage (
                dispatch INTEGER PRIMARY KEY, query INTEGER NOT NULL, tenant TEXT NOT NULL,
                expert TEXT NOT NULL, reserved_at INTEGER NOT NULL, at INTEGER NOT NULL,
                bound_j REAL NOT NULL, energy_j REAL NOT NULL, source TEXT NOT NULL,
                prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, busy_s REAL NOT NULL);
             INSERT INTO usage VALUES (1, 1, 't', 'e@n', 9, 9, 8.0, 6.0, 'measured:rapl', 1, 1, 1.0);
             INSERT INTO usage VALUES (2, 1, 't', 'e@n', 9, 9, 7.0, 0.0, 'lost', 0, 0, 0.0);",
        )
        .expect("an old table");
        drop(old);
        for _ in 0..2 {
            let opened = open(&path, Wall(10), Duration::from_secs(99)).expect("it opens");
            let errors = errors(&opened.database);
            let expected = [("measured:rapl".to_owned(), 6.0), ("lost".to_owned(), 7.0)];
            assert_eq!(errors[..2], expected);
            write(&opened.database, &settled(3, 9, 5.0)).expect("written");
        }
    }

    #[test]
    fn a_settlement_is_charged_once_and_a_mark_is_charged_by_whoever_opens_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("moe2.db");
        let month = Duration::from_secs(30 * 86_400);
        let tenant = TenantId::new("t").expect("a valid name");
        let now = Wall(1_000_000);
        let opened = open(&path, now, month).expect("a fresh database");
        assert!(opened.past.charges.is_empty() && opened.crashed.is_empty());
        write(&opened.database, &settled(1, now.0, 5.0)).expect("written");
        write(&opened.database, &settled(1, now.0, 5.0)).expect("written");
        write(&opened.database, &settled(2, now.0 + 61, 2.0)).expect("written");
        mark(&opened.database, &tenant, Wall(now.0 + 61), 7.0).expect("written");
        drop(opened);
        let again = open(&path, Wall(now.0 + 100), month).expect("it is there");
        assert_eq!(again.crashed, [(tenant.clone(), 7.0)]);
        let charges = &again.past.charges[&tenant];
        let sum: f64 = charges.iter().map(|c| c.1).sum();
        assert!(
            (sum - 14.0).abs() < 1e-9 && charges.len() == 3,
            "{charges:?}"
        );
        drop(again);
        let third = open(&path, Wall(now.0 + 100), month).expect("it is there");
        assert!(third.crashed.is_empty(), "charged once");
        drop(third);
        let late = open(&path, Wall(now.0 + 100 * 86_400), month).expect("it is there");
        assert!(late.past.charges.is_empty(), "too old for any window");
        let rows: u64 = late
            .database
            .query_row("SELECT count(*) FROM usage", [], |row| row.get(0))
            .expect("a number");
        assert_eq!(rows, 0);
    }
}
