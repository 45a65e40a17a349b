//! The interface that routing and planning see, whatever kind of gate is behind it.
//!
//! A gate is a value: loading a newer one replaces it whole, so a query is never judged by half of
//! one and half of another. Kinds are an enum rather than a trait, because a gate must also be
//! written to a file and read back, which only a closed set can.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use moe2_model::{ExpertName, ExpertOffer, Query, Task};

use crate::encode::base::{Embedder, Question};
use crate::features::QueryFeatures;
use crate::file::{self, GateError};
use crate::options::OptionRule;
use crate::priors::{Priors, TopicPrior};
use crate::topic::Topic;
use crate::train::Trained;
use crate::train::fusion::FusionGain;
use crate::trained::{Provenance, TrainedGate};

/// The priors compiled in, for the models that ship with the demo.
const BUILTIN: &str = include_str!("priors.json");
/// The gate compiled in; docs/gate.md says from which record.
const SHIPPED: &[u8] = include_bytes!("shipped-gate.json");

/// What a gate forecasts of one expert for one query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Probability that the answer is good, in [0, 1].
    pub probability: f64,
    /// Expected length of the answer in tokens; for a choice, tokens of all options together.
    pub output_tokens: f64,
    /// Standard deviation of `probability`, in [0, 0.5]: how little the gate knows.
    pub uncertainty: f64,
}

/// What a gate states of one expert, topic by topic: looked up once, so that a choice among many need not search for
/// each. Of the gate that was asked, as long as it is told nothing new of the expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Belief([Quality; Topic::ALL.len()]);

/// What is behind the interface; one variant per `kind` of gate file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Beta priors per expert and topic.
    Priors(Priors),
    /// Heads trained on outcomes.
    Trained(Box<TrainedGate>),
}

/// A gate.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    kind: Kind,
    /// Parameters of experts the fleet offered and no head was made for; not part of the file.
    introduced: BTreeMap<ExpertName, u64>,
}

impl Gate {
    /// The gate compiled in: stated priors for the demo's models.
    #[must_use]
    pub fn builtin() -> Self {
        let priors = serde_json::from_str(BUILTIN)
            .expect("the priors compiled in are read by a test before every release");
        Self::from(Kind::Priors(priors))
    }

    /// The gate that ships: trained on recorded outcomes of the demo's models, with the stated priors for
    /// free text.
    #[must_use]
    pub fn shipped() -> Self {
        Self::from_bytes(SHIPPED)
            .expect("the gate compiled in is read by a test before every release")
    }

    /// A gate from stated priors.
    ///
    /// # Errors
    /// [`GateError::Invalid`] names the first prior that is not one.
    pub fn from_priors(priors: Priors) -> Result<Self, GateError> {
        priors.check()?;
        Ok(Self::from(Kind::Priors(priors)))
    }

    /// A gate from a training, with priors for what it was not trained for.
    ///
    /// # Errors
    /// [`GateError::Invalid`] names the first prior that is not one.
    pub fn from_trained(
        trained: Trained,
        provenance: Provenance,
        priors: Priors,
    ) -> Result<Self, GateError> {
        priors.check()?;
        Ok(Self::from(Kind::Trained(Box::new(TrainedGate {
            provenance,
            trained,
            priors,
        }))))
    }

