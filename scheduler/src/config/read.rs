//! Reads the file and says everything that is wrong with it at once.
//!
//! A deserialiser stops at its first error, so whoever has five is sent round five times. Here every value is
//! read alone, inside the tables that lead to it; what cannot be read is noted under its key and left out,
//! and what remains is read as one and checked. Only a file that is no TOML has but one error.

use std::path::Path;

use moe2_model::TenantId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::Config;
use super::tenant::{Settings, Tenant};

/// Something wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// The key, with the tables around it; empty if it is the file as a whole.
    pub(crate) key: String,
    /// What is wrong, or what it should be.
    pub(crate) why: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.why)
        } else {
            write!(f, "{}: {}", self.key, self.why)
        }
    }
}

/// Everything that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl Faults {
    /// One fault that is no key's.
    pub(crate) fn one(why: String) -> Self {
        let mut faults = Self(Vec::new());
        faults.add("", why);
        faults
    }

    pub(crate) fn add(&mut self, key: impl Into<String>, why: impl Into<String>) {
        self.0.push(Fault {
            key: key.into(),
            why: why.into(),
        });
    }
}

/// The text of the file, once more. A pipe gave all that it had the first time, and would now be empty or never
/// end.
pub(crate) fn again(path: &Path) -> Result<String, Faults> {
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let path = path.display();
        let why = format!("{path} is no regular file and is read only once, at the start");
        return Err(Faults::one(why));
    }
    text(path)
}

/// The text of the file.
pub(crate) fn text(path: &Path) -> Result<String, Faults> {
    std::fs::read_to_string(path)
        .map_err(|error| Faults::one(format!("cannot read {}: {error}", path.display())))
}

/// Reads and checks a file's text.
pub(crate) fn parse(text: &str) -> Result<Config, Faults> {
    let mut table: Table =
        toml::from_str(text).map_err(|error| Faults::one(error.to_string().trim().to_owned()))?;
    let mut faults = Faults(Vec::new());
    let tenants = match table.remove("tenant") {
        None => Vec::new(),
        Some(Value::Array(tenants)) => tenants,
        Some(_) => {
            faults.add("tenant", "begin each tenant with [[tenant]]");
            Vec::new()
        }
    };
    let mut config: Config = read(table, "", &mut faults);
    for (n, value) in tenants.into_iter().enumerate() {
        config.tenant.extend(tenant(n + 1, value, &mut faults));
    }
    config.check(&mut faults);
    if faults.0.is_empty() {
        Ok(config)
    } else {
        Err(faults)
    }
}

/// Number `n` of the file's tenants; none if it cannot be told apart from others.
fn tenant(n: usize, value: Value, faults: &mut Faults) -> Option<Tenant> {
    let nameless = format!("tenant[{n}]");
    let Value::Table(mut table) = value else {
        faults.add(nameless, "begin each tenant with [[tenant]]");
        return None;
    };
    let name = match table.remove("name") {
        Some(Value::String(name)) => TenantId::new(&name).map_err(|error| error.to_string()),
        Some(_) => Err("give a text".to_owned()),
        None => Err("give the tenant a name".to_owned()),
    };
    let name = name
        .map_err(|why| faults.add(format!("{nameless}.name"), why))
        .ok();
    let at = name
        .as_ref()
        .map_or(nameless, |name| format!("tenant {name}"));
    let hash = match table.remove("key_sha256") {
        Some(Value::String(text)) => crate::state::from_hex(&text),
        _ => None,
    };
    if hash.is_none() {
        let why = "must be 64 hexadecimal digits: printf %s \"$KEY\" | sha256sum";
        faults.add(format!("{at}.key_sha256"), why);
    }
    let settings: Settings = read(table, &at, faults);
    for (key, why) in settings.faults() {
        faults.add(format!("{at}.{key}"), why);
    }
    Some(Tenant {
        name: name?,
        key_sha256: hash?,
        settings,
    })
}

/// A table as a `T`, without what cannot be read.
fn read<T: DeserializeOwned + Default>(table: Table, at: &str, faults: &mut Faults) -> T {
    let alone = |table: Table| match table.try_into::<T>() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.message().to_owned()),
    };
    let rest = readable(table, at, &alone, faults);
    rest.try_into().unwrap_or_else(|error: toml::de::Error| {
        faults.add(at, error.message());
        T::default()
    })
}

/// Reads one value inside its tables and forgets it.
type Alone<'a> = dyn Fn(Table) -> Result<(), String> + 'a;

