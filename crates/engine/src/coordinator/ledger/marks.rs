//! Marks: how much of each tenant's joules may be under way if this process dies.
//!
//! A mark that is on disk covers every joule reserved for its tenant before anything of it is dispatched.
//! It is set with some to spare, so most dispatches find theirs there and wait for nothing.

use std::collections::{HashMap, VecDeque};

use moe2_model::TenantId;

use super::window::Wall;

/// A mark has so much to spare, so that few dispatches wait for one.
const SPARE: f64 = 1.5;
/// Seconds after which a mark is lowered: a tenant that asks now and then finds the one from before.
const LOWER_AFTER: u64 = 10;

/// What may be under way of a tenant's joules.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Whose.
    pub tenant: TenantId,
    /// When it was set.
    pub at: Wall,
    /// How much.
    pub joules: f64,
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
