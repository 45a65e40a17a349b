//! How two files differ: what of it can hold at once, and what waits for a restart.
//!
//! Every key is in one table, [`keys`], which takes the whole of [`Config`] apart, so a new key cannot be
//! forgotten: the compiler asks where it belongs. Tenants are told apart by name.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Config, ConfigPrices, Limits, Plan, Tenant};

/// When a key holds that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// At once.
    Now,
    /// From the next start.
    Restart,
}

/// Settings that differ, by key: from what to what.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Changed(BTreeMap<String, (Value, Value)>);

impl Changed {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// For the audit.
    pub(crate) fn detail(&self) -> String {
        let each = self.0.iter();
        let each = each.map(|(key, (from, to))| (key.clone(), json!({"from": from, "to": to})));
        Value::Object(each.collect()).to_string()
    }
}

/// One line of the audit; keys of tenants are never in it, nor their hashes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) action: &'static str,
    /// Empty for settings that are no tenant's.
    pub(crate) tenant: String,
    pub(crate) detail: String,
}

/// The keys outside tenants that differ and hold then.
pub(crate) fn settings(before: &Config, after: &Config, then: Holds) -> Changed {
    let pairs = keys(before).into_iter().zip(keys(after));
    let differ = pairs.filter(|((_, holds, from), (_, _, to))| *holds == then && from != to);
    Changed(
        differ
            .map(|((key, _, from), (_, _, to))| (key.to_owned(), (from, to)))
            .collect(),
    )
}

/// What changed about tenants.
pub(crate) fn tenants(before: &[Tenant], after: &[Tenant]) -> Vec<Line> {
    let of = |all: &'_ [Tenant], name| all.iter().find(|t| t.name == name).cloned();
    let mut lines = Vec::new();
    for was in before {
        if of(after, was.name.clone()).is_none() {
            lines.push(line("remove", was, String::new()));
        }
    }
    for tenant in after {
        let Some(was) = of(before, tenant.name.clone()) else {
            lines.push(line("add", tenant, json!(tenant.settings).to_string()));
            continue;
        };
        let changed = differences(&json!(was.settings), &json!(tenant.settings));
        if !changed.is_empty() {
            lines.push(line("set", tenant, changed.detail()));
        }
        if was.key_sha256 != tenant.key_sha256 {
            lines.push(line("rotate-key", tenant, "key changed".to_owned()));
        }
    }
    lines
}

fn line(action: &'static str, tenant: &Tenant, detail: String) -> Line {
    Line {
        action,
        tenant: tenant.name.to_string(),
        detail,
    }
}

/// Keys of two objects that differ; one that is absent is null.
fn differences(before: &Value, after: &Value) -> Changed {
    let named = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (before, after) = (named(before), named(after));
    let mut changed = BTreeMap::new();
    for key in before.keys().chain(after.keys()) {
        let of = |all: &serde_json::Map<String, Value>| all.get(key).cloned().unwrap_or_default();
        let (from, to) = (of(&before), of(&after));
        if from != to {
            changed.insert(key.clone(), (from, to));
        }
    }
    Changed(changed)
}

/// Every key but the tenants, with its value.
fn keys(config: &Config) -> Vec<(&'static str, Holds, Value)> {
    use Holds::{Now, Restart};
    let Config {
        http,
        quic,
        advertise,
        state_dir,
        usage_days,
        explanations_mb,
        certificate_hours,
        drain_seconds,
        gate,
        encoders,
        profiles,
        limits,
        prices,
        plan,
        tenant: _,
    } = config;
    let Limits {
        body_bytes,
        output_tokens,
        queries,
        connections,
        client_seconds,
        query_seconds,
        hedge_share,
    } = limits;
    let ConfigPrices {
        per_joule,
        per_second,
    } = prices;
    let Plan {
        experts_per_query,
        max_experts,
        standing_watts,
        prompt_joules,
        delay_seconds,
    } = plan;
    vec![
        ("http", Restart, json!(http)),
        ("quic", Restart, json!(quic)),
        ("advertise", Restart, json!(advertise)),
        ("state_dir", Restart, json!(state_dir)),
        ("usage_days", Restart, json!(usage_days)),
        ("explanations_mb", Restart, json!(explanations_mb)),
        ("certificate_hours", Restart, json!(certificate_hours)),
        ("drain_seconds", Restart, json!(drain_seconds)),
        ("gate", Restart, json!(gate)),
        ("encoders", Restart, json!(encoders)),
        ("profiles", Restart, json!(profiles)),
        ("limits.body_bytes", Restart, json!(body_bytes)),
        ("limits.output_tokens", Restart, json!(output_tokens)),
        ("limits.queries", Now, json!(queries)),
        ("limits.connections", Restart, json!(connections)),
        ("limits.client_seconds", Restart, json!(client_seconds)),
        ("limits.query_seconds", Now, json!(query_seconds)),
        ("limits.hedge_share", Now, json!(hedge_share)),
        ("prices.per_joule", Now, json!(per_joule)),
        ("prices.per_second", Now, json!(per_second)),
        ("plan.experts_per_query", Now, json!(experts_per_query)),
        ("plan.max_experts", Now, json!(max_experts)),
        ("plan.standing_watts", Now, json!(standing_watts)),
        ("plan.prompt_joules", Now, json!(prompt_joules)),
        ("plan.delay_seconds", Now, json!(delay_seconds)),
    ]
}

