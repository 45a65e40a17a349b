//! The state directory: what the coordinator makes on first start and must find again.
//!
//! `ca.pem`, `ca.key`: the fleet's root. `admin.key`: the operator's credential. `api.key`: the key of
//! the tenant `default`, only when the configuration names no tenant. `moe2.db`: join tokens and
//! issued certificates. `endpoints.json`: where this process listens, for tools on the same machine.
//! Secrets are readable by their owner only.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use moe2_net::Authority;
use sha2::{Digest, Sha256};

/// The directory, with what is in it.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Held while this process lives: two would write each other's books.
    _lock: Arc<fs::File>,
}

impl StateDir {
    /// Opens the directory, making it if need be.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
            format!(
                "cannot make the state directory {}: choose another with --state-dir or `state_dir`",
                path.display()
            )
        })?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock);
        let file = file.with_context(|| format!("cannot open {}", lock.display()))?;
        file.try_lock().with_context(|| {
            format!(
                "another coordinator uses the state directory {}",
                path.display()
            )
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: Arc::new(file),
        })
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("moe2.db")
    }

    /// How queries went.
    pub(crate) fn records(&self) -> PathBuf {
        self.path.join("records.db")
    }

    /// The CA, made on first start.
    pub(crate) fn authority(&self) -> Result<Authority> {
        let (cert, key) = (self.path.join("ca.pem"), self.path.join("ca.key"));
        let found = (there(&cert)?, there(&key)?);
        if found != (true, true) && found != (false, false) {
            bail!(
                "{} holds only one of ca.pem and ca.key: restore the other from a backup, or remove both and let every agent join again",
                self.path.display()
            );
        }
        if found == (true, true) {
            let (cert_pem, key_pem) = (read(&cert)?, read(&key)?);
            return Authority::from_pem(&cert_pem, &key_pem)
                .with_context(|| format!("{} and ca.key do not belong together", cert.display()));
        }
        let authority = Authority::create(SystemTime::now())?;
        write_private(&key, &authority.key_pem())?;
        write_private(&cert, &authority.cert_pem())?;
        tracing::info!(path = %cert.display(), "made the fleet's certificate authority");
        Ok(authority)
    }

    /// A secret of that name, made on first use.
    pub(crate) fn secret(&self, name: &str) -> Result<String> {
        let path = self.path.join(name);
        if there(&path)? {
            return Ok(read(&path)?.trim().to_owned());
        }
        let secret = fresh_key()?;
        write_private(&path, &secret)?;
        tracing::info!(path = %path.display(), "made a key");
        Ok(secret)
    }

    /// Tells tools on this machine where this process listens.
    pub(crate) fn write_endpoints(&self, endpoints: &serde_json::Value) -> Result<()> {
        write_private(&self.path.join("endpoints.json"), &endpoints.to_string())
    }
}

/// A file that cannot be looked at is not a file that is not there.
fn there(path: &Path) -> Result<bool> {
    path.try_exists()
        .with_context(|| format!("cannot look at {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes beside the target and renames, so that a crash leaves the old file or the new one.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A key that nobody can guess.
pub(crate) fn fresh_key() -> Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).context("the system gave no random numbers")?;
    Ok(format!("sk-moe2-{}", hex(&bytes)))
}

/// SHA-256 of a key, as tenants are known by.
pub(crate) fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut out = [0; 32];
    for (byte, at) in out.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(out)
}
