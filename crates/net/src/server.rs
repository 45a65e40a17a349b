//! The coordinator's one UDP port.
//!
//! Every handshake runs in a task of its own and under a time limit, so a slow, hostile or half-open
//! one delays nobody. When many are pending, unknown addresses first have to prove that they are
//! real (QUIC's retry packet, which costs us no memory), so a flood from forged addresses cannot
//! take the places of good agents; nor can one real address, which has a share of them. Enrolment, the only thing
//! strangers can do, has few places.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moe2_model::NodeId;
use moe2_wire::{ALPN, ALPN_JOIN, EnrolReply, EnrolRequest};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, TokioRuntime, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::authority::Authority;
use crate::certificate::{node_of, serial_of};
use crate::crowd::{Crowd, Present, neighbourhood};
use crate::failure::{REVOKED, describe};
use crate::revoked::Revoked;
use crate::stream::{FrameReceiver, FrameSender, StreamError, accept, open};
use crate::tls;
use crate::transport::{CODE_DONE, CODE_NO_CERTIFICATE, CODE_PROTOCOL, CODE_REVOKED};

/// Handshakes in progress at once. One holds some 50 kB: 13 MB at worst.
const MAX_HANDSHAKES: usize = 256;
/// Above this many in progress, an address must be proven real first, which costs an honest agent
/// one round trip.
const RETRY_ABOVE: usize = 32;
/// Handshakes and enrolments in progress at once from one address, so that who has proven one cannot take all places.
/// More than [`RETRY_ABOVE`]: nobody can take another's by using its address. Agents behind one address that are more
/// at once try again within a second by themselves: their first packets are passed over, which costs next to nothing.
const MAX_PER_ADDRESS: usize = 64;
/// A handshake, and each step of an enrolment, takes at most this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Enrolments of strangers in progress at once, whatever their handshakes did. One more waits for a place for
/// [`TURN`]: sending it away at once would cost both sides the whole handshake again. Twice [`MAX_PER_ADDRESS`]: a
/// stranger that asks for nothing must not keep others from asking.
const MAX_JOINS: usize = 2 * MAX_PER_ADDRESS;
/// How long one that would join waits for its turn; then it is told so. Shorter than [`PATIENCE`], which ends without
/// a word.
const TURN: Duration = Duration::from_secs(4);
/// Renewals of one node in progress at once: one that was lost on the way, and the one after it. They take no place of
/// strangers, nor do strangers take theirs: a node that cannot renew for long is out of the fleet.
const MAX_RENEWALS: usize = 2;
/// First packets of strangers kept until they are looked at, which happens at once.
const MAX_INCOMING: usize = 1024;
/// Bytes kept of each of them.
const INCOMING_BUFFER: u64 = 16 * 1024;
/// Bytes kept of all of them together.
const INCOMING_BUFFERS: u64 = 4 * 1024 * 1024;
/// Arrivals that wait for the coordinator to look at them.
const QUEUE: usize = 64;

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error(
        "UDP {addr} is in use: stop the other process (is a coordinator already running?) or choose another port"
    )]
    InUse {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The system says no for another reason.
    #[error("cannot listen on UDP {addr}: {source}")]
    Io {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The authority cannot be used for TLS.
    #[error(
        "the CA cannot be used ({0}): restore it from a backup, or make a new one and enrol every agent again"
    )]
    Authority(String),
}

/// Who came.
#[derive(Debug)]
pub enum Accepted {
    /// An agent of the fleet; it has been told that it is admitted.
    Agent(AgentConnection),
    /// Somebody who wants a certificate.
    Join(JoinConnection),
    /// Nobody: the handshake failed. For the log.
    Rejected {
        /// Where it came from.
        remote: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// The open port. Dropping it closes every connection that came through it.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    accepted: mpsc::Receiver<Accepted>,
    local_addr: SocketAddr,
}

impl Listener {
    /// Opens the port and starts taking handshakes; `now` begins the validity of the coordinator's
    /// own certificate. Who shows a certificate that is `revoked` is turned away. Must run inside a `tokio` runtime.
    ///
    /// # Errors
    /// [`BindError`] when the port or the authority is not usable.
    pub fn bind(
        addr: SocketAddr,
        authority: &Authority,
        now: SystemTime,
        revoked: Revoked,
    ) -> Result<Self, BindError> {
        let mut config =
            tls::coordinator(authority, now).map_err(|e| BindError::Authority(e.to_string()))?;
        config
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFERS);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { addr },
            _ => BindError::Io { addr, source },
        };
        let socket = UdpSocket::bind(addr).map_err(failed)?;
        let local_addr = socket.local_addr().map_err(failed)?;
        let settings = EndpointConfig::default();
        let endpoint = Endpoint::new(settings, Some(config), socket, Arc::new(TokioRuntime))
            .map_err(failed)?;
        let (sender, accepted) = mpsc::channel(QUEUE);
        let door = Arc::new(Door {
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            addresses: Crowd::of(MAX_PER_ADDRESS),
            joins: Arc::new(Semaphore::new(MAX_JOINS)),
            renewals: Crowd::of(MAX_RENEWALS),
            accepted: sender,
            revoked,
        });
        tokio::spawn(door.keep(endpoint.clone()));
        Ok(Self {
            endpoint,
            accepted,
            local_addr,
        })
    }

    /// The address in use, with the port the system chose when 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next arrival; `None` once the port is closed. May be cancelled without loss.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }

    /// Closes every connection with this reason and waits until the peers have been told.
    pub async fn shut_down(self, reason: &str) {
        self.endpoint.close(CODE_DONE, reason.as_bytes());
        self.endpoint.wait_idle().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.endpoint.close(CODE_DONE, b"the coordinator stopped");
    }
}

