//! Speeds before anything was measured: what the device's ceilings allow for this model.
//!
//! Prefill works on many tokens at once and is limited by arithmetic, or, for short batches, by
//! reading the weights once; decode reads all weights and the key-value cache for every token and
//! is limited by bandwidth. That is good to a factor of two or so, which is all a prior needs: the
//! regression replaces it with the first answer. Ceilings come from the agent's own probe; the
//! defaults here only stand in when it was skipped.

use moe2_model::{DeviceInfo, DeviceKind, ExpertOffer, Roofline, Watts};

/// Share of the memory bandwidth that decode reaches. Measured: Jetson Orin 0.65 to 0.81, RTX 4090
/// 0.62 to 0.87, Raspberry Pi 5 about 0.6.
const DECODE_EFFICIENCY: f64 = 0.7;
/// Tokens that share one pass over the weights in prefill: llama.cpp's default physical batch.
const PREFILL_BATCH: f64 = 512.0;
/// Tokens of context assumed in the cache while decoding: a short chat. The cache is a few percent
/// of the weights there, so a better guess would not change the prior visibly.
const CONTEXT: f64 = 512.0;
/// Seconds per request that no ceiling explains: tokenising, worker wake-up, the first sampling.
const OVERHEAD_S: f64 = 0.005;
/// Smallest rate in seconds per token: nothing answers at more than ten million tokens a second,
/// and a prior of zero could never be corrected by a multiplier.
const LEAST_S_PER_TOKEN: f64 = 1e-7;

/// Jetson without a probe: the smallest Orin module (68 GB/s by specification); 3-billion-parameter
/// prefill at 814 tokens/s on an Orin Nano is 5e12 operations per second.
const JETSON: Roofline = Roofline {
    bytes_per_s: 68e9,
    flop_per_s: 5e12,
};
/// Discrete GPU without a probe: a mid-range card of 2021 (RTX 3060: 360 GB/s, 12.7e12 FP32).
const GPU: Roofline = Roofline {
    bytes_per_s: 360e9,
    flop_per_s: 12e12,
};
/// CPU without a probe: dual-channel DDR4 as a few threads get it.
const CPU_BYTES_PER_S: f64 = 20e9;
/// CPU without a probe, per hardware thread: quantised products on 256-bit vectors; AVX-512 servers
/// reach two to four times that, small Arm cores about as much.
const CPU_FLOP_PER_S_PER_THREAD: f64 = 20e9;

/// What one request is expected to cost on a device before anything was measured there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Seconds before the first prompt token counts: fixed overhead and one pass over the weights.
    pub prefill_overhead_s: f64,
    /// Seconds per prompt token.
    pub prefill_s_per_token: f64,
    /// Seconds per output token.
    pub decode_s_per_token: f64,
    /// Power while the expert works.
    pub busy_power: Watts,
}

impl Prior {
    /// The prior of an expert on a device.
    #[must_use]
    pub fn new(offer: &ExpertOffer, device: &DeviceInfo) -> Self {
        let roof = ceilings(device);
        let weights = offer.weights.0 as f64;
        let arithmetic = 2.0 * offer.parameters as f64 / roof.flop_per_s;
        let one_pass = weights / roof.bytes_per_s;
        let cache = offer.kv_per_token.0 as f64 * CONTEXT.min(f64::from(offer.context_tokens));
        let decode = (weights + cache) / (DECODE_EFFICIENCY * roof.bytes_per_s);
        Self {
            prefill_overhead_s: OVERHEAD_S + one_pass,
            prefill_s_per_token: arithmetic.max(one_pass / PREFILL_BATCH),
            decode_s_per_token: decode,
            busy_power: busy_power(device),
        }
        .at_least_something()
    }

    /// The same with no rate of zero.
    pub(crate) fn at_least_something(self) -> Self {
        Self {
            prefill_s_per_token: self.prefill_s_per_token.max(LEAST_S_PER_TOKEN),
            decode_s_per_token: self.decode_s_per_token.max(LEAST_S_PER_TOKEN),
            ..self
        }
    }
}

/// The ceilings that limit an expert on this device: probed where the probe gave sane numbers,
/// else the default of the device's family.
#[must_use]
pub fn ceilings(device: &DeviceInfo) -> Roofline {
    let (probed, fallback) = match device.kind {
        DeviceKind::Jetson => (device.gpu, JETSON),
        DeviceKind::Gpu => (device.gpu, GPU),
        DeviceKind::Cpu => (device.cpu, cpu_default(device.threads)),
    };
    let sane = |value: f64, default: f64| {
        if value.is_finite() && value >= 1.0 {
            value
        } else {
            default
        }
    };
    probed.map_or(fallback, |p| Roofline {
        bytes_per_s: sane(p.bytes_per_s, fallback.bytes_per_s),
        flop_per_s: sane(p.flop_per_s, fallback.flop_per_s),
    })
}

