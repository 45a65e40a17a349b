//! The weight of one expert's vote.
//!
//! Among experts that err independently the best rule there is weighs each by the logarithm of its odds
//! against chance (Nitzan and Paroush 1982).

/// Probabilities are taken as no surer than this.
const SURE: (f64, f64) = (0.02, 0.98);
/// An expert that is no better than chance still breaks ties.
const LEAST_WEIGHT: f64 = 1e-3;

/// Weight of a vote for one of `options`, by an expert that is right with this probability.
#[must_use]
pub fn vote_weight(probability: f64, options: usize) -> f64 {
    let p = probability.clamp(SURE.0, SURE.1);
    let others = options.saturating_sub(1).max(1) as f64;
    (p * others / (1.0 - p)).ln().max(LEAST_WEIGHT)
}
