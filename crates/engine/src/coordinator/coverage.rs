//! Intervals of delays that hold for every tenant: how far beyond its mean a forecast's 95th percentile has to
//! be is corrected by whether answers stayed within it (adaptive conformal inference; Gibbs and Candès,
//! "Adaptive conformal inference under distribution shift", 2021).
//!
//! Residuals per expert say how uncertain its speed is. They do not say how long the answers of one application
//! are, how its work comes in bursts, or how often others are served first, and whoever picks the best of many
//! forecasts picks those that are too good. All of that is in the one figure that counts: the share of a tenant's
//! answers that were later than the percentile said. It multiplies the distance between mean and percentile by
//! exp(η·0.95) for each that was, by exp(−η·0.05) for each that was not. So over T answers during which the
//! factor stays within its range
//!
//! > share later than the percentile = 0.05 + ln(factor after / factor before) / (η·T).

use std::collections::BTreeMap;

use moe2_gate::Topic;
use moe2_model::{Forecast, Seconds, TenantId};

/// Share that a 95th percentile misses.
const MISSED: f64 = 0.05;
/// η: a miss widens the interval by a tenth.
const STEP: f64 = 0.1;
/// Least and most of the factor: a tenth of what experts' own errors say, and thirty times that.
const RANGE: (f64, f64) = (0.1, 30.0);
/// Least distance that is widened, as a share of the mean: no factor widens an interval of nothing.
const LEAST: f64 = 0.01;
/// Tenants, topics and kinds of time that are kept apart; where anybody may ask, later ones have forecasts as they are.
const MOST: usize = 4_096;

/// A time that is forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Span {
    /// To the last token.
    Delay,
    /// To the first.
    FirstToken,
}

/// Those of one tenant's answers on one topic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Factors {
    delay: f64,
    first_token: f64,
}

impl Factors {
    /// The forecast with the percentiles that the answers stay within.
    pub(crate) fn correct(&self, forecast: Forecast) -> Forecast {
        let percentile = |mean: Seconds, p95: Seconds, factor: f64| {
            let beyond = f64::max((p95 - mean).get(), LEAST * mean.get());
            mean + Seconds::saturating(beyond * factor)
        };
        let first = (forecast.first_token, forecast.first_token_p95);
        Forecast {
            delay_p95: percentile(forecast.delay, forecast.delay_p95, self.delay),
            first_token_p95: percentile(first.0, first.1, self.first_token),
            ..forecast
        }
    }
}

/// The factor of every tenant, topic and kind of time.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    factors: BTreeMap<TenantId, BTreeMap<(Topic, Span), f64>>,
    kept: usize,
}

impl Coverage {
    fn factor(&self, tenant: &TenantId, topic: Topic, span: Span) -> f64 {
        let own = self.factors.get(tenant);
        let factor = own.and_then(|own| own.get(&(topic, span)));
        factor.copied().unwrap_or(1.0)
    }

    /// The factors of a tenant's answers on a topic.
    pub(crate) fn of(&self, tenant: &TenantId, topic: Topic) -> Factors {
        Factors {
            delay: self.factor(tenant, topic, Span::Delay),
            first_token: self.factor(tenant, topic, Span::FirstToken),
        }
    }

