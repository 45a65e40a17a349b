//! `moe2 explain`: why a query went where it went, replayed on this machine.
//!
//! A record holds what every choice of experts followed from: forecasts, prices, what was left of the
//! budgets. The router is a pure function of these and is run here again, with the same grounds, which must
//! give the same choice, or with others, which answers "what if".

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;
use moe2_engine::coordinator::{Decision, Ending, Grounds, Punctual, QueryRecord};
use moe2_model::{Candidate, Joules, Seconds, Target, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{Credential, Where};
use crate::number::amount;
use crate::table::{Table, shorten};
use crate::{BadInput, input, out};

/// A record of a thousand experts and a dozen choices is a few MiB.
const LARGEST: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 explain\n  moe2 explain chatcmpl-0123\n  moe2 explain chatcmpl-0123 --json > why.json\n  moe2 explain --file why.json --delay-budget-ms 500\n\nExit codes: 0 shown, 1 the replay gave another choice than the record, 2 no record."
)]
pub(crate) struct Args {
    /// The id of an answer, or its `x-request-id`; without one, the newest queries are listed.
    #[arg(value_name = "REQUEST_ID", conflicts_with = "file")]
    id: Option<String>,
    /// A record saved with `--json`, `-` for standard input; no coordinator is asked.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// List only queries of this tenant.
    #[arg(long, conflicts_with_all = ["id", "file"])]
    tenant: Option<moe2_model::TenantId>,
    /// How many are listed.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
    #[command(flatten)]
    what_if: WhatIf,
    /// Print JSON: the record, which `--file` reads again, with the replay.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

/// Other grounds than those of the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "What if")]
struct WhatIf {
    /// … so much had been left of the delay budget.
    #[arg(long, value_name = "MS", value_parser = amount)]
    delay_budget_ms: Option<f64>,
    /// … so much had been left of the budget on the first token.
    #[arg(long, value_name = "MS", value_parser = amount)]
    first_token_budget_ms: Option<f64>,
    /// … so much had been left of the energy budget.
    #[arg(long, value_name = "J", value_parser = amount)]
    energy_budget_j: Option<f64>,
    /// … a joule had been worth so much quality.
    #[arg(long, value_name = "QUALITY", value_parser = amount)]
    per_joule: Option<f64>,
    /// … a second had been worth so much quality.
    #[arg(long, value_name = "QUALITY", value_parser = amount)]
    per_second: Option<f64>,
    /// … a second until the first token had been worth so much quality.
    #[arg(long, value_name = "QUALITY", value_parser = amount)]
    per_first_token_second: Option<f64>,
}

impl WhatIf {
    fn is_asked(&self) -> bool {
        *self != Self::default()
    }

    fn applied(&self, grounds: &Grounds) -> Grounds {
        let mut changed = grounds.clone();
        let (prices, budgets) = (&mut changed.terms.prices, &mut changed.terms.budgets);
        if let Some(ms) = self.delay_budget_ms {
            budgets.delay = Some(Seconds::saturating(ms / 1e3));
        }
        if let Some(ms) = self.first_token_budget_ms {
            budgets.first_token = Some(Seconds::saturating(ms / 1e3));
        }
        if let Some(joules) = self.energy_budget_j {
            budgets.energy = Some(Joules::saturating(joules));
        }
        prices.per_joule = self.per_joule.unwrap_or(prices.per_joule);
        prices.per_second = self.per_second.unwrap_or(prices.per_second);
        let first = self.per_first_token_second;
        prices.per_first_token_second = first.unwrap_or(prices.per_first_token_second);
        changed
    }
}

/// A record as the coordinator gives it out.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Explanation {
    format: String,
    id: String,
    request_id: String,
    /// Seconds since 1970, UTC.
    at: u64,
    record: QueryRecord,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let explanation: Explanation = match (&args.id, &args.file) {
        (None, None) => return list(args),
        (_, Some(file)) => input::read(file, |text| serde_json::from_reader(text.take(LARGEST)))?,
        (Some(id), None) => serde_json::from_str(&fetch(args, id)?)
            .context("the coordinator's explanations are of another version")?,
    };
    if explanation.format != QueryRecord::FORMAT {
        let why = format!("{} is not {}", explanation.format, QueryRecord::FORMAT);
        return Err(BadInput(why).into());
    }
    show(args, &explanation)
}

