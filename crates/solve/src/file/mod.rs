//! The files: a selection problem, a routing problem, and the results of both.
//!
//! The file types stand apart from the problems so that a change of a format is not a change of the
//! solvers. `read` turns bytes into records and refuses what is too large while it arrives.

mod proof;
mod read;
mod routing;
mod selection;

pub use proof::parse_proof;
pub(crate) use read::Bounded;
pub use read::{FileError, MAX_FILE_BYTES, MAX_STRING_BYTES};
pub use routing::{
    PricesRecord, ROUTING_FORMAT, ROUTING_RESULT_FORMAT, RoutingResultFile, SpentRecord,
    parse_routing,
};
pub use selection::{INSTANCE_FORMAT, RESULT_FORMAT, ResultFile, parse_instance, write_instance};
