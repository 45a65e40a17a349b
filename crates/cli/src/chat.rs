//! `moe2 chat`: a conversation, line by line; the whole of it goes along with every question.

use std::io::{BufRead, IsTerminal};

use serde_json::{Value, json};

use crate::client::{Credential, Where};
use crate::{ask, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 chat\n  moe2 chat --model smollm2-135m-instruct --system \"Answer briefly.\""
)]
pub(crate) struct Args {
    /// Who answers: `auto`, a model, or `model@node`.
    #[arg(long, default_value = "auto")]
    model: String,
    /// Instructions for the whole chat.
    #[arg(long)]
    system: Option<String>,
    /// Most tokens of each answer.
    #[arg(long, default_value_t = 256)]
    max_tokens: u32,
    #[command(flatten)]
    place: Where,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let client = args.place.client(Credential::Api)?;
    let mut messages: Vec<Value> = Vec::new();
    if let Some(system) = &args.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    let person = std::io::stdin().is_terminal();
    if person {
        out::note("Type a question; an empty line or Ctrl-D ends.");
    }
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            break;
        }
        messages.push(json!({"role": "user", "content": line}));
        let body = json!({"model": args.model, "messages": messages, "max_tokens": args.max_tokens,
            "temperature": 0.7, "stream": true});
        let (mut answer, mut last) = (String::new(), Value::Null);
        let done = client.stream(&body, |chunk| {
            if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
                out::piece(text);
                answer.push_str(text);
            }
            if chunk.get("moe2").is_some() {
                last = chunk.clone();
            }
        });
        out::data("");
        match done {
            Ok(()) => {
                out::note(&ask::summary(&last));
                messages.push(json!({"role": "assistant", "content": answer}));
            }
            Err(error) => {
                // The conversation goes on without the question that failed.
                out::note(&format!("moe2: {error:#}"));
                messages.pop();
            }
        }
    }
    Ok(())
}
