//! What a straight line leaves over: a small network beside an expert's linear head.
//!
//! The linear head is fitted first and stays as it is; eight units then learn from its errors
//! (`logit = w·x + v·tanh(W·x)`). So the network costs a head nothing where it has nothing to say, new
//! experts still start from what the linear heads have in common, and the linear head's curvature still
//! says how unsure a forecast is.

use moe2_model::Rng;
use serde::{Deserialize, Serialize};

use super::descent::{Stop, minimise};
use super::logistic::{cross_entropy, sigmoid};

/// Hidden units.
const UNITS: usize = 8;
/// Enough for a network of this size.
const STOP: Stop = Stop {
    gradient: 1e-6,
    steps: 150,
};

/// Weights of a network with one hidden layer and no constants of its own: the first feature is 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    /// Into each unit, a row per unit: `units × features`.
    pub(crate) into: Vec<f64>,
    /// Out of each unit.
    pub(crate) out: Vec<f64>,
}

/// A row, what the linear head makes of it, and what came of it.
pub(super) type Row<'r> = (&'r [f64], f64, f64);

impl Network {
    /// Fits it by cross-entropy to what the logits in the rows leave over; `precision` is that of a normal
    /// prior on every weight, in outcomes. The same rows give the same network: the seed is fixed.
    pub(super) fn fit(rows: &[Row<'_>], precision: f64) -> Self {
        let width = rows.first().map_or(0, |row| row.0.len());
        let inner = UNITS * width;
        let mut rng = Rng::new(11);
        // Small, so that no unit starts saturated; the outer weights start at nothing, which is the
        // linear head itself.
        let scale = 1.0 / (width.max(1) as f64).sqrt();
        let mut x: Vec<f64> = (0..inner).map(|_| scale * rng.normal()).collect();
        x.extend((0..UNITS).map(|_| 0.1 * rng.normal()));
        let each = 1.0 / rows.len().max(1) as f64;
        let mut hidden = [0.0; UNITS];
        minimise(&mut x, STOP, |x, gradient| {
            let (into, out) = x.split_at(inner);
            let mut value = 0.0;
            for (g, w) in gradient.iter_mut().zip(x) {
                *g = each * precision * w;
                value += 0.5 * each * precision * w * w;
            }
            for (row, logit, score) in rows {
                let beside = through(into, out, row, &mut hidden);
                value += each * cross_entropy(logit + beside, *score);
                let off = each * (sigmoid(logit + beside) - score);
                for (unit, h) in hidden.iter().enumerate() {
                    gradient[inner + unit] += off * h;
                    let back = off * out[unit] * (1.0 - h * h);
                    let own = &mut gradient[unit * width..(unit + 1) * width];
                    own.iter_mut().zip(*row).for_each(|(g, v)| *g += back * v);
                }
            }
            value
        });
        let out = x.split_off(inner);
        Self { into: x, out }
    }

    /// What it adds to the logit of a row.
    pub(crate) fn beside(&self, row: &[f64]) -> f64 {
        through(&self.into, &self.out, row, &mut [0.0; UNITS])
    }

    /// Whether it can be applied to rows of this width.
    pub(crate) fn fits(&self, width: usize) -> bool {
        let finite = |all: &[f64]| all.iter().all(|v| v.is_finite());
        self.out.len() == UNITS
            && self.into.len() == UNITS * width
            && finite(&self.into)
            && finite(&self.out)
    }
}

fn through(into: &[f64], out: &[f64], row: &[f64], hidden: &mut [f64; UNITS]) -> f64 {
    let units = into.chunks_exact(row.len().max(1));
    let mut sum = 0.0;
    for ((h, weights), v) in hidden.iter_mut().zip(units).zip(out) {
        let inner: f64 = weights.iter().zip(row).map(|(w, x)| w * x).sum();
        *h = inner.tanh();
        sum += v * *h;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Right where exactly one of two features is positive: no line separates that.
    fn exclusive(count: usize) -> Vec<([f64; 3], f64)> {
        let mut rng = Rng::new(3);
        let one = |_| {
            let (a, b) = (rng.normal(), rng.normal());
            let right = rng.chance(if (a > 0.0) == (b > 0.0) { 0.1 } else { 0.9 });
            ([1.0, a, b], f64::from(u8::from(right)))
        };
        (0..count).map(one).collect()
    }

    fn loss(network: &Network, data: &[([f64; 3], f64)]) -> f64 {
        let each = data.iter();
        let sum: f64 = each
            .map(|(x, y)| cross_entropy(network.beside(x), *y))
            .sum();
        sum / data.len() as f64
    }

    #[test]
    fn it_learns_what_no_line_can_and_the_prior_holds_it_back() {
        let (train, test) = (exclusive(2_000), &exclusive(3_000)[2_000..]);
        let rows: Vec<Row<'_>> = train.iter().map(|(x, y)| (x.as_slice(), 0.0, *y)).collect();
        let free = Network::fit(&rows, 0.3);
        assert!(free.fits(3) && !free.fits(4));
        // ln 2 is what a line reaches here.
        assert!(loss(&free, test) < 0.5, "{}", loss(&free, test));
        let held = Network::fit(&rows, 1e5);
        assert!(loss(&held, test) > 0.69, "{}", loss(&held, test));
        assert_eq!(free, Network::fit(&rows, 0.3));
    }
}
