//! A tenant of the file, and what a tenant may, wherever it was made.

use std::collections::{BTreeMap, BTreeSet};

use moe2_engine::coordinator::{EnergyWindow, Spending, TenantLimits};
use moe2_gate::Topic;
use moe2_model::{ExpertName, Joules, Seconds, TenantId};
use serde::{Deserialize, Serialize};

/// Largest weight of a tenant; more would drown all others.
const MAX_WEIGHT: f64 = 1e6;

/// One tenant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tenant {
    pub(crate) name: TenantId,
    /// SHA-256 of its API key.
    pub(crate) key_sha256: [u8; 32],
    pub(crate) settings: Settings,
}

/// What a tenant may.
///
/// The keys that the engine knows as [`Spending`] are repeated: serde's `flatten` would share them, and
/// would let unknown keys pass, that is, misspelt budgets. [`Settings::limits`] is the one place that
/// has to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// How much its queries count in the plan against those of others.
    pub(crate) weight: f64,
    /// Joules that one of its queries may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) query_joules: Option<Joules>,
    /// Seconds that one of its queries may take, by topic.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) delay_seconds: BTreeMap<Topic, Seconds>,
    /// Seconds by topic to the first token of an answer that is streamed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) first_token_seconds: BTreeMap<Topic, Seconds>,
    /// Whether it has answers late rather than not at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) late_answers: bool,
    /// Seconds by topic that 95 in 100 answers stay within, kept by a price on being late.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) delay_p95_seconds: BTreeMap<Topic, Seconds>,
    /// Seconds by topic to the first token that 95 in 100 streamed answers stay within, kept by the same price.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) first_token_p95_seconds: BTreeMap<Topic, Seconds>,
    /// Joules of a query on average, kept by a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mean_joules: Option<Joules>,
    /// Seconds of a query on average, kept by a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mean_seconds: Option<Seconds>,
    /// Seconds to the first token of a streamed answer on average, kept by a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mean_first_token_seconds: Option<Seconds>,
    /// Experts that may answer it; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) experts: Option<BTreeSet<ExpertName>>,
    /// Forecast probability of a good answer below which no expert is chosen for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) least_quality: Option<f64>,
    /// Windows of joules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) energy_windows: Vec<EnergyWindow>,
    /// Queries within any minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers within any minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_minute: Option<u64>,
    /// Queries under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parallel: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            weight: 1.0,
            query_joules: None,
            delay_seconds: BTreeMap::new(),
            first_token_seconds: BTreeMap::new(),
            late_answers: false,
            delay_p95_seconds: BTreeMap::new(),
            first_token_p95_seconds: BTreeMap::new(),
            mean_joules: None,
            mean_seconds: None,
            mean_first_token_seconds: None,
            experts: None,
            least_quality: None,
            energy_windows: Vec::new(),
            requests_per_minute: None,
            tokens_per_minute: None,
            parallel: None,
        }
    }
}

impl Settings {
    /// All settings that cannot be, each with its key and what it should be.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(0.0..=MAX_WEIGHT).contains(&self.weight) {
            faults.push(("weight", format!("must be from 0 to {MAX_WEIGHT}")));
        }
        if !self.least_quality.is_none_or(|q| (0.0..=1.0).contains(&q)) {
            faults.push(("least_quality", "must be from 0 to 1".to_owned()));
        }
        if self.experts.as_ref().is_some_and(BTreeSet::is_empty) {
            faults.push(("experts", "name some, or leave it out for all".to_owned()));
        }
        let means = [
            ("mean_joules", self.mean_joules.map(Joules::get)),
            ("mean_seconds", self.mean_seconds.map(Seconds::get)),
            (
                "mean_first_token_seconds",
                self.mean_first_token_seconds.map(Seconds::get),
            ),
        ];
        let counts = [
            (
                "requests_per_minute",
                self.requests_per_minute.map(u64::from),
            ),
            ("tokens_per_minute", self.tokens_per_minute),
            ("parallel", self.parallel.map(u64::from)),
        ];
        let means = means.iter().filter(|(_, mean)| *mean == Some(0.0));
        faults.extend(means.map(|(key, _)| (*key, "must be above 0".to_owned())));
        let percentiles = [
            ("delay_p95_seconds", &self.delay_p95_seconds),
            ("first_token_p95_seconds", &self.first_token_p95_seconds),
        ];
        let nothing =
            |times: &BTreeMap<Topic, Seconds>| times.values().any(|s| *s <= Seconds::ZERO);
        let percentiles = percentiles.iter().filter(|(_, times)| nothing(times));
        faults.extend(percentiles.map(|(key, _)| (*key, "must be above 0".to_owned())));
        let counts = counts.iter().filter(|(_, count)| *count == Some(0));
        faults.extend(counts.map(|(key, _)| (*key, "must be at least 1".to_owned())));
        let mut kinds = BTreeSet::new();
        for window in &self.energy_windows {
            let per = window.per.as_str();
            if window.joules <= Joules::ZERO {
                let why = format!("joules per {per} must be above 0");
                faults.push(("energy_windows", why));
            }
            if !kinds.insert((per, window.rolling)) {
                let why = format!("two of the same kind, per {per}: keep one");
                faults.push(("energy_windows", why));
            }
        }
        faults
    }

    /// As the engine wants them.
    pub(crate) fn limits(&self, tenant: TenantId) -> TenantLimits {
        TenantLimits {
            tenant,
            weight: self.weight,
            energy: self.query_joules,
            delay: self.delay_seconds.clone(),
            first_token: self.first_token_seconds.clone(),
            late: self.late_answers,
            delay_p95: self.delay_p95_seconds.clone(),
            first_token_p95: self.first_token_p95_seconds.clone(),
            mean_energy: self.mean_joules,
            mean_delay: self.mean_seconds,
            mean_first_token: self.mean_first_token_seconds,
            experts: self.experts.clone(),
            least_quality: self.least_quality,
            spending: Spending {
                energy_windows: self.energy_windows.clone(),
                requests_per_minute: self.requests_per_minute,
                tokens_per_minute: self.tokens_per_minute,
                parallel: self.parallel,
            },
        }
    }
}
