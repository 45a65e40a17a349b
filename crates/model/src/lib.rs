//! The vocabulary of moe2: units, identifiers, queries, experts, devices, usage and events.
//!
//! Every other crate speaks in these types, so a joule is never added to a second and an expert's
//! name is never mistaken for a node's. There is no behaviour here beyond checked construction and
//! unit arithmetic, and no I/O: a policy that lived here would be imported by everything.

mod chat;
mod device;
mod event;
mod expert;
mod explain;
mod id;
mod query;
mod random;
mod time;
mod units;
mod usage;

pub use chat::{Message, Prompt, Role};
pub use device::{DeviceInfo, DeviceKind, GpuInfo, Roofline};
pub use event::{Covered, Event, Outcome, RefusalKind};
pub use expert::{ExpertOffer, ExpertState};
pub use explain::{Candidate, Cascade, Explanation, Forecast, Job, Participant, Prices, Verdict};
pub use id::{DispatchId, ExpertId, ExpertName, InvalidName, NodeId, QueryId, SessionId, TenantId};
pub use query::{Budgets, Mode, Query, Sampling, Target, Task};
pub use random::Rng;
pub use time::Time;
pub use units::{Bytes, Joules, NotAQuantity, Seconds, Watts};
pub use usage::{EnergySource, Figure, FinishReason, Usage};
