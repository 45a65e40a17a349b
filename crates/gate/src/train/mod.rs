//! Learning a gate from outcomes.

pub(crate) mod calibrate;
mod cholesky;
pub(crate) mod descent;
pub(crate) mod fit;
pub(crate) mod fusion;
pub(crate) mod heads;
mod length;
pub(crate) mod logistic;
pub(crate) mod parallel;
pub(crate) mod softmax;
#[cfg(test)]
mod theorems;
pub(crate) mod trust;

pub use calibrate::Calibration;
pub use fit::{TrainError, Trained, Training};
pub use heads::TrainedHead;
pub(crate) use length::Length;
pub use parallel::{InTurn, Runner};
