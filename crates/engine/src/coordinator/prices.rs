//! Prices that keep a tenant's means: what a joule, a second and a second until the first token cost its
//! queries, corrected by what the last ones took (MATH 2.2: λ and μ).
//!
//! What is used multiplies the price by exp(η·used / budget), the end of a query by exp(−η): mirror ascent
//! on the dual of "mean use at most the budget". The logarithm of the price is a sum of what was overspent,
//! so over any T queries during which the price stays off its ceiling
//!
//! > mean use ≤ budget · (1 + ln(price after / price before) / (η·T)),
//!
//! whatever the fleet does meanwhile: the mean holds by arithmetic, not because forecasts are right.
//! The planner's prices are where it starts, and their rises are taken over at once; a rise only lowers the
//! mean. The ceiling bounds how much is remembered of a time in which no expert kept the budget (anti-windup), the
//! floor how much of one in which all did.

use std::collections::BTreeMap;

use moe2_model::{Joules, Prices, Seconds, TenantId};
use serde::Serialize;

use super::plan::{Priced, TenantLimits};

/// η: a query that takes twice the budget raises the price by a twentieth.
const STEP: f64 = 0.05;
/// Share of answers that may be late where 95 in 100 have to be in time. Less than a twentieth, so that not the
/// whole but every window of a few minutes keeps it: answers that are late come together, when
/// machines are slow or others ask much.
const LATE: f64 = 0.005;
/// η of lateness: few queries say much, so each may say less. A late answer raises the price by two thirds.
const LATE_STEP: f64 = 0.0025;
/// Least and most that being late costs: a whole answer, and two hundred. More
/// would change no choice between answers, but outbid a budget of joules where the two cannot both be kept.
const LATE_PRICES: (f64, f64) = (1.0, 200.0);
/// A price at which the budget is worth this much quality: more would change no choice.
const CEILING: f64 = 20.0;

/// What the mean time to the first token is worth at least, which is no setting: so little that it decides only
/// between equals, and enough to rise from.
const LEAST_FIRST_TOKEN: f64 = 0.001;

/// One price with its budget.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Dual {
    /// Mean use per query.
    budget: f64,
    /// η.
    step: f64,
    price: f64,
    floor: f64,
    ceiling: f64,
    /// What the planner last said; 0 until it does.
    planned: f64,
    /// Sums since the budget was set, for people.
    used: f64,
    queries: u64,
}

impl Dual {
    fn new(budget: f64, floor: f64) -> Self {
        Self {
            budget,
            step: STEP,
            price: floor,
            floor,
            ceiling: (CEILING / budget).max(floor),
            planned: 0.0,
            used: 0.0,
            queries: 0,
        }
    }

    fn late() -> Self {
        Self {
            step: LATE_STEP,
            ceiling: LATE_PRICES.1,
            ..Self::new(LATE, LATE_PRICES.0)
        }
    }

    /// The same with another floor, which is the operator's price.
    fn above(self, floor: f64) -> Self {
        let ceiling = Self::new(self.budget, floor).ceiling;
        Self {
            price: self.price.clamp(floor, ceiling),
            floor,
            ceiling,
            ..self
        }
    }

    /// Takes the planner's word as a start, and afterwards its rises: fewer or dearer experts cost more before
    /// anything is overspent. Not its falls, because then the mean would hang on forecasts.
    fn planned(&mut self, price: f64) {
        let before = std::mem::replace(&mut self.planned, price);
        let price = if self.queries == 0 && self.used == 0.0 {
            price
        } else if before > 0.0 && price > before {
            self.price * (price / before)
        } else if before <= 0.0 {
            self.price.max(price)
        } else {
            self.price
        };
        self.price = price.clamp(self.floor, self.ceiling);
    }

    fn used(&mut self, used: f64) {
        self.used += used;
        self.step(self.step * used / self.budget);
    }

