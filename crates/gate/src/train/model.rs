//! What a training gives: the frozen encoder, a head per expert, and what they have in common.

use std::collections::BTreeMap;

use moe2_model::ExpertName;

use super::fit::question;
use super::fusion::FusionGain;
use super::heads::TrainedHead;
use super::trust::{self, Common};
use crate::data::Item;
use crate::encode::topics::Encoder;
use crate::gate::Quality;

/// What a training gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    pub(crate) encoder: Encoder,
    /// By expert.
    pub heads: BTreeMap<ExpertName, TrainedHead>,
    pub(crate) common: Common,
    pub(crate) fusion: FusionGain,
    /// How far an expert's forecast may leave what all have in common, from 0 to 1.
    pub trust: f64,
    /// Fingerprints of the questions, in order.
    pub(crate) questions: Vec<u64>,
}

impl Trained {
    /// What a head needs to see of a question.
    #[must_use]
    pub fn features(&self, item: &Item) -> Vec<f64> {
        self.encoder.features(question(item))
    }

    /// Probability that an expert with a head answers rightly, and its standard deviation.
    #[must_use]
    pub fn forecast(&self, expert: &ExpertName, features: &[f64]) -> Option<(f64, f64)> {
        let head = self.heads.get(expert)?;
        let (p, deviation) = head.forecast(features);
        let ease = self.common.ease(features);
        Some((trust::blend(p, head.mean, ease, self.trust), deviation))
    }

    /// Forecasts of everyone who has both an outcome of the item and a head.
    #[must_use]
    pub fn forecasts(&self, item: &Item) -> BTreeMap<ExpertName, f64> {
        let features = self.features(item);
        let each = item.outcomes.keys();
        each.filter_map(|e| Some((e.clone(), self.forecast(e, &features)?.0)))
            .collect()
    }

    /// What an expert would make of a question. Nothing if it has no head.
    pub(crate) fn quality(&self, expert: &ExpertName, features: &[f64]) -> Option<Quality> {
        let (probability, uncertainty) = self.forecast(expert, features)?;
        let length = self.heads.get(expert).and_then(|h| h.length.as_ref());
        Some(Quality {
            probability,
            output_tokens: length.map_or(1.0, |l| l.tokens(features)),
            uncertainty,
        })
    }

    /// Name of the encoder that reads questions.
    #[must_use]
    pub fn encoder(&self) -> &str {
        self.encoder.base.name()
    }

    /// Names of the encoder's topics.
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.encoder.topics.names
    }

    /// What fusing 2, 3, … experts gained over the best of them where they are equally good, and its
    /// standard error.
    #[must_use]
    pub fn fusion_gains(&self) -> Vec<(f64, f64)> {
        let lines = self.fusion.lines.iter();
        lines.map(|line| (line.gain, line.error)).collect()
    }

    /// Whether it was trained on a question.
    #[must_use]
    pub fn has_seen(&self, item: &Item) -> bool {
        self.questions.binary_search(&item.fingerprint()).is_ok()
    }
}
