//! The thread that commits. What must be committed before what is the engine's outbox.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use moe2_engine::coordinator::Write;
use rusqlite::Connection;

use super::{now, store};
use crate::handle::EngineHandle;

/// Entries of one transaction at most.
const BATCH: usize = 4_096;
/// Between attempts to write what could not be written.
const RETRY: Duration = Duration::from_millis(500);
/// Seconds between two looks for what is too old to keep.
const PRUNE_EVERY: u64 = 24 * 3_600;

/// The way to the thread.
pub(crate) struct Writer {
    work: Sender<(u64, Write)>,
}

impl Writer {
    /// Starts the thread; it tells the driver what is committed, and when it cannot write.
    pub(crate) fn start(
        database: Connection,
        keep_usage: Duration,
        engine: EngineHandle,
    ) -> std::io::Result<Self> {
        let (work, inbox) = channel();
        std::thread::Builder::new()
            .name("books".to_owned())
            .spawn(move || run(database, &inbox, (&engine, keep_usage)))?;
        Ok(Self { work })
    }

    /// Has something written that has this number.
    pub(crate) fn write(&self, numbered: (u64, Write)) {
        // Fails only if the thread is gone, and then nothing is ever reported as committed.
        let _ = self.work.send(numbered);
    }
}

fn run(
    mut database: Connection,
    inbox: &Receiver<(u64, Write)>,
    (engine, keep_usage): (&EngineHandle, Duration),
) {
    let mut pruned = now();
    while let Ok(first) = inbox.recv() {
        let mut batch = vec![first];
        batch.extend(inbox.try_iter().take(BATCH - 1));
        let last = batch.last().map_or(0, |(number, _)| *number);
        let mut failing = false;
        loop {
            match commit(&mut database, &batch) {
                Ok(()) => break,
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "the books cannot be written; no new work is taken");
                        engine.books_broken(error.to_string());
                    }
                    failing = true;
                    std::thread::sleep(RETRY);
                }
            }
        }
        if failing {
            tracing::info!("the books are written again");
        }
        if !engine.committed(last) {
            return;
        }
        if now().0 >= pruned.0 + PRUNE_EVERY {
            pruned = now();
            if let Err(error) = store::prune(&database, pruned, keep_usage) {
                tracing::warn!(%error, "old usage was not removed");
            }
        }
    }
}

fn commit(database: &mut Connection, batch: &[(u64, Write)]) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    for (_, write) in batch {
        match write {
            Write::Settled(settled) => store::write(&transaction, settled)?,
            Write::Mark(mark) => store::mark(&transaction, &mark.tenant, mark.at, mark.joules)?,
        }
    }
    transaction.commit()
}
