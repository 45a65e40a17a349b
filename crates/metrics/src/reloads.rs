//! How often the configuration file was read again, and what came of it.

use prometheus::{Error, IntCounterVec, Registry};

use crate::counts;

/// What came of reading the configuration file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// Something of it holds now that did not before.
    Applied,
    /// It has faults, and the old one stays.
    Refused,
    /// It is sound, and nothing that can hold now has changed.
    Unchanged,
}

impl Reload {
    const ALL: [Self; 3] = [Self::Applied, Self::Refused, Self::Unchanged];

    fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Unchanged => "unchanged",
        }
    }
}

/// The counter.
#[derive(Debug, Clone)]
pub(crate) struct Reloads(IntCounterVec);

impl Reloads {
    pub(crate) fn new() -> Result<Self, Error> {
        let reloads = counts(
            "moe2_config_reloads_total",
            "Times the configuration file was read again, by outcome: applied, refused or unchanged.",
            &["outcome"],
        )?;
        for outcome in Reload::ALL {
            // An alert on the first refusal needs the zero before it.
            reloads.with_label_values(&[outcome.as_str()]);
        }
        Ok(Self(reloads))
    }

    pub(crate) fn register(&self, registry: &Registry) -> Result<(), Error> {
        registry.register(Box::new(self.0.clone()))
    }

    pub(crate) fn note(&self, outcome: Reload) {
        self.0.with_label_values(&[outcome.as_str()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn each_outcome_is_there_before_it_comes_and_counted_when_it_does() {
        let metrics = Metrics::new().expect("all families are valid");
        let has = |outcome: Reload, times: u32| {
            let outcome = outcome.as_str();
            let line = format!("moe2_config_reloads_total{{outcome=\"{outcome}\"}} {times}\n");
            let text = metrics.encode().expect("encodes");
            assert!(text.contains(&line), "missing {line} in:\n{text}");
        };
        for outcome in Reload::ALL {
            has(outcome, 0);
            metrics.reloaded(outcome);
            has(outcome, 1);
        }
    }
}
