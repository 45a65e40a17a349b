//! What an answer will cost: seconds and joules per expert, and the way its bytes travel.
//!
//! A forecast starts as physics (how many bytes and operations a token needs on this device) and
//! turns into measurement with the first answer: every rate is a multiplier on its roofline prior,
//! learnt online with intervals that are checked against what really happened. An operator may have a
//! table of speeds measured elsewhere (`profiles`), which replaces the roofline where a row fits; a
//! single answer from the machine itself is worth more than either. No clock and no I/O: usage comes in as
//! reported, forecasts go out as values.

mod expert;
mod network;
mod percentile;
mod profiles;
mod regression;
mod residuals;
mod roofline;

pub use expert::{CostForecast, ExpertCost, Speed};
pub use network::{BadLink, Link, Network, PathCost};
pub use percentile::{conformal_quantile, percentile};
pub use profiles::{Profile, Profiles};
pub use regression::{Line, Prediction};
pub use residuals::Residuals;
pub use roofline::{Prior, ceilings};
