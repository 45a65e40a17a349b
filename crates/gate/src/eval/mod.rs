//! What a gate is worth on questions it has not seen, beside what one has without it.

mod baselines;
mod bootstrap;
mod calibration;
mod judge;
mod knn;
mod ridge;

pub use baselines::{Baseline, Reference, baselines, cross_fitted};
pub use judge::{Against, ExpertFigures, Figure, Figures, Judgement, Routed, judge};

/// Forecasts of one question: for each expert the probability of a good answer.
pub type Forecasts = std::collections::BTreeMap<moe2_model::ExpertName, f64>;
