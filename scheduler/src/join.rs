//! Letting new agents in, and renewing the certificates of old ones.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use moe2_model::NodeId;
use moe2_net::{Authority, JoinConnection, Revoked, hash_secret};
use moe2_wire::{EnrolError, EnrolReply, EnrolRequest};

use crate::store::{Store, Taken};

/// What enrolment needs.
#[derive(Debug)]
pub(crate) struct Registrar {
    pub(crate) authority: Authority,
    pub(crate) store: Store,
    pub(crate) lifetime: Duration,
    pub(crate) revoked: Revoked,
    /// Held while certificates are issued or revoked, so that none is issued for one that is being revoked.
    pub(crate) issuing: Mutex<()>,
}

impl Registrar {
    /// Serves one enrolment.
    pub(crate) async fn serve(self: std::sync::Arc<Self>, mut connection: JoinConnection) {
        let remote = connection.remote();
        let request = match connection.request().await {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(%remote, %error, "enrolment was not understood");
                return;
            }
        };
        let peer = connection.peer_node().zip(connection.peer_serial());
        // A stranger's words go to the log only once they are known to be a name.
        let node = NodeId::new(&request.node).map_or_else(|_| "?".to_owned(), |n| n.to_string());
        let decided =
            tokio::task::spawn_blocking(move || self.decide(&request, peer.as_ref())).await;
        let reply = match decided.unwrap_or(Err(EnrolError::Internal)) {
            Ok(reply) => {
                tracing::info!(%remote, node, "certificate issued");
                reply
            }
            Err(refused) => {
                tracing::warn!(%remote, node, reason = %refused, "enrolment refused");
                EnrolReply::Refused(refused)
            }
        };
        if let Err(error) = connection.reply(reply).await {
            tracing::warn!(%remote, %error, "the enrolment's answer was not delivered");
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
                tracing::warn!(%error, "signing request refused");
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

impl Registrar {
    /// Takes a node's certificates and unused tokens back; its connections end. `None` if it never had any.
    pub(crate) fn revoke(&self, node: &NodeId) -> rusqlite::Result<Option<Taken>> {
        let _issuing = self.issuing.lock();
        let taken = self.store.revoke(node, SystemTime::now())?;
        if let Some(taken) = &taken {
            self.revoked.revoke(taken.serials.iter().cloned());
        }
        Ok(taken)
    }
}

fn internal(error: &rusqlite::Error) -> EnrolError {
    tracing::error!(%error, "the database failed");
    EnrolError::Internal
}
