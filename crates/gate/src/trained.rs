//! A trained gate as it is served and written: the frozen encoder, the heads, and where they come from.
//!
//! In a file the encoder's weights are bytes in Base64: one of 255 steps per weight, which is also how
//! they were rounded before anything was trained on top, so that nothing changes by writing.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use moe2_model::ExpertName;
use serde::{Deserialize, Serialize};

use crate::encode::base::{Base, Embedder, RARITY_STEP};
use crate::encode::ngrams::WIDTH;
use crate::encode::topics::{Encoder, Topics};
use crate::file::GateError;
use crate::priors::Priors;
use crate::train::fusion::FusionGain;
use crate::train::heads::TrainedHead;
use crate::train::logistic::Prior;
use crate::train::softmax::Softmax;
use crate::train::trust::Common;
use crate::train::{Calibration, Trained};

/// Encoders from outside, for gates that need one.
pub(crate) type Embedders<'e> = &'e [Arc<dyn Embedder>];

/// Most topics a file may have.
const MAX_TOPICS: usize = 512;

/// Where a gate comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// For people.
    pub summary: String,
    /// The files it was trained on.
    pub data: Vec<DataFile>,
    /// Seed of the split.
    pub seed: u64,
    /// Folds by which everything was chosen.
    pub folds: usize,
    /// Version of the program that trained it.
    pub version: String,
}

/// A file of outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Its name, without folders.
    pub name: String,
    /// Of its bytes, in hexadecimal.
    pub sha256: String,
    /// Lines used.
    pub questions: usize,
}

