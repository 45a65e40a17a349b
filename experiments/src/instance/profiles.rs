//! What devices do with models: measured rows where there are some, a roofline from the nearest row
//! elsewhere.
//!
//! Power comes in scopes (rails, board, wall) that must not be mixed, so everything is brought to the
//! whole system at the wall: Jetson rails by the relation that accompanies the measurements, the RTX
//! system from wall readings at several model sizes.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;

/// Bytes per weight of Q4_K_M, about 4.85 bits with scales (llama.cpp's `llama-quantize` listing).
pub(crate) const BYTES_PER_WEIGHT: f64 = 0.606;
/// Prefill over decode speed of CPUs, where no prefill was measured: between those of small models on
/// two server cores (docs/models.md), 3.2 to 3.7, and those of more cores.
const CPU_PREFILL_RATIO: f64 = 5.0;
/// Wall power of a Jetson AGX Orin from its rails: `1.02 × rails + 3.1 W`, as noted with rows 1 to 12
/// of the table.
const ORIN_WALL: (f64, f64) = (1.02, 3.1);

/// A row of the table.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    device: String,
    model: String,
    // Some rows cover several models and have no one number.
    #[serde(rename = "params_B", deserialize_with = "csv::invalid_option")]
    billions: Option<f64>,
    quant: String,
    power_mode: String,
    #[serde(rename = "prefill_tok_s", deserialize_with = "csv::invalid_option")]
    prefill: Option<f64>,
    #[serde(rename = "decode_tok_s", deserialize_with = "csv::invalid_option")]
    decode: Option<f64>,
    #[serde(rename = "power_W", deserialize_with = "csv::invalid_option")]
    watts: Option<f64>,
    power_scope: String,
}

/// One machine of the testbed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Device {
    /// Name in expert ids.
    pub(crate) name: &'static str,
    /// Memory for weights and caches, bytes.
    pub(crate) memory: f64,
    /// Whole system, W.
    pub(crate) idle: f64,
    /// Decode speed at one weight byte read per token, i.e. effective bytes/s.
    bytes_per_s: f64,
    /// Prefill speed times billions of weights.
    prefill_billions_per_s: f64,
    /// Whole system while at work, W, at two sizes in billions of weights.
    power: [(f64, f64); 2],
    /// Decode speeds that were measured: billions of weights, tokens/s.
    measured: Vec<(f64, f64)>,
}

/// What one answer takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    pub(crate) joules: f64,
}

/// Tokens per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Speed {
    pub(crate) prefill: f64,
    pub(crate) decode: f64,
}

impl Device {
    /// Cost of an answer by a model of so many billions of weights in Q4_K_M.
    pub(crate) fn cost(&self, billions: f64, prompt_tokens: f64, output_tokens: f64) -> Cost {
        let Speed { prefill, decode } = self.speed(billions);
        let seconds = prompt_tokens / prefill + output_tokens / decode;
        Cost {
            seconds,
            joules: seconds * self.watts(billions),
        }
    }

    /// Speed of a model of this size.
    pub(crate) fn speed(&self, billions: f64) -> Speed {
        let near = |m: &&(f64, f64)| (m.0 / billions - 1.0).abs() < 0.02;
        let measured = self.measured.iter().find(near);
        let roofline = self.bytes_per_s / (billions * 1e9 * BYTES_PER_WEIGHT);
        Speed {
            prefill: self.prefill_billions_per_s / billions,
            decode: measured.map_or(roofline, |m| m.1),
        }
    }

    /// Whole-system power while a model of this size works, by the line through two readings.
    pub(crate) fn watts(&self, billions: f64) -> f64 {
        let [(a, at_a), (b, at_b)] = self.power;
        let slope = if a == b { 0.0 } else { (at_b - at_a) / (b - a) };
        (at_a + slope * (billions - a)).max(self.idle)
    }
}

/// The paper's testbed and a laptop: Orin AGX in two power modes, an RTX 4090 PC, a laptop's CPU.
///
/// # Errors
/// The table cannot be read, or a row that is built upon is missing.
pub(crate) fn devices(table: &Path) -> anyhow::Result<Vec<Device>> {
    let mut reader = csv::Reader::from_path(table)
        .with_context(|| format!("cannot read {}", table.display()))?;
    let rows: Vec<Row> = reader.deserialize().collect::<Result<_, _>>()?;
    Ok(vec![
        gpu(&rows, "rtx4090", ("RTX 4090", ""), (24e9, None))?,
        gpu(
            &rows,
            "orin-maxn",
            ("Jetson AGX Orin 64GB", "MAXN"),
            (64e9, Some(ORIN_WALL)),
        )?,
        gpu(
            &rows,
            "orin-30w",
            ("Jetson AGX Orin 64GB", "30W"),
            (64e9, Some(ORIN_WALL)),
        )?,
        laptop(&rows)?,
    ])
}

