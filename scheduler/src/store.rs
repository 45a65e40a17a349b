//! Join tokens and issued certificates, in SQLite.
//!
//! Taking a token is one `UPDATE … WHERE used_at IS NULL`, so two agents that present the same token
//! at the same moment cannot both get in, and a crash after it cannot bring the token back. Joining is
//! rare, so every operation opens the file anew and no connection is shared or locked.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moe2_model::NodeId;
use moe2_net::constant_time_eq;
use moe2_wire::EnrolError;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS join_token (
        id TEXT PRIMARY KEY, secret_sha256 BLOB NOT NULL, node TEXT NOT NULL,
        expires_at INTEGER NOT NULL, used_at INTEGER);
    CREATE TABLE IF NOT EXISTS certificate (
        serial TEXT PRIMARY KEY, node TEXT NOT NULL, issued_at INTEGER NOT NULL,
        not_after INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS revoked (
        serial TEXT PRIMARY KEY, node TEXT NOT NULL, revoked_at INTEGER NOT NULL,
        not_after INTEGER NOT NULL);";

/// The database file.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    path: PathBuf,
}

/// A join token before it is used.
#[derive(Debug, Clone)]
pub(crate) struct NewToken {
    pub(crate) id: String,
    pub(crate) secret_sha256: [u8; 32],
    pub(crate) node: NodeId,
    pub(crate) expires_at: SystemTime,
}

impl Store {
    /// Opens the file, making its tables if need be.
    pub(crate) fn open(path: &Path) -> rusqlite::Result<Self> {
        let store = Self {
            path: path.to_owned(),
        };
        let database = connect(path)?;
        database.pragma_update(None, "journal_mode", "wal")?;
        database.execute_batch(SCHEMA)?;
        Ok(store)
    }

    pub(crate) fn add_token(&self, token: &NewToken) -> rusqlite::Result<()> {
        let (id, node) = (&token.id, token.node.as_str());
        let expires = unix(token.expires_at);
        connect(&self.path)?.execute(
            "INSERT INTO join_token (id, secret_sha256, node, expires_at) VALUES (?1, ?2, ?3, ?4)",
            params![id, token.secret_sha256.as_slice(), node, expires],
        )?;
        Ok(())
    }

    /// Uses a token up, or says why not. The outer result is the database's.
    pub(crate) fn take_token(
        &self,
        (id, secret_sha256): (&str, &[u8; 32]),
        node: &str,
        now: SystemTime,
    ) -> rusqlite::Result<Result<(), EnrolError>> {
        let database = connect(&self.path)?;
        let row = database
            .query_row(
                "SELECT secret_sha256, node, expires_at, used_at IS NOT NULL FROM join_token WHERE id = ?1",
                [id],
                |row| {
                    Ok((
                        row.get::<_, Vec<u8>>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, i64>(2)?,
                        row.get::<_, bool>(3)?,
                    ))
                },
            )
            .optional()?;
        let Some((hash, bound, expires, used)) = row else {
            return Ok(Err(EnrolError::Invalid));
        };
        if !constant_time_eq(&hash, secret_sha256) {
            return Ok(Err(EnrolError::Invalid));
        }
        if used {
            return Ok(Err(EnrolError::Used));
        }
        if expires <= unix(now) {
            return Ok(Err(EnrolError::Expired));
        }
        if bound != node {
            return Ok(Err(EnrolError::OtherNode));
        }
        let taken = database.execute(
            "UPDATE join_token SET used_at = ?2 WHERE id = ?1 AND used_at IS NULL",
            params![id, unix(now)],
        )?;
        Ok(if taken == 1 {
            Ok(())
        } else {
            Err(EnrolError::Used)
        })
    }

