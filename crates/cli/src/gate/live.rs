//! `moe2 gate live`: whether a fleet answers as its gate did on paper.

use anyhow::{Context, bail};
use moe2_gate::Item;
use moe2_model::Rng;
use serde_json::json;

use super::held::{Held, HeldOut};
use crate::client::{Answered, Client, Credential, Where};
use crate::progress::Count;
use crate::table::Table;
use crate::{BadInput, out};

/// Half the width of a 95 % interval, in standard errors.
const NORMAL: f64 = 1.96;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 gate live --gate gate.json --data held-out.jsonl --sample 300\n\nCompared are the live answer (model `auto`: prices and budgets of the tenant apply, and it may fuse) and\nthe recorded one of the expert that the gate puts first. Ask as a tenant without budgets to judge the gate. Interrupt it at any time: nothing is written."
)]
pub(crate) struct Args {
    #[command(flatten)]
    held: HeldOut,
    /// Questions asked.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// Decides which.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    place: Where,
}

/// One question: scores of the live answer and of the recorded one.
struct Pair {
    live: f64,
    recorded: f64,
    same: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let Held { gate, mut items } = args.held.read()?;
    let trained = gate.trained().context("the gate was trained")?;
    items.retain(|item| item.answer.is_some());
    if items.is_empty() {
        let why = "no question has choices and an answer: nothing can be compared";
        return Err(BadInput(why.to_owned()).into());
    }
    Rng::new(args.seed).shuffle(&mut items);
    items.truncate(args.sample as usize);
    let client = args.place.client(Credential::Api)?;
    let bar = Count::new("asking", items.len(), args.quiet);
    let mut pairs = Vec::with_capacity(items.len());
    for item in &items {
        let forecasts = trained.forecasts(item);
        let first = forecasts
            .iter()
            .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0)));
        let recorded = first.and_then(|(expert, _)| item.outcomes.get(expert));
        let recorded = recorded.context("an outcome has a forecast")?;
        let choice = ask(&client, item)?;
        pairs.push(Pair {
            live: f64::from(u8::from(Some(choice) == item.answer)),
            recorded: recorded.score,
            same: Some(choice) == recorded.choice,
        });
        bar.step(|| format!("{} the same", pairs.iter().filter(|p| p.same).count()));
    }
    bar.finish();
    report(&pairs, args.json)
}

/// The option that the fleet chooses.
fn ask(client: &Client, item: &Item) -> anyhow::Result<usize> {
    let body = json!({
        "model": "auto",
        "messages": [{"role": "user", "content": item.prompt}],
        "structured_outputs": {"choice": item.choices},
    });
    let id = item.id.as_deref().unwrap_or("?");
    let reply = match client.try_post("/v1/chat/completions", &body)? {
        Answered::Reply(reply) => reply,
        Answered::Refused(status, why) => bail!("question {id}: {why} (status {status})"),
    };
    let text = reply["choices"][0]["message"]["content"].as_str();
    let found = item.choices.iter().position(|c| Some(c.as_str()) == text);
    found.with_context(|| format!("question {id}: the answer is none of its choices"))
}

fn report(pairs: &[Pair], as_json: bool) -> anyhow::Result<()> {
    let count = pairs.len() as f64;
    let mean = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let difference = mean(&|p| p.live - p.recorded);
    let variance = mean(&|p| (p.live - p.recorded - difference).powi(2));
    let reach = NORMAL * (variance / count).sqrt();
    let (live, recorded) = (mean(&|p| p.live), mean(&|p| p.recorded));
    let same = pairs.iter().filter(|p| p.same).count();
    if as_json {
        let difference =
            json!({"value": difference, "low": difference - reach, "high": difference + reach});
        return out::json(&json!({
            "n": pairs.len(), "live": live, "recorded": recorded, "same_choice": same,
            "difference": difference,
            "scores": pairs.iter().map(|p| [p.live, p.recorded]).collect::<Vec<_>>(),
        }));
    }
    let mut table = Table::new(&["", "VALUE"]);
    table.row(["live answers right".to_owned(), format!("{live:.4}")]);
    table.row([
        "recorded answers right".to_owned(),
        format!("{recorded:.4}"),
    ]);
    table.row([
        "difference".to_owned(),
        format!("{difference:+.4} ± {reach:.4}"),
    ]);
    table.row([
        "the same option".to_owned(),
        format!("{same} of {}", pairs.len()),
    ]);
    out::data(&table.to_string());
    Ok(())
}
