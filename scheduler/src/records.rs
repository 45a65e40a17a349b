//! How queries went, kept for `moe2 explain`: a file of bounded size, apart from the books.
//!
//! Records are a help and no promise: a thread of their own writes them, nothing waits for it, and what it
//! cannot keep up with is dropped and counted. A record holds no word of prompt or answer.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use moe2_engine::coordinator::{Ending, QueryRecord};
use moe2_metrics::Metrics;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::books::now;
use crate::store::{connect, connect_to_read};

/// Records that may wait for the thread.
const WAITING: usize = 4_096;
/// Records of one transaction at most.
const BATCH: usize = 512;
/// The oldest are removed so many at a time.
const REMOVED: u32 = 256;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS record (
        seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, tenant TEXT NOT NULL, id TEXT NOT NULL,
        request_id TEXT NOT NULL, ending TEXT NOT NULL, bytes INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS record_id ON record (id);
    CREATE INDEX IF NOT EXISTS record_request ON record (request_id);";

/// What clients call a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// Of the completion, in the answer.
    pub(crate) id: String,
    /// Of the request, in the header `x-request-id`; clients may choose it, and choose it twice.
    pub(crate) request: String,
}

type Told = (Names, Box<QueryRecord>);

/// The way to the thread.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    thread: SyncSender<Told>,
    metrics: Metrics,
}

impl Recorder {
    /// Opens the file and starts the thread, which keeps the newest `most` bytes.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread be started.
    pub(crate) fn start(path: &Path, most: u64, metrics: Metrics) -> anyhow::Result<Self> {
        let file = File::open(path, most)?;
        let (thread, inbox) = sync_channel(WAITING);
        let lost = metrics.clone();
        std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || run(file, &inbox, &lost))?;
        Ok(Self { thread, metrics })
    }

    /// Has a record written, if the thread keeps up.
    pub(crate) fn tell(&self, names: Names, record: Box<QueryRecord>) {
        if self.thread.try_send((names, record)).is_err() {
            self.metrics.unrecorded(1);
        }
    }
}

fn run(mut file: File, inbox: &Receiver<Told>, metrics: &Metrics) {
    let mut failing = false;
    while let Ok(first) = inbox.recv() {
        let mut batch = vec![first];
        batch.extend(inbox.try_iter().take(BATCH - 1));
        match file.write(&batch) {
            Ok(()) => failing = false,
            Err(error) => {
                metrics.unrecorded(batch.len() as u64);
                if !failing {
                    tracing::warn!(%error, "how queries went is not recorded");
                }
                failing = true;
            }
        }
    }
}

/// The file, as its thread has it.
struct File {
    database: Connection,
    /// Of all records in it.
    bytes: u64,
    most: u64,
}

impl File {
    fn open(path: &Path, most: u64) -> rusqlite::Result<Self> {
        let database = connect(path)?;
        database.pragma_update(None, "journal_mode", "wal")?;
        // A power failure may take the last of them; they are a help and no promise.
        database.pragma_update(None, "synchronous", "off")?;
        database.execute_batch(SCHEMA)?;
        let sum = "SELECT ifnull(sum(bytes), 0) FROM record";
        let bytes = database.query_row(sum, [], |row| row.get(0))?;
        Ok(Self {
            database,
            bytes,
            most,
        })
    }

    fn write(&mut self, batch: &[Told]) -> anyhow::Result<()> {
        let transaction = self.database.transaction()?;
        let added = insert(&transaction, batch)?;
        let mut bytes = self.bytes + added;
        while bytes > self.most {
            let removed = remove_oldest(&transaction)?;
            if removed == 0 {
                break;
            }
            bytes = bytes.saturating_sub(removed);
        }
        transaction.commit()?;
        self.bytes = bytes;
        Ok(())
    }
}

/// Returns the bytes added.
fn insert(database: &Connection, batch: &[Told]) -> anyhow::Result<u64> {
    let mut insert = database.prepare_cached(
        "INSERT INTO record (at, tenant, id, request_id, ending, bytes, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let at = now().0;
    let mut added = 0;
    for (names, record) in batch {
        let body = serde_json::to_string(record)?;
        let (tenant, ending) = (record.tenant.as_str(), word(&record.ending));
        let bytes = body.len() as u64;
        insert.execute(params![
            at,
            tenant,
            names.id,
            names.request,
            ending,
            bytes,
            body
        ])?;
        added += bytes;
    }
    Ok(added)
}

/// Returns the bytes removed.
fn remove_oldest(database: &Connection) -> rusqlite::Result<u64> {
    let mut remove = database.prepare_cached(
        "DELETE FROM record WHERE seq IN (SELECT seq FROM record ORDER BY seq LIMIT ?1)
         RETURNING bytes",
    )?;
    let removed = remove.query_map([REMOVED], |row| row.get::<_, u64>(0))?;
    removed.sum()
}

/// How it ended, as one word.
fn word(ending: &Ending) -> &'static str {
    match ending {
        Ending::Answered { .. } => "answered",
        Ending::Refused { reason, .. } => reason.as_str(),
        Ending::Abandoned => "abandoned",
    }
}

