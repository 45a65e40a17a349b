//! The coordinator's one TOML file.
//!
//! Every key has a default except where a guess would be wrong, unknown keys are refused, and
//! `--check-config` reads the file and stops. The file holds no secret: keys are stored as hashes,
//! and what the coordinator makes itself (CA, admin key) lies in its state directory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use moe2_engine::coordinator::{
    Config as EngineConfig, EnergyWindow, PlanLimits, Spending, TenantLimits,
};
use moe2_gate::Topic;
use moe2_model::{ExpertName, Joules, Prices, Seconds, TenantId, Watts};
use serde::{Deserialize, Serialize};

/// Largest weight of a tenant; more would drown all others.
const MAX_WEIGHT: f64 = 1e6;

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where clients connect. TLS for clients is a reverse proxy's job, so the default is loopback.
    pub(crate) http: SocketAddr,
    /// Where agents connect, UDP.
    pub(crate) quic: SocketAddr,
    /// The address agents are told to dial, `host:port`; by default the `quic` address.
    pub(crate) advertise: Option<String>,
    /// CA, keys and database; made on first start.
    pub(crate) state_dir: PathBuf,
    /// How long the log of usage is kept, in days.
    pub(crate) usage_days: u32,
    /// How much is kept for `moe2 explain`, in MiB; 0 keeps nothing.
    pub(crate) explanations_mb: u32,
    /// How long an agent's certificate is good for, in hours.
    pub(crate) certificate_hours: u32,
    /// Gate file, read again when it changes; by default the gate that ships.
    pub(crate) gate: Option<PathBuf>,
    /// Folder with files of text encoders, a folder each, for a gate that needs one.
    pub(crate) encoders: Option<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) prices: ConfigPrices,
    pub(crate) plan: Plan,
    /// Who may ask. Without any, a tenant `default` with a fresh key is made.
    pub(crate) tenant: Vec<Tenant>,
}

/// Limits on what clients may ask for.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Largest request body in bytes.
    pub(crate) body_bytes: usize,
    /// Largest `max_tokens`.
    pub(crate) output_tokens: u32,
    /// Queries under way at once.
    pub(crate) queries: usize,
    /// Longest a query may take, in seconds.
    pub(crate) query_seconds: u32,
}

/// λ and μ.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigPrices {
    pub(crate) per_joule: f64,
    pub(crate) per_second: f64,
}

/// Limits on the active set: guarantees about every active expert.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Plan {
    /// How many experts answer one query at most. If absent, the set is chosen for one, and a request
    /// may ask for more unless `prompt_joules` is set.
    pub(crate) experts_per_query: Option<u8>,
    /// Most experts that are active.
    pub(crate) max_experts: Option<u16>,
    /// Watts that the active experts' nodes may draw while idle, shared by memory.
    pub(crate) standing_watts: Option<Watts>,
    /// Joules that one prompt may cost on the dearest active experts.
    pub(crate) prompt_joules: Option<Joules>,
    /// Seconds that an active expert may take for a prompt, by topic.
    pub(crate) delay_seconds: BTreeMap<Topic, Seconds>,
}

/// One tenant.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "toml::Table")]
pub(crate) struct Tenant {
    pub(crate) name: TenantId,
    /// SHA-256 of its API key, 64 hexadecimal digits.
    pub(crate) key_sha256: String,
    pub(crate) settings: Settings,
}

impl TryFrom<toml::Table> for Tenant {
    type Error = String;

    fn try_from(mut table: toml::Table) -> Result<Self, String> {
        let mut text = |field: &str| match table.remove(field) {
            Some(toml::Value::String(text)) => Ok(text),
            Some(_) => Err(format!("{field}: give a text")),
            None => Err(format!("missing field `{field}`")),
        };
        let name = text("name")?;
        let key_sha256 = text("key_sha256")?;
        let name = TenantId::new(&name).map_err(|error| format!("name: {error}"))?;
        let settings = table.try_into();
        let settings = settings
            .map_err(|error: toml::de::Error| format!("tenant {name}: {}", error.message()))?;
        Ok(Self {
            name,
            key_sha256,
            settings,
        })
    }
}

