//! `moe2 usage`: what was used.

use clap::ValueEnum;
use serde_json::Value;

use crate::client::{Credential, Where};
use crate::out;
use crate::table::Table;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Tenant,
    Expert,
    Day,
    Source,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 usage\n  moe2 usage --by day --tenant alice --days 7\n  moe2 usage --by expert --csv > usage.csv"
)]
pub(crate) struct Args {
    /// Summed up by what.
    #[arg(long, value_enum, default_value = "tenant")]
    by: By,
    /// Only of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Only of the last so many days.
    #[arg(long, value_name = "N")]
    days: Option<u64>,
    /// Print JSON.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV.
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    place: Where,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let by = match args.by {
        By::Tenant => "tenant",
        By::Expert => "expert",
        By::Day => "day",
        By::Source => "source",
    };
    let mut path = format!("/admin/v1/usage?by={by}");
    if let Some(tenant) = &args.tenant {
        // A tenant's name has no characters that an address would have to escape.
        let name: moe2_model::TenantId = tenant
            .parse()
            .map_err(|e| crate::BadInput(format!("{e}")))?;
        path += &format!("&tenant={name}");
    }
    if let Some(days) = args.days {
        let now = std::time::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_secs();
        path += &format!("&since={}", now.saturating_sub(days.saturating_mul(86_400)));
    }
    if args.csv {
        path += "&format=csv";
    }
    let client = args.place.client(Credential::Admin)?;
    if args.csv {
        out::data(client.get_text(&path)?.trim_end());
        return Ok(());
    }
    let usage = client.get(&path)?;
    if args.json {
        return out::json(&usage);
    }
    let mut table = Table::new(&[
        &by.to_uppercase(),
        "QUERIES",
        "DISPATCHES",
        "PROMPT TOKENS",
        "ANSWER TOKENS",
        "JOULES",
        "OFF BY",
        "SOURCE",
        "RESERVED",
        "BEYOND",
        "BUSY",
    ]);
    let lines: &[Value] = usage["usage"].as_array().map_or(&[], Vec::as_slice);
    for line in lines {
        let count = |field: &str| line[field].as_u64().unwrap_or(0).to_string();
        let number = |field: &str| line[field].as_f64().unwrap_or(0.0);
        table.row([
            line["key"].as_str().unwrap_or("?").to_owned(),
            count("queries"),
            count("dispatches"),
            count("prompt_tokens"),
            count("output_tokens"),
            format!("{:.1}", number("energy_j")),
            format!("±{:.1}", number("error_j")),
            line["source"].as_str().unwrap_or("?").to_owned(),
            format!("{:.1}", number("reserved_j")),
            format!("{:.1}", number("over_j")),
            format!("{:.1} s", number("busy_s")),
        ]);
    }
    out::data(&table.to_string());
    Ok(())
}
