//! The agent's side: enrol once, then connect with the certificate.
//!
//! Enrolment checks the coordinator's CA against the token's hash inside the TLS handshake, so the
//! secret leaves only over a connection that is known to be right. Connecting waits for the byte
//! with which the coordinator admits, so a refused certificate is this call's error and not a later
//! surprise.

use std::time::{Duration, SystemTime};

use moe2_model::NodeId;
use moe2_wire::{ALPN, ALPN_JOIN, EnrolError, EnrolReply, EnrolRequest};
use quinn::{Connection, ConnectionError, Endpoint, ReadExactError};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use rustls::AlertDescription;

use crate::certificate;
use crate::dial::{DialError, Refused, dial};
use crate::failure::{Failure, classify};
use crate::identity::Identity;
use crate::stream::{FrameReceiver, FrameSender, StreamError, accept, open};
use crate::tls;
use crate::token::JoinToken;
use crate::transport::CODE_DONE;

/// The coordinator signs within milliseconds; slower than this it is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the closing packet of an enrolment may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why enrolment failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No coordinator was reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The coordinator is not the one the token was made by. The secret was not sent.
    #[error(
        "the coordinator's CA is not the one in the join token, so the token's secret was not sent: check the address, or make a new token there with `moe2 join-token create`"
    )]
    WrongPin,
    /// The coordinator's certificate does not hold for another reason.
    #[error(
        "the coordinator's certificate was not accepted ({0}): check the clocks of both machines, then restart the coordinator"
    )]
    CoordinatorCertificate(String),
    /// The token was not honoured.
    #[error(transparent)]
    Refused(#[from] EnrolError),
    /// The conversation broke off.
    #[error("enrolment broke off: {0}; the token may be used up, make a new one if it is refused")]
    Stream(#[from] StreamError),
    /// The coordinator sent something else than what was asked for.
    #[error("the coordinator's answer was not accepted: {0}")]
    BadAnswer(&'static str),
    /// No key could be made here.
    #[error("no key could be made on this machine: {0}")]
    Key(String),
}

/// Why a connection with a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No coordinator was reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Our certificate is too old, by our clock or the coordinator's.
    #[error(
        "this agent's certificate has expired: enrol again with a token from `moe2 join-token create`"
    )]
    Expired,
    /// The operator has revoked it.
    #[error(
        "this agent's certificate was revoked: enrol again with a token from `moe2 join-token create`"
    )]
    Revoked,
    /// The coordinator does not know our certificate's CA.
    #[error(
        "the coordinator does not accept this agent's certificate ({0}): enrol again with a token from `moe2 join-token create`"
    )]
    NotAccepted(String),
    /// The coordinator is not of the CA that we enrolled with.
    #[error(
        "the coordinator's certificate is from another CA than this agent enrolled with: check the address, or enrol again with a token from `moe2 join-token create`"
    )]
    OtherCoordinator,
    /// The coordinator's certificate does not hold for another reason.
    #[error(
        "the coordinator's certificate was not accepted ({0}): check the clocks of both machines, then restart the coordinator"
    )]
    CoordinatorCertificate(String),
    /// The coordinator closed the connection.
    #[error("the coordinator refused this agent: {0}")]
    Refused(String),
    /// Our own certificate or key is unusable.
    #[error(
        "this agent's stored identity is unusable ({0}): remove it and enrol again with a new join token"
    )]
    Identity(String),
    /// The connection broke off.
    #[error("the connection to the coordinator broke off: {0}")]
    Lost(String),
}

/// Exchanges a join token for an identity as `node`; `coordinator` is `host:port`.
///
/// # Errors
/// [`JoinError`]; its message says what to do.
pub async fn enrol(
    coordinator: &str,
    token: &JoinToken,
    node: &NodeId,
) -> Result<Identity, JoinError> {
    let (key, csr_der) = key_and_request(node).map_err(|e| JoinError::Key(e.to_string()))?;
    let config = tls::enrolling(token.ca_sha256).map_err(|e| JoinError::Key(e.to_string()))?;
    let request = EnrolRequest {
        token_id: token.id.clone(),
        secret: token.secret().to_owned(),
        node: node.to_string(),
        csr_der,
    };
    exchange((coordinator, config), request, (node, key), token.ca_sha256).await
}

/// A new certificate, for a new key, in exchange for one that is still valid.
///
/// # Errors
/// [`JoinError`]; its message says what to do. The old identity stays good.
pub async fn renew(coordinator: &str, identity: &Identity) -> Result<Identity, JoinError> {
    let node = &identity.node;
    let (key, csr_der) = key_and_request(node).map_err(|e| JoinError::Key(e.to_string()))?;
    let config = tls::agent(identity, ALPN_JOIN).map_err(|e| JoinError::Key(e.to_string()))?;
    let request = EnrolRequest {
        token_id: String::new(),
        secret: String::new(),
        node: node.to_string(),
        csr_der,
    };
    let ca = certificate::sha256(&identity.ca_der);
    exchange((coordinator, config), request, (node, key), ca).await
}

async fn exchange(
    (coordinator, config): (&str, quinn::ClientConfig),
    request: EnrolRequest,
    (node, key): (&NodeId, KeyPair),
    ca_sha256: [u8; 32],
) -> Result<Identity, JoinError> {
    let (endpoint, connection) = dial(coordinator, config).await.map_err(not_joined)?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(&connection, &request)).await;
    connection.close(CODE_DONE, b"");
    // Best effort: without it the coordinator learns the same a little later.
    let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
    match answer.map_err(|_| StreamError::TimedOut)?? {
        EnrolReply::Refused(why) => Err(why.into()),
        EnrolReply::Issued {
            certificate_der,
            ca_der,
        } => {
            let identity = Identity {
                node: node.clone(),
                certificate_der,
                key_pkcs8_der: key.serialize_der(),
                ca_der,
            };
            check_issued(&identity, &key, ca_sha256)?;
            Ok(identity)
        }
    }
}

