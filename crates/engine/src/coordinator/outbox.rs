//! What waits for a commit: the order between books on disk and what is seen outside.
//!
//! Two promises: no client sees the end of an answer before its settlement is committed, and nothing is
//! dispatched before a mark is committed that covers every joule reserved for its tenant. After a crash a
//! tenant is charged its mark, whatever of it was really used: a window is never exceeded, and errs by at
//! most the mark. Whoever drives the engine passes its outputs through here, writes what it is given, in
//! order, and says what is committed. It is beside the engine and not in it, because an engine without books
//! on disk decides the same.

use std::collections::VecDeque;

use moe2_model::{DispatchId, QueryId, SessionId};
use moe2_wire::ToExpert;

use super::ledger::{Entry, Mark, Marks, Settled};
use super::{Output, Reply};

/// Something to be made durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// What a dispatch used; written once for each.
    Settled(Box<Settled>),
    /// What may be under way of a tenant's joules; replaces the one before.
    Mark(Mark),
}

/// Something that waited for a commit, with what the driver noted for it.
#[derive(Debug, Clone)]
pub enum Held<T> {
    /// The end of an answer.
    Reply(QueryId, Reply),
    /// Work.
    Dispatch {
        /// Which.
        dispatch: DispatchId,
        /// To whom.
        session: SessionId,
        /// The work.
        work: Box<ToExpert>,
        /// The driver's note.
        note: T,
    },
}

/// What is to be done with an output.
#[derive(Debug, Clone)]
pub enum Pass {
    /// Do it.
    Now(Output),
    /// Nothing: it comes out of [`Outbox::released`].
    Later,
    /// Tell the engine that this dispatch is lost: it has not left and will not.
    Never {
        /// Which.
        dispatch: DispatchId,
        /// Why, for people.
        reason: &'static str,
    },
}

/// What is on its way to disk, and what waits for it.
#[derive(Debug)]
pub struct Outbox<T> {
    marks: Marks,
    /// Number of the last write, of the last settlement and of the last higher mark.
    last: u64,
    settled: u64,
    marked: u64,
    committed: u64,
    broken: bool,
    /// With the number that must be committed first; the oldest at the front.
    held: VecDeque<(u64, Held<T>)>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self {
            marks: Marks::default(),
            last: 0,
            settled: 0,
            marked: 0,
            committed: 0,
            broken: false,
            held: VecDeque::new(),
        }
    }
}

impl<T> Outbox<T> {
    fn number(&mut self, write: Write) -> (u64, Write) {
        self.last += 1;
        (self.last, write)
    }

    /// Follows a change of the books. What is to be written for it, with its number: a settlement, or the
    /// higher mark that a reservation asks for.
    pub fn book(&mut self, entry: Entry) -> Option<(u64, Write)> {
        match entry {
            Entry::Reserved {
                tenant, at, bound, ..
            } => {
                let mark = self.marks.reserved(&tenant, at, bound.get())?;
                let write = self.number(Write::Mark(mark));
                self.marked = write.0;
                Some(write)
            }
            // It never left this process: nothing of it can be unwritten.
            Entry::Released { tenant, bound, .. } => {
                self.marks.released(&tenant, bound.get());
                None
            }
            Entry::Settled(settled) => {
                let (tenant, at, bound) = (settled.tenant.clone(), settled.at, settled.bound);
                let write = self.number(Write::Settled(settled));
                self.settled = write.0;
                self.marks.settled(write.0, &tenant, at, bound.get());
                Some(write)
            }
        }
    }

    /// All up to this number is committed. What else is to be written: lower marks.
    pub fn committed(&mut self, number: u64) -> Vec<(u64, Write)> {
        self.committed = number;
        self.broken = false;
        let lower = self.marks.committed(number);
        let lower = lower.into_iter().map(|m| self.number(Write::Mark(m)));
        lower.collect()
    }

    /// Nothing can be written until something is [`committed`](Self::committed) again: answers that were paid
    /// for are given out, and nothing is dispatched.
    pub fn broken(&mut self) {
        self.broken = true;
    }

    /// Whether nothing can be written.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether all up to this number is committed.
    #[must_use]
    pub const fn is_committed(&self, number: u64) -> bool {
        number <= self.committed
    }

    /// Number of the last settlement.
    #[must_use]
    pub const fn last_settled(&self) -> u64 {
        self.settled
    }

    /// Whether work has to wait for a mark now.
    #[must_use]
    pub const fn awaits_mark(&self) -> bool {
        self.marked > self.committed
    }

    /// Marks for exactly what is under way, for a process that is about to end.
    pub fn exact(&mut self) -> Vec<(u64, Write)> {
        let exact = self.marks.exact();
        let exact = exact.into_iter().map(|m| self.number(Write::Mark(m)));
        exact.collect()
    }