    /// Takes a node's certificates and unused tokens back. `None` if it never had any.
    pub(crate) fn revoke(&self, node: &NodeId, now: SystemTime) -> rusqlite::Result<Option<Taken>> {
        let mut database = connect(&self.path)?;
        // Others write to this file all the time: waits for them, which a transaction that only reads at first
        // would not.
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (node, now) = (node.as_str(), unix(now));
        let known = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM certificate WHERE node = ?1)
                 OR EXISTS (SELECT 1 FROM join_token WHERE node = ?1)",
            [node],
            |row| row.get::<_, bool>(0),
        )?;
        if !known {
            return Ok(None);
        }
        let mut statement = transaction.prepare(
            "INSERT INTO revoked (serial, node, revoked_at, not_after)
                 SELECT serial, node, ?2, not_after FROM certificate
                 WHERE node = ?1 AND serial NOT IN (SELECT serial FROM revoked)
                 RETURNING serial",
        )?;
        let serials = statement.query_map(params![node, now], |row| row.get(0))?;
        let serials = serials.collect::<rusqlite::Result<_>>()?;
        drop(statement);
        let tokens = transaction.execute(
            "UPDATE join_token SET used_at = ?2 WHERE node = ?1 AND used_at IS NULL",
            params![node, now],
        )?;
        transaction.commit()?;
        Ok(Some(Taken { serials, tokens }))
    }

    /// Serial numbers of all certificates that are revoked. Also of those that have expired: connections outlive
    /// the certificate they were made with, and clocks are set back.
    pub(crate) fn revoked(&self) -> rusqlite::Result<Vec<String>> {
        let database = connect(&self.path)?;
        let mut statement = database.prepare("SELECT serial FROM revoked")?;
        let serials = statement.query_map([], |row| row.get(0))?;
        serials.collect()
    }

    pub(crate) fn add_certificate(
        &self,
        (serial, node): (&str, &NodeId),
        now: SystemTime,
        not_after: SystemTime,
    ) -> rusqlite::Result<()> {
        connect(&self.path)?.execute(
            "INSERT INTO certificate (serial, node, issued_at, not_after) VALUES (?1, ?2, ?3, ?4)",
            params![serial, node.as_str(), unix(now), unix(not_after)],
        )?;
        Ok(())
    }
}

/// What was taken from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Serial numbers of certificates, those that have expired included.
    pub(crate) serials: Vec<String>,
    /// Join tokens that nobody had used.
    pub(crate) tokens: usize,
}

/// Of a connection's pages in memory, KiB.
const CACHE_KIB: i64 = 512;

/// A connection of its own; it waits a while for others that write.
pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    patient(Connection::open(path)?)
}

/// The same, which changes nothing.
pub(crate) fn connect_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    patient(Connection::open_with_flags(path, flags)?)
}

fn patient(database: Connection) -> rusqlite::Result<Connection> {
    database.busy_timeout(Duration::from_secs(5))?;
    // All connections of a process share their caches, so two that write fill the default of 2 MiB for each, which
    // under load takes half an hour and looks like a leak. What is written here is hardly ever read again.
    database.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(database)
}

fn unix(time: SystemTime) -> i64 {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_keeps_few_pages_in_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = connect(&dir.path().join("t.db")).expect("a fresh database");
        let kib = database.pragma_query_value(None, "cache_size", |row| row.get::<_, i64>(0));
        assert_eq!(kib, Ok(-CACHE_KIB));
    }

    fn store(dir: &tempfile::TempDir, ttl: Duration) -> (Store, SystemTime) {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let store = Store::open(&dir.path().join("t.db")).expect("a fresh database");
        let token = NewToken {
            id: "id".into(),
            secret_sha256: [7; 32],
            node: NodeId::new("n1").expect("a valid name"),
            expires_at: now + ttl,
        };
        store.add_token(&token).expect("stored");
        (store, now)
    }

    #[test]
    fn a_token_is_good_once_for_its_node_and_its_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, now) = store(&dir, Duration::from_secs(60));
        let take = |id, secret: [u8; 32], node, at| {
            store
                .take_token((id, &secret), node, at)
                .expect("the database answers")
        };
        assert_eq!(take("other", [7; 32], "n1", now), Err(EnrolError::Invalid));
        assert_eq!(take("id", [8; 32], "n1", now), Err(EnrolError::Invalid));
        assert_eq!(take("id", [7; 32], "n2", now), Err(EnrolError::OtherNode));
        let late = now + Duration::from_secs(60);
        assert_eq!(take("id", [7; 32], "n1", late), Err(EnrolError::Expired));
        assert_eq!(take("id", [7; 32], "n1", now), Ok(()));
        assert_eq!(take("id", [7; 32], "n1", now), Err(EnrolError::Used));
    }

    #[test]
    fn what_is_revoked_is_all_that_a_node_has_and_nothing_of_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, now) = store(&dir, Duration::from_secs(60));
        let node = |name| NodeId::new(name).expect("a valid name");
        let hour = Duration::from_secs(3_600);
        for (serial, of, end) in [
            ("a", "n1", now + hour),
            ("b", "n1", now),
            ("c", "n2", now + hour),
        ] {
            store
                .add_certificate((serial, &node(of)), now, end)
                .expect("stored");
        }
        assert_eq!(store.revoke(&node("n3"), now).expect("asked"), None);
        let taken = store.revoke(&node("n1"), now).expect("revoked");
        let serials = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            taken,
            Some(Taken {
                serials: serials.clone(),
                tokens: 1
            })
        );
        let token = store
            .take_token(("id", &[7; 32]), "n1", now)
            .expect("asked");
        assert_eq!(token, Err(EnrolError::Used));
        assert_eq!(store.revoked().expect("read"), serials);
        let again = store.revoke(&node("n1"), now).expect("revoked");
        assert_eq!(
            again,
            Some(Taken {
                serials: Vec::new(),
                tokens: 0
            })
        );
    }
}
