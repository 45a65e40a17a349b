//! Beta priors per expert and topic: what is believed before answers were judged.
//!
//! A Beta distribution is a belief in the currency of evidence: alpha good answers and beta bad
//! ones seen in imagination. So a judgement from a model card and a count of judged answers have
//! the same shape, and the weight alpha + beta says which one it is. Plain accuracies were not
//! taken, because they cannot say how little is behind them.

use std::collections::BTreeMap;

use moe2_model::ExpertName;
use serde::{Deserialize, Serialize};

use crate::file::GateError;
use crate::topic::Topic;

/// Imagined answers behind the belief about an expert nobody described: few, so that any evidence
/// outweighs it.
const STRANGER_WEIGHT: f64 = 2.0;
/// Probability that an answer is good gained with every tenfold of parameters, and the size at
/// which it is one half. Accuracy on common benchmarks grows about linearly with the logarithm of
/// size; the slope is deliberately less than half of what families show, because a stranger's
/// training is unknown.
const PER_DECADE: f64 = 0.1;
/// See [`PER_DECADE`].
const EVEN_AT_PARAMETERS: f64 = 1e9;
/// No size alone makes an expert better or worse than this.
const SIZE_RANGE: (f64, f64) = (0.3, 0.7);

/// Priors of all experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Priors {
    /// Where the numbers come from, for people.
    pub provenance: String,
    /// One head per expert, independent of all others.
    pub experts: BTreeMap<ExpertName, Head>,
}

/// What is believed of one expert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// A prior for every topic.
    pub topics: BTreeMap<Topic, TopicPrior>,
}

/// What is believed of one expert's answers on one topic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicPrior {
    /// Good answers seen, in imagination or in fact; above 0.
    pub alpha: f64,
    /// Bad answers seen; above 0.
    pub beta: f64,
    /// Expected length of an answer in tokens.
    pub output_tokens: f64,
}

impl Priors {
    /// Checks that every expert has a proper prior for every topic.
    ///
    /// # Errors
    /// [`GateError::Invalid`] names the expert, the topic and the field.
    pub fn check(&self) -> Result<(), GateError> {
        for (expert, head) in &self.experts {
            for topic in Topic::ALL {
                let Some(prior) = head.topics.get(&topic) else {
                    return Err(GateError::Invalid {
                        problem: format!("{expert} has no prior for topic {topic}: add one"),
                    });
                };
                prior.check().map_err(|(field, value)| GateError::Invalid {
                    problem: format!(
                        "{expert}, topic {topic}: {field} is {value}, use a number between 1e-6 and 1e9"
                    ),
                })?;
            }
        }
        Ok(())
    }
}

impl TopicPrior {
    /// The belief about an expert without a head, by its number of weights if that is known.
    pub(crate) fn of_a_stranger(parameters: Option<u64>, topic: Topic) -> Self {
        let mean = match parameters {
            None | Some(0) => 0.5,
            Some(n) => (0.5 + PER_DECADE * (n as f64 / EVEN_AT_PARAMETERS).log10())
                .clamp(SIZE_RANGE.0, SIZE_RANGE.1),
        };
        Self {
            alpha: STRANGER_WEIGHT * mean,
            beta: STRANGER_WEIGHT * (1.0 - mean),
            output_tokens: topic.usual_output_tokens(),
        }
    }

    /// Expected probability of a good answer.
    pub(crate) fn mean(&self) -> f64 {
        self.alpha / (self.alpha + self.beta)
    }

    /// Standard deviation of that probability.
    pub(crate) fn deviation(&self) -> f64 {
        let mean = self.mean();
        (mean * (1.0 - mean) / (self.alpha + self.beta + 1.0)).sqrt()
    }

    fn check(&self) -> Result<(), (&'static str, f64)> {
        let fields = [
            ("alpha", self.alpha),
            ("beta", self.beta),
            ("output_tokens", self.output_tokens),
        ];
        match fields.into_iter().find(|(_, v)| !(1e-6..=1e9).contains(v)) {
            Some(bad) => Err(bad),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priors(change: impl FnOnce(&mut Head)) -> Priors {
        let prior = TopicPrior {
            alpha: 2.0,
            beta: 6.0,
            output_tokens: 100.0,
        };
        let mut head = Head {
            topics: Topic::ALL.into_iter().map(|t| (t, prior)).collect(),
        };
        change(&mut head);
        let name = ExpertName::new("a").expect("a valid name");
        Priors {
            provenance: "test".to_owned(),
            experts: BTreeMap::from([(name, head)]),
        }
    }

    #[test]
    fn a_beta_prior_has_the_textbook_mean_and_deviation() {
        let prior = TopicPrior {
            alpha: 2.0,
            beta: 6.0,
            output_tokens: 1.0,
        };
        assert_eq!(prior.mean(), 0.25);
        assert!((prior.deviation() - (12.0_f64 / (64.0 * 9.0)).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_missing_topic_is_named() {
        let missing = priors(|head| {
            head.topics.remove(&Topic::Math);
        });
        let error = missing.check().expect_err("a topic is missing").to_string();
        assert!(error.contains("topic math"), "{error}");
        assert_eq!(priors(|_| ()).check(), Ok(()));
    }

    #[test]
    fn a_number_that_is_no_prior_is_named() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let priors = priors(|head| {
                if let Some(prior) = head.topics.get_mut(&Topic::Chat) {
                    prior.beta = bad;
                }
            });
            let error = priors.check().expect_err("beta is bad").to_string();
            assert!(error.contains("topic chat: beta"), "{error}");
        }
    }
}
