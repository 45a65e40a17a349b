//! A description of a machine for people.

use std::fmt::Write as _;

use moe2_model::{DeviceInfo, DeviceKind, GpuInfo, Roofline};

/// One line per fact: a label and a value, without colours. Ends with a line break.
pub(crate) fn table(device: &DeviceInfo) -> String {
    let family = match device.kind {
        DeviceKind::Jetson => "Jetson module",
        DeviceKind::Gpu => "GPU machine",
        DeviceKind::Cpu => "processor only",
    };
    let mut rows = vec![
        ("device", format!("{} ({family})", device.model)),
        ("threads", device.threads.to_string()),
        ("memory", device.memory.to_string()),
        ("processor", ceilings(device.cpu.as_ref())),
    ];
    if device.gpus.is_empty() {
        rows.push(("gpu", "none listed by a Vulkan driver".to_owned()));
    }
    // Ceilings belong to the first hardware adapter.
    let mut hardware = device.gpu.as_ref();
    for gpu in &device.gpus {
        let figures = if gpu.software { None } else { hardware.take() };
        rows.push(("gpu", adapter(gpu, figures)));
    }
    let power = format!(
        "{}; idle {:.0}, busy {:.0}",
        device.energy_source, device.idle_power, device.busy_power
    );
    rows.push(("energy", power));
    let mut text = String::new();
    for (label, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<10}{value}");
    }
    text
}

fn adapter(gpu: &GpuInfo, figures: Option<&Roofline>) -> String {
    let GpuInfo { name, driver, .. } = gpu;
    if gpu.software {
        format!("{name}, {driver}: software on the processor, not used")
    } else {
        format!("{name}, {driver}: {}", ceilings(figures))
    }
}

fn ceilings(figures: Option<&Roofline>) -> String {
    figures.map_or_else(
        || "not measured".to_owned(),
        |f| {
            let (bytes, flop) = (f.bytes_per_s / 1e9, f.flop_per_s / 1e9);
            format!("{bytes:.1} GB/s, {flop:.0} GFLOP/s (f32)")
        },
    )
}

#[cfg(test)]
mod tests {
    use moe2_model::{Bytes, EnergySource, Watts};

    use super::*;

    #[test]
    fn every_fact_has_a_line_and_only_hardware_shows_gpu_ceilings() {
        let gpu = |name: &str, software| GpuInfo {
            name: name.to_owned(),
            driver: "driver 1".to_owned(),
            software,
        };
        let shown = table(&DeviceInfo {
            kind: DeviceKind::Gpu,
            model: "A processor".to_owned(),
            threads: 8,
            parallel: 1,
            memory: Bytes(16 << 30),
            gpus: vec![gpu("Card", false), gpu("Second", false), gpu("Soft", true)],
            cpu: None,
            gpu: Some(Roofline {
                bytes_per_s: 900e9,
                flop_per_s: 80e12,
            }),
            energy_source: EnergySource::Modelled,
            idle_power: Watts::saturating(20.0),
            busy_power: Watts::saturating(300.0),
        });
        let expected = "\
device    A processor (GPU machine)
threads   8
memory    16384 MiB
processor not measured
gpu       Card, driver 1: 900.0 GB/s, 80000 GFLOP/s (f32)
gpu       Second, driver 1: not measured
gpu       Soft, driver 1: software on the processor, not used
energy    modelled; idle 20 W, busy 300 W
";
        assert_eq!(shown, expected);
    }
}