    fn ended(&mut self) {
        self.queries += 1;
        self.step(-self.step);
    }

    fn step(&mut self, step: f64) {
        // A price of nothing could never rise again.
        let price = self.price.max(1e-9 / self.budget);
        self.price = (price * step.exp()).clamp(self.floor, self.ceiling);
    }

    fn view(&self) -> PriceView {
        PriceView {
            budget: self.budget,
            mean: self.used / self.queries.max(1) as f64,
            queries: self.queries,
            price: self.price,
            planned: self.planned,
            // The end of a query takes it a little below.
            saturated: self.ceiling > self.floor
                && self.price >= self.ceiling * (-1.5 * self.step).exp(),
        }
    }
}

/// A price as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PriceView {
    /// Mean that is to be kept, joules or seconds.
    pub budget: f64,
    /// Mean since the budget was set.
    pub mean: f64,
    /// Queries that ended since then.
    pub queries: u64,
    /// Quality that a joule or a second is worth now.
    pub price: f64,
    /// What the planner last gave it, from forecasts; 0 if it never did, or the budget does not bind.
    pub planned: f64,
    /// At its ceiling: no admissible expert keeps the budget.
    pub saturated: bool,
}

/// A tenant's prices.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Own {
    energy: Option<Dual>,
    delay: Option<Dual>,
    /// Of streamed answers only.
    first_token: Option<Dual>,
    /// Its use is 1 for a late answer and 0 for another: the mean is the share of late ones.
    late: Option<Dual>,
}

/// How long a query took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Taken {
    /// In all.
    pub(crate) delay: Seconds,
    /// Until the first token, of streamed answers only.
    pub(crate) first_token: Option<Seconds>,
    /// If there is a time that most answers stay within.
    pub(crate) late: Option<bool>,
}

/// A tenant's prices as people see them; nothing where it has no such budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct TenantPrices {
    /// Of a joule.
    pub joules: Option<PriceView>,
    /// Of a second.
    pub seconds: Option<PriceView>,
    /// Of a second until the first token of streamed answers.
    pub first_token_seconds: Option<PriceView>,
    /// Of being late; budget and mean are shares of answers.
    pub late: Option<PriceView>,
}

/// Everyone's prices.
#[derive(Debug, Default)]
pub(crate) struct Steering {
    tenants: BTreeMap<TenantId, Own>,
}

impl Steering {
    /// Takes budgets and the least prices; a budget that stays keeps its price, or the nearest that is allowed.
    pub(crate) fn limit(&mut self, tenants: &[TenantLimits], floor: Prices) {
        let mut before = std::mem::take(&mut self.tenants);
        for limits in tenants {
            let own = before.remove(&limits.tenant).unwrap_or_default();
            let kept = |old: Option<Dual>, budget: Option<f64>, floor: f64| {
                let budget = budget?;
                let same = old.filter(|dual| dual.budget == budget);
                Some(same.map_or_else(|| Dual::new(budget, floor), |dual| dual.above(floor)))
            };
            let own = Own {
                energy: kept(
                    own.energy,
                    limits.mean_energy.map(Joules::get),
                    floor.per_joule,
                ),
                delay: kept(
                    own.delay,
                    limits.mean_delay.map(Seconds::get),
                    floor.per_second,
                ),
                first_token: kept(
                    own.first_token,
                    limits.mean_first_token.map(Seconds::get),
                    limits
                        .mean_first_token
                        .map_or(0.0, |mean| LEAST_FIRST_TOKEN / mean.get()),
                ),
                late: limits
                    .has_percentile()
                    .then(|| own.late.unwrap_or_else(Dual::late)),
            };
            if own != Own::default() {
                self.tenants.insert(limits.tenant.clone(), own);
            }
        }
    }