/// A device with a measured row for Llama 3 8B Q4_K_M; `rails` turns its readings into wall power.
fn gpu(
    rows: &[Row],
    name: &'static str,
    (device, mode): (&str, &str),
    (memory, rails): (f64, Option<(f64, f64)>),
) -> anyhow::Result<Device> {
    let own = || {
        rows.iter()
            .filter(|r| r.device.starts_with(device) && r.power_mode.contains(mode))
    };
    let quantised = || own().filter(|r| r.quant == "Q4_K_M");
    let eight = quantised().find(|r| r.prefill.is_some() && r.billions == Some(8.03));
    let eight = eight.with_context(|| format!("no measured 8B row for {device} {mode}"))?;
    let (Some(prefill), Some(decode)) = (eight.prefill, eight.decode) else {
        bail!("the 8B row for {device} {mode} lacks a speed");
    };
    let wall = |watts: f64| rails.map_or(watts, |(factor, fixed)| factor * watts + fixed);
    let scope = |r: &&Row| match rails {
        Some(_) => r.power_scope.starts_with("INA3221"),
        None => r.power_scope.starts_with("whole system") && r.device.contains("Core"),
    };
    let mut power: Vec<(f64, f64)> = quantised()
        .filter(scope)
        .filter_map(|r| Some((r.billions?, wall(r.watts?))))
        .filter(|(billions, _)| rails.is_some() || *billions < 15.0)
        .collect();
    power.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (Some(first), Some(last)) = (power.first(), power.last()) else {
        bail!("no power of {device} {mode} at the wall");
    };
    let idle_row = own()
        .chain(rows)
        .find(|r| r.model == "(idle)" && r.device.starts_with(device));
    let idle_row = own().find(|r| r.model == "(idle)").or(idle_row);
    let idle = idle_row.and_then(|r| r.watts).context("no idle power")?;
    let measured = quantised().filter_map(|r| Some((r.billions?, r.prefill.and(r.decode)?)));
    Ok(Device {
        name,
        memory,
        // The RTX row is of the card alone; its PC adds what a desktop idles at without one.
        idle: if rails.is_some() {
            wall(idle)
        } else {
            idle + HOST_IDLE
        },
        bytes_per_s: decode * 8.03e9 * BYTES_PER_WEIGHT,
        prefill_billions_per_s: prefill * 8.03,
        power: [*first, *last],
        measured: measured.collect(),
    })
}

/// Idle power of a desktop without its card: the wall reading of a Core Ultra system with an RTX 2080 Ti,
/// 47.7 W (row 97), less the 15 W such a card idles at.
const HOST_IDLE: f64 = 33.0;
/// A laptop that does nothing with its screen off; not in the table, a typical figure.
const LAPTOP_IDLE: f64 = 6.0;

fn laptop(rows: &[Row]) -> anyhow::Result<Device> {
    let own = rows.iter().filter(|r| r.device.starts_with("Laptop CPU"));
    let mut readings: Vec<(f64, f64, f64)> = own
        .filter_map(|r| Some((r.billions?, r.decode?, r.watts?)))
        .collect();
    readings.sort_by(|a, b| a.0.total_cmp(&b.0));
    let eight = readings
        .iter()
        .find(|r| r.0 == 8.03)
        .context("no 8B row for the laptop")?;
    let (first, last) = (readings[0], readings[readings.len() - 1]);
    let decode = eight.1;
    Ok(Device {
        name: "laptop-cpu",
        memory: 16e9,
        idle: LAPTOP_IDLE,
        bytes_per_s: decode * 8.03e9 * BYTES_PER_WEIGHT,
        prefill_billions_per_s: CPU_PREFILL_RATIO * decode * 8.03,
        power: [(first.0, first.2), (last.0, last.2)],
        measured: readings.iter().map(|r| (r.0, r.1)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_testbed_is_ordered_as_its_measurements_are() {
        let Some(data) = crate::data() else { return };
        let devices = devices(&data.join("device_profiles.csv")).expect("the table is sound");
        let eight: Vec<Cost> = devices.iter().map(|d| d.cost(8.03, 200.0, 100.0)).collect();
        let [rtx, maxn, orin30, laptop] = eight[..] else {
            panic!("{devices:?}")
        };
        assert!(
            rtx.seconds < maxn.seconds && maxn.seconds < orin30.seconds,
            "{eight:?}"
        );
        assert!(orin30.seconds < laptop.seconds * 3.0);
        // An Orin answers with fewer joules than the PC, whose answer comes sooner.
        assert!(maxn.joules < rtx.joules, "{eight:?}");
        // Rows that were measured are used as they are.
        let decode = |d: &Device| 1.0 / (d.cost(8.03, 0.0, 1.0).seconds);
        assert!((decode(&devices[0]) - 127.74).abs() < 0.01);
        assert!((decode(&devices[3]) - 10.46).abs() < 0.01);
        let small = devices[0].cost(3.8, 0.0, 1.0).seconds;
        assert!(small < devices[0].cost(13.0, 0.0, 1.0).seconds);
    }
}
