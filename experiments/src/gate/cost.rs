//! What a decision costs: encoder and heads, on one thread.

use std::time::Instant;

use anyhow::Context;
use moe2_gate::{Gate, Provenance};
use moe2_model::{Budgets, ExpertName, Message, Mode, Prompt, Query, Role, Target, Task, TenantId};
use serde_json::{Value, json};

use crate::Setting;

/// Experts asked about.
const EXPERTS: usize = 64;
/// About 100 tokens.
const TEXT: &str = "A researcher measures how long a wooden block slides on a rough horizontal table after it is \
    released from a compressed spring with a known stiffness. She repeats the measurement with blocks of \
    different masses and finds that the heavier blocks stop sooner, although the spring was compressed by the \
    same length every time. Which of the following statements explains her observation best, if the \
    coefficient of friction is the same for all of the blocks and the resistance of the air can be neglected?";
/// Options of the question.
const OPTIONS: [&str; 4] = [
    "The same energy is spent over a shorter distance by a larger friction force.",
    "The spring gives less energy to a heavier block.",
    "A heavier block has more inertia and keeps its speed.",
    "Friction does not depend on mass.",
];

/// The shipped encoder with 64 heads.
pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let shipped = Gate::shipped();
    let mut trained = shipped
        .trained()
        .context("the shipped gate is trained")?
        .clone();
    let head = trained
        .heads
        .values()
        .next()
        .context("it has heads")?
        .clone();
    let names: Vec<ExpertName> = (0..EXPERTS)
        .map(|n| ExpertName::new(&format!("expert-{n}")))
        .collect::<Result<_, _>>()?;
    trained.heads = names
        .iter()
        .map(|name| (name.clone(), head.clone()))
        .collect();
    let priors = shipped.priors().clone();
    let gate = Gate::from_trained(trained, Provenance::default(), priors)?;
    let query = Query {
        tenant: TenantId::new("bench")?,
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content: TEXT.to_owned(),
        }]),
        task: Task::Choice {
            options: OPTIONS.map(str::to_owned).into(),
        },
        target: Target::Auto,
        budgets: Budgets::default(),
        max_experts: 1,
        mode: Mode::Single,
        stream: false,
    };
    let runs = if setting.smoke { 100 } else { 50_000 };
    let mut encode = Vec::with_capacity(runs);
    let mut whole = Vec::with_capacity(runs);
    for _ in 0..runs {
        let began = Instant::now();
        let features = gate.features(&query);
        encode.push(began.elapsed().as_secs_f64() * 1e6);
        let forecasts = gate.forecast(&features, &names);
        whole.push(began.elapsed().as_secs_f64() * 1e6);
        anyhow::ensure!(forecasts.len() == EXPERTS, "every expert was asked about");
    }
    Ok(
        json!({"experts": EXPERTS, "runs": runs, "prompt_bytes": TEXT.len(),
        "encoder": quantiles(&mut encode), "encoder_and_heads": quantiles(&mut whole),
        "other_encoders": embedders(setting)?}),
    )
}

/// What the other encoders take for the same question, on one thread.
fn embedders(setting: &Setting) -> anyhow::Result<Value> {
    let runs = if setting.smoke { 5 } else { 1_000 };
    let question = [&[TEXT], OPTIONS.as_slice()].concat().join("\n");
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let mut rows = serde_json::Map::new();
    for embedder in setting.embedders()? {
        let mut all = Vec::with_capacity(runs);
        for _ in 0..runs {
            let began = Instant::now();
            std::hint::black_box(one.install(|| embedder.embed(&question)));
            all.push(began.elapsed().as_secs_f64() * 1e6);
        }
        rows.insert(embedder.name().to_owned(), quantiles(&mut all));
    }
    Ok(rows.into())
}

/// Median, 99th percentile and largest of some microseconds.
fn quantiles(all: &mut [f64]) -> Value {
    all.sort_by(f64::total_cmp);
    let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
    json!({"p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1.0)})
}
