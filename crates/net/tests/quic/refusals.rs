//! Who is kept out, and what they are told.

use std::sync::Arc;
use std::time::Duration;

use moe2_net::{
    Authority, BindError, ConnectError, DialError, Identity, JoinError, JoinToken, Listener,
    StreamError, connect, enrol,
};
use moe2_wire::{ALPN, ALPN_JOIN};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::fleet::{Fleet, HOUR, identity, loopback, node, now, stranger};

async fn refused(fleet: &Fleet, identity: &Identity) -> ConnectError {
    connect(&fleet.coordinator, identity, now())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_token_of_another_fleet_never_shows_its_secret() {
    let mut fleet = Fleet::new();
    let token = JoinToken::generate([9; 32]);
    let error = enrol(&fleet.coordinator, &token, &node())
        .await
        .unwrap_err();
    assert!(matches!(error, JoinError::WrongPin), "{error}");
    // The handshake failed on the coordinator's side too, so no stream and no request existed.
    let reason = fleet.accept_rejected().await;
    assert!(reason.contains("AccessDenied"), "{reason}");
}

#[tokio::test]
async fn an_impostor_that_shows_our_ca_certificate_is_recognised() {
    // The CA's certificate is public; what an impostor lacks is a certificate signed by it.
    let fleet = Fleet::new();
    let config = impostor_config(&fleet.authority, ALPN_JOIN);
    let impostor = quinn::Endpoint::server(config, loopback()).unwrap();

    let address = impostor.local_addr().unwrap().to_string();
    let (token, node) = (JoinToken::generate(fleet.authority.ca_sha256()), node());
    let serve = async { impostor.accept().await.unwrap().await.map(drop) };
    let (joined, served) = tokio::join!(enrol(&address, &token, &node), serve);
    let error = joined.unwrap_err();
    assert!(
        matches!(error, JoinError::CoordinatorCertificate(_)),
        "{error}"
    );
    assert!(served.is_err(), "the handshake must not complete");
}

#[tokio::test]
async fn an_agent_without_a_certificate_is_refused() {
    let mut fleet = Fleet::new();
    let (_endpoint, link) = fleet.dial(stranger(&fleet, None, ALPN)).await;
    let logged = fleet.accept_rejected().await;
    assert!(logged.contains("a client certificate"), "{logged}");
    let told = link.unwrap().closed().await.to_string();
    assert!(told.contains("a client certificate"), "{told}");
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let mut fleet = Fleet::new();
    let other = Authority::create(now()).unwrap();

    let forged = identity(&other, &fleet.authority, Duration::ZERO);
    let error = refused(&fleet, &forged).await;
    assert!(matches!(error, ConnectError::NotAccepted(_)), "{error}");
    let reason = fleet.accept_rejected().await;
    assert!(reason.contains("UnknownIssuer"), "{reason}");

    let foreign = identity(&other, &other, Duration::ZERO);
    let error = refused(&fleet, &foreign).await;
    assert!(matches!(error, ConnectError::OtherCoordinator), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_here_and_there() {
    let mut fleet = Fleet::new();
    let expired = fleet.identity(HOUR * 2);
    let error = refused(&fleet, &expired).await;
    assert!(matches!(error, ConnectError::Expired), "{error}");

    // A machine whose clock is slow does not notice; the coordinator does.
    let slow = now() - HOUR * 2;
    let error = connect(&fleet.coordinator, &expired, slow).await;
    assert!(matches!(error, Err(ConnectError::Expired)), "{error:?}");
    // The first attempt never reached the network, so this is the second.
    let reason = fleet.accept_rejected().await;
    assert!(reason.contains("expired"), "{reason}");
}

#[tokio::test]
async fn another_protocol_version_is_refused_by_the_coordinator() {
    let mut fleet = Fleet::new();
    let identity = fleet.identity(Duration::ZERO);
    let config = stranger(&fleet, Some(&identity), b"moe2/2");
    let (_endpoint, link) = fleet.dial(config).await;
    assert!(link.is_err(), "there is no protocol in common");
    fleet.accept_rejected().await;
}

#[tokio::test]
async fn an_agent_names_another_protocol_version_as_the_reason() {
    // Protocols are compared before certificates, so any server that moved on will do.
    let fleet = Fleet::new();
    let config = impostor_config(&fleet.authority, b"moe2/2");
    let newer = quinn::Endpoint::server(config, loopback()).unwrap();

    let address = newer.local_addr().unwrap().to_string();
    let identity = fleet.identity(Duration::ZERO);
    let serve = async { newer.accept().await.unwrap().await.map(drop) };
    let (connected, served) = tokio::join!(connect(&address, &identity, now()), serve);
    let error = connected.unwrap_err();
    assert!(
        matches!(error, ConnectError::Dial(DialError::OtherVersion)),
        "{error}"
    );
    assert!(served.is_err());
}

/// A server that shows `authority`'s certificate beside one that it signed itself.
fn impostor_config(authority: &Authority, alpn: &[u8]) -> quinn::ServerConfig {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec![moe2_net::SERVER_NAME.to_owned()];
    let params = rcgen::CertificateParams::new(names).unwrap();
    let own = params.self_signed(&key).unwrap().der().clone();
    let chain = vec![own, authority.ca_der().to_vec().into()];
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    quinn::ServerConfig::with_crypto(Arc::new(crypto))
}

#[tokio::test]
async fn a_malformed_enrolment_request_is_an_error() {
    let mut fleet = Fleet::new();
    let (_endpoint, link) = fleet.dial(stranger(&fleet, None, ALPN_JOIN)).await;
    let (mut raw, _recv) = link.unwrap().open_bi().await.unwrap();
    raw.write_all(&[7; 64]).await.unwrap();
    let mut join = fleet.accept_join().await;
    let error = join.request().await.unwrap_err();
    assert!(matches!(error, StreamError::Frame(_)), "{error}");
}

#[tokio::test]
async fn a_certificate_shown_while_enrolling_names_who_renews() {
    let mut fleet = Fleet::new();
    let identity = fleet.identity(Duration::ZERO);
    let config = stranger(&fleet, Some(&identity), ALPN_JOIN);
    let (_endpoint, _link) = fleet.dial(config).await;
    assert_eq!(fleet.accept_join().await.peer_node(), Some(node()));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let fleet = Fleet::new();
    let taken = fleet.listener.local_addr();
    let error = Listener::bind(taken, &fleet.authority, now(), fleet.revoked.clone()).unwrap_err();
    assert!(matches!(error, BindError::InUse { addr } if addr == taken));
    assert!(error.to_string().contains(&taken.to_string()));
}

#[tokio::test]
async fn an_address_that_is_none_is_said_to_be_none() {
    let mut fleet = Fleet::new();
    let identity = fleet.identity(Duration::ZERO);
    fleet.coordinator = "coordinator".to_owned();
    let error = refused(&fleet, &identity).await.to_string();
    assert!(error.contains("HOST:PORT"), "{error}");
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_unreachable() {
    let mut fleet = Fleet::new();
    // Bound, so that nobody else takes the port, and deaf.
    let deaf = std::net::UdpSocket::bind(loopback()).unwrap();
    fleet.coordinator = deaf.local_addr().unwrap().to_string();
    let error = refused(&fleet, &fleet.identity(Duration::ZERO)).await;
    assert!(
        matches!(error, ConnectError::Dial(DialError::Unreachable { .. })),
        "{error}"
    );
}
