//! The kernel for 0/1 tables: rows as bits, grouped so that all bits of a word weigh the same.
//!
//! A row with a weight of m units is spread over the planes of the binary digits of m, so that any
//! weights are counted by population counts alone. Rows differ in three ways that matter: who of the
//! open columns is right on them, how often the members are already, and whether a phantom is
//! assumed to answer them (phantoms are rounded to all or nothing, which any value allows).

use super::{Kernel, Region};
use crate::reduce::Reduced;

/// Bits with one weight.
#[derive(Debug, Clone, Copy)]
struct Plane {
    weight: u64,
    from: usize,
    to: usize,
}

pub(super) struct Bits {
    words: usize,
    planes: Vec<Plane>,
    /// `words` per open column.
    columns: Vec<u64>,
    /// Rows where no phantom answers.
    plain: Vec<u64>,
    /// k sets of rows: those with more than j right answers so far.
    root: Vec<u64>,
    value: u64,
    with_phantoms: u64,
}

/// A row of the box: pattern over the open columns, right answers among the members, phantom.
type Key = (u64, usize, bool);

impl Bits {
    pub(super) fn new(reduced: &Reduced, region: Region<'_>) -> Self {
        let k = reduced.k;
        let mut counts = vec![0usize; reduced.rows];
        for &column in region.inside {
            for (count, &tick) in counts.iter_mut().zip(reduced.column(column)) {
                *count += usize::from(tick > 0);
            }
        }
        let mut rows: Vec<(Key, u64)> = Vec::new();
        let (mut value, mut with_phantoms) = (0, 0);
        for (x, &count) in counts.iter().enumerate() {
            let weight = u64::from(reduced.row(x).1.first().copied().unwrap_or(0));
            let count = count.min(k);
            let phantom = 2 * u64::from(region.proof.phantoms[x]) > weight;
            value += weight * count as u64;
            with_phantoms += weight * if phantom { k } else { count } as u64;
            let pattern = pattern(reduced, region.open, x);
            if count < k && pattern != 0 {
                rows.push(((pattern, count, phantom), weight / reduced.ticks.step()));
            }
        }
        let mut bits = Self {
            words: 0,
            planes: Vec::new(),
            columns: Vec::new(),
            plain: Vec::new(),
            root: Vec::new(),
            value,
            with_phantoms,
        };
        bits.pack(&merged(rows), region.open.len(), (k, reduced.ticks.step()));
        bits
    }

    fn pack(&mut self, rows: &[(Key, u64)], open: usize, (k, step): (usize, u64)) {
        let heaviest = rows.iter().map(|row| row.1).max().unwrap_or(0);
        let digits = 0..u64::BITS - heaviest.leading_zeros();
        let has = |digit: u32| rows.iter().filter(move |row| row.1 >> digit & 1 == 1);
        for digit in digits.clone() {
            let from = self.words;
            self.words += has(digit).count().div_ceil(64);
            let weight = step << digit;
            self.planes.push(Plane {
                weight,
                from,
                to: self.words,
            });
        }
        self.columns = vec![0; self.words * open];
        self.plain = vec![0; self.words];
        self.root = vec![0; self.words * k];
        for (digit, plane) in digits.zip(&self.planes) {
            for (at, &((pattern, count, phantom), _)) in has(digit).enumerate() {
                let (word, bit) = (plane.from + at / 64, 1u64 << (at % 64));
                if !phantom {
                    self.plain[word] |= bit;
                }
                for level in 0..count {
                    self.root[level * self.words + word] |= bit;
                }
                for column in 0..open {
                    if pattern >> column & 1 == 1 {
                        self.columns[column * self.words + word] |= bit;
                    }
                }
            }
        }
    }

    fn column(&self, column: usize) -> &[u64] {
        &self.columns[column * self.words..(column + 1) * self.words]
    }
}

/// A bit per open column that is right on this row.
fn pattern(reduced: &Reduced, open: &[usize], row: usize) -> u64 {
    let right = |at: usize, &column: &usize| u64::from(reduced.column(column)[row] > 0) << at;
    open.iter()
        .enumerate()
        .map(|(at, column)| right(at, column))
        .sum()
}

/// Equal rows as one, their weights added.
fn merged(mut rows: Vec<(Key, u64)>) -> Vec<(Key, u64)> {
    rows.sort_unstable();
    rows.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 += later.1;
        }
        same
    });
    rows
}

impl Kernel for Bits {
    type Level = Vec<u64>;

    fn root(&self) -> (Vec<u64>, u64, u64) {
        (self.root.clone(), self.value, self.with_phantoms)
    }

    fn gains(&self, level: &Vec<u64>, column: usize) -> (u64, u64) {
        let full = &level[level.len() - self.words..];
        let bits = self.column(column);
        let (mut gain, mut beyond) = (0, 0);
        for plane in &self.planes {
            let range = plane.from..plane.to;
            let open = bits[range.clone()]
                .iter()
                .zip(&full[range.clone()])
                .map(|(b, f)| b & !f);
            let (mut all, mut plain) = (0u32, 0u32);
            for (open, mask) in open.zip(&self.plain[range]) {
                all += open.count_ones();
                plain += (open & mask).count_ones();
            }
            gain += plane.weight * u64::from(all);
            beyond += plane.weight * u64::from(plain);
        }
        (gain, beyond)
    }

    fn push(&self, from: &Vec<u64>, to: &mut Vec<u64>, column: usize) {
        to.clone_from(from);
        let bits = self.column(column);
        for word in 0..self.words {
            let mut carry = bits[word];
            for level in to[word..].iter_mut().step_by(self.words) {
                (*level, carry) = (*level | carry, *level & carry);
            }
        }
    }
}
