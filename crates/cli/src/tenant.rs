//! `moe2 tenant`: who may ask, and within what.

use anyhow::Context;
use clap::Subcommand;
use moe2_model::TenantId;
use serde_json::{Map, Value, json};

use crate::client::{Client, Credential, Where};
use crate::number::amount;
use crate::table::Table;
use crate::{BadInput, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 tenant add alice --window 20kJ/day --requests-per-minute 60\n  moe2 tenant set alice --query-joules 5 --delay chat=2 --unset requests_per_minute\n  moe2 tenant list\n  moe2 tenant rotate-key alice"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a tenant; its key is shown once.
    Add(Named<Limits>),
    /// Change limits; those not named stay as they are.
    Set(Named<Change>),
    /// Show everyone, with what is left.
    List(Plain),
    /// Show one tenant.
    Show(Named<Nothing>),
    /// Give a new key; the old one is good for nothing from then on.
    RotateKey(Named<Nothing>),
    /// Remove a tenant; what it used stays in the books.
    Remove(Named<Nothing>),
    /// Show who changed tenants, the newest change first.
    Audit(Plain),
}

#[derive(Debug, clap::Args)]
struct Plain {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, clap::Args)]
struct Named<T: clap::Args> {
    /// The tenant.
    name: TenantId,
    #[command(flatten)]
    more: T,
    #[command(flatten)]
    plain: Plain,
}

#[derive(Debug, clap::Args)]
struct Nothing {}

#[derive(Debug, clap::Args)]
struct Change {
    /// Take a limit away, by the name it has in the configuration file.
    #[arg(long, value_name = "LIMIT", value_parser = LIMITS)]
    unset: Vec<String>,
    #[command(flatten)]
    limits: Limits,
}

const LIMITS: [&str; 16] = [
    "weight",
    "query_joules",
    "delay_seconds",
    "first_token_seconds",
    "late_answers",
    "delay_p95_seconds",
    "first_token_p95_seconds",
    "mean_joules",
    "mean_seconds",
    "mean_first_token_seconds",
    "experts",
    "least_quality",
    "energy_windows",
    "requests_per_minute",
    "tokens_per_minute",
    "parallel",
];

#[derive(Debug, clap::Args)]
struct Limits {
    /// How much its queries count in the plan against those of others.
    #[arg(long, value_parser = amount)]
    weight: Option<f64>,
    /// Joules that one query may cost.
    #[arg(long, value_name = "J", value_parser = amount)]
    query_joules: Option<f64>,
    /// Joules of a query on average, kept by a price.
    #[arg(long, value_name = "J", value_parser = amount)]
    mean_joules: Option<f64>,
    /// Seconds of a query on average, kept by a price.
    #[arg(long, value_name = "S", value_parser = amount)]
    mean_seconds: Option<f64>,
    /// Seconds to the first token of a streamed answer on average, kept by a price.
    #[arg(long, value_name = "S", value_parser = amount)]
    mean_first_token_seconds: Option<f64>,
    /// Seconds that one query on a topic may take; repeat for more topics.
    #[arg(long, value_name = "TOPIC=SECONDS", value_parser = delay)]
    delay: Vec<(String, f64)>,
    /// Seconds that 95 in 100 answers on a topic stay within; repeat for more topics.
    #[arg(long, value_name = "TOPIC=SECONDS", value_parser = delay)]
    delay_p95: Vec<(String, f64)>,
    /// Seconds to the first token of a streamed answer on a topic; repeat for more topics.
    #[arg(long, value_name = "TOPIC=SECONDS", value_parser = delay)]
    first_token: Vec<(String, f64)>,
    /// Seconds to the first token that 95 in 100 streamed answers on a topic stay within; repeat for more topics.
    #[arg(long, value_name = "TOPIC=SECONDS", value_parser = delay)]
    first_token_p95: Vec<(String, f64)>,
    /// Have answers late rather than not at all.
    #[arg(long)]
    late_answers: bool,
    /// Experts that may answer it.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    experts: Vec<String>,
    /// Forecast probability of a good answer below which no expert is chosen for it.
    #[arg(long, value_name = "P", value_parser = amount)]
    least_quality: Option<f64>,
    /// Joules per minute, hour, day, week or month: `20kJ/day`, `500J/hour,rolling`, `1MJ/month,soft`; repeat
    /// for more. They replace all windows from before.
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    window: Vec<Value>,
    /// Queries within any minute.
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers within any minute.
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Queries under way at once.
    #[arg(long, value_name = "N")]
    parallel: Option<u32>,
}

fn delay(text: &str) -> Result<(String, f64), String> {
    let (topic, seconds) = text.split_once('=').ok_or("use TOPIC=SECONDS")?;
    Ok((topic.to_owned(), amount(seconds)?))
}

