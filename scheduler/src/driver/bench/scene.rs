//! Who asks what of whom: tenants with a limit of every kind, none of which binds, and experts that are never
//! full.

use anyhow::Result;
use moe2_engine::coordinator::{EnergyWindow, Span, Spending, TenantLimits};
use moe2_model::{
    Budgets, Bytes, DeviceInfo, DeviceKind, EnergySource, ExpertName, ExpertOffer, ExpertState,
    Joules, Message, Mode, NodeId, Prompt, Query, Role, Sampling, Seconds, Target, Task, TenantId,
    Usage, Watts,
};
use moe2_wire::{FromAgent, PROTOCOL_VERSION};

pub(super) const TENANTS: u32 = 20;
const QUESTIONS: [&str; 4] = [
    "Why is the sky blue?",
    "What is 12 + 30?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "The history of the city of Rome begins with a legend. Tell it in three sentences.",
];

pub(super) fn node(n: u32) -> Result<NodeId> {
    Ok(NodeId::new(&format!("node-{n}"))?)
}

fn tenant(n: u32) -> Result<TenantId> {
    Ok(TenantId::new(&format!("tenant-{n}"))?)
}

/// One of each kind of limit, and none that binds.
pub(super) fn limits(n: u32) -> Result<TenantLimits> {
    let plenty = |per, rolling| EnergyWindow {
        joules: Joules::saturating(1e9),
        per,
        rolling,
        soft: false,
    };
    Ok(TenantLimits {
        mean_energy: Some(Joules::saturating(100.0)),
        spending: Spending {
            energy_windows: vec![plenty(Span::Day, false), plenty(Span::Hour, true)],
            requests_per_minute: Some(u32::MAX),
            tokens_per_minute: Some(u64::MAX >> 12),
            parallel: Some(u32::MAX),
        },
        ..TenantLimits::unlimited(tenant(n)?)
    })
}

pub(super) fn hello(n: u32) -> Result<FromAgent> {
    let device = DeviceInfo {
        kind: DeviceKind::Cpu,
        model: "none".to_owned(),
        threads: 8,
        parallel: 1_024,
        memory: Bytes(24 << 30),
        gpus: Vec::new(),
        cpu: None,
        gpu: None,
        energy_source: EnergySource::Modelled,
        idle_power: Watts::saturating(5.0),
        busy_power: Watts::saturating(20.0),
    };
    let offer = ExpertOffer {
        name: ExpertName::new(&format!("expert-{n}"))?,
        family: "none".to_owned(),
        quantisation: "none".to_owned(),
        parameters: 100_000_000,
        weights: Bytes(100 << 20),
        kv_per_token: Bytes(1),
        context_tokens: 2_048,
        slots: 1_024,
        load: None,
    };
    Ok(FromAgent::Hello {
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        software: "bench".to_owned(),
        device,
        experts: vec![(offer, ExpertState::Ready)],
    })
}

pub(super) fn question(number: usize) -> Result<Query> {
    let content = QUESTIONS[number % QUESTIONS.len()].to_owned();
    let whose = u32::try_from(number).unwrap_or(0) % TENANTS;
    Ok(Query {
        tenant: tenant(whose)?,
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content,
        }]),
        task: Task::Generate(Sampling {
            max_tokens: 64,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: Budgets {
            first_token: None,
            delay: Some(Seconds::saturating(60.0)),
            energy: Some(Joules::saturating(1e6)),
        },
        max_experts: 1,
        mode: Mode::Auto,
        stream: false,
    })
}

pub(super) fn usage() -> Usage {
    Usage {
        prompt_tokens: 12,
        cached_tokens: 0,
        output_tokens: 20,
        queue: Seconds::ZERO,
        prefill: Seconds::saturating(0.004),
        decode: Seconds::saturating(0.016),
        energy: Joules::saturating(3.0),
        energy_source: EnergySource::Modelled,
        energy_error: Joules::saturating(3.0),
    }
}
