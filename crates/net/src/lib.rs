//! QUIC between a coordinator and its agents: endpoints, mutual TLS, enrolment, framed streams.
//!
//! The only library with sockets of the fleet. One UDP port serves two application protocols: the
//! fleet's (`moe2/1`, a client certificate is required) and enrolment's (`moe2-join/1`, a join
//! token is exchanged for a certificate). Identity is the certificate's, never a message's. Nothing
//! here decides anything: what to admit, store, revoke or dispatch is its callers' business. How processes of the
//! fleet are told to stop is here as well, because both have it.
//!
//! On `moe2/1` the coordinator's first stream carries one byte and ends: the agent is admitted. TLS
//! 1.3 lets a client finish its handshake before the server has judged the client's certificate, so
//! without that byte [`connect`] would report success to an agent that is about to be refused.

mod authority;
mod certificate;
mod client;
mod crowd;
mod dial;
mod failure;
mod identity;
mod pin;
mod revoked;
mod server;
mod stop;
mod stream;
mod tls;
mod token;
mod transport;

pub use authority::{Authority, AuthorityError, Issued, SERVER_NAME};
pub use client::{ConnectError, CoordinatorConnection, JoinError, connect, enrol, renew};
pub use crowd::{Crowd, Present};
pub use dial::DialError;
pub use identity::{Identity, IdentityError};
pub use revoked::Revoked;
pub use server::{Accepted, AgentConnection, BindError, JoinConnection, Listener};
pub use stop::{Stop, stop_signal};
pub use stream::{FrameReceiver, FrameSender, StreamError};
pub use token::{InvalidToken, JoinToken, constant_time_eq, hash_secret};
