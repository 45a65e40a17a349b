//! TLS 1.3 settings of the three roles: coordinator, agent, agent that enrols.
//!
//! The cryptography provider is passed explicitly, so nothing depends on a process-wide default.
//! Sessions are never resumed: a resumed session would skip the check of a certificate that has
//! expired or was revoked meanwhile, and one handshake per connection costs nothing here.

use std::sync::Arc;
use std::time::SystemTime;

use moe2_wire::{ALPN, ALPN_JOIN};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::authority::{Authority, AuthorityError};
use crate::identity::Identity;
use crate::pin::PinnedCa;
use crate::transport::{MAX_CONTROL_STREAMS, MAX_WORK_STREAMS, transport};

/// Keys or certificates that TLS does not take.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error(transparent)]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    #[error(transparent)]
    Suite(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn roots(ca: CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(Arc::new(roots))
}

pub(crate) fn coordinator(
    authority: &Authority,
    now: SystemTime,
) -> Result<quinn::ServerConfig, TlsError> {
    let (leaf, key) = authority.issue_server(now)?;
    let ca = authority.certificate().clone();
    // Optional here because enrolment has none yet; the fleet's protocol asks for it afterwards.
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca.clone())?, provider())
        .allow_unauthenticated()
        .build()?;
    let mut tls = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        // The CA goes along so that an agent that enrols can find the one its token pins.
        .with_single_cert(vec![leaf, ca], key.into())?;
    tls.alpn_protocols = vec![ALPN.to_vec(), ALPN_JOIN.to_vec()];
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    let crypto = Arc::new(QuicServerConfig::try_from(tls)?);
    let mut config = quinn::ServerConfig::with_crypto(crypto);
    config.transport_config(Arc::new(transport(MAX_CONTROL_STREAMS)));
    Ok(config)
}

/// For an agent's work, or to renew its certificate: `alpn` says which.
pub(crate) fn agent(identity: &Identity, alpn: &[u8]) -> Result<quinn::ClientConfig, TlsError> {
    let ca = CertificateDer::from(identity.ca_der.clone());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider()).build()?;
    let chain = vec![CertificateDer::from(identity.certificate_der.clone())];
    let key = PrivatePkcs8KeyDer::from(identity.key_pkcs8_der.clone());
    let tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key.into())?;
    client(tls, alpn)
}

pub(crate) fn enrolling(ca_sha256: [u8; 32]) -> Result<quinn::ClientConfig, TlsError> {
    let tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa::new(ca_sha256)))
        .with_no_client_auth();
    client(tls, ALPN_JOIN)
}

fn client(mut tls: ClientConfig, alpn: &[u8]) -> Result<quinn::ClientConfig, TlsError> {
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.resumption = Resumption::disabled();
    let crypto = Arc::new(QuicClientConfig::try_from(tls)?);
    let mut config = quinn::ClientConfig::new(crypto);
    config.transport_config(Arc::new(transport(MAX_WORK_STREAMS)));
    Ok(config)
}