impl Config {
    /// This one with all of another that can hold at once.
    pub(crate) fn taking(self, other: Config) -> Self {
        Self {
            limits: Limits {
                queries: other.limits.queries,
                query_seconds: other.limits.query_seconds,
                hedge_share: other.limits.hedge_share,
                ..self.limits
            },
            prices: other.prices,
            plan: other.plan,
            tenant: other.tenant,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::parse;
    use super::*;

    /// A line for every key outside tenants, each with a value that is not the default.
    const OTHERS: [(&str, &str); 25] = [
        ("http", "http = \"127.0.0.1:1\""),
        ("quic", "quic = \"127.0.0.1:2\""),
        ("advertise", "advertise = \"here:3\""),
        ("state_dir", "state_dir = \"elsewhere\""),
        ("usage_days", "usage_days = 1"),
        ("explanations_mb", "explanations_mb = 1"),
        ("certificate_hours", "certificate_hours = 1"),
        ("drain_seconds", "drain_seconds = 1"),
        ("gate", "gate = \"a.gate\""),
        ("encoders", "encoders = \"folder\""),
        ("profiles", "profiles = \"table.csv\""),
        ("limits.body_bytes", "limits.body_bytes = 1000"),
        ("limits.output_tokens", "limits.output_tokens = 7"),
        ("limits.queries", "limits.queries = 7"),
        ("limits.connections", "limits.connections = 7"),
        ("limits.client_seconds", "limits.client_seconds = 7"),
        ("limits.query_seconds", "limits.query_seconds = 7"),
        ("limits.hedge_share", "limits.hedge_share = 0.5"),
        ("prices.per_joule", "prices.per_joule = 0.5"),
        ("prices.per_second", "prices.per_second = 0.5"),
        ("plan.experts_per_query", "plan.experts_per_query = 2"),
        ("plan.max_experts", "plan.max_experts = 2"),
        ("plan.standing_watts", "plan.standing_watts = 2"),
        ("plan.prompt_joules", "plan.prompt_joules = 2"),
        ("plan.delay_seconds", "plan.delay_seconds = { chat = 2 }"),
    ];

    #[test]
    fn each_key_is_seen_to_change_and_reaches_the_engine_at_once_or_waits_for_a_restart() {
        let before = Config::default();
        assert_eq!(keys(&before).len(), OTHERS.len());
        for (key, text) in OTHERS {
            let after = parse(text).expect("sound");
            let now = settings(&before, &after, Holds::Now);
            let later = settings(&before, &after, Holds::Restart);
            let changed: Vec<&str> = now.keys().chain(later.keys()).collect();
            assert_eq!(changed, [key]);
            let told = before.live(Vec::new()) != after.live(Vec::new());
            assert_eq!(told, !now.is_empty(), "{key}: whether the engine is told");
            let taken = before.clone().taking(after.clone());
            assert!(settings(&taken, &after, Holds::Now).is_empty(), "{key}");
            let waits = settings(&taken, &before, Holds::Restart);
            assert!(waits.is_empty(), "{key} waits for a restart");
        }
    }

    #[test]
    fn what_changed_about_tenants_is_told_without_their_keys() {
        let tenant = |name: &str, digit: &str, more: &str| {
            let hash = digit.repeat(64);
            format!("[[tenant]]\nname = \"{name}\"\nkey_sha256 = \"{hash}\"\n{more}\n")
        };
        let of = |text: String| parse(&text).expect("sound").tenant;
        let before = of(tenant("a", "a", "parallel = 2\nquery_joules = 5")
            + &tenant("b", "b", "")
            + &tenant("c", "c", ""));
        let after = of(tenant("d", "d", "weight = 3")
            + &tenant("c", "e", "")
            + &tenant("a", "a", "parallel = 3"));
        let told = |action, tenant: &str, detail: &str| Line {
            action,
            tenant: tenant.to_owned(),
            detail: detail.to_owned(),
        };
        let changed = r#"{"parallel":{"from":2,"to":3},"query_joules":{"from":5.0,"to":null}}"#;
        assert_eq!(
            tenants(&before, &after),
            [
                told("remove", "b", ""),
                told("add", "d", r#"{"weight":3.0}"#),
                told("rotate-key", "c", "key changed"),
                told("set", "a", changed),
            ]
        );
        assert!(tenants(&after, &after).is_empty());
    }
}
