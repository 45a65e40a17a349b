//! The kernel for all other tables: the k best ticks per row, on the rows that can still change.

use super::{Kernel, Region};
use crate::reduce::Reduced;
use crate::search::tops::Tops;

pub(super) struct Levels {
    /// Ticks of the open columns on the kept rows.
    columns: Vec<Vec<u32>>,
    root: (Tops, Tops),
    value: u64,
    with_phantoms: u64,
}

impl Levels {
    pub(super) fn new(reduced: &Reduced, region: Region<'_>) -> Self {
        let mut plain = Tops::new(reduced.rows, reduced.k);
        let mut phantom = Tops::with_phantoms(&region.proof.phantoms, reduced.k);
        for &column in region.inside {
            plain.push(reduced.column(column));
            phantom.push(reduced.column(column));
        }
        let improves = |x: &usize| {
            let best = plain.last()[*x];
            region
                .open
                .iter()
                .any(|&column| reduced.column(column)[*x] > best)
        };
        let kept: Vec<usize> = (0..reduced.rows).filter(improves).collect();
        let compact = |&column: &usize| {
            let ticks = reduced.column(column);
            kept.iter().map(|&x| ticks[x]).collect()
        };
        Self {
            columns: region.open.iter().map(compact).collect(),
            value: plain.value(),
            with_phantoms: phantom.value(),
            root: (plain.on(&kept), phantom.on(&kept)),
        }
    }
}

impl Kernel for Levels {
    type Level = (Tops, Tops);

    fn root(&self) -> ((Tops, Tops), u64, u64) {
        (self.root.clone(), self.value, self.with_phantoms)
    }

    fn gains(&self, level: &(Tops, Tops), column: usize) -> (u64, u64) {
        let ticks = &self.columns[column];
        (level.0.gain(ticks), level.1.gain(ticks))
    }

    fn push(&self, from: &(Tops, Tops), to: &mut (Tops, Tops), column: usize) {
        to.0.copy_from(&from.0);
        to.1.copy_from(&from.1);
        to.0.push(&self.columns[column]);
        to.1.push(&self.columns[column]);
    }
}
