//! Certificates that are no longer good although their time is not up.
//!
//! TLS alone would take them until they expire, so whoever shows one is turned away right after the handshake,
//! and connections that are open end at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// Serial numbers, lower-case hexadecimal. Clones share them.
#[derive(Debug, Clone)]
pub struct Revoked(Arc<watch::Sender<BTreeSet<String>>>);

impl Revoked {
    /// Those that are revoked already.
    #[must_use]
    pub fn new(serials: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(watch::Sender::new(serials.into_iter().collect())))
    }

    /// Revokes more of them.
    pub fn revoke(&self, serials: impl IntoIterator<Item = String>) {
        self.0.send_modify(|all| all.extend(serials));
    }

    /// Whether this one is revoked.
    #[must_use]
    pub fn contains(&self, serial: &str) -> bool {
        self.0.borrow().contains(serial)
    }

    /// Waits until this one is. May be cancelled without loss.
    pub async fn until(&self, serial: &str) {
        let mut all = self.0.subscribe();
        // Ends with an error only if the sender is gone, and this holds it.
        let _ = all.wait_for(|all| all.contains(serial)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_hears_of_its_own_only() {
        let revoked = Revoked::new(["a".to_owned()]);
        revoked.until("a").await;
        let shared = revoked.clone();
        let waits = tokio::spawn(async move { shared.until("c").await });
        revoked.revoke(["b".to_owned()]);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished() && revoked.contains("b") && !revoked.contains("c"));
        revoked.revoke(["c".to_owned()]);
        waits.await.expect("it ends");
    }
}