    /// Reads a gate file.
    ///
    /// # Errors
    /// [`GateError`] says whether the file is something else, from a newer release, damaged, or
    /// states something impossible. A damaged file never gives a gate that differs from the one
    /// written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GateError> {
        Self::from_bytes_with(bytes, &[])
    }

    /// The same for a gate that may need an encoder from outside.
    ///
    /// # Errors
    /// As [`Self::from_bytes`]; [`GateError::NeedsEncoder`] if it is not among `embedders`.
    pub fn from_bytes_with(
        bytes: &[u8],
        embedders: &[Arc<dyn Embedder>],
    ) -> Result<Self, GateError> {
        file::read(bytes, embedders).map(Self::from)
    }

    /// Reads a gate file as it arrives, and says how many bytes it has.
    ///
    /// # Errors
    /// As [`Self::from_bytes_with`]; also if it cannot be read or is larger than any gate.
    pub fn from_reader(
        input: impl Read,
        embedders: &[Arc<dyn Embedder>],
    ) -> Result<(Self, u64), GateError> {
        let bytes = file::bytes(input)?;
        let gate = Self::from_bytes_with(&bytes, embedders)?;
        Ok((gate, bytes.len() as u64))
    }

    /// Writes the gate file: JSON with its format, checksum and content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        file::write(&self.kind)
    }

    /// Tells the gate of an expert in the fleet, so that one without a head of its own is at least
    /// judged by its size. Experts with a head are not affected.
    pub fn introduce(&mut self, offer: &ExpertOffer) {
        if !self.knows(&offer.name) {
            self.introduced.insert(offer.name.clone(), offer.parameters);
        }
    }

    /// What the heads see of a query, computed once for all of them.
    #[must_use]
    pub fn features(&self, query: &Query) -> QueryFeatures {
        let features = QueryFeatures::of(query);
        match (&self.kind, &query.task) {
            (Kind::Trained(gate), Task::Choice { options }) => {
                let question = Question {
                    text: query.prompt.question(),
                    options,
                };
                features.learnt(&gate.trained.encoder, question)
            }
            _ => features,
        }
    }

    /// What each of `experts` would make of the query, in the order asked. The forecast of one
    /// expert does not depend on which others are asked about.
    #[must_use]
    pub fn forecast(&self, query: &QueryFeatures, experts: &[ExpertName]) -> Vec<Quality> {
        let one = |expert| self.one(query, expert, |topic| self.stated(expert, topic));
        experts.iter().map(one).collect()
    }

    /// What there is to know of an expert before a question.
    #[must_use]
    pub fn belief(&self, expert: &ExpertName) -> Belief {
        Belief(Topic::ALL.map(|topic| self.stated(expert, topic)))
    }

    /// [`Gate::forecast`] of one expert whose [`Gate::belief`] is at hand.
    #[must_use]
    pub fn forecast_with(
        &self,
        query: &QueryFeatures,
        expert: &ExpertName,
        belief: &Belief,
    ) -> Quality {
        self.one(query, expert, |topic| belief.0[topic as usize])
    }

    /// How the expert's log-probabilities of options are read.
    #[must_use]
    pub fn option_rule(&self, expert: &ExpertName) -> OptionRule {
        match &self.kind {
            Kind::Priors(_) => OptionRule::default(),
            Kind::Trained(gate) => {
                let head = gate.trained.heads.get(expert);
                head.map_or_else(OptionRule::default, |head| head.options)
            }
        }
    }

    /// What fusing several experts' answers to a choice is forecast to add, measured on held-out outcomes; a
    /// gate that never saw any promises nothing.
    #[must_use]
    pub fn fusion(&self) -> FusionGain {
        let trained = self.trained();
        trained.map_or_else(FusionGain::default, |trained| trained.fusion.clone())
    }

    /// Whether the gate has a head or a stated prior for this expert.
    #[must_use]
    pub fn knows(&self, expert: &ExpertName) -> bool {
        self.priors().experts.contains_key(expert)
            || self.trained().is_some_and(|t| t.heads.contains_key(expert))
    }

    /// What was trained, if anything was.
    #[must_use]
    pub fn trained(&self) -> Option<&Trained> {
        match &self.kind {
            Kind::Priors(_) => None,
            Kind::Trained(gate) => Some(&gate.trained),
        }
    }

    /// How it was trained, if it was.
    #[must_use]
    pub fn training(&self) -> Option<&Provenance> {
        match &self.kind {
            Kind::Priors(_) => None,
            Kind::Trained(gate) => Some(&gate.provenance),
        }
    }

    /// What is believed where nothing was learnt.
    #[must_use]
    pub fn priors(&self) -> &Priors {
        match &self.kind {
            Kind::Priors(priors) => priors,
            Kind::Trained(gate) => &gate.priors,
        }
    }

    /// The kind of gate, as its file spells it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Priors(_) => "priors",
            Kind::Trained(_) => "trained",
        }
    }

    /// Where its numbers come from, for people.
    #[must_use]
    pub fn provenance(&self) -> &str {
        match &self.kind {
            Kind::Priors(priors) => &priors.provenance,
            Kind::Trained(gate) => &gate.provenance.summary,
        }
    }

    fn one(
        &self,
        query: &QueryFeatures,
        expert: &ExpertName,
        stated: impl FnOnce(Topic) -> Quality,
    ) -> Quality {
        let learnt = self.trained().and_then(|trained| {
            let learnt = query.learned(&trained.encoder)?;
            trained.quality(expert, learnt)
        });
        let quality = learnt.unwrap_or_else(|| stated(query.topic()));
        Quality {
            output_tokens: query.cap_output(quality.output_tokens),
            ..quality
        }
    }

    /// What is believed of an expert's answers on a topic where nothing was learnt.
    fn stated(&self, expert: &ExpertName, topic: Topic) -> Quality {
        let head = self.priors().experts.get(expert);
        let prior = head
            .and_then(|head| head.topics.get(&topic).copied())
            .unwrap_or_else(|| {
                TopicPrior::of_a_stranger(self.introduced.get(expert).copied(), topic)
            });
        Quality {
            probability: prior.mean(),
            output_tokens: prior.output_tokens,
            uncertainty: prior.deviation(),
        }
    }
}

impl From<Kind> for Gate {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            introduced: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::priors::Head;
    use moe2_model::Bytes;
    use proptest::prelude::*;

    const DEMO: [&str; 3] = [
        "smollm2-135m-instruct",
        "gemma-3-270m",
        "qwen2.5-coder-0.5b-instruct",
    ];

    fn name(text: &str) -> ExpertName {
        ExpertName::new(text).expect("a valid name")
    }

    fn demo() -> Vec<ExpertName> {
        DEMO.map(name).to_vec()
    }

    fn offer(expert: &str, parameters: u64) -> ExpertOffer {
        ExpertOffer {
            name: name(expert),
            family: "llama".to_owned(),
            quantisation: "Q4_0".to_owned(),
            parameters,
            weights: Bytes(1),
            kv_per_token: Bytes(1),
            context_tokens: 1,
            slots: 1,
            load: None,
        }
    }

