//! Who asks: API keys to tenants.
//!
//! Only SHA-256 hashes of keys are held. Keys are long and random, so a plain hash is enough (a
//! password hash would only slow every request down), and every stored hash is compared in full,
//! so the time taken tells nothing about how close a guess was. A key is never logged or echoed.

use std::hint::black_box;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use moe2_model::TenantId;
use sha2::{Digest, Sha256};

use super::error::ApiError;

/// Hashed API keys and whose they are.
pub(crate) struct KeyTable {
    keys: RwLock<Keys>,
}

type Keys = Vec<([u8; 32], TenantId)>;

impl std::fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyTable({} keys)", self.read().len())
    }
}

impl KeyTable {
    /// A table of SHA-256 hashes of keys, each with its tenant.
    pub(crate) fn new(keys: impl IntoIterator<Item = ([u8; 32], TenantId)>) -> Self {
        Self {
            keys: RwLock::new(keys.into_iter().collect()),
        }
    }

    /// Other keys from now on.
    pub(crate) fn replace(&self, keys: impl IntoIterator<Item = ([u8; 32], TenantId)>) {
        let keys = keys.into_iter().collect();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn read(&self) -> RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose key this is.
    pub(crate) fn tenant(&self, key: &str) -> Option<TenantId> {
        let given: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let keys = self.read();
        let mut found = None;
        for (hash, tenant) in keys.iter() {
            if same(hash, &given) {
                found = Some(tenant);
            }
        }
        found.cloned()
    }
}

/// Whether two hashes are equal, looking at every byte.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y));
    black_box(difference) == 0
}

/// The key of an `Authorization: Bearer KEY` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

/// Lets a request to `/v1/` pass only with a known key, and notes its tenant for the handlers.
/// Health checks outside `/v1/` carry no key.
pub(super) async fn require(
    State(keys): State<Arc<KeyTable>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !request.uri().path().starts_with("/v1/") {
        return Ok(next.run(request).await);
    }
    let tenant = bearer(request.headers()).and_then(|key| keys.tenant(key));
    let tenant = tenant.ok_or_else(ApiError::unauthorised)?;
    request.extensions_mut().insert(tenant);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_tenant_and_nothing_else_does() {
        let tenant = |name: &str| TenantId::new(name).expect("a valid name");
        let hash = |key: &str| Sha256::digest(key.as_bytes()).into();
        let table = KeyTable::new([
            (hash("sk-a"), tenant("alice")),
            (hash("sk-b"), tenant("bob")),
        ]);
        assert_eq!(table.tenant("sk-a"), Some(tenant("alice")));
        assert_eq!(table.tenant("sk-b"), Some(tenant("bob")));
        for wrong in ["", "sk-", "sk-a ", "SK-A", "sk-ab"] {
            assert_eq!(table.tenant(wrong), None, "{wrong:?}");
        }
        assert_eq!(format!("{table:?}"), "KeyTable(2 keys)");
    }

    #[test]
    fn only_a_bearer_header_with_a_key_counts() {
        let cases = [
            ("Bearer k", Some("k")),
            ("bearer  k ", Some("k")),
            ("Basic k", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("k", None),
        ];
        for (value, key) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            assert_eq!(bearer(&headers), key, "{value:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
