//! Learning a gate from outcomes.

pub(crate) mod calibrate;
mod cholesky;
mod descent;
mod fit;
mod length;
pub(crate) mod logistic;
pub(crate) mod softmax;

pub use calibrate::Calibration;
pub use fit::{TrainError, Trained, TrainedHead, Training};