    /// Notes whether an answer came within its forecast's percentile.
    pub(crate) fn note(&mut self, (tenant, topic): (&TenantId, Topic), span: Span, covered: bool) {
        let step = if covered {
            -STEP * MISSED
        } else {
            STEP * (1.0 - MISSED)
        };
        let factor = self.factor(tenant, topic, span);
        let next = (factor * step.exp()).clamp(RANGE.0, RANGE.1);
        if let Some(own) = self.factors.get_mut(tenant)
            && let Some(factor) = own.get_mut(&(topic, span))
        {
            *factor = next;
        } else if self.kept < MOST {
            self.kept += 1;
            let own = self.factors.entry(tenant.clone()).or_default();
            own.insert((topic, span), next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::{Joules, Rng};
    use proptest::prelude::*;

    fn forecast(delay: f64, p95: f64) -> Forecast {
        Forecast {
            quality: 0.5,
            output_tokens: 10.0,
            waiting: Seconds::ZERO,
            delay: Seconds::saturating(delay),
            delay_p95: Seconds::saturating(p95),
            first_token: Seconds::saturating(delay / 4.0),
            first_token_p95: Seconds::saturating(p95 / 4.0),
            energy: Joules::ZERO,
            energy_p95: Joules::ZERO,
            samples: 0,
        }
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a valid name")
    }

    #[test]
    fn nineteen_in_twenty_are_covered_whatever_the_errors_are() {
        // Far too narrow, far too wide, and one that changes on the way.
        for (spread, then) in [(1.2, 1.2), (0.05, 0.05), (0.2, 1.0)] {
            let (mut coverage, own) = (Coverage::default(), tenant("a"));
            let mut rng = Rng::new(7);
            let answers = 20_000;
            let mut covered = 0;
            for n in 0..answers {
                let spread = if n < answers / 2 { spread } else { then };
                let p95 = coverage.of(&own, Topic::Chat).correct(forecast(2.0, 3.0));
                let took = Seconds::saturating(2.0 * (spread * rng.normal()).exp());
                let within = took <= p95.delay_p95;
                covered += u32::from(within);
                coverage.note((&own, Topic::Chat), Span::Delay, within);
            }
            let share = f64::from(covered) / f64::from(answers);
            assert!((share - 0.95).abs() < 0.005, "{spread}: {share}");
        }
    }

    #[test]
    fn tenants_and_topics_do_not_teach_each_other() {
        let (mut coverage, a, b) = (Coverage::default(), tenant("a"), tenant("b"));
        (0..50).for_each(|_| coverage.note((&a, Topic::Code), Span::Delay, false));
        let p95 = |whose: (&TenantId, Topic)| {
            coverage
                .of(whose.0, whose.1)
                .correct(forecast(2.0, 3.0))
                .delay_p95
                .get()
        };
        assert!(
            (p95((&a, Topic::Code)) - 32.0).abs() < 1e-9,
            "at most thirty times"
        );
        assert_eq!(p95((&a, Topic::Chat)), 3.0);
        assert_eq!(p95((&b, Topic::Code)), 3.0);
        let first = |coverage: &Coverage| {
            let forecast = coverage.of(&a, Topic::Code).correct(forecast(2.0, 3.0));
            forecast.first_token_p95.get()
        };
        assert_eq!(
            first(&coverage),
            0.75,
            "delays say nothing about first tokens"
        );
        (0..50).for_each(|_| coverage.note((&a, Topic::Code), Span::FirstToken, false));
        assert!((first(&coverage) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn a_forecast_that_claims_to_be_certain_is_widened_as_well() {
        let (mut coverage, own) = (Coverage::default(), tenant("a"));
        (0..50).for_each(|_| coverage.note((&own, Topic::Chat), Span::Delay, false));
        let p95 = coverage.of(&own, Topic::Chat).correct(forecast(2.0, 2.0));
        assert!((p95.delay_p95.get() - 2.6).abs() < 1e-9, "{p95:?}");
    }

    #[test]
    fn strangers_are_not_remembered_without_end() {
        let mut coverage = Coverage::default();
        for n in 0..2 * MOST {
            coverage.note((&tenant(&format!("t{n}")), Topic::Chat), Span::Delay, false);
        }
        assert_eq!(coverage.factors.len(), MOST);
        coverage.note((&tenant("t0"), Topic::Chat), Span::Delay, false);
        let known = coverage
            .of(&tenant("t0"), Topic::Chat)
            .correct(forecast(2.0, 3.0));
        assert!((known.delay_p95.get() - 2.0 - 0.19_f64.exp()).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_share_that_is_missed_follows_from_the_factor(misses in prop::collection::vec(any::<bool>(), 1..400)) {
            let (mut coverage, own) = (Coverage::default(), tenant("a"));
            let (mut missed, mut lost) = (0.0, false);
            for miss in &misses {
                coverage.note((&own, Topic::Math), Span::Delay, !miss);
                missed += f64::from(u8::from(*miss));
                let factor = coverage.factor(&own, Topic::Math, Span::Delay);
                lost |= factor <= RANGE.0 || factor >= RANGE.1;
            }
            let answers = misses.len() as f64;
            let said = MISSED + coverage.factor(&own, Topic::Math, Span::Delay).ln() / (STEP * answers);
            prop_assert!(lost || (missed / answers - said).abs() < 1e-9, "{} {}", missed / answers, said);
        }
    }
}
