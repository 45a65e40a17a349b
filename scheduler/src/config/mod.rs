//! The coordinator's one TOML file.
//!
//! Every key has a default except where a guess would be wrong, and unknown keys are refused. `read` reports
//! all that is wrong with a file at once; `change` says how two files differ. The file holds no secret: keys
//! are stored as hashes, and what the coordinator makes itself (CA, admin key) lies in its state directory.

pub(crate) mod change;
pub(crate) mod read;
mod tenant;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moe2_engine::coordinator::{Config as EngineConfig, Live, PlanLimits, TenantLimits};
use moe2_gate::Topic;
use moe2_model::{Joules, Prices, Seconds, Watts};
use serde::Deserialize;

use crate::http::server::Bounds;
pub(crate) use read::Faults;
pub(crate) use tenant::{Settings, Tenant};

/// Largest request body, in bytes: what fits a frame.
const MAX_BODY: usize = 1 << 20;

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
    /// How long queries under way may go on when the coordinator is told to stop.
    pub(crate) drain_seconds: u32,
    /// Gate file, read again when it changes; by default the gate that ships.
    pub(crate) gate: Option<PathBuf>,
    /// Folder with files of text encoders, a folder each, for a gate that needs one.
    pub(crate) encoders: Option<PathBuf>,
    /// Table of speeds measured elsewhere, for experts that nobody has asked yet.
    pub(crate) profiles: Option<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) prices: ConfigPrices,
    pub(crate) plan: Plan,
    /// Who may ask. Without any, a tenant `default` with a fresh key is made.
    #[serde(skip)]
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
    /// Connections of clients at once.
    pub(crate) connections: usize,
    /// Longest a client may take for a request's headers, or to take some of what it is sent, in seconds.
    pub(crate) client_seconds: u32,
    /// Longest a query may take, in seconds.
    pub(crate) query_seconds: u32,
    /// Share of all work that may be given to a second expert because the first is late.
    pub(crate) hedge_share: f64,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 8077)),
            quic: SocketAddr::from(([0, 0, 0, 0], 7077)),
            advertise: None,
            state_dir: PathBuf::from("/var/lib/moe2"),
            usage_days: 90,
            explanations_mb: 256,
            certificate_hours: 30 * 24,
            drain_seconds: 60,
            gate: None,
            encoders: None,
            profiles: None,
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
            body_bytes: MAX_BODY,
            output_tokens: 4_096,
            queries: 1_024,
            connections: 2_048,
            client_seconds: 75,
            query_seconds: 300,
            hedge_share: EngineConfig::default().hedge_share,
        }
    }
}

impl Limits {
    /// What clients' connections may take.
    pub(crate) fn connections(&self) -> Bounds {
        Bounds {
            connections: self.connections,
            patience: Duration::from_secs(u64::from(self.client_seconds)),
        }
    }
}

impl Default for ConfigPrices {
    fn default() -> Self {
        let Prices {
            per_joule,
            per_second,
            per_first_token_second: _,
        } = EngineConfig::default().prices;
        Self {
            per_joule,
            per_second,
        }
    }
}

impl Config {
    /// Reads and checks a file, and gives its text, by which a change is told; without one, the defaults.
    pub(crate) fn read(path: Option<&Path>) -> Result<(Self, String), Faults> {
        let text = path.map(read::text).transpose()?.unwrap_or_default();
        Ok((read::parse(&text)?, text))
    }

    /// Looks for values that can be read but not be used.
    fn check(&self, faults: &mut Faults) {
        let ConfigPrices {
            per_joule,
            per_second,
        } = self.prices;
        let prices = [
            ("prices.per_joule", per_joule),
            ("prices.per_second", per_second),
        ];
        for (key, _) in prices.iter().filter(|(_, p)| !p.is_finite() || *p < 0.0) {
            faults.add(*key, "use a finite number of at least 0");
        }
        let Limits {
            body_bytes,
            output_tokens,
            queries,
            connections,
            client_seconds,
            query_seconds,
            hedge_share,
        } = self.limits;
        let least_one = [
            (
                "plan.experts_per_query",
                self.plan.experts_per_query == Some(0),
            ),
            ("plan.max_experts", self.plan.max_experts == Some(0)),
            ("limits.output_tokens", output_tokens == 0),
            ("limits.queries", queries == 0),
            ("limits.connections", connections == 0),
            ("limits.client_seconds", client_seconds == 0),
            ("limits.query_seconds", query_seconds == 0),
            ("certificate_hours", self.certificate_hours == 0),
        ];
        for (key, _) in least_one.iter().filter(|(_, none)| *none) {
            faults.add(*key, "at least 1");
        }
        if !(0.0..=1.0).contains(&hedge_share) {
            faults.add(
                "limits.hedge_share",
                "use a share from 0, which is none, to 1",
            );
        }
        if body_bytes > MAX_BODY {
            let why = format!("at most {MAX_BODY}, what fits a frame");
            faults.add("limits.body_bytes", why);
        }
        if let Some(advertise) = &self.advertise
            && !is_host_and_port(advertise)
        {
            let why = format!("{advertise:?} is not host:port, as agents dial it");
            faults.add("advertise", why);
        }
        for (at, tenant) in self.tenant.iter().enumerate() {
            let (before, name) = (&self.tenant[..at], &tenant.name);
            let why = "another tenant has it: each needs its own";
            if before.iter().any(|t| t.name == *name) {
                faults.add(format!("tenant {name}.name"), why);
            }
            if before.iter().any(|t| t.key_sha256 == tenant.key_sha256) {
                faults.add(format!("tenant {name}.key_sha256"), why);
            }
        }
    }

    /// How long an agent's certificate is good for.
    pub(crate) fn certificate_life(&self) -> Duration {
        Duration::from_secs(u64::from(self.certificate_hours) * 3_600)
    }

    /// How long queries under way may go on when the coordinator is told to stop.
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(u64::from(self.drain_seconds))
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
                // Only a budget makes one.
                per_first_token_second: 0.0,
            },
            plan: self.limits_of_the_plan(),
            max_queries: self.limits.queries,
            query_timeout: Duration::from_secs(u64::from(self.limits.query_seconds)),
            hedge_share: self.limits.hedge_share,
            records: self.explanations_mb > 0,
            first_dispatch: u64::try_from(since_epoch.as_micros()).unwrap_or(1),
            ..EngineConfig::default()
        }
    }
}

impl Config {
    /// What the engine can take while queries are under way; only these tenants may ask.
    pub(crate) fn live(&self, tenants: Vec<TenantLimits>) -> Live {
        let mut live = self.engine().live();
        (live.plan.closed, live.plan.tenants) = (true, tenants);
        live
    }

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

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_in_deploy_is_sound_and_shows_the_defaults() {
        let example = read::parse(include_str!("../../../deploy/coordinator.toml")).expect("sound");
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
        let plan = read::parse(&text).expect("sound").engine().plan;
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
            let error = read::parse(bad).expect_err("bad").to_string();
            assert!(error.contains(names), "{bad}: {error}");
        }
    }
}
