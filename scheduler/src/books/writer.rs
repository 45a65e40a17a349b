//! The thread that commits, and the marks that say what must be committed before what.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use moe2_engine::coordinator::{Settled, Wall};
use moe2_model::TenantId;
use rusqlite::Connection;

use super::{now, store};
use crate::handle::EngineHandle;

/// Entries of one transaction at most.
const BATCH: usize = 4_096;
/// Between attempts to write what could not be written.
const RETRY: Duration = Duration::from_millis(500);
/// A mark has so much to spare, so that few dispatches wait for one.
const SPARE: f64 = 1.5;
/// Seconds after which a mark is lowered: a tenant that asks now and then finds the one from before.
const LOWER_AFTER: u64 = 10;
/// Seconds between two looks for what is too old to keep.
const PRUNE_EVERY: u64 = 24 * 3_600;

/// Something to write, with its number.
enum Work {
    Settled(Box<Settled>),
    Mark(Mark),
}

/// The way to the thread.
pub(crate) struct Writer {
    work: Sender<(u64, Work)>,
    next: u64,
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
        Ok(Self { work, next: 0 })
    }

    /// Has a settlement written; returns its number.
    pub(crate) fn settle(&mut self, settled: Box<Settled>) -> u64 {
        self.send(Work::Settled(settled))
    }

    /// Has a mark written; returns its number.
    pub(crate) fn mark(&mut self, mark: Mark) -> u64 {
        self.send(Work::Mark(mark))
    }

    fn send(&mut self, work: Work) -> u64 {
        self.next += 1;
        // Fails only if the thread is gone, and then nothing is ever reported as committed.
        let _ = self.work.send((self.next, work));
        self.next
    }
}

fn run(
    mut database: Connection,
    inbox: &Receiver<(u64, Work)>,
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

fn commit(database: &mut Connection, batch: &[(u64, Work)]) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    for (_, work) in batch {
        match work {
            Work::Settled(settled) => store::write(&transaction, settled)?,
            Work::Mark(mark) => store::mark(&transaction, &mark.tenant, mark.at, mark.joules)?,
        }
    }
    transaction.commit()
}

/// What may be under way of a tenant's joules.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    pub(crate) tenant: TenantId,
    pub(crate) at: Wall,
    pub(crate) joules: f64,
}

/// What is reserved per tenant, and what is marked for it.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    tenants: HashMap<TenantId, Marked>,
    /// Settlements on their way to disk, by number: until they are there, what was reserved for them is
    /// covered by nothing but the mark.
    unwritten: VecDeque<(u64, TenantId, Wall, f64)>,
}

#[derive(Debug, Default)]
struct Marked {
    reserved: f64,
    marked: f64,
    changed: Wall,
}

impl Marked {
    fn give_back(&mut self, bound: f64) {
        self.reserved = (self.reserved - bound).max(0.0);
        if self.reserved < 1e-9 {
            // Sums of what was added and taken away leave a little.
            self.reserved = 0.0;
        }
    }
}

impl Marks {
    /// Follows a reservation; returns the higher mark that must be committed before anything else is done,
    /// if it needs one.
    pub(crate) fn reserved(&mut self, tenant: &TenantId, at: Wall, bound: f64) -> Option<Mark> {
        if !self.tenants.contains_key(tenant) {
            self.tenants.insert(tenant.clone(), Marked::default());
        }
        let own = self.tenants.get_mut(tenant)?;
        own.reserved += bound;
        if own.reserved <= own.marked {
            return None;
        }
        (own.marked, own.changed) = (own.reserved * SPARE, at);
        Some(Mark {
            tenant: tenant.clone(),
            at,
            joules: own.marked,
        })
    }

    /// Follows a reservation that was given back. The mark stays until a settlement lowers it.
    pub(crate) fn released(&mut self, tenant: &TenantId, bound: f64) {
        if let Some(own) = self.tenants.get_mut(tenant) {
            own.give_back(bound);
        }
    }

    /// Follows a settlement that was given this number.
    pub(crate) fn settled(&mut self, number: u64, tenant: &TenantId, at: Wall, bound: f64) {
        self.unwritten
            .push_back((number, tenant.clone(), at, bound));
    }

