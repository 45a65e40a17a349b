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
                "Active sets planned, by outcome: applied, infeasible or failed.",
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

    /// Takes note of what the planner does; other events are none of it.
    pub(crate) fn fold(&self, event: &Event) {
        match event {
            Event::Planned {
                objective,
                bound,
                took,
                infeasible,
                ..
            } => {
                self.seconds.observe(took.get());
                if infeasible.is_some() {
                    // The set from before stays, and so do its figures.
                    self.plans.with_label_values(&["infeasible"]).inc();
                    return;
                }
                self.plans.with_label_values(&["applied"]).inc();
                self.objective.set(*objective);
                self.bound.set(*bound);
            }
            Event::PlanFailed { .. } => self.plans.with_label_values(&["failed"]).inc(),
            Event::ActiveSet { selected, offered } => {
                let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
                self.selected.set(count(*selected));
                self.offered.set(count(*offered));
            }
            _ => {}
        }
    }
}
