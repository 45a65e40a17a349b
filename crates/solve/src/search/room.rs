//! What is left of the constraints while a set grows.
//!
//! Constraints are in shares of their limits, so one tolerance serves all. Loads only ever grow; a
//! search that backs up keeps the old copy, because subtracting drifts.

use crate::reduce::{ROOM, Reduced};

/// Loads of every watched constraint of a reduced problem.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    /// Per linear row.
    used: Vec<f64>,
    /// Per `top_sum` row: its largest shares, descending.
    largest: Vec<Vec<f64>>,
}

impl Room {
    pub(crate) fn new(reduced: &Reduced) -> Self {
        Self {
            used: vec![0.0; reduced.linear.len()],
            largest: vec![Vec::new(); reduced.heaviest.len()],
        }
    }

    pub(crate) fn of(reduced: &Reduced, members: &[usize]) -> Self {
        let mut room = Self::new(reduced);
        members.iter().for_each(|&c| room.add(reduced, c));
        room
    }

    /// Whether every constraint still holds after this column joins.
    pub(crate) fn fits(&self, reduced: &Reduced, column: usize) -> bool {
        let mut linear = reduced.linear.iter().zip(&self.used);
        let mut heaviest = reduced.heaviest.iter().zip(&self.largest);
        linear.all(|(row, used)| row.implied() || used + row.share[column] <= ROOM)
            && heaviest.all(|(row, largest)| {
                let share = row.share[column];
                let at = largest.partition_point(|&c| c >= share);
                let after = largest[at..].iter();
                let all = largest[..at].iter().chain([&share]).chain(after);
                all.take(row.top).sum::<f64>() <= ROOM
            })
    }

    pub(crate) fn add(&mut self, reduced: &Reduced, column: usize) {
        for (used, row) in self.used.iter_mut().zip(&reduced.linear) {
            *used += row.share[column];
        }
        for (largest, row) in self.largest.iter_mut().zip(&reduced.heaviest) {
            let share = row.share[column];
            let at = largest.partition_point(|&c| c >= share);
            largest.insert(at, share);
            largest.truncate(row.top);
        }
    }

    /// Whether every watched constraint holds.
    pub(crate) fn holds(&self, reduced: &Reduced) -> bool {
        let linear = reduced.linear.iter().zip(&self.used);
        let fits = |largest: &Vec<f64>| largest.iter().sum::<f64>() <= ROOM;
        linear
            .into_iter()
            .all(|(row, used)| row.implied() || *used <= ROOM)
            && self.largest.iter().all(fits)
    }

    /// Overwrites `self` with `from`, reusing the memory.
    pub(crate) fn copy_from(&mut self, from: &Self) {
        self.used.clone_from(&from.used);
        self.largest.clone_from(&from.largest);
    }
}