/// A record in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    id: String,
    request_id: String,
    /// Seconds since 1970, UTC.
    at: u64,
    tenant: String,
    ending: String,
}

/// A record as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Kept {
    format: &'static str,
    #[serde(flatten)]
    line: Line,
    record: Box<RawValue>,
}

/// Records, read beside the writer.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    path: PathBuf,
}

impl Records {
    /// Those in this file.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The newest with this id, of a completion or of a request.
    pub(crate) fn find(&self, id: &str) -> anyhow::Result<Option<Kept>> {
        let database = connect_to_read(&self.path)?;
        // Two searches, each by its index.
        let query = "SELECT id, request_id, at, tenant, ending, body FROM record WHERE seq = max(
            ifnull((SELECT max(seq) FROM record WHERE id = ?1), 0),
            ifnull((SELECT max(seq) FROM record WHERE request_id = ?1), 0))";
        let found = database
            .query_row(query, [id], |row| {
                Ok((line(row)?, row.get::<_, String>(5)?))
            })
            .optional()?;
        let Some((line, body)) = found else {
            return Ok(None);
        };
        Ok(Some(Kept {
            format: QueryRecord::FORMAT,
            line,
            record: RawValue::from_string(body)?,
        }))
    }

    /// The newest, newest first.
    pub(crate) fn list(&self, tenant: Option<&str>, most: u32) -> anyhow::Result<Vec<Line>> {
        let database = connect_to_read(&self.path)?;
        let mut statement = database.prepare(
            "SELECT id, request_id, at, tenant, ending FROM record
             WHERE ?1 IS NULL OR tenant = ?1 ORDER BY seq DESC LIMIT ?2",
        )?;
        let rows = statement.query_map(params![tenant, most], line)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

fn line(row: &rusqlite::Row<'_>) -> rusqlite::Result<Line> {
    Ok(Line {
        id: row.get(0)?,
        request_id: row.get(1)?,
        at: row.get(2)?,
        tenant: row.get(3)?,
        ending: row.get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{
        Budgets, EnergySource, Joules, Mode, QueryId, RefusalKind, Seconds, Target, TenantId,
    };

    fn told(n: u64, request: &str) -> Told {
        let record = QueryRecord {
            query: QueryId(n),
            tenant: TenantId::new(["even", "odd"][(n % 2) as usize]).expect("a valid name"),
            target: Target::Auto,
            mode: Mode::Auto,
            topic: None,
            budgets: Budgets::default(),
            decisions: Vec::new(),
            participants: Vec::new(),
            ending: Ending::Refused {
                reason: RefusalKind::NoExpert,
                message: "for the test".to_owned(),
            },
            delay: Seconds::saturating(0.1 + 0.2),
            energy: Joules::ZERO,
            energy_source: EnergySource::Modelled,
            energy_error: Joules::ZERO,
        };
        let names = Names {
            id: format!("chatcmpl-{n}"),
            request: request.to_owned(),
        };
        (names, Box::new(record))
    }

    #[test]
    fn the_newest_of_an_id_is_found_and_reads_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("records.db");
        let mut file = File::open(&path, 1 << 20).expect("it opens");
        let batch = [told(1, "twice"), told(2, "twice"), told(3, "once")];
        file.write(&batch).expect("there is room");
        let records = Records::new(&path);
        let find = |id: &str| {
            let kept = records.find(id).expect("it reads");
            kept.map(|kept| {
                serde_json::from_str::<QueryRecord>(kept.record.get()).expect("a record")
            })
        };
        assert_eq!(find("twice"), Some(*batch[1].1.clone()));
        assert_eq!(find("chatcmpl-1"), Some(*batch[0].1.clone()));
        assert_eq!(find("once"), Some(*batch[2].1.clone()));
        assert_eq!(find("never"), None);
        let odd = records.list(Some("odd"), 10).expect("it reads");
        let ids: Vec<_> = odd.iter().map(|line| line.id.as_str()).collect();
        assert_eq!(ids, ["chatcmpl-3", "chatcmpl-1"]);
        assert_eq!(odd[0].ending, "no_expert");
    }

    #[test]
    fn the_oldest_go_where_there_is_no_room_for_all() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("records.db");
        let batch: Vec<Told> = (0..2_000).map(|n| told(n, "r")).collect();
        let bytes = serde_json::to_string(&batch[0].1).expect("JSON").len() as u64;
        for batch in batch.chunks(100) {
            // As after a restart: what is there is counted anew.
            let mut file = File::open(&path, bytes * 1_000).expect("it opens");
            file.write(batch).expect("it writes");
        }
        let left = Records::new(&path).list(None, 5_000).expect("it reads");
        assert!((700..=1_000).contains(&left.len()), "{} left", left.len());
        assert_eq!(left[0].id, "chatcmpl-1999");
    }
}