fn fetch(args: &Args, id: &str) -> anyhow::Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if id.is_empty() || !id.chars().all(plain) {
        let why = "the id of an answer is letters, digits, - and _";
        return Err(BadInput(why.to_owned()).into());
    }
    let client = args.place.client(Credential::Admin)?;
    client.get_text(&format!("/admin/v1/explanations/{id}"))
}

fn list(args: &Args) -> anyhow::Result<()> {
    if args.what_if.is_asked() {
        let why = "what if which query had met that? Name one, or a file";
        return Err(BadInput(why.to_owned()).into());
    }
    let mut path = format!("/admin/v1/explanations?limit={}", args.limit);
    if let Some(tenant) = &args.tenant {
        path += &format!("&tenant={tenant}");
    }
    let listed = args.place.client(Credential::Admin)?.get(&path)?;
    if args.json {
        return out::json(&listed);
    }
    let mut table = Table::new(&["ID", "TENANT", "ENDED", "REQUEST"]);
    let lines = listed["explanations"].as_array().cloned();
    for line in lines.unwrap_or_default() {
        let cell = |key: &str| line[key].as_str().unwrap_or("?").to_owned();
        table.row([
            cell("id"),
            cell("tenant"),
            cell("ending"),
            shorten(&cell("request_id"), 40),
        ]);
    }
    out::data(&table.to_string());
    Ok(())
}

/// A choice made again.
struct Replayed<'a> {
    made: &'a Decision,
    again: Vec<Candidate>,
    /// With other grounds, if they are asked for.
    what_if: Option<Decision>,
}

impl<'a> Replayed<'a> {
    fn new(made: &'a Decision, what_if: &WhatIf) -> Self {
        let other = what_if.is_asked().then(|| {
            let mut other = made.clone();
            other.grounds = what_if.applied(&made.grounds);
            other.candidates = other.replay();
            other
        });
        Self {
            made,
            again: made.replay(),
            what_if: other,
        }
    }

    fn same(&self) -> bool {
        self.again == self.made.candidates
    }
}

fn show(args: &Args, explanation: &Explanation) -> anyhow::Result<()> {
    let record = &explanation.record;
    let decisions = record.decisions.iter();
    let replayed: Vec<_> = decisions
        .map(|made| Replayed::new(made, &args.what_if))
        .collect();
    let same = replayed.iter().all(Replayed::same);
    if args.json {
        out::json(&as_json(explanation, &replayed, same)?)?;
    } else {
        out::data(&as_text(explanation, &replayed));
    }
    if !same {
        anyhow::bail!(
            "the replay chose otherwise than the record says: it was made by another version, or changed"
        );
    }
    Ok(())
}

fn as_json(explanation: &Explanation, all: &[Replayed], same: bool) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(explanation).context("the record has no JSON")?;
    value["replay_same"] = json!(same);
    let what_if: Vec<_> = all.iter().filter_map(|r| r.what_if.as_ref()).collect();
    if !what_if.is_empty() {
        value["what_if"] = json!(what_if);
    }
    Ok(value)
}