/// What a tenant may, wherever it was made.
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
    /// Whether it has answers late rather than not at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) late_answers: bool,
    /// Joules of a query on average, kept by a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mean_joules: Option<Joules>,
    /// Seconds of a query on average, kept by a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mean_seconds: Option<Seconds>,
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
            late_answers: false,
            mean_joules: None,
            mean_seconds: None,
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
    /// The first setting that cannot be, and why.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(0.0..=MAX_WEIGHT).contains(&self.weight) {
            return Err(format!("weight must be from 0 to {MAX_WEIGHT}"));
        }
        if !self.least_quality.is_none_or(|q| (0.0..=1.0).contains(&q)) {
            return Err("least_quality must be from 0 to 1".to_owned());
        }
        if self.experts.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err("experts: name some, or leave it out for all".to_owned());
        }
        let means = [
            self.mean_joules.map(Joules::get),
            self.mean_seconds.map(Seconds::get),
        ];
        if means.iter().flatten().any(|mean| *mean <= 0.0) {
            return Err("mean_joules, mean_seconds: above 0".to_owned());
        }
        let none = [
            (
                "requests_per_minute",
                self.requests_per_minute.map(u64::from),
            ),
            ("tokens_per_minute", self.tokens_per_minute),
            ("parallel", self.parallel.map(u64::from)),
        ];
        if let Some((name, _)) = none.iter().find(|(_, limit)| *limit == Some(0)) {
            return Err(format!("{name}: at least 1"));
        }
        let mut kinds = BTreeSet::new();
        for window in &self.energy_windows {
            if window.joules <= Joules::ZERO {
                return Err("energy_windows: joules must be above 0".to_owned());
            }
            if !kinds.insert((window.per.as_str(), window.rolling)) {
                return Err(format!(
                    "energy_windows: two of the same kind, per {}",
                    window.per.as_str()
                ));
            }
        }
        Ok(())
    }

    /// As the engine wants them.
    pub(crate) fn limits(&self, tenant: TenantId) -> TenantLimits {
        TenantLimits {
            tenant,
            weight: self.weight,
            energy: self.query_joules,
            delay: self.delay_seconds.clone(),
            late: self.late_answers,
            mean_energy: self.mean_joules,
            mean_delay: self.mean_seconds,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 8077)),
            quic: SocketAddr::from(([0, 0, 0, 0], 7077)),
            advertise: None,
            state_dir: PathBuf::from("/var/lib/moe2"),
            usage_days: 90,
            explanations_mb: 256,
            certificate_hours: 90 * 24,
            gate: None,
            encoders: None,
            limits: Limits::default(),
            prices: ConfigPrices::default(),
            plan: Plan::default(),
            tenant: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            output_tokens: 4_096,
            queries: 1_024,
            query_seconds: 300,
        }
    }
}

impl Default for ConfigPrices {
    fn default() -> Self {
        let Prices {
            per_joule,
            per_second,
        } = EngineConfig::default().prices;
        Self {
            per_joule,
            per_second,
        }
    }
}

impl Config {
    /// Reads and checks a file; without one, the defaults.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        let mut wrong = Vec::new();
        let ConfigPrices {
            per_joule,
            per_second,
        } = config.prices;
        if [per_joule, per_second]
            .iter()
            .any(|p| !p.is_finite() || *p < 0.0)
        {
            wrong.push("prices: use finite numbers of at least 0".to_owned());
        }
        if config.plan.experts_per_query == Some(0) || config.plan.max_experts == Some(0) {
            wrong.push("plan.experts_per_query, plan.max_experts: at least 1".to_owned());
        }
        for tenant in &config.tenant {
            if let Err(why) = tenant.settings.check() {
                wrong.push(format!("tenant {}: {why}", tenant.name));
            }
            if tenant.key_hash().is_none() {
                wrong.push(format!(
                    "tenant {}: key_sha256 must be 64 hexadecimal digits",
                    tenant.name
                ));
            }
        }
        for (what, twice) in twice(&config.tenant) {
            wrong.push(format!(
                "two tenants have the {what} {twice}: each needs its own"
            ));
        }
        if config.limits.output_tokens == 0 {
            wrong.push("limits.output_tokens: at least 1".to_owned());
        }
        if let Some(advertise) = &config.advertise
            && !is_host_and_port(advertise)
        {
            wrong.push(format!(
                "advertise: {advertise:?} is not host:port, as agents dial it"
            ));
        }
        if config.limits.body_bytes > 1 << 20 {
            wrong.push("limits.body_bytes: at most 1048576, what fits a frame".to_owned());
        }
        if config.limits.queries == 0
            || config.limits.query_seconds == 0
            || config.certificate_hours == 0
        {
            wrong.push(
                "limits.queries, limits.query_seconds, certificate_hours: at least 1".to_owned(),
            );
        }
        if wrong.is_empty() {
            Ok(config)
        } else {
            bail!("{}", wrong.join("; "))
        }
    }

    /// How long the log of usage is kept.
    pub(crate) fn keep_usage(&self) -> Duration {
        Duration::from_secs(u64::from(self.usage_days) * 86_400)
    }

    /// Settings for the engine.
    pub(crate) fn engine(&self) -> EngineConfig {
        let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        EngineConfig {
            prices: Prices {
                per_joule: self.prices.per_joule,
                per_second: self.prices.per_second,
            },
            plan: self.limits_of_the_plan(),
            max_queries: self.limits.queries,
            query_timeout: Duration::from_secs(u64::from(self.limits.query_seconds)),
            records: self.explanations_mb > 0,
            first_dispatch: u64::try_from(since_epoch.as_micros()).unwrap_or(1),
            ..EngineConfig::default()
        }
    }
}

