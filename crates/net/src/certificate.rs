//! The few things read from certificates, and PEM as it is written.
//!
//! A node's name is in a URI of its certificate's alternative names, `moe2:node:NAME`: the names
//! allowed for nodes are not all DNS names, and a common name has no type of its own.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moe2_model::NodeId;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::Validity;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

const NODE_PREFIX: &str = "moe2:node:";
/// Characters in a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

pub(crate) fn node_uri(node: &NodeId) -> String {
    format!("{NODE_PREFIX}{node}")
}

/// The one node a certificate names; `None` for none or several.
pub(crate) fn node_of(der: &[u8]) -> Option<NodeId> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut nodes = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(NODE_PREFIX),
            _ => None,
        });
    let node = nodes.next()?;
    nodes.next().is_none().then(|| NodeId::new(node).ok())?
}

/// When a certificate stops being valid, whole seconds.
pub(crate) fn not_after(der: &[u8]) -> Option<SystemTime> {
    moment(der, |validity| validity.not_after)
}

/// When a certificate begins to be valid, whole seconds.
pub(crate) fn not_before(der: &[u8]) -> Option<SystemTime> {
    moment(der, |validity| validity.not_before)
}

fn moment(der: &[u8], of: impl Fn(&Validity) -> ASN1Time) -> Option<SystemTime> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let seconds = u64::try_from(of(certificate.validity()).timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Serial number, lower-case hexadecimal.
pub(crate) fn serial_of(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let bytes = certificate.raw_serial().iter();
    Some(bytes.map(|byte| format!("{byte:02x}")).collect())
}

/// A certificate's subject public key info, DER.
pub(crate) fn public_key_of(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.public_key().raw.to_vec())
}

pub(crate) fn is_ca(der: &[u8]) -> bool {
    x509_parser::parse_x509_certificate(der).is_ok_and(|(_, certificate)| certificate.is_ca())
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(PEM_LINE) {
        out.extend(line.iter().map(|&byte| char::from(byte)));
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent reads the coordinator's certificates before it trusts them.
    #[test]
    fn fuzz_certificate() {
        bolero::check!(name = "certificate").for_each(|der: &[u8]| {
            let read = (
                node_of(der),
                not_before(der),
                not_after(der),
                public_key_of(der),
            );
            if serial_of(der).is_none() {
                assert_eq!(read, (None, None, None, None));
                assert!(!is_ca(der));
            }
        });
    }
}
