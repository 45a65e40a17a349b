//! Learning a gate from outcomes.

pub(crate) mod calibrate;
mod cholesky;
pub(crate) mod descent;
pub(crate) mod fit;
pub(crate) mod fusion;
pub(crate) mod heads;
mod length;
pub(crate) mod logistic;
mod model;
pub(crate) mod network;
pub(crate) mod parallel;
pub(crate) mod softmax;
#[cfg(test)]
pub(crate) mod theorems;
pub(crate) mod trust;

pub use calibrate::Calibration;
pub use fit::{Fitted, TrainError, Training};
pub use heads::TrainedHead;
pub(crate) use length::Length;
pub use model::Trained;
pub use parallel::{InTurn, Runner};

/// Mean of some numbers, and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance / count).sqrt())
}