    /// Holds an output until what it follows from is committed, with a note of the driver.
    pub fn pass(&mut self, output: Output, note: impl FnOnce() -> T) -> Pass {
        match output {
            Output::Dispatch { dispatch, .. } if self.broken => Pass::Never {
                dispatch,
                reason: "the books cannot be written",
            },
            Output::Dispatch {
                dispatch,
                session,
                work,
            } if self.awaits_mark() => {
                let held = Held::Dispatch {
                    dispatch,
                    session,
                    work,
                    note: note(),
                };
                self.held.push_back((self.marked, held));
                Pass::Later
            }
            Output::Cancel { dispatch } => {
                let waits = |held: &(u64, Held<T>)| matches!(held.1, Held::Dispatch { dispatch: d, .. } if d == dispatch);
                let Some(place) = self.held.iter().position(waits) else {
                    return Pass::Now(output);
                };
                self.held.remove(place);
                Pass::Never {
                    dispatch,
                    reason: "it was not needed any more",
                }
            }
            // A refusal tells nothing that would have to be in the books first.
            Output::Reply {
                query,
                reply: reply @ Reply::Finished(_),
            } if self.settled > self.committed && !self.broken => {
                let held = Held::Reply(query, reply);
                self.held.push_back((self.settled, held));
                Pass::Later
            }
            other => Pass::Now(other),
        }
    }

    /// The next thing that waits no longer; call until `None` after every [`committed`](Self::committed) and
    /// [`broken`](Self::broken). Pass a dispatch through again: it may have to wait for more.
    pub fn released(&mut self) -> Option<Held<T>> {
        let (committed, broken) = (self.committed, self.broken);
        let held = self
            .held
            .pop_front_if(|held| broken || held.0 <= committed)?;
        Some(held.1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Wall;
    use super::*;
    use moe2_model::{ExpertName, Joules, Prompt, Task, TenantId};

    fn tenant() -> TenantId {
        TenantId::new("t").expect("a valid name")
    }

    fn reserved(dispatch: u64, joules: f64) -> Entry {
        Entry::Reserved {
            dispatch: DispatchId(dispatch),
            tenant: tenant(),
            bound: Joules::saturating(joules),
            at: Wall(1),
        }
    }

    fn work(dispatch: u64) -> Output {
        let dispatch = DispatchId(dispatch);
        Output::Dispatch {
            dispatch,
            session: SessionId(1),
            work: Box::new(ToExpert::Work {
                dispatch,
                expert: ExpertName::new("e").expect("a valid name"),
                prompt: Prompt::Chat(Vec::new()),
                task: Task::Choice {
                    options: Vec::new(),
                },
                deadline_ms: 0,
            }),
        }
    }

    fn waits(outbox: &mut Outbox<u8>, dispatch: u64) -> bool {
        matches!(outbox.pass(work(dispatch), || 7), Pass::Later)
    }

    #[test]
    fn work_waits_for_its_mark_and_what_the_mark_covers_waits_for_nothing() {
        let mut outbox = Outbox::default();
        let (number, _) = outbox.book(reserved(1, 10.0)).expect("there is no mark");
        assert!(waits(&mut outbox, 1));
        assert!(outbox.released().is_none());
        assert!(outbox.committed(number).is_empty());
        let released = outbox.released();
        let first = |held: &Held<u8>| matches!(held, Held::Dispatch { dispatch, note: 7, .. } if *dispatch == DispatchId(1));
        assert!(released.as_ref().is_some_and(first), "{released:?}");
        assert!(!waits(&mut outbox, 1));
        assert!(
            outbox.book(reserved(2, 5.0)).is_none(),
            "half as much again"
        );
        assert!(!waits(&mut outbox, 2));
        assert!(outbox.book(reserved(3, 5.0)).is_some());
        assert!(waits(&mut outbox, 3));
    }

    #[test]
    fn what_waits_and_is_cancelled_never_leaves() {
        let mut outbox = Outbox::default();
        let (number, _) = outbox.book(reserved(1, 10.0)).expect("there is no mark");
        assert!(waits(&mut outbox, 1));
        let dispatch = DispatchId(1);
        let cancelled = outbox.pass(Output::Cancel { dispatch }, || 0);
        assert!(matches!(cancelled, Pass::Never { dispatch: d, .. } if d == dispatch));
        outbox.committed(number);
        assert!(outbox.released().is_none());
        let again = outbox.pass(Output::Cancel { dispatch }, || 0);
        assert!(matches!(again, Pass::Now(Output::Cancel { .. })));
    }

    #[test]
    fn nothing_is_dispatched_while_nothing_can_be_written() {
        let mut outbox = Outbox::default();
        let (number, _) = outbox.book(reserved(1, 10.0)).expect("there is no mark");
        assert!(waits(&mut outbox, 1));
        outbox.broken();
        assert!(outbox.released().is_some(), "it is passed through again");
        let passed = outbox.pass(work(1), || 0);
        assert!(matches!(passed, Pass::Never { .. }), "{passed:?}");
        outbox.committed(number);
        assert!(!outbox.is_broken() && !waits(&mut outbox, 1));
    }
}