    /// Takes prices from the planner; where no mix of experts keeps a mean, the highest there is.
    pub(crate) fn planned(&mut self, priced: &[Priced]) {
        for Priced {
            tenant,
            prices,
            per_first_token_second,
        } in priced
        {
            let Some(own) = self.tenants.get_mut(tenant) else {
                continue;
            };
            if let Some(dual) = &mut own.energy {
                dual.planned(prices.map_or(dual.ceiling, |p| p.per_joule));
            }
            if let Some(dual) = &mut own.delay {
                dual.planned(prices.map_or(dual.ceiling, |p| p.per_second));
            }
            if let Some(dual) = &mut own.first_token {
                let price = per_first_token_second.map(|price| price.unwrap_or(dual.ceiling));
                if let Some(price) = price {
                    dual.planned(price);
                }
            }
        }
    }

    /// What a tenant's next query is steered by; its answer may be `streamed`.
    pub(crate) fn prices(&self, tenant: &TenantId, floor: Prices, streamed: bool) -> Prices {
        let own = self.tenants.get(tenant).copied().unwrap_or_default();
        Prices {
            per_joule: own.energy.map_or(floor.per_joule, |dual| dual.price),
            per_second: own.delay.map_or(floor.per_second, |dual| dual.price),
            per_first_token_second: own
                .first_token
                .filter(|_| streamed)
                .map_or(floor.per_first_token_second, |dual| dual.price),
        }
    }

    /// What being late costs a tenant's next query.
    pub(crate) fn per_late(&self, tenant: &TenantId) -> f64 {
        let dual = self.tenants.get(tenant).and_then(|own| own.late);
        dual.map_or(LATE_PRICES.0, |dual| dual.price)
    }

    /// Notes what a dispatch took, whatever became of its query.
    pub(crate) fn used(&mut self, tenant: &TenantId, energy: Joules) {
        if let Some(dual) = self
            .tenants
            .get_mut(tenant)
            .and_then(|own| own.energy.as_mut())
        {
            dual.used(energy.get());
        }
    }

    /// Notes that a query that was dispatched has ended.
    pub(crate) fn ended(&mut self, tenant: &TenantId, taken: Taken) {
        let Some(own) = self.tenants.get_mut(tenant) else {
            return;
        };
        if let Some(dual) = &mut own.energy {
            dual.ended();
        }
        if let Some(dual) = &mut own.delay {
            dual.used(taken.delay.get());
            dual.ended();
        }
        if let (Some(dual), Some(first)) = (&mut own.first_token, taken.first_token) {
            dual.used(first.get());
            dual.ended();
        }
        if let (Some(dual), Some(late)) = (&mut own.late, taken.late) {
            dual.used(f64::from(u8::from(late)));
            dual.ended();
        }
    }