/// `20kJ/day,rolling,soft`.
fn window(text: &str) -> Result<Value, String> {
    let wrong = || "use for example 20kJ/day or 500J/hour,rolling,soft".to_owned();
    let mut words = text.split(',');
    let (much, per) = words
        .next()
        .and_then(|w| w.split_once('/'))
        .ok_or_else(wrong)?;
    let much = much.strip_suffix('J').ok_or_else(wrong)?;
    let (number, times) = match much.chars().last() {
        Some('k') => (&much[..much.len() - 1], 1e3),
        Some('M') => (&much[..much.len() - 1], 1e6),
        _ => (much, 1.0),
    };
    let joules = amount(number).map_err(|_| wrong())?;
    if !["minute", "hour", "day", "week", "month"].contains(&per) {
        return Err(format!("{per}: one of minute, hour, day, week, month"));
    }
    let mut window = json!({"joules": joules * times, "per": per});
    for word in words {
        match word {
            "rolling" | "soft" => window[word] = json!(true),
            _ => return Err(format!("{word}: rolling or soft")),
        }
    }
    Ok(window)
}

impl Limits {
    /// Writes those given over others.
    fn over(&self, settings: &mut Map<String, Value>) {
        let by_topic = |name: &'static str, given: &[(String, f64)]| {
            let before = settings.get(name).and_then(Value::as_object).cloned();
            let mut delays = before.unwrap_or_default();
            let given = given.iter();
            delays.extend(given.map(|(topic, seconds)| (topic.clone(), json!(seconds))));
            (name, (!delays.is_empty()).then_some(Value::Object(delays)))
        };
        let delays = [
            by_topic("delay_seconds", &self.delay),
            by_topic("delay_p95_seconds", &self.delay_p95),
            by_topic("first_token_seconds", &self.first_token),
            by_topic("first_token_p95_seconds", &self.first_token_p95),
        ];
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                settings.insert(name.to_owned(), value);
            }
        };
        put("weight", self.weight.map(Value::from));
        put("query_joules", self.query_joules.map(Value::from));
        put("mean_joules", self.mean_joules.map(Value::from));
        put("mean_seconds", self.mean_seconds.map(Value::from));
        put(
            "mean_first_token_seconds",
            self.mean_first_token_seconds.map(Value::from),
        );
        put("least_quality", self.least_quality.map(Value::from));
        put(
            "requests_per_minute",
            self.requests_per_minute.map(Value::from),
        );
        put("tokens_per_minute", self.tokens_per_minute.map(Value::from));
        put("parallel", self.parallel.map(Value::from));
        put("late_answers", self.late_answers.then_some(json!(true)));
        put(
            "experts",
            (!self.experts.is_empty()).then(|| json!(self.experts)),
        );
        put(
            "energy_windows",
            (!self.window.is_empty()).then(|| json!(self.window)),
        );
        for (name, seconds) in delays {
            put(name, seconds);
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Add(named) => {
            let mut settings = Map::new();
            named.more.over(&mut settings);
            let client = named.plain.place.client(Credential::Admin)?;
            let body = json!({"name": named.name, "settings": settings});
            let made = client.post("/admin/v1/tenants", &body)?;
            key(&made, named.plain.json)
        }
        Command::Set(named) => set(named),
        Command::List(plain) => {
            let client = plain.place.client(Credential::Admin)?;
            let all = client.get("/admin/v1/tenants")?;
            if plain.json {
                return out::json(&all);
            }
            out::data(&table(all["tenants"].as_array().map_or(&[], Vec::as_slice)));
            Ok(())
        }
        Command::Show(named) => {
            let shown = client(named)?.get(&path(&named.name))?;
            if named.plain.json {
                return out::json(&shown);
            }
            out::data(&table(std::slice::from_ref(&shown)));
            Ok(())
        }
        Command::RotateKey(named) => {
            let at = format!("{}/rotate-key", path(&named.name));
            let made = client(named)?.post(&at, &json!({}))?;
            key(&made, named.plain.json)
        }
        Command::Remove(named) => {
            client(named)?.delete(&path(&named.name))?;
            if named.plain.json {
                return out::json(&json!({"removed": named.name}));
            }
            out::note(&format!("{} is removed, and its key with it", named.name));
            Ok(())
        }
        Command::Audit(plain) => audit(plain),
    }
}

fn path(name: &TenantId) -> String {
    format!("/admin/v1/tenants/{name}")
}

fn client<T: clap::Args>(named: &Named<T>) -> anyhow::Result<Client> {
    named.plain.place.client(Credential::Admin)
}

fn key(made: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return out::json(made);
    }
    out::data(
        made["key"]
            .as_str()
            .context("the coordinator sent no key")?,
    );
    out::note("The key is shown this once: the coordinator keeps its hash only.");
    Ok(())
}

