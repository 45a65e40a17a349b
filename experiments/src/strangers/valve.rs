//! Clients whose handshakes come as far as they are let.
//!
//! All are real clients of one endpoint that dial a socket here, which passes what they say on to the coordinator,
//! for each client from a socket and so a port of its own, and of the answers only what the case allows. So every
//! first packet is sound, is sent again when no answer comes, and proves its address where it may.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where strangers are: another address than that of agents, as it is where they are strangers.
const STRANGERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Longer than any experiment.
const IDLE: Duration = Duration::from_secs(600);
/// All first packets have been sent within so long.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// Which answers a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// None.
    Nothing,
    /// The demand to prove its address, which it then does; of the handshake, nothing.
    Retry,
}

/// So many clients; dropping them ends them without a word.
#[derive(Debug)]
pub(super) struct Valves {
    runtime: Option<Runtime>,
}

impl Valves {
    /// Has so many begin, and returns when the first packet of each has been sent.
    ///
    /// # Errors
    /// Sockets are short, or the clients did not begin.
    pub(super) fn open(port: u16, strangers: usize, opening: Opening) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (count, mut begun) = watch::channel(0);
        let coordinator = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        runtime.block_on(async {
            let near = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
            let dialled = near.local_addr()?;
            let pass = pass(near, coordinator, opening, count);
            tokio::spawn(async move { pass.await.context("a stranger has no socket") });
            tokio::spawn(dial(dialled, strangers));
            let all = begun.wait_for(|begun| *begun >= strangers);
            let all = tokio::time::timeout(BEGUN_WITHIN, all).await;
            let all = all.context("not all strangers began in time")?;
            all.context("a stranger has no socket; raise the limit of open files")?;
            anyhow::Ok(())
        })?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }
}

impl Drop for Valves {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Dials so often, and never gives up.
async fn dial(to: SocketAddr, strangers: usize) -> anyhow::Result<()> {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let config = client()?;
    let mut pending = Vec::with_capacity(strangers);
    for _ in 0..strangers {
        // Kept: one that is given up says goodbye.
        pending.push(endpoint.connect_with(config.clone(), to, "stranger")?);
        // The socket here is to keep up with them.
        tokio::task::yield_now().await;
    }
    std::future::pending().await
}

fn client() -> anyhow::Result<quinn::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![moe2_wire::ALPN_JOIN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(Some(IDLE.try_into()?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Passes packets on, each client's from a socket of its own.
async fn pass(
    near: Arc<UdpSocket>,
    coordinator: SocketAddr,
    opening: Opening,
    count: watch::Sender<usize>,
) -> anyhow::Result<()> {
    let mut far: HashMap<Vec<u8>, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut packet = vec![0; 2_048];
    loop {
        let (length, client) = near.recv_from(&mut packet).await?;
        let Some(id) = source_id(&packet[..length]).map(<[u8]>::to_vec) else {
            continue;
        };
        if !far.contains_key(&id) {
            let socket = UdpSocket::bind((STRANGERS, 0)).await?;
            socket.connect(coordinator).await?;
            let socket = Arc::new(socket);
            let back = answers(Arc::clone(&socket), (Arc::clone(&near), client), opening);
            far.insert(id.clone(), (socket, tokio::spawn(back)));
        }
        // A packet that cannot be sent is one that is lost.
        let _ = far[&id].0.send(&packet[..length]).await;
        count.send_replace(far.len());
    }
}

async fn answers(
    far: Arc<UdpSocket>,
    (near, client): (Arc<UdpSocket>, SocketAddr),
    opening: Opening,
) {
    let mut packet = vec![0; 2_048];
    while let Ok(length) = far.recv(&mut packet).await {
        if opening == Opening::Retry && is_retry(&packet[..length]) {
            let _ = near.send_to(&packet[..length], client).await;
        }
    }
}

/// The source connection id of a packet with a long header (RFC 8999).
fn source_id(packet: &[u8]) -> Option<&[u8]> {
    let destination = usize::from(*packet.get(5).filter(|_| packet[0] & 0x80 != 0)?);
    let at = 6 + destination;
    let length = usize::from(*packet.get(at)?);
    packet.get(at + 1..at + 1 + length)
}

/// Whether this is QUIC version 1's retry packet (RFC 9000, section 17.2.5).
fn is_retry(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & 0xf0 == 0xf0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_retries_are_read_from_headers() {
        let mut packet = vec![0xc3, 0, 0, 0, 1, 2, 9, 9, 3, 7, 8, 9, 0];
        assert_eq!(source_id(&packet), Some(&[7, 8, 9][..]));
        assert!(!is_retry(&packet));
        packet[0] = 0xf0;
        assert!(is_retry(&packet));
        packet[0] = 0x43;
        assert_eq!(source_id(&packet), None, "a short header has none");
        assert_eq!(source_id(&[0xc3, 0, 0, 0, 1, 2, 9, 9, 3, 7]), None);
        assert_eq!(source_id(&[]), None);
    }
}
