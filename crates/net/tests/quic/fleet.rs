//! A coordinator's port and the clients that dial it, honest and not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moe2_model::NodeId;
use moe2_net::{
    Accepted, AgentConnection, Authority, CoordinatorConnection, Identity, JoinConnection,
    Listener, Revoked, connect,
};
use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(crate) fn node() -> NodeId {
    NodeId::new("pc_1").unwrap()
}

pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// An identity as `signer` would have issued it `age` ago for an hour, trusting `trusted`.
pub(crate) fn identity(signer: &Authority, trusted: &Authority, age: Duration) -> Identity {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let issued = signer.sign_agent(csr.der(), &node(), HOUR, now() - age);
    Identity {
        node: node(),
        certificate_der: issued.unwrap().certificate_der,
        key_pkcs8_der: key.serialize_der(),
        ca_der: trusted.ca_der().to_vec(),
    }
}

/// TLS settings of a client that is not ours: any protocol, with or without a certificate.
pub(crate) fn stranger(
    fleet: &Fleet,
    shown: Option<&Identity>,
    alpn: &[u8],
) -> quinn::ClientConfig {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from(fleet.authority.ca_der().to_vec());
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match shown {
        None => tls.with_no_client_auth(),
        Some(identity) => {
            let certificate = CertificateDer::from(identity.certificate_der.clone());
            let key = PrivatePkcs8KeyDer::from(identity.key_pkcs8_der.clone());
            tls.with_client_auth_cert(vec![certificate], key.into())
                .unwrap()
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// A coordinator without anything behind its port.
pub(crate) struct Fleet {
    pub(crate) authority: Authority,
    pub(crate) listener: Listener,
    pub(crate) revoked: Revoked,
    pub(crate) coordinator: String,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let authority = Authority::create(now()).unwrap();
        let revoked = Revoked::new([]);
        let listener = Listener::bind(loopback(), &authority, now(), revoked.clone()).unwrap();
        Self {
            coordinator: listener.local_addr().to_string(),
            authority,
            listener,
            revoked,
        }
    }

    pub(crate) fn identity(&self, age: Duration) -> Identity {
        identity(&self.authority, &self.authority, age)
    }

    /// One agent, connected: both ends.
    pub(crate) async fn agent(&mut self) -> (CoordinatorConnection, AgentConnection) {
        let identity = self.identity(Duration::ZERO);
        let agent = connect(&self.coordinator, &identity, now()).await;
        (agent.unwrap(), self.accept_agent().await)
    }

    /// An admitted agent that can write what it likes on its first stream.
    pub(crate) async fn rogue_agent(
        &mut self,
    ) -> (quinn::Endpoint, quinn::Connection, AgentConnection) {
        let identity = self.identity(Duration::ZERO);
        let config = stranger(self, Some(&identity), moe2_wire::ALPN);
        let (endpoint, connection) = self.dial(config).await;
        (endpoint, connection.unwrap(), self.accept_agent().await)
    }

    pub(crate) async fn dial(
        &self,
        config: quinn::ClientConfig,
    ) -> (
        quinn::Endpoint,
        Result<quinn::Connection, quinn::ConnectionError>,
    ) {
        let endpoint = quinn::Endpoint::client(loopback()).unwrap();
        let address = self.listener.local_addr();
        let connecting = endpoint.connect_with(config, address, moe2_net::SERVER_NAME);
        let connection = connecting.unwrap().await;
        (endpoint, connection)
    }

    pub(crate) async fn accept_agent(&mut self) -> AgentConnection {
        match self.listener.accept().await.unwrap() {
            Accepted::Agent(agent) => agent,
            other => panic!("an agent was expected, not {other:?}"),
        }
    }

    pub(crate) async fn accept_join(&mut self) -> JoinConnection {
        match self.listener.accept().await.unwrap() {
            Accepted::Join(join) => join,
            other => panic!("a join was expected, not {other:?}"),
        }
    }

    pub(crate) async fn accept_rejected(&mut self) -> String {
        match self.listener.accept().await.unwrap() {
            Accepted::Rejected { reason, .. } => reason,
            other => panic!("a rejection was expected, not {other:?}"),
        }
    }
}
