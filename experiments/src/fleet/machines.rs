//! Fifty machines of four kinds, with models of 13 billion weights and below on them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use moe2_model::{
    Bytes, DeviceInfo, DeviceKind, EnergySource, ExpertName, ExpertOffer, NodeId, Roofline,
    Seconds, Watts,
};
use moe2_sim::traffic::{Hosted, Machine, Rates};

use crate::instance::profiles::{BYTES_PER_WEIGHT, Device, Speed};
use crate::instance::real::{CACHE_BYTES, MODELS, USABLE};

/// Longest context of each model, from its card, at most [`MOST_CONTEXT`].
const CONTEXTS: [(&str, u32); 6] = [
    ("gemma-7b", 8_192),
    ("llama-2", 4_096),
    ("llama-3-8b", 8_192),
    ("mistral-7b-instruct-v0.1", 8_192),
    ("phi-3-mini-4k", 4_096),
    ("yi-6b", 4_096),
];
/// What memory is set aside for: the longest prompt of the traces and its answer.
const MOST_CONTEXT: u32 = 16_384;

/// A disk on the bus of a small machine, and what a process takes before it reads. Assumed.
const DISK_BYTES_PER_S: f64 = 1e9;
const START_S: f64 = 1.0;

/// One kind of machine: how many there are, how many models each hosts, and the data sheet's ceilings,
/// which are what forecasts begin with.
struct Kind {
    machines: usize,
    models: usize,
    kind: DeviceKind,
    roof: Roofline,
}

/// In the order of [`crate::instance::profiles::devices`].
const KINDS: [Kind; 4] = [
    // RTX 4090.
    Kind {
        machines: 12,
        models: 3,
        kind: DeviceKind::Gpu,
        roof: Roofline {
            bytes_per_s: 1_008e9,
            flop_per_s: 82.6e12,
        },
    },
    // Jetson AGX Orin, all power.
    Kind {
        machines: 14,
        models: 4,
        kind: DeviceKind::Jetson,
        roof: Roofline {
            bytes_per_s: 204.8e9,
            flop_per_s: 5.3e12,
        },
    },
    // The same at 30 W.
    Kind {
        machines: 12,
        models: 4,
        kind: DeviceKind::Jetson,
        roof: Roofline {
            bytes_per_s: 204.8e9,
            flop_per_s: 2.5e12,
        },
    },
    // A laptop's CPU.
    Kind {
        machines: 12,
        models: 2,
        kind: DeviceKind::Cpu,
        roof: Roofline {
            bytes_per_s: 60e9,
            flop_per_s: 0.5e12,
        },
    },
];

/// A model on a kind of machine: what the paper calls an expert. All machines of a kind are alike, so
/// they offer it under one name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Deployment {
    pub(super) name: ExpertName,
    /// Place in [`MODELS`].
    pub(super) model: usize,
    speed: Speed,
    /// While it works.
    busy: f64,
    /// Of the machine while nothing works.
    idle: f64,
    offer: ExpertOffer,
}

impl Deployment {
    fn new(model: usize, device: &Device) -> anyhow::Result<Self> {
        let (title, billions) = MODELS[model];
        let name = ExpertName::new(&format!("{title}.{}", device.name)).context("a name")?;
        let weights = (billions * 1e9 * BYTES_PER_WEIGHT) as u64;
        let context = CONTEXTS.iter().find(|(start, _)| title.starts_with(start));
        Ok(Self {
            model,
            speed: device.speed(billions),
            busy: device.watts(billions),
            idle: device.idle,
            offer: ExpertOffer {
                name: name.clone(),
                family: title.split('-').next().unwrap_or(title).to_owned(),
                quantisation: "Q4_K_M".to_owned(),
                parameters: (billions * 1e9) as u64,
                weights: Bytes(weights),
                // Grouped queries: 8 heads of 128, 32 layers, keys and values, 16 bits.
                kv_per_token: Bytes(8 * 128 * 32 * 2 * 2),
                context_tokens: context.map_or(MOST_CONTEXT, |(_, tokens)| *tokens),
                slots: 1,
                load: None,
            },
            name,
        })
    }

    /// How long its weights take from a solid-state disk into memory.
    fn load(&self) -> Duration {
        let seconds = START_S + self.offer.weights.0 as f64 / DISK_BYTES_PER_S;
        Duration::from_secs_f64(seconds)
    }

