//! What an answer will cost: seconds and joules per expert, and the way its bytes travel.
//!
//! A forecast starts as physics (how many bytes and operations a token needs on this device) and
//! turns into measurement with the first answer: every rate is a multiplier on its roofline prior,
//! learnt online with intervals that are checked against what really happened. A table of measured
//! speeds per model was not taken: the fleet is somebody else's machines, and a number from another
//! one is worth less than a single answer from this one. No clock and no I/O: usage comes in as
//! reported, forecasts go out as values.

mod expert;
mod network;
mod percentile;
mod regression;
mod residuals;
mod roofline;

pub use expert::{CostForecast, ExpertCost, Speed};
pub use network::{BadLink, Link, Network, PathCost};
pub use percentile::{conformal_quantile, percentile};
pub use regression::{Line, Prediction};
pub use residuals::Residuals;
pub use roofline::{Prior, ceilings};
