//! Letting new agents in, and renewing the certificates of old ones.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use moe2_model::NodeId;
use moe2_net::{Authority, BindError, JoinConnection, Listener, Revoked, hash_secret};
use moe2_wire::{EnrolError, EnrolReply, EnrolRequest};

use crate::sparing::Sparing;
use crate::store::{Store, Taken};

/// What enrolment needs.
#[derive(Debug)]
pub(crate) struct Registrar {
    pub(crate) authority: Authority,
    pub(crate) store: Store,
    lifetime: Duration,
    revoked: Revoked,
    /// Held while certificates are issued or revoked, so that none is issued for one that is being revoked.
    issuing: Mutex<()>,
    /// For lines about strangers.
    sparing: Sparing,
}

impl Registrar {
    /// One whose certificates are good for so long.
    ///
    /// # Errors
    /// The database's, when it cannot say what is revoked.
    pub(crate) fn new(
        authority: Authority,
        store: Store,
        lifetime: Duration,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            revoked: Revoked::new(store.revoked()?),
            authority,
            store,
            lifetime,
            issuing: Mutex::default(),
            sparing: Sparing::new(Instant::now()),
        })
    }

    /// Opens the port for agents.
    ///
    /// # Errors
    /// [`BindError`] when it cannot be opened.
    pub(crate) fn listen(&self, addr: SocketAddr) -> Result<Listener, BindError> {
        let now = SystemTime::now();
        Listener::bind(addr, &self.authority, now, self.revoked.clone())
    }

    /// Takes a node's certificates and unused tokens back; its connections end. `None` if it never had any.
    pub(crate) fn revoke(&self, node: &NodeId) -> rusqlite::Result<Option<Taken>> {
        let _issuing = self.issuing.lock();
        let taken = self.store.revoke(node, SystemTime::now())?;
        if let Some(taken) = &taken {
            self.revoked.revoke(taken.serials.iter().cloned());
        }
        Ok(taken)
    }

    /// Serves one enrolment.
    pub(crate) async fn serve(self: std::sync::Arc<Self>, mut connection: JoinConnection) {
        let remote = connection.remote();
        let request = match connection.request().await {
            Ok(request) => request,
            Err(error) => {
                if let Some(unsaid) = self.sparing.line(Instant::now()) {
                    tracing::warn!(%remote, %error, unsaid, "enrolment was not understood");
                }
                return;
            }
        };
        let peer = connection.peer_node().zip(connection.peer_serial());
        // A stranger's words go to the log only once they are known to be a name.
        let node = NodeId::new(&request.node).map_or_else(|_| "?".to_owned(), |n| n.to_string());
        let registrar = self.clone();
        let decided =
            tokio::task::spawn_blocking(move || registrar.decide(&request, peer.as_ref())).await;
        let reply = match decided.unwrap_or(Err(EnrolError::Internal)) {
            Ok(reply) => {
                tracing::info!(%remote, node, "certificate issued");
                reply
            }
            Err(refused) => {
                if let Some(unsaid) = self.sparing.line(Instant::now()) {
                    tracing::warn!(%remote, node, reason = %refused, unsaid, "enrolment refused");
                }
                EnrolReply::Refused(refused)
            }
        };
        if let Err(error) = connection.reply(reply).await
            && let Some(unsaid) = self.sparing.line(Instant::now())
        {
            tracing::warn!(%remote, %error, unsaid, "the enrolment's answer was not delivered");
        }
    }

    fn decide(
        &self,
        request: &EnrolRequest,
        peer: Option<&(NodeId, String)>,
    ) -> Result<EnrolReply, EnrolError> {
        let now = SystemTime::now();
        let node = NodeId::new(&request.node).map_err(|_| EnrolError::BadRequest)?;
        // Signed before the token is used up, so that a malformed request does not cost one.
        let issued = self
            .authority
            .sign_agent(&request.csr_der, &node, self.lifetime, now)
            .map_err(|error| {
                tracing::debug!(%error, "signing request refused");
                EnrolError::BadRequest
            })?;
        let _issuing = self.issuing.lock();
        // A node that shows its own still valid certificate is renewing and needs no token.
        if let Some((_, serial)) = peer.filter(|(shown, _)| *shown == node) {
            if self.revoked.contains(serial) {
                return Err(EnrolError::Invalid);
            }
        } else {
            let hash = hash_secret(&request.secret);
            self.store
                .take_token((&request.token_id, &hash), node.as_str(), now)
                .map_err(|error| internal(&error))??;
        }
        self.store
            .add_certificate((&issued.serial, &node), now, issued.not_after)
            .map_err(|error| internal(&error))?;
        Ok(EnrolReply::Issued {
            certificate_der: issued.certificate_der,
            ca_der: self.authority.ca_der().to_vec(),
        })
    }
}

fn internal(error: &rusqlite::Error) -> EnrolError {
    tracing::error!(%error, "the database failed");
    EnrolError::Internal
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// A signing request for a new key, DER.
    fn csr() -> Vec<u8> {
        let key = KeyPair::generate().expect("a key can be made");
        let request = CertificateParams::default().serialize_request(&key);
        request.expect("it can be signed").der().to_vec()
    }

    fn node() -> NodeId {
        NodeId::new("n1").expect("a valid name")
    }

    fn registrar(dir: &tempfile::TempDir) -> Registrar {
        let store = Store::open(&dir.path().join("t.db")).expect("a fresh database");
        let authority = Authority::create(SystemTime::now()).expect("a key can be made");
        Registrar::new(authority, store, Duration::from_secs(3_600)).expect("nothing is revoked")
    }

    fn asked(
        peer: Option<&(NodeId, String)>,
        registrar: &Registrar,
    ) -> Result<EnrolReply, EnrolError> {
        let request = EnrolRequest {
            token_id: String::new(),
            secret: String::new(),
            node: "n1".to_owned(),
            csr_der: csr(),
        };
        registrar.decide(&request, peer)
    }

    #[test]
    fn who_shows_a_certificate_of_its_own_gets_another_until_it_is_revoked_and_ever_after_a_restart()
     {
        let dir = tempfile::tempdir().expect("a directory");
        let registrar = registrar(&dir);
        let expires = SystemTime::now() + Duration::from_secs(60);
        let old = (node(), "a1".to_owned());
        let store = &registrar.store;
        store
            .add_certificate((&old.1, &old.0), SystemTime::now(), expires)
            .expect("stored");
        assert_eq!(
            asked(None, &registrar).unwrap_err(),
            EnrolError::Invalid,
            "no token"
        );
        let other = (NodeId::new("n2").expect("a valid name"), "a1".to_owned());
        assert_eq!(
            asked(Some(&other), &registrar).unwrap_err(),
            EnrolError::Invalid
        );
        asked(Some(&old), &registrar).expect("it is renewed");
        let taken = registrar.revoke(&node()).expect("revoked");
        assert_eq!(
            taken.map(|taken| taken.serials.len()),
            Some(2),
            "the new one too"
        );
        assert_eq!(
            asked(Some(&old), &registrar).unwrap_err(),
            EnrolError::Invalid
        );
        let store = Store::open(&dir.path().join("t.db")).expect("the same database");
        let authority = Authority::create(SystemTime::now()).expect("a key can be made");
        let restarted = Registrar::new(authority, store, Duration::from_secs(3_600)).expect("read");
        assert_eq!(
            asked(Some(&old), &restarted).unwrap_err(),
            EnrolError::Invalid
        );
    }
}