/// A trained gate with its provenance, and what it believes where it was not trained.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrainedGate {
    pub(crate) provenance: Provenance,
    pub(crate) trained: Trained,
    /// For tasks other than choices, and for experts without a head.
    pub(crate) priors: Priors,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Packed {
    provenance: Provenance,
    encoder: PackedBase,
    topics: Vec<String>,
    topic: PackedSoftmax,
    difficulty: PackedSoftmax,
    heads: BTreeMap<ExpertName, TrainedHead>,
    common: Common,
    fusion: FusionGain,
    trust: f64,
    /// Fingerprints of the questions, as 64-bit little-endian numbers.
    questions: String,
    priors: Priors,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
enum PackedBase {
    Hashed {
        /// N-grams that count, as 16-bit little-endian numbers.
        ngrams: String,
        /// Rarity of each of them, a byte in steps.
        rarity: String,
    },
    /// Whoever reads the file has to bring it.
    Dense {
        name: String,
        width: usize,
        /// Of its weights.
        digest: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackedSoftmax {
    steps: Vec<f32>,
    bias: Vec<f32>,
    /// A signed byte per number of a row that counts, and class.
    weights: String,
}

impl TrainedGate {
    pub(crate) fn pack(&self) -> Packed {
        let Trained {
            encoder,
            heads,
            common,
            fusion,
            trust,
            questions,
        } = &self.trained;
        let kept = encoder.base.kept();
        let questions: Vec<u8> = questions.iter().flat_map(|q| q.to_le_bytes()).collect();
        Packed {
            provenance: self.provenance.clone(),
            encoder: PackedBase::pack(&encoder.base, &kept),
            topics: encoder.topics.names.clone(),
            topic: pack(&encoder.topics.topic, &kept),
            difficulty: pack(&encoder.topics.difficulty, &kept),
            heads: heads.clone(),
            common: common.clone(),
            fusion: fusion.clone(),
            trust: *trust,
            questions: BASE64.encode(questions),
            priors: self.priors.clone(),
        }
    }

    pub(crate) fn unpack(packed: Packed, embedders: Embedders<'_>) -> Result<Self, GateError> {
        packed.priors.check()?;
        if packed.topics.is_empty() || packed.topics.len() > MAX_TOPICS {
            return Err(invalid("topics", "give 1 to 512"));
        }
        let base = packed.encoder.unpack(embedders)?;
        let kept = base.kept();
        let width = base.width();
        let classes = packed.topics.len();
        let topics = Topics {
            names: packed.topics,
            topic: unpack("topic", packed.topic, (&kept, width), classes)?,
            difficulty: unpack("difficulty", packed.difficulty, (&kept, width), 2)?,
        };
        let encoder = Encoder::new(base, topics);
        let width = encoder.width();
        for (expert, head) in &packed.heads {
            check(head, width).map_err(|field| {
                invalid(&format!("heads.{expert}.{field}"), "train the gate again")
            })?;
        }
        let common = &packed.common;
        let proper = |p: &Prior| {
            p.mean.len() == width
                && p.precision.len() == width
                && finite(&p.mean)
                && p.precision.iter().all(|v| v.is_finite() && *v > 0.0)
        };
        if !common.prior.as_ref().is_none_or(proper) || !(0.0..=1.0).contains(&common.mean) {
            return Err(invalid(
                "common",
                "one mean and one precision per feature, and a mean",
            ));
        }
        let lines = &packed.fusion.lines;
        let level = |v: f64| v.is_finite() && v.abs() <= 10.0;
        if lines.len() > 64
            || !lines
                .iter()
                .all(|l| level(l.gain) && level(l.slope) && level(l.error))
        {
            return Err(invalid("fusion", "finite numbers, not above 10"));
        }
        if !(0.0..=1.0).contains(&packed.trust) {
            return Err(invalid("trust", "use a number from 0 to 1"));
        }
        let questions = bytes("questions", &packed.questions)?;
        let (words, rest) = questions.as_chunks::<8>();
        let questions: Vec<u64> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
        if !rest.is_empty() || questions.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(invalid("questions", "the numbers must rise"));
        }
        Ok(Self {
            provenance: packed.provenance,
            trained: Trained {
                encoder,
                heads: packed.heads,
                common: packed.common,
                fusion: packed.fusion,
                trust: packed.trust,
                questions,
            },
            priors: packed.priors,
        })
    }
}

impl PackedBase {
    fn pack(base: &Base, kept: &[usize]) -> Self {
        match base {
            Base::Hashed(rarity) => {
                let index = kept
                    .iter()
                    .flat_map(|&i| u16::try_from(i).unwrap_or(u16::MAX).to_le_bytes());
                let rarity = kept
                    .iter()
                    .map(|&i| (rarity[i] / RARITY_STEP).round() as u8);
                Self::Hashed {
                    ngrams: BASE64.encode(index.collect::<Vec<u8>>()),
                    rarity: BASE64.encode(rarity.collect::<Vec<u8>>()),
                }
            }
            Base::Dense(embedder) => Self::Dense {
                name: embedder.name().to_owned(),
                width: embedder.width(),
                digest: embedder.digest().to_owned(),
            },
        }
    }

    fn unpack(self, embedders: Embedders<'_>) -> Result<Base, GateError> {
        let (ngrams, rarity) = match self {
            Self::Hashed { ngrams, rarity } => (ngrams, rarity),
            Self::Dense {
                name,
                width,
                digest,
            } => {
                let found = embedders.iter().find(|e| e.name() == name);
                let Some(embedder) = found else {
                    return Err(GateError::NeedsEncoder { name });
                };
                if embedder.width() != width || embedder.digest() != digest {
                    let why = "the encoder has other weights now: train the gate again";
                    return Err(invalid("encoder", why));
                }
                return Ok(Base::Dense(embedder.clone()));
            }
        };
        let index = bytes("encoder.ngrams", &ngrams)?;
        let (pairs, rest) = index.as_chunks::<2>();
        let kept: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        if !rest.is_empty() || kept.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(invalid("encoder.ngrams", "the numbers must rise"));
        }
        let steps = bytes("encoder.rarity", &rarity)?;
        if steps.len() != kept.len() || steps.contains(&0) {
            return Err(invalid("encoder.rarity", "one byte per n-gram, above 0"));
        }
        let mut rarity = vec![0.0; WIDTH];
        for (i, step) in kept.into_iter().zip(steps) {
            rarity[usize::from(i)] = f32::from(step) * RARITY_STEP;
        }
        Ok(Base::Hashed(rarity))
    }
}

fn invalid(field: &str, advice: &str) -> GateError {
    GateError::Invalid {
        problem: format!("{field}: {advice}"),
    }
}

fn bytes(field: &str, text: &str) -> Result<Vec<u8>, GateError> {
    BASE64
        .decode(text)
        .map_err(|error| invalid(field, &format!("not Base64 ({error})")))
}

fn finite(values: &[f64]) -> bool {
    values.iter().all(|v| v.is_finite())
}

fn pack(softmax: &Softmax, kept: &[usize]) -> PackedSoftmax {
    let (steps, classes) = (softmax.steps(), softmax.classes);
    let row = |i: &usize| &softmax.weights[i * classes..(i + 1) * classes];
    let weights: Vec<u8> = kept
        .iter()
        .flat_map(|i| row(i).iter().zip(&steps))
        .map(|(weight, step)| ((weight / step).round() as i8).cast_unsigned())
        .collect();
    PackedSoftmax {
        steps,
        bias: softmax.bias.clone(),
        weights: BASE64.encode(weights),
    }
}

fn unpack(
    field: &str,
    packed: PackedSoftmax,
    (kept, width): (&[usize], usize),
    classes: usize,
) -> Result<Softmax, GateError> {
    let given = bytes(field, &packed.weights)?;
    let sane = |all: &[f32]| all.len() == classes && all.iter().all(|v| v.is_finite());
    if !sane(&packed.steps) || !sane(&packed.bias) || given.len() != kept.len() * classes {
        return Err(invalid(field, "steps, biases and weights of every class"));
    }
    let mut weights = vec![0.0; width * classes];
    for (&i, row) in kept.iter().zip(given.chunks_exact(classes)) {
        let own = &mut weights[i * classes..(i + 1) * classes];
        for ((weight, byte), step) in own.iter_mut().zip(row).zip(&packed.steps) {
            *weight = f32::from(byte.cast_signed()) * step;
        }
    }
    Ok(Softmax {
        classes,
        weights,
        bias: packed.bias,
    })
}

/// The first field of a head that cannot be.
fn check(head: &TrainedHead, width: usize) -> Result<(), &'static str> {
    let weights = &head.logistic.weights;
    if weights.len() != width || !finite(weights) {
        return Err("logistic.weights");
    }
    if head.network.as_ref().is_some_and(|n| !n.fits(width)) {
        return Err("network");
    }
    let factor = &head.logistic.factor;
    let diagonal = |i: usize| factor[i * width + i] > 0.0;
    if factor.len() != width * width || !finite(factor) || !(0..width).all(diagonal) {
        return Err("logistic.factor");
    }
    let rising = |all: &[f64]| finite(all) && all.windows(2).all(|pair| pair[0] <= pair[1]);
    let proper = match &head.calibration {
        Calibration::Platt { slope, shift } => *slope >= 0.0 && finite(&[*slope, *shift]),
        Calibration::Isotonic {
            logits,
            probabilities,
        } => {
            logits.len() == probabilities.len()
                && !logits.is_empty()
                && rising(logits)
                && rising(probabilities)
                && probabilities.iter().all(|p| (0.0..=1.0).contains(p))
        }
    };
    if !proper {
        return Err("calibration");
    }
    let wrong = |length: &crate::train::Length| {
        length.weights.len() != width
            || !finite(&length.weights)
            || !(0.0..1e3).contains(&length.variance)
    };
    if head.length.as_ref().is_some_and(wrong) {
        return Err("length");
    }
    if !head.options.is_valid() {
        return Err("options");
    }
    if !(0.0..=1.0).contains(&head.mean) {
        return Err("mean");
    }
    Ok(())
}
