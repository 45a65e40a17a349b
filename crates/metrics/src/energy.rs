//! Joules: what experts used, how far that may be off, and what machines drew for nobody.

use moe2_model::Event;
use prometheus::{CounterVec, Error, Opts, Registry};

/// The families in joules.
#[derive(Debug, Clone)]
pub(crate) struct Energy {
    joules: CounterVec,
    error: CounterVec,
    standing: CounterVec,
}

impl Energy {
    pub(crate) fn new() -> Result<Self, Error> {
        let joules = Opts::new(
            "moe2_energy_joules_total",
            "Energy attributed to requests, by expert and source.",
        );
        let error = Opts::new(
            "moe2_energy_error_joules_total",
            "The most by which moe2_energy_joules_total may be off, either way.",
        );
        let standing = Opts::new(
            "moe2_standing_joules_total",
            "Energy that machines drew for no request, by node and source.",
        );
        Ok(Self {
            joules: CounterVec::new(joules, &["expert", "source"])?,
            error: CounterVec::new(error, &["expert", "source"])?,
            standing: CounterVec::new(standing, &["node", "source"])?,
        })
    }

    pub(crate) fn register(&self, registry: &Registry) -> Result<(), Error> {
        for family in [&self.joules, &self.error, &self.standing] {
            registry.register(Box::new(family.clone()))?;
        }
        Ok(())
    }

    /// Takes note of joules; other events are none of it.
    pub(crate) fn fold(&self, event: &Event) {
        match event {
            Event::Used { expert, usage, .. } => {
                let expert = expert.to_string();
                let labels = [expert.as_str(), usage.energy_source.as_str()];
                let (joules, error) = (usage.energy.get(), usage.energy_error.get());
                self.joules.with_label_values(&labels).inc_by(joules);
                self.error.with_label_values(&labels).inc_by(error);
            }
            Event::Standing { node, energy } => {
                let labels = [node.as_str(), energy.source.as_str()];
                let standing = self.standing.with_label_values(&labels);
                standing.inc_by(energy.joules.get());
            }
            _ => {}
        }
    }
}
