//! What a gate is worth on questions it has not seen, beside what one has without it.

mod baselines;
mod bootstrap;
mod calibration;