fn set(named: &Named<Change>) -> anyhow::Result<()> {
    let client = client(named)?;
    let mut settings = client.get(&path(&named.name))?["settings"].take();
    let fields = settings
        .as_object_mut()
        .context("the coordinator sent no settings")?;
    for name in &named.more.unset {
        fields.remove(name);
    }
    let before = fields.clone();
    named.more.limits.over(fields);
    if before == *fields && named.more.unset.is_empty() {
        return Err(
            BadInput("nothing to change: name a limit, or one to --unset".to_owned()).into(),
        );
    }
    let changed = client.put(&path(&named.name), &settings)?;
    if named.plain.json {
        return out::json(&changed);
    }
    let shown = client.get(&path(&named.name))?;
    out::data(&table(&[shown]));
    Ok(())
}

fn audit(plain: &Plain) -> anyhow::Result<()> {
    let audit = plain
        .place
        .client(Credential::Admin)?
        .get("/admin/v1/audit")?;
    if plain.json {
        return out::json(&audit);
    }
    let mut table = Table::new(&["AT (UNIX)", "WHO", "ACTION", "TENANT", "SETTINGS"]);
    for line in audit["audit"].as_array().into_iter().flatten() {
        let text = |field: &str| line[field].as_str().unwrap_or("").to_owned();
        table.row([
            line["at"].to_string(),
            text("who"),
            text("action"),
            text("tenant"),
            text("detail"),
        ]);
    }
    out::data(&table.to_string());
    Ok(())
}

fn table(tenants: &[Value]) -> String {
    let mut table = Table::new(&["TENANT", "LIMIT", "OF", "LEFT", "RESETS IN"]);
    for tenant in tenants {
        let name = tenant["name"].as_str().unwrap_or("?");
        let mut rows = 0;
        let mut row = |limit: String, left: &Value| {
            let number = |field: &str| left[field].as_f64().unwrap_or(0.0);
            let seconds = left["resets_in_s"].as_u64().unwrap_or(0);
            rows += 1;
            table.row([
                name.to_owned(),
                limit,
                format!("{}", number("limit")),
                format!("{:.1}", number("left")),
                format!("{seconds} s"),
            ]);
        };
        for window in tenant["left"]["joules"].as_array().into_iter().flatten() {
            let kind = |name: &str| {
                if window[name] == json!(true) {
                    format!(", {name}")
                } else {
                    String::new()
                }
            };
            let per = window["per"].as_str().unwrap_or("?");
            row(
                format!("J per {per}{}{}", kind("rolling"), kind("soft")),
                window,
            );
        }
        for (name, field) in [("requests", "requests"), ("tokens", "tokens")] {
            let left = &tenant["left"][field];
            if left.is_object() {
                row(format!("{name} per minute"), left);
            }
        }
        for (price, unit, limit) in [
            ("joules", "J", "mean of a query"),
            ("seconds", "s", "mean of a query"),
            ("first_token_seconds", "s", "mean to the first token"),
            ("late", "of answers", "late"),
        ] {
            let price = &tenant["prices"][price];
            let number = |field: &str| price[field].as_f64().unwrap_or(0.0);
            if price.is_object() {
                rows += 1;
                let saturated = price["saturated"] == json!(true);
                let state = if saturated { "; nobody keeps it" } else { "" };
                let of = format!("{} {unit}", number("budget"));
                let now = format!(
                    "mean {:.3}, price {:.4}{state}",
                    number("mean"),
                    number("price")
                );
                table.row([name.to_owned(), limit.to_owned(), of, now, String::new()]);
            }
        }
        let others = [
            "query_joules",
            "delay_seconds",
            "first_token_seconds",
            "late_answers",
            "delay_p95_seconds",
            "first_token_p95_seconds",
            "experts",
            "least_quality",
            "parallel",
        ];
        let settings = &tenant["settings"];
        for name in others.into_iter().filter(|n| !settings[*n].is_null()) {
            rows += 1;
            let value = settings[name].to_string();
            let (tenant, limit) = (tenant["name"].as_str().unwrap_or("?"), name.to_owned());
            table.row([
                tenant.to_owned(),
                limit,
                value,
                String::new(),
                String::new(),
            ]);
        }
        if rows == 0 {
            let none = ["no limits", "", "", ""].map(str::to_owned);
            let [a, b, c, d] = none;
            table.row([name.to_owned(), a, b, c, d]);
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_as_people_write_it() {
        let read = |text: &str| window(text).expect("it is one");
        assert_eq!(read("20kJ/day"), json!({"joules": 20_000.0, "per": "day"}));
        assert_eq!(
            read("0.5MJ/month,rolling,soft"),
            json!({"joules": 500_000.0, "per": "month", "rolling": true, "soft": true})
        );
        for bad in [
            "20/day",
            "20kJ",
            "20kJ/year",
            "xJ/day",
            "nanJ/day",
            "-1J/day",
            "1J/day,hard",
        ] {
            assert!(window(bad).is_err(), "{bad}");
        }
    }
}
