//! What was used, summed up.

use std::path::Path;

use moe2_model::EnergySource;
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
    /// The most by which `energy_j` may be off, either way: the sum of what each dispatch may be off by.
    pub(crate) error_j: f64,
    /// Where the joules are from; of several, the one to trust least.
    pub(crate) source: String,
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
                sum(energy_j), sum(bound_j), sum(max(energy_j - bound_j, 0)), sum(busy_s),
                sum(error_j), group_concat(DISTINCT source)
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
            error_j: row.get(9)?,
            source: weakest(&row.get::<_, String>(10)?),
        })
    })?;
    rows.collect()
}

/// The least trusted of sources as the books spell them, separated by commas. What was lost is known
/// least of all, and so is what another release wrote.
fn weakest(sources: &str) -> String {
    let rank = |source: &&str| {
        let known = EnergySource::ALL
            .into_iter()
            .find(|s| s.as_str() == *source);
        known.map_or(u8::MAX, EnergySource::rank)
    };
    sources
        .split(',')
        .max_by_key(rank)
        .unwrap_or("lost")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_add_up_in_a_sum() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("moe2.db");
        let month = std::time::Duration::from_secs(30 * 86_400);
        let opened = super::super::open(&path, moe2_engine::coordinator::Wall(9), month);
        let database = opened.expect("a fresh database").database;
        for (dispatch, joules, source, error) in [
            (1, 10.0, "measured:ina3221", 0.5),
            (2, 20.0, "modelled", 20.0),
            (3, 0.0, "lost", 7.0),
        ] {
            database
                .execute(
                    "INSERT INTO usage VALUES (?1, 1, 't', ?3, 9, 9, 30.0, ?2, ?3, 1, 1, 1.0, ?4)",
                    params![dispatch, joules, source, error],
                )
                .expect("a row");
        }
        let by = |by| {
            let query = Query {
                by,
                ..Query::default()
            };
            usage(&path, &query).expect("it reads")
        };
        let [tenant] = &by(Group::Tenant)[..] else {
            panic!("one tenant")
        };
        assert_eq!((tenant.energy_j, tenant.error_j), (30.0, 27.5));
        assert_eq!(tenant.source, "lost");
        let sources: Vec<(f64, String)> = by(Group::Source)
            .into_iter()
            .map(|line| (line.error_j, line.source))
            .collect();
        let expected = [(7.0, "lost"), (0.5, "measured:ina3221"), (20.0, "modelled")];
        assert_eq!(
            sources,
            expected.map(|(error, source)| (error, source.to_owned()))
        );
    }

    #[test]
    fn a_sum_is_named_after_its_least_trusted_part_whatever_the_order() {
        for (sources, name) in [
            ("measured:ina3221", "measured:ina3221"),
            ("measured:rapl,measured:nvml", "measured:rapl"),
            ("measured:nvml,modelled,measured:ina3221", "modelled"),
            ("lost,modelled", "lost"),
        ] {
            assert_eq!(weakest(sources), name);
        }
    }
}