    /// A tenant's own prices.
    pub(crate) fn view(&self, tenant: &TenantId) -> TenantPrices {
        let own = self.tenants.get(tenant).copied().unwrap_or_default();
        let all = [own.energy, own.delay, own.first_token, own.late];
        let [joules, seconds, first_token_seconds, late] =
            all.map(|dual| dual.map(|dual| dual.view()));
        TenantPrices {
            joules,
            seconds,
            first_token_seconds,
            late,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Rng;
    use proptest::prelude::*;

    const FLOOR: Prices = Prices {
        per_joule: 0.001,
        per_second: 0.01,
        per_first_token_second: 0.0,
    };

    fn steering(joules: f64) -> (Steering, TenantId) {
        let tenant = TenantId::new("t").expect("a valid name");
        let limits = TenantLimits {
            mean_energy: Some(Joules::saturating(joules)),
            ..TenantLimits::unlimited(tenant.clone())
        };
        let mut steering = Steering::default();
        steering.limit(&[limits], FLOOR);
        (steering, tenant)
    }

    #[test]
    fn the_mean_holds_although_joules_are_other_than_forecast_and_drift() {
        let (mut steering, tenant) = steering(5.0);
        let mut rng = Rng::new(3);
        // Quality and forecast joules of a small, a middling and a large expert.
        let experts = [(0.4, 1.0), (0.6, 6.0), (0.7, 20.0)];
        let (mut used, mut good) = (0.0, 0.0);
        let answers = 20_000;
        for n in 0..answers {
            let price = steering.prices(&tenant, FLOOR, false).per_joule;
            let each = experts.map(|(quality, joules)| {
                let quality: f64 = quality + 0.2 * rng.normal();
                (quality - price * joules, quality, joules)
            });
            let best = each.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
            let (_, quality, joules) = best.expect("there are three");
            // Up to half more or less than forecast, slowly changing, and noisy.
            let drift = 1.0 + 0.5 * (n as f64 / 2_000.0).sin();
            let joules = joules * drift * (0.5 + rng.unit());
            steering.used(&tenant, Joules::saturating(joules));
            steering.ended(&tenant, Taken::default());
            used += joules;
            good += quality;
        }
        let mean = used / f64::from(answers);
        assert!(mean < 5.0 * 1.02 && mean > 5.0 * 0.9, "{mean}");
        // Always the small one would hold the mean as well.
        assert!(
            good / f64::from(answers) > 0.5,
            "{}",
            good / f64::from(answers)
        );
        let view = steering.view(&tenant).joules;
        assert!(view.is_some_and(|v| !v.saturated));
    }

    #[test]
    fn few_are_late_although_the_risk_is_misjudged() {
        let tenant = TenantId::new("t").expect("a valid name");
        let limits = TenantLimits {
            delay_p95: [(moe2_gate::Topic::Chat, Seconds::saturating(2.0))].into(),
            ..TenantLimits::unlimited(tenant.clone())
        };
        let mut steering = Steering::default();
        steering.limit(&[limits], FLOOR);
        assert_eq!(steering.per_late(&tenant), LATE_PRICES.0);
        let mut rng = Rng::new(5);
        // Quality, forecast risk and true risk of a good expert that is often late, and of one that is not.
        let experts = [(0.9, 0.1, 0.2), (0.6, 0.01, 0.001)];
        let (mut late, mut good) = (0, 0.0);
        let answers = 20_000;
        for _ in 0..answers {
            let price = steering.per_late(&tenant);
            let scores = experts.map(|e| e.0 + 0.05 * rng.normal() - price * e.1);
            let chosen = experts[usize::from(scores[1] > scores[0])];
            let is_late = rng.chance(chosen.2);

            steering.ended(
                &tenant,
                Taken {
                    late: Some(is_late),
                    ..Taken::default()
                },
            );
            late += u32::from(is_late);
            good += chosen.0;
        }
        let share = f64::from(late) / f64::from(answers);
        assert!(share < 1.1 * LATE, "{share}");
        // What may be late is used: the other expert alone would come to 0.6.
        assert!(
            good / f64::from(answers) > 0.605,
            "{}",
            good / f64::from(answers)
        );
        let view = steering.view(&tenant).late.expect("it has a budget");
        assert!((view.mean - share).abs() < 1e-12 && view.queries == 20_000);
        steering.ended(&tenant, Taken::default());
        assert_eq!(
            steering.view(&tenant).late,
            Some(view),
            "a topic without a budget"
        );
    }

    #[test]
    fn a_budget_that_nobody_keeps_saturates_and_is_forgotten_quickly() {
        let (mut steering, tenant) = steering(5.0);
        let take = |steering: &mut Steering, joules: f64| {
            steering.used(&tenant, Joules::saturating(joules));
            steering.ended(&tenant, Taken::default());
        };
        (0..10_000).for_each(|_| take(&mut steering, 50.0));
        let saturated = steering.view(&tenant).joules.expect("it has one");
        assert!(saturated.saturated && saturated.price <= CEILING / 5.0);
        (0..300).for_each(|_| take(&mut steering, 1.0));
        assert_eq!(
            steering.prices(&tenant, FLOOR, false).per_joule,
            FLOOR.per_joule
        );
    }

    fn priced(per_joule: Option<f64>) -> Priced {
        Priced {
            tenant: TenantId::new("t").expect("a valid name"),
            prices: per_joule.map(|per_joule| Prices {
                per_joule,
                ..Prices::default()
            }),
            per_first_token_second: None,
        }
    }

    #[test]
    fn the_planners_price_is_a_start_and_its_rises_are_taken_over() {
        let (mut steering, tenant) = steering(5.0);
        let now = |steering: &Steering| steering.prices(&tenant, FLOOR, false).per_joule;
        steering.planned(&[priced(Some(0.02))]);
        assert_eq!(now(&steering), 0.02, "nothing was used yet");
        steering.planned(&[priced(Some(0.01))]);
        assert_eq!(now(&steering), 0.01);
        steering.used(&tenant, Joules::saturating(10.0));
        steering.ended(&tenant, Taken::default());
        let corrected = now(&steering);
        assert!((corrected / 0.01 - STEP.exp()).abs() < 1e-12);
        steering.planned(&[priced(Some(0.03))]);
        assert!((now(&steering) / corrected - 3.0).abs() < 1e-12);
        let risen = now(&steering);
        steering.planned(&[priced(Some(0.001))]);
        assert_eq!(now(&steering), risen, "falls are left to what is used");
        steering.planned(&[priced(None)]);
        assert_eq!(now(&steering), CEILING / 5.0, "no mix keeps the mean");
        let view = steering.view(&tenant).joules.expect("it has one");
        assert_eq!((view.queries, view.budget), (1, 5.0));
        assert_eq!((view.mean, view.planned), (10.0, CEILING / 5.0));
    }

    #[test]
    fn joules_that_were_used_already_are_not_forgotten_for_a_plan() {
        let (mut steering, tenant) = steering(5.0);
        steering.planned(&[priced(Some(0.02))]);
        // Its query has not ended yet.
        steering.used(&tenant, Joules::saturating(50.0));
        let before = steering.prices(&tenant, FLOOR, false).per_joule;
        steering.planned(&[priced(Some(0.01))]);
        assert_eq!(steering.prices(&tenant, FLOOR, false).per_joule, before);
    }

    #[test]
    fn a_price_of_nothing_rises_and_one_at_its_ceiling_is_saturated_between_queries_too() {
        let tenant = TenantId::new("t").expect("a valid name");
        let limits = TenantLimits {
            mean_energy: Some(Joules::saturating(4.0)),
            ..TenantLimits::unlimited(tenant.clone())
        };
        let mut steering = Steering::default();
        let nothing = Prices::default();
        steering.limit(&[limits], nothing);
        steering.used(&tenant, Joules::saturating(4.0));
        let price = steering.prices(&tenant, nothing, false).per_joule;
        assert!((price / (1e-9 / 4.0 * STEP.exp()) - 1.0).abs() < 1e-9);
        steering.used(&tenant, Joules::saturating(4_000.0));
        let view = |steering: &Steering| steering.view(&tenant).joules.expect("it has one");
        assert!(view(&steering).saturated && view(&steering).price == CEILING / 4.0);
        steering.ended(&tenant, Taken::default());
        assert!(view(&steering).saturated);
        steering.ended(&tenant, Taken::default());
        assert!(!view(&steering).saturated);
    }

    #[test]
    fn a_budget_that_stays_keeps_its_price_and_another_begins_anew() {
        let (mut steering, tenant) = steering(5.0);
        steering.planned(&[priced(Some(0.02))]);
        let set = |steering: &mut Steering, joules: f64| {
            let limits = TenantLimits {
                mean_energy: Some(Joules::saturating(joules)),
                ..TenantLimits::unlimited(tenant.clone())
            };
            steering.limit(&[limits], FLOOR);
            steering.prices(&tenant, FLOOR, false)
        };
        assert_eq!(set(&mut steering, 5.0).per_joule, 0.02);
        assert_eq!(set(&mut steering, 6.0), FLOOR);
    }

    #[test]
    fn a_budget_that_stays_takes_the_operators_new_price_as_its_least() {
        let (mut steering, tenant) = steering(5.0);
        steering.planned(&[priced(Some(0.02))]);
        let limits = TenantLimits {
            mean_energy: Some(Joules::saturating(5.0)),
            ..TenantLimits::unlimited(tenant.clone())
        };
        let mut with = |per_joule: f64| {
            let floor = Prices { per_joule, ..FLOOR };
            steering.limit(std::slice::from_ref(&limits), floor);
            // Nothing is used, so the price falls as far as it may.
            let at_once = steering.prices(&tenant, floor, false).per_joule;
            (0..500).for_each(|_| steering.ended(&tenant, Taken::default()));
            (at_once, steering.prices(&tenant, floor, false).per_joule)
        };
        assert_eq!(with(0.05), (0.05, 0.05));
        assert_eq!(with(0.003), (0.05, 0.003));
    }

    #[test]
    fn prices_end_where_they_should_and_an_operators_price_moves_that_end() {
        let late = |dual: &mut Dual| {
            for _ in 0..1_000 {
                dual.ended();
                dual.used(1.0);
            }
            dual.price
        };
        assert_eq!(late(&mut Dual::late()), 200.0);
        let dual = Dual::new(1.0, 0.001).above(50.0);
        assert_eq!((dual.price, dual.floor, dual.ceiling), (50.0, 50.0, 50.0));
        assert!(!dual.view().saturated, "it cannot rise");
        let mut dual = dual.above(0.001);
        assert_eq!((dual.price, dual.ceiling), (20.0, 20.0));
        assert_eq!(late(&mut dual), 20.0);
    }

    #[test]
    fn a_budget_that_the_planner_never_found_binding_rises_from_where_it_is() {
        let (mut steering, tenant) = steering(5.0);
        steering.planned(&[priced(Some(0.0))]);
        for _ in 0..30 {
            steering.used(&tenant, Joules::saturating(15.0));
            steering.ended(&tenant, Taken::default());
        }
        let before = steering.prices(&tenant, FLOOR, false).per_joule;
        steering.planned(&[priced(Some(before / 2.0))]);
        assert_eq!(steering.prices(&tenant, FLOOR, false).per_joule, before);
        steering.planned(&[priced(Some(0.0))]);
        steering.planned(&[priced(Some(before * 2.0))]);
        assert_eq!(
            steering.prices(&tenant, FLOOR, false).per_joule,
            before * 2.0
        );
        let view = steering.view(&tenant).joules.expect("it has one");
        assert_eq!((view.queries, view.mean), (30, 15.0));
    }

    proptest! {
        /// The bound above, for whatever is used.
        #[test]
        fn the_mean_is_bounded_by_the_price(
            uses in prop::collection::vec(prop_oneof![9 => 0.0f64..15.0, 1 => 15.0f64..5_000.0], 1..400), budget in 2.0f64..9.0,
        ) {
            let (mut steering, tenant) = steering(budget);
            let mut since: (f64, f64, f64) = (0.0, 0.0, FLOOR.per_joule);
            for used in uses {
                steering.used(&tenant, Joules::saturating(used));
                let lost = steering.prices(&tenant, FLOOR, false).per_joule >= CEILING / budget;
                steering.ended(&tenant, Taken::default());
                let price = steering.prices(&tenant, FLOOR, false).per_joule;
                since = (since.0 + used, since.1 + 1.0, since.2);
                if lost {
                    // What is beyond the ceiling is forgotten.
                    since = (0.0, 0.0, price);
                } else {
                    let bound = budget * (1.0 + (price / since.2).ln() / (STEP * since.1));
                    prop_assert!(since.0 / since.1 <= bound + 1e-6);
                }
            }
        }
    }
}
