//! Folds of [`moe2_model::Event`] into Prometheus families, and nothing else.
//!
//! The engine says what happened; what is counted, summed or put into buckets is decided here, so
//! that no decision code knows a metric's name. Labels are experts, nodes, tenants and closed enums:
//! bounded by the fleet, never by what clients send. Names follow the conventions of the exposition
//! format: base units, `_total` on counters, joules as counters so that any window can be taken.

mod energy;
mod plans;
mod prices;
mod reloads;
mod troubles;

use moe2_model::{Covered, Event, Outcome, Seconds};
use prometheus::{
    Counter, CounterVec, Encoder, Error, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, Opts, Registry, TextEncoder,
};

use energy::Energy;
use plans::Plans;
use prices::Prices;
use reloads::Reloads;
use troubles::Troubles;

pub use reloads::Reload;

/// Buckets of whole requests in seconds, as the GenAI semantic conventions give them for
/// `gen_ai.server.request.duration`.
const REQUEST_BUCKETS: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
/// Buckets of `gen_ai.server.time_to_first_token` in seconds.
const FIRST_TOKEN_BUCKETS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Buckets of the coordinator's own share: from a parsed request to its frames on QUIC.
const DISPATCH_BUCKETS: [f64; 13] = [
    25e-6, 50e-6, 75e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 2e-3, 5e-3, 20e-3,
];

/// All families of the coordinator.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    queries: IntCounterVec,
    query_seconds: HistogramVec,
    first_token: Histogram,
    dispatch_seconds: Histogram,
    dispatches: IntCounterVec,
    tokens: IntCounterVec,
    energy: Energy,
    busy: CounterVec,
    forecast_error: HistogramVec,
    forecasts: IntCounterVec,
    early_exits: IntCounter,
    saved_joules: Counter,
    unrecorded: IntCounter,
    refused_connections: IntCounter,
    prices: Prices,
    plans: Plans,
    reloads: Reloads,
    troubles: Troubles,
}

impl Metrics {
    /// A registry with every family at zero.
    ///
    /// # Errors
    /// A family whose name or labels the exposition format does not allow.
    pub fn new() -> Result<Self, Error> {
        let made = Self {
            registry: Registry::new(),
            queries: counts(
                "moe2_queries_total",
                "Queries by outcome.",
                &["tenant", "outcome"],
            )?,
            query_seconds: spans(
                (
                    "moe2_query_duration_seconds",
                    "Submission to the last byte of answer.",
                ),
                &["tenant"],
                &REQUEST_BUCKETS,
            )?,
            first_token: span(
                (
                    "moe2_time_to_first_token_seconds",
                    "Submission to the first piece of answer.",
                ),
                &FIRST_TOKEN_BUCKETS,
            )?,
            dispatch_seconds: span(
                (
                    "moe2_dispatch_duration_seconds",
                    "Parsed request to work written to QUIC.",
                ),
                &DISPATCH_BUCKETS,
            )?,
            dispatches: counts(
                "moe2_dispatches_total",
                "Work handed to experts.",
                &["expert", "redispatch"],
            )?,
            tokens: counts("moe2_tokens_total", "Tokens by kind.", &["expert", "type"])?,
            energy: Energy::new()?,
            busy: sums(
                "moe2_busy_seconds_total",
                "Time that work took at experts, by phase; of work in one batch each counts.",
                &["expert", "phase"],
            )?,
            forecasts: counts(
                "moe2_forecasts_total",
                "Work that ran to its end, by whether the forecast's p95 held.",
                &["expert", "forecast", "covered"],
            )?,
            forecast_error: spans(
                ("moe2_forecast_ratio", "Measured delay over forecast delay."),
                &["expert"],
                &[0.1, 0.25, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 2.0, 4.0, 10.0],
            )?,
            early_exits: IntCounter::new(
                "moe2_early_exits_total",
                "Queries answered before all their experts, because the rest could not change it.",
            )?,
            saved_joules: Counter::new(
                "moe2_early_exit_saved_joules_total",
                "Forecast minus reported energy of the work that early exits cancelled.",
            )?,
            refused_connections: IntCounter::new(
                "moe2_refused_connections_total",
                "Clients' connections beyond the limit that were told so.",
            )?,
            unrecorded: IntCounter::new(
                "moe2_explanations_dropped_total",
                "Queries of which no explanation was kept, because writing them fell behind or failed.",
            )?,
            prices: Prices::new()?,
            plans: Plans::new()?,
            reloads: Reloads::new()?,
            troubles: Troubles::new()?,
        };
        made.register()?;
        Ok(made)
    }