    fn best(topic: Topic) -> &'static str {
        let forecasts = Gate::builtin().forecast(&QueryFeatures::of_topic(topic), &demo());
        let best = forecasts
            .iter()
            .zip(DEMO)
            .max_by(|a, b| a.0.probability.total_cmp(&b.0.probability));
        best.expect("three experts were asked").1
    }

    #[test]
    fn the_builtin_gate_is_valid_and_says_that_it_was_not_measured() {
        let gate = Gate::builtin();
        assert_eq!(gate.priors().check(), Ok(()));
        assert!(gate.provenance().contains("not measured"));
        assert!(demo().iter().all(|expert| gate.knows(expert)));
    }

    #[test]
    fn each_demo_expert_is_the_best_at_something() {
        assert_eq!(best(Topic::Code), "qwen2.5-coder-0.5b-instruct");
        assert_eq!(best(Topic::Math), "qwen2.5-coder-0.5b-instruct");
        assert_eq!(best(Topic::Chat), "smollm2-135m-instruct");
        assert_eq!(best(Topic::Text), "gemma-3-270m");
    }

    #[test]
    fn a_stranger_is_judged_by_its_size_and_with_doubt() {
        let mut gate = Gate::builtin();
        gate.introduce(&offer("large", 8_000_000_000));
        gate.introduce(&offer("small", 135_000_000));
        gate.introduce(&offer("empty", 0));
        let asked = ["large", "small", "unheard-of", "empty"].map(name);
        let q = gate.forecast(&QueryFeatures::of_topic(Topic::Chat), &asked);
        assert!(q[0].probability > q[2].probability && q[2].probability > q[1].probability);
        let known = gate.forecast(&QueryFeatures::of_topic(Topic::Chat), &demo());
        let surest_stranger = q.iter().map(|q| q.uncertainty).fold(1.0, f64::min);
        assert!(known.iter().all(|k| k.uncertainty < surest_stranger));
    }

    #[test]
    fn introducing_an_expert_with_a_head_changes_nothing() {
        let mut gate = Gate::builtin();
        gate.introduce(&offer(DEMO[0], 70_000_000_000));
        assert_eq!(gate, Gate::builtin());
    }

    #[test]
    fn a_gate_reads_back_as_it_was_written() {
        let gate = Gate::builtin();
        assert_eq!(Gate::from_bytes(&gate.to_bytes()), Ok(gate));
    }

    proptest! {
        #[test]
        fn restriction_to_a_subset_is_masking(
            topic in prop::sample::select(Topic::ALL.to_vec()),
            asked in prop::collection::vec(0..5_usize, 0..8)
        ) {
            let mut gate = Gate::builtin();
            gate.introduce(&offer("large", 8_000_000_000));
            let everyone: Vec<ExpertName> =
                demo().into_iter().chain([name("large"), name("unheard-of")]).collect();
            let query = QueryFeatures::of_topic(topic);
            let all = gate.forecast(&query, &everyone);
            let subset: Vec<ExpertName> = asked.iter().map(|&i| everyone[i].clone()).collect();
            let restricted = gate.forecast(&query, &subset);
            let masked: Vec<Quality> = asked.iter().map(|&i| all[i]).collect();
            prop_assert_eq!(restricted, masked);
        }

        #[test]
        fn beliefs_at_hand_change_no_forecast(
            topic in prop::sample::select(Topic::ALL.to_vec()),
            trained: bool,
            parameters in 0..100_000_000_000_u64,
        ) {
            let mut gate = if trained { Gate::shipped() } else { Gate::builtin() };
            gate.introduce(&offer("stranger", parameters));
            let asked: Vec<ExpertName> =
                demo().into_iter().chain([name("stranger"), name("unheard-of")]).collect();
            let query = QueryFeatures::of_topic(topic);
            let with = |expert| gate.forecast_with(&query, expert, &gate.belief(expert));
            let with: Vec<Quality> = asked.iter().map(with).collect();
            prop_assert_eq!(with, gate.forecast(&query, &asked));
        }

        #[test]
        fn a_head_added_later_changes_no_other(
            topic in prop::sample::select(Topic::ALL.to_vec()), alpha in 0.1..50.0_f64, beta in 0.1..50.0_f64
        ) {
            let before = Gate::builtin();
            let mut priors = before.priors().clone();
            let prior = TopicPrior { alpha, beta, output_tokens: 50.0 };
            let topics = Topic::ALL.into_iter().map(|t| (t, prior)).collect();
            priors.experts.insert(name("newcomer"), Head { topics });
            let after = Gate::from_priors(priors).expect("the priors are valid");
            let query = QueryFeatures::of_topic(topic);
            prop_assert_eq!(before.forecast(&query, &demo()), after.forecast(&query, &demo()));
            let q = after.forecast(&query, &[name("newcomer")])[0];
            prop_assert!((0.0..=1.0).contains(&q.probability) && (0.0..=0.5).contains(&q.uncertainty));
        }
    }
}