/// What all handshakes share.
struct Door {
    handshakes: Arc<Semaphore>,
    addresses: Crowd<IpAddr>,
    joins: Arc<Semaphore>,
    renewals: Crowd<NodeId>,
    accepted: mpsc::Sender<Accepted>,
    revoked: Revoked,
}

impl Door {
    async fn keep(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let pending = MAX_HANDSHAKES - self.handshakes.available_permits();
            if pending >= RETRY_ABOVE && !incoming.remote_address_validated() {
                // An unproven address may always be asked to retry, so this cannot fail.
                let _ = incoming.retry();
                continue;
            }
            let remote = incoming.remote_address();
            let place = Arc::clone(&self.handshakes).try_acquire_owned().ok();
            let of_address = self.addresses.enter(neighbourhood(remote.ip()));
            let Some((place, of_address)) = place.zip(of_address) else {
                // Silence rather than refusal: the peer's own retransmission is its second try.
                tracing::debug!(%remote, "too many handshakes");
                incoming.ignore();
                continue;
            };
            let door = Arc::clone(&self);
            tokio::spawn(async move {
                door.greet(incoming, of_address).await;
                drop(place);
            });
        }
    }

    async fn greet(&self, incoming: Incoming, of_address: Present<IpAddr>) {
        let remote = incoming.remote_address();
        let outcome = timeout(PATIENCE, self.admit(incoming, of_address))
            .await
            .unwrap_or_else(|_| Err("the handshake was not finished in time".to_owned()));
        match outcome {
            // Fails when the listener is gone; dropping the connection closes it.
            Ok(accepted) => drop(self.accepted.send(accepted).await),
            // For the log only: a full queue must not hold up this handshake's place.
            Err(reason) => drop(
                self.accepted
                    .try_send(Accepted::Rejected { remote, reason }),
            ),
        }
    }

    async fn admit(
        &self,
        incoming: Incoming,
        of_address: Present<IpAddr>,
    ) -> Result<Accepted, String> {
        let connecting = incoming.accept().map_err(|e| describe(&e))?;
        let connection = connecting.await.map_err(|e| describe(&e))?;
        let shown = shown(&connection);
        if let Some(shown) = &shown
            && self.revoked.contains(&shown.serial)
        {
            return Err(turn_away(&connection, CODE_REVOKED, REVOKED));
        }
        match protocol(&connection).as_deref() {
            Some(ALPN) => self.admit_agent(connection, shown).await,
            Some(ALPN_JOIN) => {
                let Some(turn) = self.turn(shown.as_ref()).await else {
                    let reason = "too many are joining at once: try again in a moment";
                    return Err(turn_away(&connection, CODE_DONE, reason));
                };
                Ok(Accepted::Join(JoinConnection {
                    connection,
                    shown,
                    answer: None,
                    _places: (turn, of_address),
                }))
            }
            // TLS only negotiates what was offered.
            _ => Err(turn_away(&connection, CODE_PROTOCOL, "unknown protocol")),
        }
    }

    /// A place for one that wants a certificate, because it has a token or shows the one it has.
    async fn turn(&self, shown: Option<&Shown>) -> Option<Turn> {
        if let Some(shown) = shown {
            let renewal = self.renewals.enter(shown.node.clone());
            return renewal.map(|place| Turn::Renewal { _place: place });
        }
        let place = timeout(TURN, Arc::clone(&self.joins).acquire_owned()).await;
        let place = place.ok()?.ok()?;
        Some(Turn::Join { _place: place })
    }

    /// Lets an agent in and tells it with the one byte that its side waits for.
    async fn admit_agent(
        &self,
        connection: Connection,
        shown: Option<Shown>,
    ) -> Result<Accepted, String> {
        let Some(shown) = shown else {
            let reason =
                "a client certificate that names a node is required: join with a token first";
            return Err(turn_away(&connection, CODE_NO_CERTIFICATE, reason));
        };
        let (mut send, _recv) = connection.open_bi().await.map_err(|e| describe(&e))?;
        send.write_all(&[1]).await.map_err(|e| e.to_string())?;
        Ok(Accepted::Agent(AgentConnection {
            connection,
            shown: Arc::new(shown),
            revoked: self.revoked.clone(),
        }))
    }
}

