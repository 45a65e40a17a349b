//! The thread that commits, and the marks that say what must be committed before what.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use moe2_engine::coordinator::{Entry, Wall};
use moe2_model::TenantId;
use rusqlite::Connection;

use super::store;
use crate::handle::EngineHandle;

/// Entries of one transaction at most.
const BATCH: usize = 4_096;
/// Between attempts to write what could not be written.
const RETRY: Duration = Duration::from_millis(500);
/// A mark has so much to spare, so that few dispatches wait for one.
const SPARE: f64 = 1.5;

/// Something to write, with its number.
enum Work {
    Entry(Entry),
    Mark {
        tenant: TenantId,
        at: Wall,
        joules: f64,
    },
}

/// The way to the thread.
pub(crate) struct Writer {
    work: Sender<(u64, Work)>,
    next: u64,
}

impl Writer {
    /// Starts the thread; it tells the driver what is committed, and when it cannot write.
    pub(crate) fn start(database: Connection, engine: EngineHandle) -> std::io::Result<Self> {
        let (work, inbox) = channel();
        std::thread::Builder::new()
            .name("books".to_owned())
            .spawn(move || run(database, &inbox, &engine))?;
        Ok(Self { work, next: 0 })
    }

    /// Has an entry written; returns its number.
    pub(crate) fn write(&mut self, entry: Entry) -> u64 {
        self.send(Work::Entry(entry))
    }

    /// Has a mark written; returns its number.
    pub(crate) fn mark(&mut self, tenant: TenantId, at: Wall, joules: f64) -> u64 {
        self.send(Work::Mark { tenant, at, joules })
    }

    fn send(&mut self, work: Work) -> u64 {
        self.next += 1;
        // Fails only if the thread is gone, and then nothing is ever reported as committed.
        let _ = self.work.send((self.next, work));
        self.next
    }
}

fn run(mut database: Connection, inbox: &Receiver<(u64, Work)>, engine: &EngineHandle) {
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
    }
}

fn commit(database: &mut Connection, batch: &[(u64, Work)]) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    for (_, work) in batch {
        match work {
            Work::Entry(entry) => store::write(&transaction, entry)?,
            Work::Mark { tenant, at, joules } => store::mark(&transaction, tenant, *at, *joules)?,
        }
    }
    transaction.commit()
}

/// What is reserved per tenant, and what is marked for it.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    tenants: HashMap<TenantId, Mark>,
}

#[derive(Debug, Default)]
struct Mark {
    reserved: f64,
    marked: f64,
}

impl Marks {
    /// Follows an entry; returns the mark it asks for, if it asks for one: a higher one before anything
    /// else is done, a lower one when much less is under way.
    pub(crate) fn follow(&mut self, entry: &Entry) -> Option<(TenantId, Wall, f64)> {
        let (tenant, at, change) = match entry {
            Entry::Reserved {
                tenant, at, bound, ..
            } => (tenant, *at, bound.get()),
            Entry::Settled(settled) => (&settled.tenant, settled.at, -settled.bound.get()),
        };
        if !self.tenants.contains_key(tenant) {
            self.tenants.insert(tenant.clone(), Mark::default());
        }
        let mark = self.tenants.get_mut(tenant)?;
        mark.reserved = (mark.reserved + change).max(0.0);
        if mark.reserved < 1e-9 {
            // Sums of what was added and taken away leave a little.
            mark.reserved = 0.0;
        }
        let wanted = mark.reserved * SPARE;
        let settle_down = mark.marked > 4.0 * wanted.max(f64::MIN_POSITIVE);
        if mark.reserved > mark.marked || settle_down {
            mark.marked = wanted;
            return Some((tenant.clone(), at, wanted));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{DispatchId, Joules};

    #[test]
    fn a_mark_always_covers_what_is_reserved_and_few_are_needed() {
        let mut marks = Marks::default();
        let tenant = TenantId::new("t").expect("a valid name");
        let (mut marked, mut asked) = (0.0, 0);
        for n in 0..1_000 {
            let entry = Entry::Reserved {
                dispatch: DispatchId(n),
                tenant: tenant.clone(),
                bound: Joules::saturating(1.0),
                at: Wall(n),
            };
            if let Some((_, _, joules)) = marks.follow(&entry) {
                marked = joules;
                asked += 1;
            }
            assert!(marked >= n as f64 + 1.0, "{n}");
        }
        assert!(asked < 25, "{asked}");
    }
}
