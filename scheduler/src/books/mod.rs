//! The ledger on disk: what was settled, and how much may have been under way if this process dies.
//!
//! One thread owns the database connection and writes everything that has come in since the last
//! commit in one transaction, so a commit is shared by all queries of a moment. Two promises:
//!
//! - No client sees the end of an answer before its settlement is committed.
//! - Nothing is dispatched before a *mark* is committed that covers every joule reserved for its tenant.
//!
//! What has to wait for which commit is decided in the engine's `outbox`.
//!
//! After a crash a tenant is charged its mark, whatever of it was really used: a window is never
//! exceeded, and errs by at most the mark. Commits survive `kill -9` at once and a power failure from the
//! next checkpoint on (`synchronous = NORMAL`).

mod store;
mod tenants;
mod usage;
mod writer;

use moe2_engine::coordinator::Wall;

pub(crate) use store::{Opened, open};
pub(crate) use tenants::{TenantError, Tenants};
pub(crate) use usage::{Query as UsageQuery, usage};
pub(crate) use writer::Writer;

/// The calendar's time.
pub(crate) fn now() -> Wall {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Wall(since_epoch.as_secs())
}
