//! Linear functions that no set exceeds, from phantom experts.
//!
//! At a fractional point z the tightest phantom of a row is the value of the expert at which the
//! cumulated z, best expert first, reaches k: this is the closed form of the Benders cut of the
//! facility-location relaxation (Nemhauser and Wolsey 1981; Fischetti, Ljubić and Sinnl 2017), and the
//! walk ends after a few experts.

use std::ops::Range;

use crate::reduce::Reduced;

/// Cumulated z within this of k counts as k.
const FULL: f64 = 1e-9;

/// `F(S) ≤ constant + Σ_{n ∈ S} slope[n]`, in ticks, over some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Majorant {
    pub(crate) constant: u64,
    pub(crate) slope: Vec<u64>,
}

impl Majorant {
    /// Its value at a fractional set.
    pub(crate) fn at(&self, z: &[f64]) -> f64 {
        let terms = self.slope.iter().zip(z);
        terms.fold(self.constant as f64, |sum, (&s, z)| sum + s as f64 * z)
    }

    fn new(width: usize) -> Self {
        Self {
            constant: 0,
            slope: vec![0; width],
        }
    }
}

/// The majorant of some rows that is tightest at z, with its phantom ticks.
pub(crate) fn tightest(reduced: &Reduced, z: &[f64], rows: Range<usize>) -> (Vec<u32>, Majorant) {
    let mut majorant = Majorant::new(reduced.width());
    let enough = reduced.k as f64 - FULL;
    let phantoms = rows.map(|x| {
        let (order, ticks) = reduced.row(x);
        let mut counted = 0.0;
        let last = order.iter().position(|&column| {
            counted += z[usize::from(column)];
            counted >= enough
        });
        let phantom = last.map_or(0, |at| ticks[at]);
        for (&column, &tick) in order.iter().zip(ticks).take(last.unwrap_or(order.len())) {
            majorant.slope[usize::from(column)] += u64::from(tick - phantom);
        }
        majorant.constant += u64::from(phantom);
        phantom
    });
    let phantoms = phantoms.collect();
    majorant.constant *= reduced.k as u64;
    (phantoms, majorant)
}

/// The majorant of all rows with these phantoms.
pub(crate) fn of(reduced: &Reduced, phantoms: &[u32]) -> Majorant {
    of_rows(reduced, phantoms, 0..reduced.rows)
}

/// The majorant of some rows, one phantom each.
pub(crate) fn of_rows(reduced: &Reduced, phantoms: &[u32], rows: Range<usize>) -> Majorant {
    let mut majorant = Majorant::new(reduced.width());
    for (x, &phantom) in rows.zip(phantoms) {
        let (order, ticks) = reduced.row(x);
        majorant.constant += u64::from(phantom);
        for (&column, &tick) in order.iter().zip(ticks) {
            if tick <= phantom {
                break;
            }
            majorant.slope[usize::from(column)] += u64::from(tick - phantom);
        }
    }
    majorant.constant *= reduced.k as u64;
    majorant
}
