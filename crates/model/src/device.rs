//! What an agent says about the machine it runs on.

use serde::{Deserialize, Serialize};

use crate::{Bytes, EnergySource, Watts};

/// The family of a device, as far as energy meters and defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// An NVIDIA Jetson module.
    Jetson,
    /// A PC or server with a discrete GPU.
    Gpu,
    /// A machine without a usable GPU.
    Cpu,
}

/// A graphics adapter as `wgpu` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInfo {
    /// The adapter's name.
    pub name: String,
    /// The driver's name and version.
    pub driver: String,
    /// True for a software implementation on the CPU.
    pub software: bool,
}

/// Ceilings measured by the agent's own probe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Roofline {
    /// Memory bandwidth in bytes per second.
    pub bytes_per_s: f64,
    /// Arithmetic in floating-point operations per second (a multiply-add counts two).
    pub flop_per_s: f64,
}

/// A description of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Family.
    pub kind: DeviceKind,
    /// CPU or module name, for people.
    pub model: String,
    /// Hardware threads this agent may use.
    pub threads: u32,
    /// Requests its experts work on at once, all together; more wait. One per set of cores: worker
    /// threads spin while they wait for each other, and two workers on the same cores run several times
    /// slower than in turn.
    pub parallel: u32,
    /// Memory installed.
    pub memory: Bytes,
    /// Graphics adapters found; empty when there is none or no driver.
    pub gpus: Vec<GpuInfo>,
    /// CPU ceilings; `None` when the probe was skipped.
    pub cpu: Option<Roofline>,
    /// Ceilings of the first hardware adapter; `None` when there is none or the probe was skipped.
    pub gpu: Option<Roofline>,
    /// Where its joules come from.
    pub energy_source: EnergySource,
    /// Power while nothing runs (modelled unless a meter exists).
    pub idle_power: Watts,
    /// Power while an expert works (modelled unless a meter exists).
    pub busy_power: Watts,
}
