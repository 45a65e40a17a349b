//! The fleet's certificate authority, kept by the coordinator.
//!
//! One key signs the coordinator's own certificate and every agent's. What a certificate says comes
//! from the coordinator, never from the signing request: of that only the public key is taken, so
//! an agent cannot ask for another's name or for the right to be a server. A reloaded CA keeps its
//! exact bytes, because join tokens pin their hash.

use std::fmt;
use std::time::{Duration, SystemTime};

use moe2_model::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

use crate::certificate::{self, node_uri};

/// The DNS name in the coordinator's certificate: agents check it instead of a host name, so the
/// coordinator may be reached under any address.
pub const SERVER_NAME: &str = "moe2-coordinator";

#[cfg(test)]
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Changing the CA means enrolling every agent again.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Made anew at every start of the coordinator.
const SERVER_LIFETIME: Duration = CA_LIFETIME;
/// Certificates begin this long before now: a machine whose clock is a little slow accepts them.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// A signing request of a P-256 key has about 300 bytes, of an RSA-4096 key about 1.7 kB.
const MAX_CSR: usize = 8 * 1024;
/// RFC 5280 allows 20 bytes; 128 random bits never collide.
const SERIAL_BYTES: usize = 16;

/// Why the authority could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate or key file does not hold what it should.
    #[error(
        "the CA's {part} cannot be read ({reason}): restore it from a backup, or remove both CA files and enrol every agent again"
    )]
    Malformed {
        /// `certificate` or `key`.
        part: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key are of different pairs.
    #[error("the CA's certificate and key do not belong together: restore both from one backup")]
    KeyMismatch,
    /// The signing request cannot be used.
    #[error("the certificate signing request is malformed: {0}")]
    BadRequest(String),
    /// Signing failed.
    #[error("the certificate could not be made")]
    Sign(#[from] rcgen::Error),
}

/// An agent's certificate as issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// X.509, DER.
    pub certificate_der: Vec<u8>,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// End of validity, whole seconds.
    pub not_after: SystemTime,
}

/// The certificate authority with its key.
pub struct Authority {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority, valid for ten years from `now`.
    ///
    /// # Errors
    /// [`AuthorityError::Sign`] when the system gives no random key.
    pub fn create(now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let (mut params, serial) = params(now, CA_LIFETIME);
        // Two CAs of one name would make "signed by another CA" look like a broken signature.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("moe2 CA {}", &serial[..8]));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Self::assemble(certificate.der().clone(), key)
    }

