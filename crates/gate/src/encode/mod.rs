//! From a question to numbers that heads can weigh.
//!
//! An encoder is trained, or downloaded, once and then frozen: that is what lets every expert have a
//! head of its own that never has to change when another one comes or goes (MATH 3, theorem D).

pub(crate) mod base;
pub(crate) mod ngrams;
pub(crate) mod topics;

/// A vector that is mostly zero: indices in rising order, and the values there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sparse {
    pub(crate) index: Vec<u32>,
    pub(crate) value: Vec<f32>,
}

impl Sparse {
    /// Scales it to length 1, unless it is zero.
    pub(crate) fn normalise(&mut self) {
        let norm = self.value.iter().map(|v| v * v).sum::<f32>().sqrt();
        if norm > 0.0 {
            self.value.iter_mut().for_each(|v| *v /= norm);
        }
    }

    /// Multiplies each entry with its feature's weight and drops those without any.
    pub(crate) fn weigh(&mut self, weights: &[f32]) {
        let mut kept = 0;
        for at in 0..self.index.len() {
            let weight = weights[self.index[at] as usize];
            if weight != 0.0 {
                self.index[kept] = self.index[at];
                self.value[kept] = self.value[at] * weight;
                kept += 1;
            }
        }
        self.index.truncate(kept);
        self.value.truncate(kept);
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, f32)> {
        self.index
            .iter()
            .map(|&i| i as usize)
            .zip(self.value.iter().copied())
    }
}