/// A place among those that may ask for a certificate; given back when dropped.
#[derive(Debug)]
enum Turn {
    Join { _place: OwnedSemaphorePermit },
    Renewal { _place: Present<NodeId> },
}

/// Closes with a reason that the peer sees, and hands the reason back for our log.
fn turn_away(connection: &Connection, code: VarInt, reason: &str) -> String {
    connection.close(code, reason.as_bytes());
    reason.to_owned()
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>();
    data.ok()?.protocol
}

/// What a verified client certificate says.
#[derive(Debug)]
struct Shown {
    node: NodeId,
    serial: String,
}

/// The verified client certificate, if one that names a node was shown.
fn shown(connection: &Connection) -> Option<Shown> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>();
    let chain = chain.ok()?;
    let leaf = chain.first()?;
    Some(Shown {
        node: node_of(leaf)?,
        serial: serial_of(leaf)?,
    })
}

/// A connection to an agent whose certificate was verified. Clones share it; it closes when the
/// last is dropped.
#[derive(Debug, Clone)]
pub struct AgentConnection {
    connection: Connection,
    shown: Arc<Shown>,
    revoked: Revoked,
}

impl AgentConnection {
    /// The node its certificate names.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.shown.node
    }

    /// Where it is now; agents may move.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The control stream, which the agent opens.
    ///
    /// # Errors
    /// [`StreamError::Lost`] when the connection is gone.
    pub async fn accept_control(&self) -> Result<(FrameSender, FrameReceiver), StreamError> {
        accept(&self.connection).await
    }

    /// A new stream for one dispatch; the agent sees it with the first message.
    ///
    /// # Errors
    /// [`StreamError::Lost`] when the connection is gone.
    pub async fn open_work(&self) -> Result<(FrameSender, FrameReceiver), StreamError> {
        open(&self.connection).await
    }

    /// Closes the connection now, all its streams with it.
    pub fn close(&self, reason: &str) {
        self.connection.close(CODE_DONE, reason.as_bytes());
    }

    /// Waits until the connection is gone, also because its certificate is revoked, and says why.
    pub async fn closed(&self) -> String {
        tokio::select! {
            error = self.connection.closed() => describe(&error),
            () = self.revoked.until(&self.shown.serial) => {
                turn_away(&self.connection, CODE_REVOKED, REVOKED)
            }
        }
    }
}

/// Somebody who asks for a certificate.
#[derive(Debug)]
pub struct JoinConnection {
    connection: Connection,
    shown: Option<Shown>,
    answer: Option<FrameSender>,
    /// Its place among the few that may enrol at once, and of its address; given back when dropped.
    _places: (Turn, Present<IpAddr>),
}

impl JoinConnection {
    /// What is asked. Await it in a task of its own: the peer may be slow, within limits.
    ///
    /// # Errors
    /// [`StreamError`] when no request arrives in time.
    pub async fn request(&mut self) -> Result<EnrolRequest, StreamError> {
        let asked = async {
            let (send, mut recv) = accept(&self.connection).await?;
            let request = recv.recv().await?.ok_or(StreamError::Missing)?;
            self.answer = Some(send);
            Ok(request)
        };
        timeout(PATIENCE, asked)
            .await
            .map_err(|_| StreamError::TimedOut)?
    }

    /// The node whose still valid certificate was shown: a renewal rather than a join. The new
    /// certificate must be for this node, whatever the request says.
    #[must_use]
    pub fn peer_node(&self) -> Option<NodeId> {
        self.shown.as_ref().map(|shown| shown.node.clone())
    }

    /// The serial number of that certificate, lower-case hexadecimal.
    #[must_use]
    pub fn peer_serial(&self) -> Option<String> {
        self.shown.as_ref().map(|shown| shown.serial.clone())
    }

    /// Where the request came from.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Answers, and waits a moment until the peer has it.
    ///
    /// # Errors
    /// [`StreamError`] when nothing was asked or the peer did not take the answer.
    pub async fn reply(mut self, reply: EnrolReply) -> Result<(), StreamError> {
        let mut answer = self.answer.take().ok_or(StreamError::Missing)?;
        // A peer may grant no room for it, and stay.
        timeout(PATIENCE, answer.send(&reply))
            .await
            .map_err(|_| StreamError::TimedOut)??;
        answer.finish();
        // The peer closes once it has read the answer; closing first could overtake it.
        let _ = timeout(PATIENCE, self.connection.closed()).await;
        Ok(())
    }
}
