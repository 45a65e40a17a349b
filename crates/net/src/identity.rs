//! Who an agent is: its certificate, its key and the CA it trusts.
//!
//! All three are in one file, written beside the old one and renamed over it, so a crash leaves the
//! old identity or the new one and never a key without its certificate.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use moe2_model::NodeId;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::certificate;

const FILE: &str = "identity.pem";
/// Two certificates and a key have about 2 kB.
const MAX_FILE: u64 = 64 * 1024;

/// A stored identity that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{path} is damaged ({reason}): remove it and enrol again with a new join token")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// An enrolled agent.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name in the certificate.
    pub node: NodeId,
    /// The agent's certificate, X.509 DER.
    pub certificate_der: Vec<u8>,
    /// The agent's private key, PKCS #8 DER; secret.
    pub key_pkcs8_der: Vec<u8>,
    /// The CA's certificate, X.509 DER.
    pub ca_der: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// End of the certificate's validity; the epoch when the certificate cannot be read.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        certificate::not_after(&self.certificate_der).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// When to ask for a new certificate: at two thirds of this one's life, so that a coordinator which is away for
    /// long is no reason to enrol again.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let end = self.not_after();
        let begin = certificate::not_before(&self.certificate_der).unwrap_or(end);
        let life = end.duration_since(begin).unwrap_or_default();
        end - life / 3
    }

    /// Stores the identity in `dir`, which is made if need be and readable by its owner only.
    ///
    /// # Errors
    /// What the system says when it cannot be written; the old identity is then intact.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        let temporary = dir.join(format!(".{FILE}.{}", std::process::id()));
        // A leftover of a crashed run of the same process id.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let written = write_private(&temporary, self.to_pem().as_bytes())
            .and_then(|()| fs::rename(&temporary, dir.join(FILE)));
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        File::open(dir)?.sync_all()
    }

    /// The identity stored in `dir`, `None` when there is none.
    ///
    /// # Errors
    /// [`IdentityError`] when there is one that cannot be read.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(FILE);
        let bytes = match read_limited(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        match Self::from_pem(&bytes) {
            Ok(identity) => Ok(Some(identity)),
            Err(reason) => Err(IdentityError::Damaged { path, reason }),
        }
    }

    fn to_pem(&self) -> String {
        [
            certificate::pem("CERTIFICATE", &self.certificate_der),
            certificate::pem("PRIVATE KEY", &self.key_pkcs8_der),
            certificate::pem("CERTIFICATE", &self.ca_der),
        ]
        .concat()
    }

    fn from_pem(bytes: &[u8]) -> Result<Self, &'static str> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<_, _>>()
            .map_err(|_| "its certificates are not PEM")?;
        let [own, ca] = certificates.as_slice() else {
            return Err("it does not hold two certificates");
        };
        let key =
            PrivatePkcs8KeyDer::from_pem_slice(bytes).map_err(|_| "it does not hold a key")?;
        let node = certificate::node_of(own).ok_or("its certificate names no node")?;
        Ok(Self {
            node,
            certificate_der: own.to_vec(),
            key_pkcs8_der: key.secret_pkcs8_der().to_vec(),
            ca_der: ca.to_vec(),
        })
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "too long for an identity",
        ));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_identity() {
        bolero::check!(name = "identity").for_each(|bytes: &[u8]| {
            if let Ok(identity) = Identity::from_pem(bytes) {
                let _ = (identity.not_after(), identity.renew_at());
                let again = Identity::from_pem(identity.to_pem().as_bytes());
                assert_eq!(again, Ok(identity));
            }
        });
    }
}
