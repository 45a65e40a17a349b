//! `moe2 ask`: one question, the answer as it comes, and a line on who answered and what it cost.

use serde_json::{Value, json};

use crate::client::{Credential, Where};
use crate::out;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 ask \"Why is the sky blue?\"\n  moe2 ask --model qwen2.5-coder-0.5b-instruct \"Write a Rust function that reverses a string\"\n  moe2 ask --choice yes --choice no --mode fuse \"Is 7 a prime number?\"\n  moe2 ask --delay-ms 2000 --energy-j 5 \"Hello\""
)]
pub(crate) struct Args {
    /// What to ask.
    question: String,
    /// Who answers: `auto`, a model, or `model@node`.
    #[arg(long, default_value = "auto")]
    model: String,
    /// Most tokens of answer.
    #[arg(long, default_value_t = 256)]
    max_tokens: u32,
    /// 0 is deterministic.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// The answer must be one of these; repeat for each.
    #[arg(long = "choice", value_name = "TEXT")]
    choices: Vec<String>,
    /// How many experts: auto, single, fuse or cascade.
    #[arg(long, default_value = "auto")]
    mode: String,
    /// Delay budget in milliseconds.
    #[arg(long)]
    delay_ms: Option<f64>,
    /// Budget on the time to the first token in milliseconds; for answers that are streamed.
    #[arg(long, conflicts_with = "json")]
    first_token_ms: Option<f64>,
    /// Energy budget in joules.
    #[arg(long)]
    energy_j: Option<f64>,
    /// Print the whole reply as JSON, with every candidate.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let client = args.place.client(Credential::Api)?;
    let mut body = json!({
        "model": args.model,
        "messages": [{"role": "user", "content": args.question}],
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "moe2": own(args),
    });
    if !args.choices.is_empty() {
        body["structured_outputs"] = json!({"choice": args.choices});
    }
    if args.json {
        out::json(&client.post("/v1/chat/completions", &body)?)?;
        return Ok(());
    }
    body["stream"] = json!(true);
    let mut last = Value::Null;
    client.stream(&body, |chunk| {
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
            out::piece(text);
        }
        if chunk.get("moe2").is_some() {
            last = chunk.clone();
        }
    })?;
    out::data("");
    out::note(&summary(&last));
    Ok(())
}

fn own(args: &Args) -> Value {
    let mut own = json!({"mode": args.mode, "explain": true});
    if let Some(ms) = args.delay_ms {
        own["delay_budget_ms"] = json!(ms);
    }
    if let Some(ms) = args.first_token_ms {
        own["first_token_budget_ms"] = json!(ms);
    }
    if let Some(joules) = args.energy_j {
        own["energy_budget_j"] = json!(joules);
    }
    own
}

/// Who answered, why, and what it cost, on one line.
pub(crate) fn summary(reply: &Value) -> String {
    let own = &reply["moe2"];
    format!(
        "— {} · {} · {:.2} s · {:.1} J ±{:.1} J ({})",
        reply["model"].as_str().unwrap_or("?"),
        own["topic"].as_str().unwrap_or("?"),
        own["delay_s"].as_f64().unwrap_or(0.0),
        own["energy_j"].as_f64().unwrap_or(0.0),
        own["energy_error_j"].as_f64().unwrap_or(0.0),
        own["energy_source"].as_str().unwrap_or("?"),
    )
}
