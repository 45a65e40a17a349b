//! Queries as clients would ask them: mostly plain, sometimes with an unknown name or a budget that
//! cannot be met.

use moe2_model::{
    Budgets, ExpertId, ExpertName, Joules, Message, Mode, NodeId, Prompt, Query, QueryId, Rng,
    Role, Sampling, Seconds, Target, Task, TenantId,
};

use crate::host::MODELS;

pub(crate) const TENANTS: [&str; 2] = ["acme", "zenith"];

/// All of them.
pub(crate) fn tenants() -> [TenantId; 2] {
    TENANTS.map(|name| TenantId::new(name).expect("a literal name is valid"))
}

/// One query. Its number stands in the prompt, so that the judge can tell whose work it sees.
pub(crate) fn ask(rng: &mut Rng, id: QueryId, nodes: usize) -> Query {
    let padding = if rng.chance(0.05) {
        4_000
    } else {
        10 + rng.below(400)
    };
    let content = format!("{id} {}", "word ".repeat(padding / 5));
    let task = if rng.chance(0.3) {
        let options = ["A", "B", "C", "D"];
        let count = 1 + rng.below(options.len());
        Task::Choice {
            options: options[..count].iter().map(ToString::to_string).collect(),
        }
    } else {
        Task::Generate(Sampling {
            max_tokens: rng.between(1, 24),
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        })
    };
    Query {
        tenant: TenantId::new(TENANTS[rng.below(TENANTS.len())]).expect("a literal name is valid"),
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content,
        }]),
        task,
        target: target(rng, nodes),
        budgets: budgets(rng),
        max_experts: rng.between(1, 4),
        mode: *rng.pick(&[Mode::Auto, Mode::Single, Mode::Fuse, Mode::Cascade]),
        stream: rng.chance(0.5),
    }
}

/// The number that [`ask`] wrote into a prompt.
pub(crate) fn asked_by(prompt: &Prompt) -> Option<QueryId> {
    let number = prompt.question().split(' ').next()?;
    number.parse().ok().map(QueryId)
}

fn target(rng: &mut Rng, nodes: usize) -> Target {
    let model = ExpertName::new(rng.pick(&MODELS).name).expect("a literal name is valid");
    match rng.below(10) {
        0..5 => Target::Auto,
        5..7 => Target::Model(model),
        7 => Target::Model(ExpertName::new("no-such-model").expect("a literal name is valid")),
        // Not every node hosts every model: some of these are unknown as well.
        _ => Target::Expert(ExpertId {
            name: model,
            node: node_name(rng.below(nodes)),
        }),
    }
}

fn budgets(rng: &mut Rng) -> Budgets {
    let mut some = |low: f64, high: f64| {
        let amount = low * (high / low).powf(rng.unit());
        rng.chance(0.2).then_some(amount)
    };
    Budgets {
        delay: some(0.05, 20.0).map(Seconds::saturating),
        first_token: some(0.05, 5.0).map(Seconds::saturating),
        energy: some(0.5, 300.0).map(Joules::saturating),
    }
}

pub(crate) fn node_name(index: usize) -> NodeId {
    NodeId::new(&format!("node-{index}")).expect("a letter, a dash and digits are a name")
}
