//! Speeds and powers that somebody measured on machines of a kind, for experts that nobody has measured here yet.
//!
//! A table has a row for each measurement: a device, a model's size and quantisation, tokens per second, watts. A
//! machine has a row's device if it has all the words of its name. Of the rows that fit, those nearest in size count:
//! decode goes by bytes of weights and prefill by the number of them, as on the roofline, whose ceilings a row in effect
//! replaces by what was reached.

use moe2_model::{DeviceInfo, ExpertOffer, Watts};

use crate::Prior;

/// A model is told nothing by one that is more than this many times larger or smaller: what limits one need not limit
/// the other.
const REACH: f64 = 8.0;
/// Rows whose sizes differ by less count as one size.
const ALIKE: f64 = 1.25;
/// Bits of scales and of larger layers beside the bits that a quantisation is named after (`Q4_K_M` has about 4.85).
const SCALE_BITS: f64 = 0.6;

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Of which device, by the words of its name that tell it from others.
    pub device: String,
    /// Weights of the model, in billions.
    pub billions: f64,
    /// Quantisation, as `Q4_K_M`, `INT4` or `FP16`.
    pub quantisation: String,
    /// Prompt processing, tokens per second, if measured.
    pub prefill: Option<f64>,
    /// Generation, tokens per second, if measured.
    pub decode: Option<f64>,
    /// Power while it generates, if measured.
    pub power: Option<Watts>,
}

impl Profile {
    /// Bytes of weights; none if the quantisation has no number.
    fn bytes(&self) -> Option<f64> {
        bits(&self.quantisation).map(|bits| self.billions * 1e9 * bits / 8.0)
    }

    fn is_of(&self, words: &[String]) -> bool {
        let mut own = words_of(&self.device).into_iter().peekable();
        own.peek().is_some() && own.all(|word| words.contains(&word))
    }
}

/// Measurements of many devices; none by default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Profiles {
    rows: Vec<Profile>,
}

impl Profiles {
    /// A table of these rows. Those that say nothing, or nothing possible, are left out.
    #[must_use]
    pub fn new(rows: impl IntoIterator<Item = Profile>) -> Self {
        let possible = |value: Option<f64>| value.is_none_or(|v| v.is_finite() && v > 0.0);
        let rows = rows.into_iter().filter(|row| {
            let says = row.prefill.is_some() || row.decode.is_some() || row.power.is_some();
            let sized = row.billions.is_finite() && row.billions > 0.0;
            says && sized && possible(row.prefill) && possible(row.decode)
        });
        Self {
            rows: rows.collect(),
        }
    }

    /// Rows that can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What an expert on a device is expected to take before its first answer: of the rows that fit, else of the roofline.
    ///
    /// Watts of the table stand in where the agent states none: its own are of its own meter's scope.
    #[must_use]
    pub fn prior(&self, offer: &ExpertOffer, device: &DeviceInfo) -> Prior {
        let mut prior = Prior::new(offer, device);
        if self.rows.is_empty() {
            return prior;
        }
        let gpus = device.gpus.iter().map(|gpu| gpu.name.as_str());
        let words: Vec<String> = gpus
            .chain([device.model.as_str()])
            .flat_map(words_of)
            .collect();
        let rows: Vec<&Profile> = self.rows.iter().filter(|row| row.is_of(&words)).collect();
        let (weights, parameters) = (offer.weights.0 as f64, offer.parameters as f64);
        let reached = nearest(&rows, weights, |row| Some((row.bytes()?, row.decode?)));
        if let Some(bytes_per_s) = reached {
            prior.decode_s_per_token = weights / bytes_per_s;
        }
        let reached = nearest(&rows, parameters, |row| {
            Some((row.billions * 1e9, row.prefill?))
        });
        if let Some(parameters_per_s) = reached {
            prior.prefill_s_per_token = parameters / parameters_per_s;
        }
        if device.busy_power == Watts::ZERO {
            // Watts grow little with the size of a model: the nearest are taken as they are.
            let drawn = |row: &Profile| Some((row.billions * 1e9, row.power?.get()));
            let drawn = among_nearest(&rows, parameters, drawn);
            if let Some(power) = drawn {
                prior.busy_power = Watts::saturating(power);
            }
        }
        prior.at_least_something()
    }
}

/// Size times rate of the rows nearest to `size`, whose `(size, rate)` is told: what the machine gets through a second.
fn nearest(
    rows: &[&Profile],
    size: f64,
    of: impl Fn(&Profile) -> Option<(f64, f64)>,
) -> Option<f64> {
    among_nearest(rows, size, |row| {
        of(row).map(|(own, rate)| (own, own * rate))
    })
}

/// The median of what rows say that are nearest to `size` and within reach.
fn among_nearest(
    rows: &[&Profile],
    size: f64,
    of: impl Fn(&Profile) -> Option<(f64, f64)>,
) -> Option<f64> {
    let distance = |own: f64| (own / size).ln().abs();
    let told = rows.iter().filter_map(|row| of(row));
    let told: Vec<(f64, f64)> = told
        .map(|(own, value)| (distance(own), value))
        .filter(|(distance, _)| *distance <= REACH.ln())
        .collect();
    let least = told.iter().map(|(d, _)| *d).min_by(f64::total_cmp)?;
    let alike = told.iter().filter(|(d, _)| *d <= least + ALIKE.ln());
    let mut values: Vec<f64> = alike.map(|(_, value)| *value).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    Some(if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    })
}

