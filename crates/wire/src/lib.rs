//! What moe2's processes say to each other: closed enums, one codec, length-limited frames.
//!
//! Three conversations use it: agent ↔ coordinator on a control stream ([`FromAgent`],
//! [`ToAgent`]), one stream per dispatch ([`ToExpert`], [`FromExpert`]), and agent ↔ worker process
//! over pipes ([`ToWorker`], [`FromWorker`]). Sockets live in `net`; here are only bytes and types,
//! so the simulator and the fuzzers speak exactly what the network does.

pub mod codec;
mod control;
mod enrol;
mod frame;
mod unreserved;
mod work;
mod worker;

pub use codec::CodecError;
pub use control::{ALPN, FromAgent, PROTOCOL_VERSION, RefusedAgent, ToAgent};
pub use enrol::{ALPN_JOIN, EnrolError, EnrolReply, EnrolRequest};
pub use frame::{FrameDecoder, FrameError, MAX_FRAME, decode_frame, encode_frame};
pub use work::{FailureKind, FromExpert, ToExpert, picked, picked_of};
pub use worker::{FromWorker, ToWorker};