fn key_and_request(node: &NodeId) -> Result<(KeyPair, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, node.as_str());
    let request = params.serialize_request(&key)?;
    Ok((key, request.der().to_vec()))
}

async fn ask(connection: &Connection, request: &EnrolRequest) -> Result<EnrolReply, StreamError> {
    let (mut send, mut recv) = open(connection).await?;
    send.send(request).await?;
    send.finish();
    recv.recv().await?.ok_or(StreamError::Missing)
}

fn check_issued(identity: &Identity, key: &KeyPair, ca_sha256: [u8; 32]) -> Result<(), JoinError> {
    let own = &identity.certificate_der;
    if certificate::sha256(&identity.ca_der) != ca_sha256 {
        return Err(JoinError::BadAnswer("its CA is not the one it should be"));
    }
    if certificate::node_of(own).as_ref() != Some(&identity.node) {
        return Err(JoinError::BadAnswer("the certificate names another node"));
    }
    if certificate::public_key_of(own) != Some(key.subject_public_key_info()) {
        return Err(JoinError::BadAnswer("the certificate is for another key"));
    }
    Ok(())
}

fn not_joined(refused: Refused) -> JoinError {
    let error = match refused {
        Refused::Dial(error) => return error.into(),
        Refused::Handshake(error) => error,
    };
    match classify(&error) {
        Failure::OtherVersion => DialError::OtherVersion.into(),
        Failure::Busy => DialError::Busy.into(),
        Failure::OurAlert(AlertDescription::AccessDenied) => JoinError::WrongPin,
        Failure::OurAlert(alert) => JoinError::CoordinatorCertificate(format!("{alert:?}")),
        _ => StreamError::from(error).into(),
    }
}

/// Connects with a certificate; `coordinator` is `host:port`, `now` is this machine's time.
///
/// Returns when the coordinator has accepted the certificate.
///
/// # Errors
/// [`ConnectError`]; its message says what to do.
pub async fn connect(
    coordinator: &str,
    identity: &Identity,
    now: SystemTime,
) -> Result<CoordinatorConnection, ConnectError> {
    if identity.not_after() <= now {
        return Err(ConnectError::Expired);
    }
    let config = tls::agent(identity, ALPN).map_err(|e| ConnectError::Identity(e.to_string()))?;
    let (endpoint, connection) = dial(coordinator, config).await.map_err(|e| match e {
        Refused::Dial(error) => error.into(),
        Refused::Handshake(error) => not_connected(&error),
    })?;
    admitted(&connection).await?;
    Ok(CoordinatorConnection {
        connection,
        _endpoint: endpoint,
    })
}

async fn admitted(connection: &Connection) -> Result<(), ConnectError> {
    let wait = async {
        let (_send, mut recv) = connection
            .accept_bi()
            .await
            .map_err(|e| not_connected(&e))?;
        recv.read_exact(&mut [0]).await.map_err(|e| match e {
            ReadExactError::ReadError(quinn::ReadError::ConnectionLost(e)) => not_connected(&e),
            other => ConnectError::Lost(other.to_string()),
        })
    };
    tokio::time::timeout(ANSWER_TIMEOUT, wait)
        .await
        .map_err(|_| ConnectError::Lost("it did not admit this agent in time".to_owned()))?
}

fn not_connected(error: &ConnectionError) -> ConnectError {
    match classify(error) {
        Failure::OtherVersion => DialError::OtherVersion.into(),
        Failure::Busy => DialError::Busy.into(),
        Failure::TheirAlert(AlertDescription::CertificateExpired) => ConnectError::Expired,
        Failure::TheirAlert(alert) => ConnectError::NotAccepted(format!("{alert:?}")),
        Failure::OurAlert(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            ConnectError::OtherCoordinator
        }
        Failure::OurAlert(alert) => ConnectError::CoordinatorCertificate(format!("{alert:?}")),
        Failure::Revoked => ConnectError::Revoked,
        Failure::Closed(reason) => ConnectError::Refused(reason),
        Failure::Silent | Failure::Other(_) => ConnectError::Lost(crate::failure::describe(error)),
    }
}

/// An agent's connection to its coordinator. Clones share it; it closes when the last is dropped.
#[derive(Debug, Clone)]
pub struct CoordinatorConnection {
    connection: Connection,
    /// Kept so that the socket lives as long as the connection.
    _endpoint: Endpoint,
}

impl CoordinatorConnection {
    /// Opens the control stream; the coordinator sees it with the first message.
    ///
    /// # Errors
    /// [`StreamError::Lost`] when the connection is gone.
    pub async fn open_control(&self) -> Result<(FrameSender, FrameReceiver), StreamError> {
        open(&self.connection).await
    }

    /// The next dispatch's stream. May be cancelled without loss.
    ///
    /// # Errors
    /// [`StreamError::Lost`] when the connection is gone.
    pub async fn accept_work(&self) -> Result<(FrameSender, FrameReceiver), StreamError> {
        accept(&self.connection).await
    }

    /// Closes the connection now; what has not arrived yet is lost.
    pub fn close(&self, reason: &str) {
        self.connection.close(CODE_DONE, reason.as_bytes());
    }

    /// Waits until the connection is gone and says why.
    pub async fn closed(&self) -> String {
        crate::failure::describe(&self.connection.closed().await)
    }
}
