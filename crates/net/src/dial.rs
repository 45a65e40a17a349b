//! Getting a QUIC connection to a coordinator that was given as `host:port`.
//!
//! Every address of the name is tried in turn, IPv4 first: a coordinator usually listens there, and
//! an address where nothing listens costs a whole timeout, as UDP says nothing.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};

use crate::authority::SERVER_NAME;

/// Why no coordinator was reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error(
        "cannot resolve the coordinator's address {coordinator:?} ({reason}): give it as HOST:PORT"
    )]
    Resolve {
        /// What was given.
        coordinator: String,
        /// What the system said.
        reason: String,
    },
    /// Nothing answered.
    #[error(
        "the coordinator at {coordinator} does not answer: check that it runs, and that outbound UDP to that port is allowed"
    )]
    Unreachable {
        /// What was given.
        coordinator: String,
    },
    /// It answered with another protocol.
    #[error("the coordinator speaks another protocol version: upgrade the older of the two")]
    OtherVersion,
    /// It has too many handshakes at once.
    #[error("the coordinator takes no new connections now: try again in a moment")]
    Busy,
    /// No socket here.
    #[error("no UDP socket could be opened on this machine: {0}")]
    Socket(#[from] io::Error),
}

/// A dial that did not end in a connection.
pub(crate) enum Refused {
    Dial(DialError),
    Handshake(ConnectionError),
}

impl From<DialError> for Refused {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

pub(crate) async fn dial(
    coordinator: &str,
    config: ClientConfig,
) -> Result<(Endpoint, Connection), Refused> {
    for address in resolve(coordinator).await? {
        let endpoint = Endpoint::client(any_port(address)).map_err(DialError::Socket)?;
        let connecting = endpoint
            .connect_with(config.clone(), address, SERVER_NAME)
            .map_err(|e| DialError::Resolve {
                coordinator: coordinator.to_owned(),
                reason: e.to_string(),
            })?;
        match connecting.await {
            Ok(connection) => return Ok((endpoint, connection)),
            Err(ConnectionError::TimedOut) => {}
            Err(error) => return Err(Refused::Handshake(error)),
        }
    }
    Err(Refused::Dial(DialError::Unreachable {
        coordinator: coordinator.to_owned(),
    }))
}

async fn resolve(coordinator: &str) -> Result<Vec<SocketAddr>, DialError> {
    let unresolved = |reason: String| DialError::Resolve {
        coordinator: coordinator.to_owned(),
        reason,
    };
    let found = tokio::net::lookup_host(coordinator)
        .await
        .map_err(|e| unresolved(e.to_string()))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    if addresses.is_empty() {
        return Err(unresolved("no address".to_owned()));
    }
    Ok(addresses)
}

fn any_port(peer: SocketAddr) -> SocketAddr {
    if peer.is_ipv6() {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }
}