fn as_text(explanation: &Explanation, all: &[Replayed]) -> String {
    let record = &explanation.record;
    let asked = match &record.target {
        Target::Auto => "auto".to_owned(),
        Target::Model(name) => name.to_string(),
        Target::Expert(id) => id.to_string(),
    };
    let topic = record.topic.as_deref().unwrap_or("not looked at");
    let mut text = format!(
        "{}  tenant {}  model {asked}  topic {topic}\n",
        explanation.id, record.tenant
    );
    text += &match &record.ending {
        Ending::Answered { model, fusion } => format!(
            "answered by {model} ({fusion}) after {:.3} s with {:.3} J ±{:.3} J ({})\n",
            record.delay.get(),
            record.energy.get(),
            record.energy_error.get(),
            record.energy_source,
        ),
        Ending::Refused { reason, message } => {
            format!(
                "refused after {:.3} s, {}: {message}\n",
                record.delay.get(),
                reason.as_str()
            )
        }
        Ending::Abandoned => format!(
            "its client went away after {:.3} s; {:.3} J ±{:.3} J were reported by then\n",
            record.delay.get(),
            record.energy.get(),
            record.energy_error.get()
        ),
    };
    for (n, replayed) in all.iter().enumerate() {
        let made = replayed.made;
        text += &format!(
            "\nChoice {} at {:.3} s: {}\n",
            n + 1,
            made.at.get(),
            grounds(&made.grounds)
        );
        text += &candidates(&made.candidates);
        text += if replayed.same() {
            "\nReplayed here: the same choice.\n"
        } else {
            "\nReplayed here: ANOTHER CHOICE.\n"
        };
        if let Some(other) = &replayed.what_if {
            text += &format!("\nWhat if: {}\n", grounds(&other.grounds));
            text += &candidates(&other.candidates);
            text += "\n";
        }
    }
    text.trim_end().to_owned()
}

fn grounds(grounds: &Grounds) -> String {
    let terms = &grounds.terms;
    let left = |amount: Option<f64>, unit: &str| {
        amount.map_or_else(|| format!("any {unit}"), |left| format!("{left:.3} {unit}"))
    };
    let delay = left(terms.budgets.delay.map(Seconds::get), "s");
    let energy = left(terms.budgets.energy.map(Joules::get), "J");
    let first_token = terms.budgets.first_token;
    let first_token = first_token.map_or_else(String::new, |s| {
        format!(" ({:.3} s to the first token)", s.get())
    });
    format!(
        "{delay}{first_token} and {energy} left; score = quality - {:.6}/J - {:.6}/s{}{}{}",
        terms.prices.per_joule,
        terms.prices.per_second,
        match terms.prices.per_first_token_second {
            0.0 => String::new(),
            price => format!(" - {price:.6}/s to the first token"),
        },
        terms.punctual.map_or_else(String::new, |p| late(&p)),
        if terms.late {
            "; late answers wanted"
        } else {
            ""
        }
    )
}

fn late(punctual: &Punctual) -> String {
    let end = punctual.within.map(|s| format!("{:.3} s", s.get()));
    let first = punctual
        .first_token
        .map(|s| format!("{:.3} s with the first token", s.get()));
    let times: Vec<String> = [end, first].into_iter().flatten().collect();
    format!(
        " - {:.6}·P(later than {})",
        punctual.price,
        times.join(" or ")
    )
}

fn candidates(all: &[Candidate]) -> String {
    if all.is_empty() {
        return "nobody hosts what was asked for and is ready".to_owned();
    }
    let mut table = Table::new(&[
        "EXPERT", "SCORE", "QUALITY", "JOULES", "P95", "SECONDS", "P95", "FIRST", "P95", "WAIT",
        "SAMPLES", "VERDICT",
    ]);
    for candidate in all {
        let f = &candidate.forecast;
        let mark = if candidate.verdict == Verdict::Chosen {
            "* "
        } else {
            "  "
        };
        table.row([
            format!("{mark}{}", candidate.expert),
            format!("{:.4}", candidate.score),
            format!("{:.4}", f.quality),
            format!("{:.3}", f.energy.get()),
            format!("{:.3}", f.energy_p95.get()),
            format!("{:.3}", f.delay.get()),
            format!("{:.3}", f.delay_p95.get()),
            format!("{:.3}", f.first_token.get()),
            format!("{:.3}", f.first_token_p95.get()),
            format!("{:.3}", f.waiting.get()),
            f.samples.to_string(),
            candidate.verdict.as_str().to_owned(),
        ]);
    }
    table.to_string()
}
