//! What was used, summed up.

use std::path::Path;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::store::connect_to_read;

/// By what usage is summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Group {
    /// By tenant.
    #[default]
    Tenant,
    /// By expert.
    Expert,
    /// By day, UTC.
    Day,
    /// By where the joules are from.
    Source,
}

/// Which usage.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Query {
    /// Summed up by what.
    pub(crate) by: Group,
    /// Only of this tenant.
    pub(crate) tenant: Option<String>,
    /// Settled at or after, seconds since 1970 UTC.
    pub(crate) since: Option<u64>,
    /// Settled before.
    pub(crate) until: Option<u64>,
}

/// A sum.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    /// Of what.
    pub(crate) key: String,
    pub(crate) queries: u64,
    pub(crate) dispatches: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) energy_j: f64,
    pub(crate) reserved_j: f64,
    /// Used beyond what was reserved, dispatch by dispatch: the most by which a window can be exceeded.
    pub(crate) over_j: f64,
    pub(crate) busy_s: f64,
}

/// Sums up usage, read beside the writer.
pub(crate) fn usage(path: &Path, query: &Query) -> rusqlite::Result<Vec<Line>> {
    let database = connect_to_read(path)?;
    let key = match query.by {
        Group::Tenant => "tenant",
        Group::Expert => "expert",
        Group::Day => "date(at, 'unixepoch')",
        Group::Source => "source",
    };
    // The key is one of the four above; what callers give are parameters.
    let mut statement = database.prepare(&format!(
        "SELECT {key}, count(DISTINCT query), count(*), sum(prompt_tokens), sum(output_tokens),
                sum(energy_j), sum(bound_j), sum(max(energy_j - bound_j, 0)), sum(busy_s)
         FROM usage WHERE at >= ?1 AND at < ?2 AND (?3 IS NULL OR tenant = ?3)
         GROUP BY 1 ORDER BY 1"
    ))?;
    let until = query.until.unwrap_or(i64::MAX.unsigned_abs());
    let bounds = params![query.since.unwrap_or(0), until, query.tenant];
    let rows = statement.query_map(bounds, |row| {
        Ok(Line {
            key: row.get(0)?,
            queries: row.get(1)?,
            dispatches: row.get(2)?,
            prompt_tokens: row.get(3)?,
            output_tokens: row.get(4)?,
            energy_j: row.get(5)?,
            reserved_j: row.get(6)?,
            over_j: row.get(7)?,
            busy_s: row.get(8)?,
        })
    })?;
    rows.collect()
}