    fn register(&self) -> Result<(), Error> {
        let registry = &self.registry;
        registry.register(Box::new(self.queries.clone()))?;
        registry.register(Box::new(self.query_seconds.clone()))?;
        registry.register(Box::new(self.first_token.clone()))?;
        registry.register(Box::new(self.dispatch_seconds.clone()))?;
        registry.register(Box::new(self.dispatches.clone()))?;
        registry.register(Box::new(self.tokens.clone()))?;
        self.energy.register(registry)?;
        registry.register(Box::new(self.busy.clone()))?;
        registry.register(Box::new(self.refused_connections.clone()))?;
        registry.register(Box::new(self.unrecorded.clone()))?;
        self.prices.register(registry)?;
        registry.register(Box::new(self.forecast_error.clone()))?;
        registry.register(Box::new(self.forecasts.clone()))?;
        registry.register(Box::new(self.early_exits.clone()))?;
        registry.register(Box::new(self.saved_joules.clone()))?;
        self.plans.register(registry)?;
        self.troubles.register(registry)?;
        self.reloads.register(registry)
    }

    fn covered(&self, expert: &str, covered: Option<Covered>) {
        let Some(covered) = covered else { return };
        let kinds = [
            ("delay", Some(covered.delay)),
            ("first_token", covered.first_token),
            ("energy", Some(covered.energy)),
        ];
        let kinds = kinds
            .into_iter()
            .filter_map(|(what, held)| Some((what, held?)));
        for (what, held) in kinds {
            let held = if held { "true" } else { "false" };
            self.forecasts
                .with_label_values(&[expert, what, held])
                .inc();
        }
    }

    /// Takes note of one event.
    pub fn fold(&self, event: &Event) {
        match event {
            Event::QueryEnded {
                tenant,
                outcome,
                delay,
                first_delta,
                ..
            } => {
                let tenant = tenant.as_str();
                self.queries
                    .with_label_values(&[tenant, outcome_label(*outcome)])
                    .inc();
                if *outcome == Outcome::Answered {
                    self.query_seconds
                        .with_label_values(&[tenant])
                        .observe(delay.get());
                }
                if let Some(first) = first_delta {
                    self.first_token.observe(first.get());
                }
            }
            Event::Dispatched { expert, redispatch } => {
                let again = if *redispatch { "true" } else { "false" };
                self.dispatches
                    .with_label_values(&[expert.to_string().as_str(), again])
                    .inc();
            }
            Event::Used {
                expert,
                usage,
                forecast_delay,
                delay,
                covered,
            } => {
                let expert = expert.to_string();
                let expert = expert.as_str();
                let tokens = |kind: &str, n: u32| {
                    self.tokens
                        .with_label_values(&[expert, kind])
                        .inc_by(u64::from(n));
                };
                tokens("input", usage.prompt_tokens);
                tokens("output", usage.output_tokens);
                self.energy.fold(event);
                let busy = |phase: &str, s: Seconds| {
                    self.busy
                        .with_label_values(&[expert, phase])
                        .inc_by(s.get());
                };
                busy("prefill", usage.prefill);
                busy("decode", usage.decode);
                self.covered(expert, *covered);
                if forecast_delay.get() > 0.0 {
                    let ratio = delay.get() / forecast_delay.get();
                    self.forecast_error
                        .with_label_values(&[expert])
                        .observe(ratio);
                }
            }
            priced @ Event::Priced { .. } => self.prices.fold(priced),
            Event::EarlyExit { .. } => self.early_exits.inc(),
            Event::Saved { energy } => self.saved_joules.inc_by(energy.get()),
            trouble @ (Event::Moved { .. }
            | Event::DispatchFailed { .. }
            | Event::Hedged { .. }
            | Event::HedgeWon { .. }
            | Event::LeftAlone { .. }
            | Event::Loads { .. }
            | Event::NodeJoined { .. }
            | Event::NodeSuspected { .. }
            | Event::Clock { .. }
            | Event::NodeLost { .. }) => self.troubles.fold(trouble),
            standing @ Event::Standing { .. } => self.energy.fold(standing),
            planning @ (Event::Planned { .. }
            | Event::PlanFailed { .. }
            | Event::ActiveSet { .. }) => self.plans.fold(planning),
        }
    }

    /// Takes note of how long the coordinator took from a parsed request to frames on QUIC.
    pub fn dispatched_in(&self, time: Seconds) {
        self.dispatch_seconds.observe(time.get());
    }

    /// Notes queries of which no explanation was kept.
    pub fn unrecorded(&self, queries: u64) {
        self.unrecorded.inc_by(queries);
    }

    /// Notes a client's connection that was one too many.
    pub fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    /// Notes that the configuration file was read again.
    pub fn reloaded(&self, outcome: Reload) {
        self.reloads.note(outcome);
    }

