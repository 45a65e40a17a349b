//! What the planner does: how often, how long, how good, how sure.

use moe2_model::Event;
use prometheus::{Error, Gauge, Histogram, IntCounterVec, IntGauge, Registry};

use crate::{counts, span};

/// Buckets of the planner's solver: usually milliseconds, ended after ten seconds.
const BUCKETS: [f64; 9] = [1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 0.2, 1.0, 5.0, 10.0];

/// The planner's families.
#[derive(Debug, Clone)]
pub(crate) struct Plans {
    plans: IntCounterVec,
    selected: IntGauge,
    offered: IntGauge,
    objective: Gauge,
    bound: Gauge,
    seconds: Histogram,
}

impl Plans {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self {
            plans: counts(
                "moe2_plans_total",
                "Active sets planned, by whether the limits could be kept.",
                &["outcome"],
            )?,
            selected: IntGauge::new("moe2_selected_experts", "Experts in the active set.")?,
            offered: IntGauge::new("moe2_offered_experts", "Experts the planner chose from.")?,
            objective: Gauge::new(
                "moe2_plan_objective",
                "Value of the active set: forecast quality over the calibration prompts.",
            )?,
            bound: Gauge::new(
                "moe2_plan_bound",
                "Proven upper bound on the value of every active set.",
            )?,
            seconds: span(
                ("moe2_plan_duration_seconds", "Time the solver took."),
                &BUCKETS,
            )?,
        })
    }

    pub(crate) fn register(&self, registry: &Registry) -> Result<(), Error> {
        registry.register(Box::new(self.plans.clone()))?;
        registry.register(Box::new(self.selected.clone()))?;
        registry.register(Box::new(self.offered.clone()))?;
        registry.register(Box::new(self.objective.clone()))?;
        registry.register(Box::new(self.bound.clone()))?;
        registry.register(Box::new(self.seconds.clone()))
    }

    /// Takes note of a plan; other events are none.
    pub(crate) fn fold(&self, event: &Event) {
        let Event::Planned {
            selected,
            offered,
            objective,
            bound,
            took,
            infeasible,
        } = event
        else {
            return;
        };
        self.seconds.observe(took.get());
        self.offered
            .set(i64::try_from(*offered).unwrap_or(i64::MAX));
        if infeasible.is_some() {
            // The set from before stays, and so do its figures.
            self.plans.with_label_values(&["infeasible"]).inc();
            return;
        }
        self.plans.with_label_values(&["applied"]).inc();
        self.selected
            .set(i64::try_from(*selected).unwrap_or(i64::MAX));
        self.objective.set(*objective);
        self.bound.set(*bound);
    }
}
