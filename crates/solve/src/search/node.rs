//! Boxes of sets: members that are in, members that are out, the rest open.

use crate::reduce::Reduced;

/// A box with the bound that is proven for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// In ticks.
    pub(crate) bound: u64,
    pub(crate) depth: u32,
    inside: Vec<u16>,
    /// A bit per column.
    outside: Box<[u64]>,
}

impl Node {
    /// Every set of columns; those in `inside` are in all of them.
    pub(crate) fn root(reduced: &Reduced, inside: &[usize], bound: u64) -> Self {
        Self {
            bound,
            depth: 0,
            inside: inside.iter().map(|&c| c as u16).collect(),
            outside: vec![0; reduced.width().div_ceil(64)].into(),
        }
    }

    /// The part of this box that `sides` describe, with one more column decided.
    pub(crate) fn child(&self, sides: &Sides, bound: u64, column: usize, inside: bool) -> Self {
        let mut members: Vec<u16> = sides.inside.iter().map(|&c| c as u16).collect();
        let mut outside = self.outside.clone();
        outside.fill(0);
        for &c in &sides.outside {
            outside[c / 64] |= 1 << (c % 64);
        }
        if inside {
            members.push(column as u16);
        } else {
            outside[column / 64] |= 1 << (column % 64);
        }
        Self {
            bound,
            depth: self.depth + 1,
            inside: members,
            outside,
        }
    }

    pub(crate) fn sides(&self, reduced: &Reduced) -> Sides {
        let inside: Vec<usize> = self.inside.iter().map(|&c| usize::from(c)).collect();
        let is_out = |&c: &usize| self.outside[c / 64] >> (c % 64) & 1 == 1;
        let (outside, rest): (Vec<_>, Vec<_>) = (0..reduced.width()).partition(is_out);
        let open = rest.into_iter().filter(|c| !inside.contains(c)).collect();
        Sides {
            inside,
            outside,
            open,
        }
    }
}

/// Best bound first; among equals the deeper box, which is nearer to being closed.
impl Ord for Node {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_bound = self.bound.cmp(&other.bound);
        let by_depth = by_bound.then(self.depth.cmp(&other.depth));
        let by_inside = by_depth.then_with(|| other.inside.cmp(&self.inside));
        by_inside.then_with(|| other.outside.cmp(&self.outside))
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The columns of a box by side, each list in the order of decisions or ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sides {
    pub(crate) inside: Vec<usize>,
    pub(crate) outside: Vec<usize>,
    pub(crate) open: Vec<usize>,
}

impl Sides {
    /// Moves the open columns that `decide` gives a side.
    pub(crate) fn settle(&mut self, decide: impl Fn(usize) -> Option<bool>) {
        let open = std::mem::take(&mut self.open);
        for column in open {
            match decide(column) {
                Some(true) => self.inside.push(column),
                Some(false) => self.outside.push(column),
                None => self.open.push(column),
            }
        }
    }
}