/// Words that tell devices apart: in small letters, without sizes of memory and what stands in brackets.
fn words_of(name: &str) -> Vec<String> {
    let name = name.split_once('(').map_or(name, |(before, _)| before);
    let words = name.split(|c: char| !c.is_alphanumeric());
    let words = words.map(str::to_lowercase);
    words
        .filter(|word| !word.is_empty() && !is_memory(word))
        .collect()
}

fn is_memory(word: &str) -> bool {
    let digits = word.strip_suffix("gb");
    digits.is_some_and(|digits| digits.chars().all(|c| c.is_ascii_digit()))
}

/// Bits per weight, from the first number of a quantisation's name.
fn bits(quantisation: &str) -> Option<f64> {
    let from = quantisation.find(|c: char| c.is_ascii_digit())?;
    let digits: String = quantisation[from..]
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let bits: f64 = digits.parse().ok()?;
    match bits {
        1.0..=8.0 => Some(bits + SCALE_BITS),
        16.0 | 32.0 => Some(bits),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofline::tests::{device, offer};
    use moe2_model::{Bytes, DeviceKind};

    fn row(device: &str, billions: f64, decode: f64) -> Profile {
        Profile {
            device: device.to_owned(),
            billions,
            quantisation: "Q4_K_M".to_owned(),
            prefill: Some(decode * 10.0),
            decode: Some(decode),
            power: Some(Watts::saturating(40.0)),
        }
    }

    fn orin() -> DeviceInfo {
        DeviceInfo {
            model: "NVIDIA Jetson AGX Orin Developer Kit".to_owned(),
            ..device(DeviceKind::Jetson)
        }
    }

    fn model(billions: f64) -> ExpertOffer {
        ExpertOffer {
            parameters: (billions * 1e9) as u64,
            weights: Bytes((billions * 1e9 * 4.6 / 8.0) as u64),
            ..offer()
        }
    }

    #[test]
    fn a_row_of_the_machine_and_size_is_what_is_expected() {
        let rows = [
            row("Jetson AGX Orin 64GB", 8.0, 25.0),
            row("RTX 4090", 8.0, 130.0),
        ];
        let prior = Profiles::new(rows).prior(&model(8.0), &orin());
        assert!(
            (prior.decode_s_per_token * 25.0 - 1.0).abs() < 1e-6,
            "{prior:?}"
        );
        assert!(
            (prior.prefill_s_per_token * 250.0 - 1.0).abs() < 1e-6,
            "{prior:?}"
        );
    }

    #[test]
    fn half_the_weights_take_half_the_time() {
        let table = Profiles::new([row("Jetson AGX Orin", 8.0, 25.0)]);
        let (whole, half) = (model(8.0), model(4.0));
        let [whole, half] = [whole, half].map(|offer| table.prior(&offer, &orin()));
        let ratio = whole.decode_s_per_token / half.decode_s_per_token;
        assert!((ratio - 2.0).abs() < 1e-6, "{ratio}");
    }

    #[test]
    fn of_other_machines_and_of_other_sizes_nothing_is_taken() {
        let roofline = Prior::new(&model(0.5), &orin());
        for other in [
            row("Jetson Orin Nano Super 8GB", 0.5, 60.0),
            row("Jetson AGX Orin", 8.0, 25.0),
            row("", 0.5, 1.0),
        ] {
            let prior = Profiles::new([other.clone()]).prior(&model(0.5), &orin());
            assert_eq!(prior, roofline, "{other:?}");
        }
    }

    #[test]
    fn of_several_of_one_size_the_median_counts_and_the_nearest_size_before_others() {
        let rows = [20.0, 22.0, 6.0].map(|decode| row("Jetson AGX Orin", 8.0, decode));
        let far = row("Jetson AGX Orin", 14.0, 100.0);
        let prior = Profiles::new(rows.into_iter().chain([far])).prior(&model(8.0), &orin());
        assert!(
            (prior.decode_s_per_token * 20.0 - 1.0).abs() < 1e-6,
            "{prior:?}"
        );
    }

    #[test]
    fn watts_of_the_table_stand_in_for_none_and_not_for_the_agents_own() {
        let table = Profiles::new([row("Jetson AGX Orin", 8.0, 25.0)]);
        let silent = DeviceInfo {
            busy_power: Watts::ZERO,
            ..orin()
        };
        assert_eq!(
            table.prior(&model(8.0), &silent).busy_power,
            Watts::saturating(40.0)
        );
        let own = DeviceInfo {
            busy_power: Watts::saturating(12.0),
            ..orin()
        };
        assert_eq!(
            table.prior(&model(8.0), &own).busy_power,
            Watts::saturating(12.0)
        );
    }

    #[test]
    fn what_says_nothing_possible_is_left_out() {
        let nothing = Profile {
            prefill: None,
            decode: None,
            power: None,
            ..row("Orin", 1.0, 1.0)
        };
        let rows = [
            row("Orin", 0.0, 1.0),
            row("Orin", f64::NAN, 1.0),
            row("Orin", 1.0, 0.0),
            nothing,
        ];
        assert!(Profiles::new(rows).is_empty());
    }

    #[test]
    fn bits_are_read_from_the_names_of_quantisations() {
        let read = [
            "Q4_K_M",
            "IQ4_XS",
            "INT4 (MLC)",
            "Q8_0",
            "FP16",
            "F16",
            "none",
            "",
        ]
        .map(bits);
        let four = Some(4.0 + SCALE_BITS);
        let expected = [
            four,
            four,
            four,
            Some(8.0 + SCALE_BITS),
            Some(16.0),
            Some(16.0),
            None,
            None,
        ];
        assert_eq!(read, expected);
    }
}