    /// All up to this number is committed; returns lower marks for tenants of whom much less has been
    /// under way for a while.
    pub(crate) fn committed(&mut self, number: u64) -> Vec<Mark> {
        let mut lower = Vec::new();
        while let Some((_, tenant, at, bound)) =
            self.unwritten.pop_front_if(|settled| settled.0 <= number)
        {
            let Some(own) = self.tenants.get_mut(&tenant) else {
                continue;
            };
            own.give_back(bound);
            let wanted = own.reserved * SPARE;
            if own.marked > 4.0 * wanted && at.0 >= own.changed.0 + LOWER_AFTER {
                (own.marked, own.changed) = (wanted, at);
                lower.push(Mark {
                    tenant,
                    at,
                    joules: wanted,
                });
            }
        }
        lower
    }

    /// Marks for exactly what is under way.
    pub(crate) fn exact(&self) -> Vec<Mark> {
        let marked = self.tenants.iter().filter(|(_, own)| own.marked > 0.0);
        let exact = marked.map(|(tenant, own)| Mark {
            tenant: tenant.clone(),
            at: own.changed,
            joules: own.reserved,
        });
        exact.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Rng;

    fn tenant() -> TenantId {
        TenantId::new("t").expect("a valid name")
    }

    #[test]
    fn few_marks_are_needed() {
        let mut marks = Marks::default();
        let crowd = (0..1_000).filter_map(|n| marks.reserved(&tenant(), Wall(n), 1.0));
        assert!(crowd.count() < 25);
        let mut marks = Marks::default();
        let mut asked = 0;
        for n in 0..1_000 {
            asked += marks.reserved(&tenant(), Wall(1), 1.0).iter().count();
            marks.settled(n, &tenant(), Wall(1), 1.0);
            asked += marks.committed(n).len();
        }
        assert_eq!(asked, 1, "one after the other finds the mark of the first");
    }

    /// However far the thread is behind when the process dies: what is charged then covers what was
    /// dispatched.
    #[test]
    fn what_is_written_covers_what_was_dispatched_at_any_moment() {
        let mut rng = Rng::new(5);
        for _ in 0..300 {
            let mut marks = Marks::default();
            // In the order of their numbers, from 1 on: joules settled, or a mark.
            let mut written: Vec<(f64, Option<f64>)> = Vec::new();
            let (mut committed, mut raise, mut now) = (0, 0, 0);
            // Bound, joules used, and the number that it may leave after.
            let mut dispatched: Vec<(f64, f64, usize)> = Vec::new();
            let mut open = Vec::new();
            for _ in 0..120 {
                now += rng.below(4) as u64;
                match rng.below(3) {
                    0 if !open.is_empty() => {
                        let (bound, used, after) =
                            dispatched[open.swap_remove(rng.below(open.len()))];
                        // Nothing is settled that has not left.
                        if after <= committed {
                            written.push((used, None));
                            marks.settled(written.len() as u64, &tenant(), Wall(now), bound);
                        }
                    }
                    1 => {
                        committed += rng.below(written.len() - committed + 1);
                        for mark in marks.committed(committed as u64) {
                            written.push((0.0, Some(mark.joules)));
                        }
                    }
                    _ => {
                        let bound = 1.0 + 9.0 * rng.unit();
                        if let Some(mark) = marks.reserved(&tenant(), Wall(now), bound) {
                            written.push((0.0, Some(mark.joules)));
                            raise = written.len();
                        }
                        open.push(dispatched.len());
                        dispatched.push((bound, bound * rng.unit(), raise));
                    }
                }
                let (on_disk, _) = written.split_at(committed);
                let charged: f64 = on_disk.iter().map(|w| w.0).sum();
                let mark = on_disk.iter().rev().find_map(|w| w.1).unwrap_or(0.0);
                let left = dispatched.iter().filter(|d| d.2 <= committed);
                let spent: f64 = left.map(|d| d.1).sum();
                assert!(
                    charged + mark >= spent - 1e-9,
                    "{charged} + {mark} J for {spent} J"
                );
            }
        }
    }
}