impl Config {
    fn limits_of_the_plan(&self) -> PlanLimits {
        let tenants = self.tenant.iter();
        let tenants = tenants.map(|tenant| tenant.settings.limits(tenant.name.clone()));
        PlanLimits {
            closed: false,
            experts_per_query: self.plan.experts_per_query.map(usize::from),
            experts: self.plan.max_experts.map(usize::from),
            standing: self.plan.standing_watts,
            energy: self.plan.prompt_joules,
            delay: self.plan.delay_seconds.clone(),
            tenants: tenants.collect(),
        }
    }
}

/// Names and keys that more than one tenant has.
fn twice(tenants: &[Tenant]) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (at, tenant) in tenants.iter().enumerate() {
        let before = &tenants[..at];
        if before.iter().any(|t| t.name == tenant.name) {
            found.push(("name", tenant.name.to_string()));
        }
        let key = tenant.key_sha256.to_lowercase();
        if before.iter().any(|t| t.key_sha256.to_lowercase() == key) {
            found.push(("key_sha256", key));
        }
    }
    found
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    })
}

impl Tenant {
    /// The hash of its key.
    pub(crate) fn key_hash(&self) -> Option<[u8; 32]> {
        crate::state::from_hex(&self.key_sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_in_deploy_is_sound_and_shows_the_defaults() {
        let example = Config::parse(include_str!("../../deploy/coordinator.toml")).expect("sound");
        assert_eq!(format!("{example:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn limits_and_budgets_reach_the_engine_and_bad_ones_are_refused() {
        let hash = "ab".repeat(32);
        let text = format!(
            "[plan]\nstanding_watts = 60\nmax_experts = 4\n[plan.delay_seconds]\ncode = 20\n\
             [[tenant]]\nname = \"a\"\nkey_sha256 = \"{hash}\"\nweight = 3\nquery_joules = 40\n\
             [tenant.delay_seconds]\nchat = 2.5\n"
        );
        let plan = Config::parse(&text).expect("sound").engine().plan;
        assert_eq!(plan.standing, Some(Watts::saturating(60.0)));
        assert_eq!((plan.experts, plan.experts_per_query), (Some(4), None));
        assert_eq!(plan.delay[&Topic::Code], Seconds::saturating(20.0));
        assert_eq!(
            plan.tenants[0].delay[&Topic::Chat],
            Seconds::saturating(2.5)
        );
        for (bad, names) in [
            ("[plan]\nmax_experts = 0", "max_experts"),
            ("[limits]\noutput_tokens = 0", "output_tokens"),
            ("advertise = \"somewhere\"", "host:port"),
            ("[plan]\nstanding_watts = -1", "quantity"),
            ("[plan.delay_seconds]\npoetry = 1", "poetry"),
        ] {
            let error = format!("{:#}", Config::parse(bad).expect_err("bad"));
            assert!(error.contains(names), "{bad}: {error}");
        }
    }

    #[test]
    fn two_tenants_share_neither_name_nor_key() {
        let tenant = |name: &str, digit: &str| {
            let hash = digit.repeat(64);
            format!("[[tenant]]\nname = \"{name}\"\nkey_sha256 = \"{hash}\"\n")
        };
        let refused = |text: String| Config::parse(&text).expect_err("twice").to_string();
        assert!(refused(tenant("a", "1") + &tenant("a", "2")).contains("name a"));
        assert!(refused(tenant("a", "c") + &tenant("b", "C")).contains("key_sha256 ccc"));
        assert!(Config::parse(&(tenant("a", "1") + &tenant("b", "2"))).is_ok());
    }

    #[test]
    fn an_unknown_key_and_a_bad_hash_are_refused_by_name() {
        let unknown = Config::parse("htpp = \"127.0.0.1:1\"").expect_err("unknown key");
        assert!(format!("{unknown:#}").contains("htpp"));
        let hash =
            Config::parse("[[tenant]]\nname = \"a\"\nkey_sha256 = \"xyz\"").expect_err("bad hash");
        assert!(hash.to_string().contains("tenant a"), "{hash}");
    }
}