fn cpu_default(threads: u32) -> Roofline {
    Roofline {
        bytes_per_s: CPU_BYTES_PER_S,
        flop_per_s: CPU_FLOP_PER_S_PER_THREAD * f64::from(threads.max(1)),
    }
}

/// Work is never free: an agent that states no busy power gets the family's usual figure, because a
/// prior of 0 J would draw all queries to it.
fn busy_power(device: &DeviceInfo) -> Watts {
    if device.busy_power > Watts::ZERO {
        return device.busy_power;
    }
    Watts::saturating(match device.kind {
        DeviceKind::Jetson => 25.0, // module power mode of Orin NX and Nano Super
        DeviceKind::Gpu => 250.0,   // whole PC with an RTX 4090 while decoding
        DeviceKind::Cpu => 30.0,    // mini PC at the wall: 26 to 30 W; laptop 51 W
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use moe2_model::{Bytes, EnergySource, ExpertName};

    pub(crate) fn offer() -> ExpertOffer {
        ExpertOffer {
            name: ExpertName::new("qwen2.5-coder-0.5b-instruct").expect("a valid name"),
            family: "qwen2".to_owned(),
            quantisation: "Q4_K_M".to_owned(),
            parameters: 494_000_000,
            weights: Bytes(491_400_064),
            kv_per_token: Bytes(12_288),
            context_tokens: 4096,
            slots: 1,
            load: None,
        }
    }

    pub(crate) fn device(kind: DeviceKind) -> DeviceInfo {
        DeviceInfo {
            kind,
            model: "test".to_owned(),
            threads: 2,
            parallel: 1,
            memory: Bytes(8 << 30),
            gpus: Vec::new(),
            cpu: None,
            gpu: None,
            energy_source: EnergySource::Modelled,
            idle_power: Watts::saturating(5.0),
            busy_power: Watts::saturating(20.0),
        }
    }

    #[test]
    fn a_cpu_default_is_within_a_small_factor_of_two_measured_server_cores() {
        // Two AVX-512 threads: prefill 167 to 264, decode 45 to 49 tokens/s for this model.
        let prior = Prior::new(&offer(), &device(DeviceKind::Cpu));
        let prefill = 1.0 / prior.prefill_s_per_token;
        let decode = 1.0 / prior.decode_s_per_token;
        assert!((30.0..300.0).contains(&prefill), "{prefill} tokens/s");
        assert!((20.0..60.0).contains(&decode), "{decode} tokens/s");
    }

    #[test]
    fn probed_ceilings_give_the_closed_form() {
        let mut device = device(DeviceKind::Gpu);
        device.gpu = Some(Roofline {
            bytes_per_s: 1e12,
            flop_per_s: 1e14,
        });
        let mut offer = offer();
        offer.parameters = 8_000_000_000;
        offer.weights = Bytes(7_000_000_000);
        offer.kv_per_token = Bytes(0);
        let prior = Prior::new(&offer, &device);
        assert!((prior.prefill_s_per_token - 1.6e-4).abs() < 1e-12);
        assert!((prior.decode_s_per_token - 0.01).abs() < 1e-12);
        // With arithmetic to spare, the weights' pass shared by the batch is what remains.
        device.gpu = Some(Roofline {
            bytes_per_s: 1e12,
            flop_per_s: 1e18,
        });
        let prior = Prior::new(&offer, &device);
        assert!((prior.prefill_s_per_token - 0.007 / 512.0).abs() < 1e-12);
    }

    #[test]
    fn a_probe_that_measured_nonsense_is_replaced_by_the_default() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut device = device(DeviceKind::Cpu);
            device.cpu = Some(Roofline {
                bytes_per_s: bad,
                flop_per_s: 3e10,
            });
            let roof = ceilings(&device);
            assert_eq!((roof.bytes_per_s, roof.flop_per_s), (CPU_BYTES_PER_S, 3e10));
        }
    }

    #[test]
    fn no_offer_and_no_silence_about_power_makes_work_free() {
        for kind in [DeviceKind::Jetson, DeviceKind::Gpu, DeviceKind::Cpu] {
            let mut device = device(kind);
            device.busy_power = Watts::ZERO;
            device.threads = 0;
            let mut offer = offer();
            offer.parameters = 0;
            offer.weights = Bytes(0);
            let prior = Prior::new(&offer, &device);
            assert!(prior.busy_power > Watts::ZERO && prior.prefill_s_per_token > 0.0);
            assert!(prior.decode_s_per_token > 0.0);
        }
    }
}
