//! Trained gates whose file was changed and whose checksum was made to fit: whatever they state, reading
//! them ends in an error that names a field, or in a gate that forecasts probabilities.

use std::sync::OnceLock;

use moe2_model::ExpertName;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::train::theorems::questions;
use crate::train::{InTurn, Training};
use crate::{Gate, GateError, Item, Provenance};

/// Questions asked of what is still a gate.
const ASKED: usize = 60;

fn items() -> &'static [Item] {
    static ITEMS: OnceLock<Vec<Item>> = OnceLock::new();
    ITEMS.get_or_init(|| questions(ASKED))
}

/// The `gate` value of a small trained gate.
fn written() -> &'static Value {
    static WRITTEN: OnceLock<Value> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let training = Training::new(items().to_vec(), 1).expect("they can be trained on");
        let trained = training.run(&InTurn, || ());
        let priors = Gate::builtin().priors().clone();
        let gate = Gate::from_trained(trained, Provenance::default(), priors);
        let bytes = gate.expect("the priors are proper").to_bytes();
        let file: Value = serde_json::from_slice(&bytes).expect("a gate file is JSON");
        file["gate"].clone()
    })
}

fn read(gate: &Value) -> Result<Gate, GateError> {
    let text = serde_json::to_string(gate).expect("it is JSON");
    let digest = Sha256::digest(text.as_bytes());
    let sha256: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let file = format!(r#"{{"format":"moe2-gate/1","sha256":"{sha256}","gate":{text}}}"#);
    Gate::from_bytes(file.as_bytes())
}

/// All places in a value, as pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{at}/{name}"), found);
            }
        }
        // A list is one kind of place: its ends tell as much as its middle.
        Value::Array(all) => {
            for n in [0, all.len().saturating_sub(1)] {
                if let Some(value) = all.get(n) {
                    places(value, &format!("{at}/{n}"), found);
                }
            }
        }
        _ => {}
    }
}

/// What may stand there instead.
fn instead(old: &Value, how: usize) -> Value {
    let numbers = [
        json!(0),
        json!(-1),
        json!(1e300),
        json!(-1e300),
        json!(0.5),
        json!(u64::MAX),
    ];
    match (old, how % 4) {
        (Value::String(text), 0) => json!(text.chars().skip(1).collect::<String>()),
        (Value::String(text), 1) => json!(format!("AAAA{text}")),
        (Value::Array(all), 0) => json!(all.iter().skip(1).collect::<Vec<_>>()),
        (Value::Array(all), 1) => json!(all.iter().rev().collect::<Vec<_>>()),
        (_, 2) => Value::Null,
        _ => numbers[how / 4 % numbers.len()].clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn a_forged_gate_is_refused_or_still_forecasts_probabilities(
        which in any::<prop::sample::Index>(), how in 0..24_usize
    ) {
        let mut gate = written().clone();
        let mut all = Vec::new();
        places(&gate, "", &mut all);
        let place = all[which.index(all.len())].clone();
        let value = gate.pointer_mut(&place).expect("the place was found there");
        *value = instead(value, how);
        match read(&gate) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(gate) => {
                let Some(trained) = gate.trained() else { return Ok(()) };
                for item in items().iter().take(5) {
                    let features = trained.features(item);
                    for expert in ["a", "b", "c"] {
                        let expert = ExpertName::new(expert).expect("a valid name");
                        if let Some(quality) = trained.quality(&expert, &features) {
                            prop_assert!((0.0..=1.0).contains(&quality.probability), "{}: {:?}", place, quality);
                            prop_assert!((0.0..=0.5).contains(&quality.uncertainty), "{}: {:?}", place, quality);
                            prop_assert!(quality.output_tokens >= 0.0, "{}: {:?}", place, quality);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_gate_that_is_forged_is_read_as_it_is() {
    assert!(read(written()).is_ok_and(|gate| gate.trained().is_some()));
}
