//! Enrolment: a join token and a signing request in, a certificate out.
//!
//! Spoken once over its own application protocol, because the agent has no certificate yet. The
//! agent has checked the coordinator's CA against the hash in its token *before* it sends this.

use serde::{Deserialize, Serialize};

/// TLS application protocol of enrolment.
pub const ALPN_JOIN: &[u8] = b"moe2-join/1";

/// From an agent that wants in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The token's public half.
    pub token_id: String,
    /// The token's secret half.
    pub secret: String,
    /// The name the token was made for.
    pub node: String,
    /// PKCS #10 certificate signing request, DER.
    pub csr_der: Vec<u8>,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("token_id", &self.token_id)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// The coordinator's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolReply {
    /// Let in.
    Issued {
        /// The agent's certificate, DER.
        certificate_der: Vec<u8>,
        /// The CA's certificate, DER.
        ca_der: Vec<u8>,
    },
    /// Not let in.
    Refused(EnrolError),
}

/// Why a token was not honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum EnrolError {
    /// Unknown id or wrong secret; not said which.
    #[error("the join token is not valid: make a new one with `moe2 join-token create`")]
    Invalid,
    /// Too old.
    #[error("the join token has expired: make a new one with `moe2 join-token create`")]
    Expired,
    /// Used before.
    #[error("the join token was used before: make a new one with `moe2 join-token create`")]
    Used,
    /// Made for another node.
    #[error("the join token was made for another node name: check `node` in the agent's config")]
    OtherNode,
    /// The signing request is malformed.
    #[error("the certificate signing request is malformed")]
    BadRequest,
    /// The coordinator could not issue a certificate.
    #[error("the coordinator could not issue a certificate; its log says why")]
    Internal,
}
