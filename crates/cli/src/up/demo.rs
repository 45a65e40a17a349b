//! The questions `moe2 up` shows, and what became of them.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::processes::Fleet;
use crate::out;
use crate::table::{Table, shorten};

/// One of each kind that the experts differ in.
fn questions() -> [Value; 6] {
    let chat = |text: &str| json!({"messages": [{"role": "user", "content": text}]});
    [
        chat("Write a Python function that returns the n-th Fibonacci number."),
        chat("Hello! Can you recommend something to do on a rainy day?"),
        chat("The history of the city of Rome begins in"),
        chat("What is 12 + 30?"),
        // The trained gate's, which takes one expert for a choice where several did not pay on its record.
        json!({
            "messages": [{"role": "user", "content": "Which part of a plant cell turns light into sugar?"}],
            "structured_outputs": {"choice": ["nucleus", "chloroplast", "ribosome", "cell wall"]},
        }),
        json!({
            "messages": [{"role": "user", "content": "Is the Earth round? Answer yes or no."}],
            "structured_outputs": {"choice": ["yes", "no"]},
            "moe2": {"mode": "fuse", "max_experts": 3},
        }),
    ]
}

/// Asks them one after the other and prints a table.
pub(super) fn show(fleet: &Fleet, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "QUESTION",
        "ROUTED TO",
        "WHY",
        "ANSWER",
        "FORECAST",
        "TOOK",
        "ENERGY",
    ]);
    let mut source = String::new();
    for mut body in questions() {
        if interrupted.load(Ordering::Relaxed) {
            anyhow::bail!("interrupted");
        }
        body["model"] = json!("auto");
        body["temperature"] = json!(0);
        body["max_tokens"] = json!(48);
        let question = body["messages"][0]["content"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        out::note(&format!("asking: {question}"));
        let reply = fleet.api().post("/v1/chat/completions", &body)?;
        let own = &reply["moe2"];
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let experts = own["experts"].as_array().cloned().unwrap_or_default();
        let slowest = experts
            .iter()
            .map(|e| number(&e["predicted"]["delay_s"]))
            .fold(0.0, f64::max);
        source = own["energy_source"].as_str().unwrap_or("?").to_owned();
        table.row([
            shorten(&question, 34),
            routed_to(&experts),
            why(own, &experts),
            shorten(
                reply["choices"][0]["message"]["content"]
                    .as_str()
                    .unwrap_or("?"),
                40,
            ),
            format!("{slowest:.1} s"),
            format!("{:.1} s", number(&own["delay_s"])),
            format!(
                "{:.1} ±{:.1} J",
                number(&own["energy_j"]),
                number(&own["energy_error_j"])
            ),
        ]);
    }
    out::data(&format!("\n{table}\n\nJoules are {source}."));
    Ok(())
}

fn routed_to(experts: &[Value]) -> String {
    match experts {
        [one] => one["expert"].as_str().unwrap_or("?").to_owned(),
        many => format!("{} experts, fused", many.len()),
    }
}

fn why(own: &Value, experts: &[Value]) -> String {
    let topic = own["topic"].as_str().unwrap_or("?");
    let scores: Vec<String> = experts
        .iter()
        .filter_map(|e| e["gate_score"].as_f64())
        .map(|score| format!("{score:.2}"))
        .collect();
    shorten(&format!("{topic}; gate {}", scores.join("/")), 44)
}

/// What to do next.
pub(super) fn invitation(fleet: &Fleet) -> String {
    let key = fleet.state().join("coordinator").join("api.key");
    format!(
        "\nThe fleet is up. Try, in another terminal:\n\n  \
         curl {}/v1/chat/completions -H \"Authorization: Bearer $(cat {})\" \\\n    \
         -H 'Content-Type: application/json' \\\n    \
         -d '{{\"model\":\"auto\",\"messages\":[{{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}}]}}'\n\n  \
         {} ask \"Write a Rust function that reverses a string\"\n\nCtrl-C stops everything.",
        fleet.api().base(),
        key.display(),
        std::env::args().next().unwrap_or_else(|| "moe2".to_owned()),
    )
}