fn readable(table: Table, at: &str, alone: &Alone<'_>, faults: &mut Faults) -> Table {
    let mut rest = Table::new();
    for (key, value) in table {
        let path = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        let inside = |value| alone(Table::from_iter([(key.clone(), value)]));
        // First whether anything may be there at all, then each thing in it.
        let shell = match &value {
            Value::Table(_) => Value::Table(Table::new()),
            Value::Array(_) => Value::Array(Vec::new()),
            other => other.clone(),
        };
        if let Err(why) = inside(shell) {
            faults.add(path, why);
            continue;
        }
        let value = match value {
            Value::Table(inner) => {
                let within = |table| inside(Value::Table(table));
                Value::Table(readable(inner, &path, &within, faults))
            }
            Value::Array(mut items) => {
                let mut n = 0;
                items.retain(|item| {
                    n += 1;
                    let read = inside(Value::Array(vec![item.clone()]));
                    read.map_err(|why| faults.add(format!("{path}[{n}]"), why))
                        .is_ok()
                });
                Value::Array(items)
            }
            other => other,
        };
        rest.insert(key, value);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let Faults(faults) = parse(text).expect_err("it has faults");
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_faults_of_a_file_are_told_at_once_each_with_its_key() {
        let hash = "ab".repeat(32);
        let found = faults(&format!(
            "htpp = \"127.0.0.1:1\"\nquic = 7\n\
             [limits]\nqueries = \"many\"\nquery_seconds = 0\n\
             [prices]\nper_joule = -1.0\n\
             [plan]\nmax_experts = 0\n[plan.delay_seconds]\npoetry = 1\nchat = -2\n\
             [nothing]\na = 1\nb = 2\n\
             [[tenant]]\nname = \"a\"\nkey_sha256 = \"{hash}\"\nweight = -1\nparalel = 3\n\
             energy_windows = [{{ joules = 5, per = \"year\" }}, {{ joules = 0, per = \"day\" }}]\n\
             [[tenant]]\nkey_sha256 = \"xyz\"\nparallel = 0\n"
        ));
        let wanted = [
            "htpp: unknown field",
            "quic: ",
            "limits.queries: invalid type",
            "plan.delay_seconds.poetry: unknown variant",
            "plan.delay_seconds.chat: ",
            "nothing: unknown field",
            "tenant a.paralel: unknown field",
            "tenant a.energy_windows[1]: unknown variant `year`",
            "tenant a.weight: must be from 0",
            "tenant a.energy_windows: joules per day",
            "tenant[2].name: give the tenant a name",
            "tenant[2].key_sha256: must be 64 hexadecimal digits",
            "tenant[2].parallel: must be at least 1",
            "prices.per_joule: ",
            "plan.max_experts: at least 1",
            "limits.query_seconds: at least 1",
        ];
        for wanted in wanted {
            let those = found.iter().filter(|fault| fault.starts_with(wanted));
            assert_eq!(those.count(), 1, "{wanted}: {found:#?}");
        }
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
    }

    #[test]
    fn a_text_that_is_no_toml_is_refused_with_its_line() {
        let found = faults("http = \n");
        assert!(found.len() == 1 && found[0].contains("line 1"), "{found:?}");
        assert_eq!(
            faults("tenant = 3"),
            ["tenant: begin each tenant with [[tenant]]"]
        );
    }

    #[test]
    fn two_tenants_share_neither_name_nor_key() {
        let tenant = |name: &str, digit: &str| {
            let hash = digit.repeat(64);
            format!("[[tenant]]\nname = \"{name}\"\nkey_sha256 = \"{hash}\"\n")
        };
        let twice = faults(&(tenant("a", "1") + &tenant("a", "2")));
        assert!(twice[0].starts_with("tenant a.name"), "{twice:?}");
        let twice = faults(&(tenant("a", "c") + &tenant("b", "C")));
        assert!(twice[0].starts_with("tenant b.key_sha256") && twice.len() == 1);
        let sound = parse(&(tenant("a", "1") + &tenant("b", "2"))).expect("sound");
        assert_eq!(sound.tenant.len(), 2);
    }

    #[test]
    fn fuzz_config() {
        bolero::check!(name = "config").for_each(|bytes: &[u8]| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            match parse(text) {
                Err(Faults(faults)) => assert!(!faults.is_empty()),
                Ok(config) => {
                    let engine = config.engine();
                    assert!(engine.max_queries > 0 && !engine.query_timeout.is_zero());
                    assert!(!config.certificate_life().is_zero());
                    let _ = (config.keep_usage(), config.live(Vec::new()));
                }
            }
        });
    }
}