    /// All families in the text exposition format.
    ///
    /// # Errors
    /// A family that cannot be written, which would be a defect of this crate.
    pub fn encode(&self) -> Result<String, Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|e| Error::Msg(e.to_string()))
    }
}

fn outcome_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Abandoned => "abandoned",
        Outcome::Refused(kind) => kind.as_str(),
    }
}

fn counts(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn sums(name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, Error> {
    CounterVec::new(Opts::new(name, help), labels)
}

fn spans(
    (name, help): (&str, &str),
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, Error> {
    HistogramVec::new(
        HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        labels,
    )
}

fn span((name, help): (&str, &str), buckets: &[f64]) -> Result<Histogram, Error> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{EnergySource, ExpertId, Figure, Joules, RefusalKind, TenantId, Usage};

    #[test]
    fn a_plan_that_cannot_be_kept_is_counted_and_leaves_the_figures_of_the_last_one() {
        let metrics = Metrics::new().expect("all families are valid");
        let planned = |infeasible: Option<&str>, objective| Event::Planned {
            selected: 2,
            offered: 3,
            objective,
            bound: objective,
            took: Seconds::saturating(0.001),
            infeasible: infeasible.map(str::to_owned),
            unserved: Vec::new(),
        };
        metrics.fold(&planned(None, 0.75));
        metrics.fold(&planned(Some("no expert fits"), 0.0));
        metrics.fold(&Event::PlanFailed {
            reason: "too many experts".to_owned(),
        });
        metrics.fold(&Event::ActiveSet {
            selected: 2,
            offered: 3,
        });
        let text = metrics.encode().expect("encodes");
        for line in [
            "moe2_plans_total{outcome=\"applied\"} 1",
            "moe2_plans_total{outcome=\"infeasible\"} 1",
            "moe2_plans_total{outcome=\"failed\"} 1",
            "moe2_plan_objective 0.75",
            "moe2_selected_experts 2",
            "moe2_plan_duration_seconds_count 2",
        ] {
            assert!(text.contains(line), "missing {line} in:\n{text}");
        }
    }

    #[test]
    fn events_become_counters_and_the_source_of_a_joule_is_a_label() {
        let metrics = Metrics::new().expect("all families are valid");
        let expert: ExpertId = "m@n".parse().expect("a valid id");
        let usage = Usage {
            prompt_tokens: 11,
            cached_tokens: 0,
            output_tokens: 5,
            queue: Seconds::ZERO,
            prefill: Seconds::saturating(0.5),
            decode: Seconds::saturating(1.5),
            energy: Joules::saturating(20.0),
            energy_source: EnergySource::Modelled,
            energy_error: Joules::saturating(20.0),
        };
        let delay = Seconds::saturating(2.0);
        metrics.fold(&Event::Used {
            expert,
            usage,
            forecast_delay: delay,
            delay,
            covered: Some(Covered {
                delay: true,
                first_token: Some(false),
                energy: false,
            }),
        });
        metrics.fold(&Event::QueryEnded {
            tenant: TenantId::new("t").expect("a valid name"),
            outcome: Outcome::Refused(RefusalKind::BudgetInfeasible),
            delay,
            first_delta: None,
            energy: Joules::ZERO,
        });
        metrics.fold(&Event::EarlyExit { cancelled: 2 });
        metrics.fold(&Event::Standing {
            node: "n".parse().expect("a valid name"),
            energy: Figure {
                joules: Joules::saturating(5.0),
                error: Joules::saturating(0.5),
                source: EnergySource::Rapl,
            },
        });
        for joules in [1.5, 0.25] {
            let energy = Joules::saturating(joules);
            metrics.fold(&Event::Saved { energy });
        }
        let text = metrics.encode().expect("encodes");
        for line in [
            "moe2_early_exits_total 1",
            "moe2_forecasts_total{covered=\"false\",expert=\"m@n\",forecast=\"energy\"} 1",
            "moe2_forecasts_total{covered=\"false\",expert=\"m@n\",forecast=\"first_token\"} 1",
            "moe2_early_exit_saved_joules_total 1.75",
            "moe2_energy_joules_total{expert=\"m@n\",source=\"modelled\"} 20",
            "moe2_energy_error_joules_total{expert=\"m@n\",source=\"modelled\"} 20",
            "moe2_standing_joules_total{node=\"n\",source=\"measured:rapl\"} 5",
            "moe2_tokens_total{expert=\"m@n\",type=\"output\"} 5",
            "moe2_queries_total{outcome=\"budget_infeasible\",tenant=\"t\"} 1",
        ] {
            assert!(text.contains(line), "missing {line} in:\n{text}");
        }
    }
}