    /// Seconds and joules above idle of a request at nominal speed; nothing if it does not fit.
    pub(super) fn cost(&self, (input, output): (u32, u32)) -> Option<(f64, f64)> {
        let fits = input + output <= self.offer.context_tokens;
        let (input, output) = (f64::from(input), f64::from(output));
        let seconds = input / self.speed.prefill + output / self.speed.decode;
        fits.then(|| (seconds, seconds * (self.busy - self.idle).max(0.0)))
    }
}

/// The fleet, and the deployments in it.
pub(super) struct Fleet {
    pub(super) machines: Vec<Machine>,
    pub(super) deployments: Vec<Deployment>,
}

impl Fleet {
    /// Every `stride`-th machine of each kind.
    pub(super) fn new(devices: &[Device], stride: usize) -> anyhow::Result<Self> {
        let mut machines = Vec::new();
        let mut deployments = Vec::new();
        for (device, kind) in devices.iter().zip(KINDS) {
            let all = (0..MODELS.len()).map(|model| Deployment::new(model, device));
            let all: Vec<Deployment> = all.collect::<Result<_, _>>()?;
            let mut placed = vec![false; all.len()];
            for n in 0..kind.machines / stride {
                let hosted = hosted(&all, n * kind.models, &kind, device.memory);
                for deployment in &hosted {
                    placed[deployment.model] = true;
                }
                machines.push(machine(device, &kind, n, &hosted)?);
            }
            let there = all.into_iter().zip(placed).filter(|(_, placed)| *placed);
            deployments.extend(there.map(|(deployment, _)| deployment));
        }
        Ok(Self {
            machines,
            deployments,
        })
    }

    /// Some machines of the two kinds with accelerators, each of which hosts every model and holds a few at a time.
    pub(super) fn tight(devices: &[Device], of_each: usize) -> anyhow::Result<Self> {
        let mut machines = Vec::new();
        let mut deployments = Vec::new();
        for (device, kind) in devices.iter().zip(KINDS).take(2) {
            let all = (0..MODELS.len()).map(|model| Deployment::new(model, device));
            let mut all: Vec<Deployment> = all.collect::<Result<_, _>>()?;
            for deployment in &mut all {
                let load = Seconds::from_duration(deployment.load());
                deployment.offer.load = Some(load);
            }
            for n in 0..of_each {
                let all: Vec<&Deployment> = all.iter().collect();
                let mut machine = machine(device, &kind, n, &all)?;
                machine.device.memory = Bytes((USABLE * device.memory) as u64);
                machines.push(machine);
            }
            deployments.extend(all);
        }
        Ok(Self {
            machines,
            deployments,
        })
    }

    pub(super) fn deployment(&self, name: &ExpertName) -> Option<&Deployment> {
        self.deployments.iter().find(|d| d.name == *name)
    }
}

/// The next models in turn, as far as memory goes.
fn hosted<'a>(
    all: &'a [Deployment],
    first: usize,
    kind: &Kind,
    memory: f64,
) -> Vec<&'a Deployment> {
    let mut free = USABLE * memory;
    let turn = (0..kind.models).map(|n| &all[(first + n) % all.len()]);
    turn.filter(|d| {
        free -= d.offer.weights.0 as f64 + CACHE_BYTES;
        free >= 0.0
    })
    .collect()
}

fn machine(
    device: &Device,
    kind: &Kind,
    n: usize,
    hosted: &[&Deployment],
) -> anyhow::Result<Machine> {
    let experts: BTreeMap<ExpertName, Hosted> = hosted
        .iter()
        .map(|d| {
            let rates = Rates {
                prefill: 1.0 / d.speed.prefill,
                decode: 1.0 / d.speed.decode,
                watts: d.busy,
            };
            let offer = d.offer.clone();
            (
                d.name.clone(),
                Hosted {
                    offer,
                    rates,
                    load: d.load(),
                },
            )
        })
        .collect();
    Ok(Machine {
        node: NodeId::new(&format!("{}-{n:02}", device.name)).context("a node's name")?,
        device: DeviceInfo {
            kind: kind.kind,
            model: device.name.to_owned(),
            threads: 8,
            parallel: 1,
            memory: Bytes(device.memory as u64),
            gpus: Vec::new(),
            cpu: (kind.kind == DeviceKind::Cpu).then_some(kind.roof),
            gpu: (kind.kind != DeviceKind::Cpu).then_some(kind.roof),
            energy_source: EnergySource::Modelled,
            idle_power: Watts::saturating(device.idle),
            busy_power: Watts::saturating(device.watts(8.03)),
        },
        experts,
    })
}