    /// The authority that [`Self::cert_pem`] and [`Self::key_pem`] wrote.
    ///
    /// # Errors
    /// [`AuthorityError`] when either is malformed or they do not belong together.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|e| malformed("certificate", &e))?;
        let key = KeyPair::from_pem(key_pem).map_err(|e| malformed("key", &e))?;
        if !certificate::is_ca(&der) {
            return Err(malformed("certificate", &"it is not a CA's certificate"));
        }
        if certificate::public_key_of(&der) != Some(key.subject_public_key_info()) {
            return Err(AuthorityError::KeyMismatch);
        }
        Self::assemble(der, key)
    }

    fn assemble(der: CertificateDer<'static>, key: KeyPair) -> Result<Self, AuthorityError> {
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|e| malformed("certificate", &e))?;
        Ok(Self { der, issuer })
    }

    /// The CA's certificate, PEM; public.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        certificate::pem("CERTIFICATE", &self.der)
    }

    /// The CA's private key, PEM; whoever has it can join and impersonate.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// SHA-256 of the CA's certificate, DER: what join tokens pin.
    #[must_use]
    pub fn ca_sha256(&self) -> [u8; 32] {
        certificate::sha256(&self.der)
    }

    /// The CA's certificate, DER: what an enrolment reply carries.
    #[must_use]
    pub fn ca_der(&self) -> &[u8] {
        &self.der
    }

    /// A client certificate that names `node`, for the key of a signing request (PKCS #10, DER).
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`] when the request is malformed or not signed by its own key.
    pub fn sign_agent(
        &self,
        csr_der: &[u8],
        node: &NodeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        if csr_der.len() > MAX_CSR {
            return Err(AuthorityError::BadRequest(format!(
                "{} bytes exceed the limit of {MAX_CSR}",
                csr_der.len()
            )));
        }
        let csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
                .map_err(|e| AuthorityError::BadRequest(e.to_string()))?;
        let (mut params, serial) = params(now, lifetime);
        params
            .distinguished_name
            .push(DnType::CommonName, node.as_str());
        params.subject_alt_names = vec![SanType::URI(node_uri(node).try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&csr.public_key, &self.issuer)?;
        let not_after = certificate::not_after(certificate.der())
            .ok_or_else(|| AuthorityError::BadRequest("no end of validity".to_owned()))?;
        Ok(Issued {
            certificate_der: certificate.der().to_vec(),
            serial,
            not_after,
        })
    }

    /// A certificate and key for the coordinator itself.
    pub(crate) fn issue_server(
        &self,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate()?;
        let (mut params, _) = params(now, SERVER_LIFETIME);
        params
            .distinguished_name
            .push(DnType::CommonName, SERVER_NAME);
        params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((certificate.der().clone(), key))
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

/// What every certificate here has, and its serial number in hexadecimal.
fn params(now: SystemTime, lifetime: Duration) -> (CertificateParams, String) {
    let mut serial = [0_u8; SERIAL_BYTES];
    getrandom::fill(&mut serial).expect("the operating system gives random bytes");
    // Positive and without leading zeros, so that every tool prints the same digits.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = now.checked_sub(CLOCK_SKEW).unwrap_or(now).into();
    let end = now.checked_add(lifetime.min(CA_LIFETIME)).unwrap_or(now);
    params.not_after = end.into();
    let text = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    (params, text)
}

fn malformed(part: &'static str, reason: &dyn fmt::Display) -> AuthorityError {
    AuthorityError::Malformed {
        part,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn request(name: &str) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let csr = params.serialize_request(&key).expect("a request");
        csr.der().to_vec()
    }

    #[test]
    fn a_reloaded_authority_keeps_its_hash_and_signs() {
        let now = SystemTime::now();
        let first = Authority::create(now).expect("an authority");
        let again = Authority::from_pem(&first.cert_pem(), &first.key_pem()).expect("reloads");
        assert_eq!(first.ca_sha256(), again.ca_sha256());
        assert_eq!(first.key_pem(), again.key_pem());
        assert!(!format!("{first:?}").contains("KEY"));
        let node = NodeId::new("orin-1").expect("a name");
        let issued = again
            .sign_agent(&request("x.example"), &node, DAY, now)
            .expect("signs");
        assert!(issued.not_after > now && issued.not_after <= now + DAY);
        assert_eq!(issued.serial.len(), 2 * SERIAL_BYTES);
    }

    #[test]
    fn the_name_comes_from_the_coordinator_and_not_from_the_request() {
        let authority = Authority::create(SystemTime::now()).expect("an authority");
        let node = NodeId::new("a_b.").expect("a name that is no DNS name");
        let issued = authority
            .sign_agent(&request(SERVER_NAME), &node, DAY, SystemTime::now())
            .expect("signs");
        assert_eq!(certificate::node_of(&issued.certificate_der), Some(node));
        let (_, read) =
            x509_parser::parse_x509_certificate(&issued.certificate_der).expect("parses");
        let names = read
            .subject_alternative_name()
            .expect("well formed")
            .expect("present");
        assert_eq!(names.value.general_names.len(), 1);
        let usage = read
            .extended_key_usage()
            .expect("well formed")
            .expect("present");
        assert!(usage.value.client_auth && !usage.value.server_auth);
    }

    #[test]
    fn a_key_of_another_pair_is_refused() {
        let a = Authority::create(SystemTime::now()).expect("an authority");
        let b = Authority::create(SystemTime::now()).expect("an authority");
        let mixed = Authority::from_pem(&a.cert_pem(), &b.key_pem());
        assert!(matches!(mixed, Err(AuthorityError::KeyMismatch)));
        let empty = Authority::from_pem("", &a.key_pem());
        assert!(matches!(empty, Err(AuthorityError::Malformed { .. })));
    }

    #[test]
    fn a_garbage_or_tampered_request_is_refused() {
        let authority = Authority::create(SystemTime::now()).expect("an authority");
        let node = NodeId::new("n").expect("a name");
        let mut tampered = request("x.example");
        let last = tampered.len() - 1;
        tampered[last] ^= 1;
        for bad in [vec![], vec![0x30; 100], tampered, vec![0; MAX_CSR + 1]] {
            let signed = authority.sign_agent(&bad, &node, DAY, SystemTime::now());
            assert!(matches!(signed, Err(AuthorityError::BadRequest(_))));
        }
    }

    /// What any stranger may send before its token is looked at.
    #[test]
    fn fuzz_signing_request() {
        // No capture: an authority is not unwind-safe, as its key's type does not say that it is.
        static AUTHORITY: LazyLock<Authority> =
            LazyLock::new(|| Authority::create(SystemTime::now()).expect("an authority"));
        let node = NodeId::new("n").expect("a name");
        bolero::check!(name = "signing_request").for_each(|csr: &[u8]| {
            match AUTHORITY.sign_agent(csr, &node, DAY, SystemTime::UNIX_EPOCH) {
                Ok(issued) => {
                    let named = certificate::node_of(&issued.certificate_der);
                    assert_eq!(named.as_ref(), Some(&node));
                }
                Err(error) => assert!(matches!(error, AuthorityError::BadRequest(_)), "{error}"),
            }
        });
    }
}
