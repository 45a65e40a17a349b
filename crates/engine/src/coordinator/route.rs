//! Which experts answer one query: a pure function over a snapshot (MATH 2.2).
//!
//! Every admissible expert gets the score quality − λ·joules − μ·seconds − ν·P(late) and the best win. Hard
//! budgets of the request come first: an expert whose forecast (p95) breaks them is dropped whatever
//! its score, because a price only steers the mean. Every expert keeps its verdict, so the reply can
//! say why each one was or was not taken.

use moe2_model::{Budgets, Candidate, ExpertId, Forecast, Joules, Prices, Seconds, Verdict};
use serde::{Deserialize, Serialize};

/// One expert that could be asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Contender<'a> {
    pub(crate) expert: &'a ExpertId,
    pub(crate) forecast: Forecast,
    /// A reason decided before scoring, if there is one.
    pub(crate) barred: Option<Verdict>,
}

impl<'a> From<&'a Candidate> for Contender<'a> {
    fn from(candidate: &'a Candidate) -> Self {
        let judged = matches!(
            candidate.verdict,
            Verdict::Chosen | Verdict::Outscored | Verdict::TooSlow | Verdict::TooCostly
        );
        Self {
            expert: &candidate.expert,
            forecast: candidate.forecast,
            barred: (!judged).then_some(candidate.verdict),
        }
    }
}

/// What a route is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Prices of joules and seconds.
    pub prices: Prices,
    /// What is left of the request's budgets.
    pub budgets: Budgets,
    /// Most experts chosen by score.
    pub experts: usize,
    /// Whether a late answer is better than none.
    pub late: bool,
    /// Delay that most answers should stay within.
    #[serde(default)]
    pub punctual: Option<Punctual>,
}

/// Budgets on percentiles of the delay and of the time to the first token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Punctual {
    /// What is left of the delay.
    pub within: Option<Seconds>,
    /// What is left of the time to the first token.
    pub first_token: Option<Seconds>,
    /// ν: quality that being late, with either, costs.
    pub price: f64,
}

impl Punctual {
    /// Probability that an answer is late. An answer that begins late usually ends late: the larger of the
    /// two, and not their sum.
    fn late(&self, forecast: &Forecast) -> f64 {
        later(forecast, (self.within, self.first_token))
    }
}

/// Probability that an answer ends or begins later than this, whichever is the larger.
pub(crate) fn later(
    forecast: &Forecast,
    (within, first_token): (Option<Seconds>, Option<Seconds>),
) -> f64 {
    let end = within.map(|within| forecast.later_than(within));
    let first = first_token.map(|within| forecast.first_token_later_than(within));
    f64::max(end.unwrap_or_default(), first.unwrap_or_default())
}

impl Terms {
    /// What joules, seconds and the risk of being late cost, in quality.
    pub(crate) fn cost(&self, forecast: &Forecast) -> f64 {
        let late = self.punctual.map_or(0.0, |p| p.price * p.late(forecast));
        self.prices.cost(forecast) + late
    }
}

/// The decision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    /// All contenders, chosen first, then by score.
    pub(crate) candidates: Vec<Candidate>,
    /// How many of them, from the front, are chosen.
    pub(crate) chosen: usize,
}

impl Route {
    pub(crate) fn chosen(&self) -> &[Candidate] {
        &self.candidates[..self.chosen]
    }

    /// Chooses one more, by its place among the candidates; it must be admissible and not chosen yet.
    pub(crate) fn also(&mut self, place: usize) {
        debug_assert!(
            self.candidates[place].verdict == Verdict::Outscored && place >= self.chosen,
            "only who is admissible and not chosen yet is chosen"
        );
        self.candidates[place].verdict = Verdict::Chosen;
        self.candidates[self.chosen..=place].rotate_right(1);
        self.chosen += 1;
    }

    /// The place of the admissible expert with the lowest cost; the thriftiest one if nothing has a price.
    pub(crate) fn cheapest(&self, terms: &Terms) -> Option<usize> {
        let price = |c: &Candidate| terms.cost(&c.forecast);
        let open = self.candidates.iter().enumerate();
        let open = open.filter(|(_, c)| c.verdict == Verdict::Outscored);
        open.min_by(|(_, a), (_, b)| {
            price(a)
                .total_cmp(&price(b))
                .then_with(|| a.forecast.energy.get().total_cmp(&b.forecast.energy.get()))
        })
        .map(|(place, _)| place)
    }

    /// Budgets under which some expert that was dropped for its cost would fit: those of the expert
    /// that is nearest to fitting. `None` for a budget that is wide enough for it. One expert, because
    /// the fastest one's delay and the thriftiest one's joules together may fit nobody.
    pub(crate) fn smallest_feasible(&self, budgets: &Budgets) -> Budgets {
        let excess = |c: &Candidate| Excess::of(&c.forecast, budgets);
        let dropped = |c: &&Candidate| matches!(c.verdict, Verdict::TooSlow | Verdict::TooCostly);
        let dropped = self.candidates.iter().filter(dropped);
        let times = |c: &Candidate| f64::max(excess(c).slow(), excess(c).costly());
        let nearest = dropped.min_by(|a, b| times(a).total_cmp(&times(b)));
        nearest.map_or_else(Budgets::default, |nearest| {
            let (over, forecast) = (excess(nearest), nearest.forecast);
            Budgets {
                delay: over.delay.map(|_| forecast.delay_p95),
                first_token: over.first_token.map(|_| forecast.first_token_p95),
                energy: over.energy.map(|_| forecast.energy_p95),
            }
        })
    }
}

/// How many times over its budgets a forecast is, for each that it exceeds.
#[derive(Debug, Clone, Copy, Default)]
struct Excess {
    delay: Option<f64>,
    first_token: Option<f64>,
    energy: Option<f64>,
}

impl Excess {
    fn of(forecast: &Forecast, budgets: &Budgets) -> Self {
        // A budget of nothing is exceeded by the amount itself.
        let over = |need: f64, limit: Option<f64>| {
            let limit = limit.filter(|limit| need > *limit)?;
            Some(if limit > 0.0 {
                need / limit
            } else {
                1.0 + need
            })
        };
        let seconds = |limit: Option<Seconds>| limit.map(Seconds::get);
        let first_token = forecast.first_token_p95.get();
        Self {
            delay: over(forecast.delay_p95.get(), seconds(budgets.delay)),
            first_token: over(first_token, seconds(budgets.first_token)),
            energy: over(forecast.energy_p95.get(), budgets.energy.map(Joules::get)),
        }
    }

    /// In seconds; 1 if it keeps those budgets.
    fn slow(&self) -> f64 {
        let times = [self.delay, self.first_token].into_iter().flatten();
        times.fold(1.0, f64::max)
    }

    /// In joules; 1 if it keeps that budget.
    fn costly(&self) -> f64 {
        self.energy.unwrap_or(1.0)
    }

    fn verdict(&self) -> Verdict {
        if self.delay.or(self.first_token).is_some() {
            Verdict::TooSlow
        } else if self.energy.is_some() {
            Verdict::TooCostly
        } else {
            Verdict::Outscored
        }
    }
}

/// Ranks the contenders, which are in the order of their ids, and chooses among them.
pub(crate) fn route(contenders: &[Contender<'_>], terms: &Terms) -> Route {
    debug_assert!(
        contenders.is_sorted_by_key(|contender| contender.expert),
        "of equals the first one is better"
    );
    let mut judged: Vec<Judged> = contenders.iter().map(|c| judge(c, terms)).collect();
    if terms.late {
        admit_late(contenders, &mut judged, terms);
    }
    let mut ranks: Vec<u128> = judged.iter().zip(0..).map(rank).collect();
    ranks.sort_unstable();
    let candidate = |rank: u128| {
        // What it was ranked with: its place is in the lowest bits.
        let place = rank as u32 as usize;
        let (contender, (score, verdict)) = (&contenders[place], judged[place]);
        Candidate {
            expert: contender.expert.clone(),
            forecast: contender.forecast,
            score,
            verdict,
        }
    };
    let mut route = Route {
        candidates: ranks.into_iter().map(candidate).collect(),
        chosen: 0,
    };
    let mut left = terms.budgets.energy;
    for place in 0..route.candidates.len() {
        let candidate = &route.candidates[place];
        if route.chosen == terms.experts || candidate.verdict != Verdict::Outscored {
            break;
        }
        let cost = candidate.forecast.energy_p95;
        if left.is_some_and(|left| cost > left) {
            continue;
        }
        left = left.map(|left| left - cost);
        route.also(place);
    }
    route
}

/// A score and what it comes to.
type Judged = (f64, Verdict);

/// Admissible ones first, then by score, then by place, as one number: many are compared, and numbers are compared
/// fast.
fn rank(((score, verdict), place): (&Judged, u32)) -> u128 {
    let bits = score.to_bits();
    // In the order of `f64::total_cmp`: more is better.
    let above = if bits >> 63 == 0 {
        !bits ^ (1 << 63)
    } else {
        bits
    };
    let shut = u128::from(*verdict != Verdict::Outscored);
    (shut << 127) | (u128::from(above) << 32) | u128::from(place)
}

/// Where no expert keeps the budgets of time, the one that is nearest to it may answer all the same.
fn admit_late(contenders: &[Contender<'_>], judged: &mut [Judged], terms: &Terms) {
    if judged
        .iter()
        .any(|(_, verdict)| *verdict == Verdict::Outscored)
    {
        return;
    }
    let left = terms.budgets.energy;
    let late = contenders.iter().zip(judged).filter(|(c, (_, verdict))| {
        *verdict == Verdict::TooSlow && left.is_none_or(|left| c.forecast.energy_p95 <= left)
    });
    let times = |c: &Contender<'_>| Excess::of(&c.forecast, &terms.budgets).slow();
    let nearest = late.min_by(|(a, _), (b, _)| {
        let (here, there) = (a.expert, b.expert);
        // Of equals the first by node.
        let by_node = || (&here.node, &here.name).cmp(&(&there.node, &there.name));
        times(a).total_cmp(&times(b)).then_with(by_node)
    });
    if let Some((_, (_, verdict))) = nearest {
        *verdict = Verdict::Outscored;
    }
}

fn judge(contender: &Contender<'_>, terms: &Terms) -> Judged {
    let forecast = &contender.forecast;
    let score = forecast.quality - terms.cost(forecast);
    let verdict = || Excess::of(forecast, &terms.budgets).verdict();
    (score, contender.barred.unwrap_or_else(verdict))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static IDS: LazyLock<Vec<ExpertId>> = LazyLock::new(|| {
        // The first by id is the last by node.
        let id = |n: usize| format!("m{n}@n{}", 9 - n).parse();
        (0..9).map(|n| id(n).expect("a valid id")).collect()
    });

    fn contender(n: usize, quality: f64, delay: f64, energy: f64) -> Contender<'static> {
        let forecast = Forecast {
            quality,
            output_tokens: 10.0,
            waiting: Seconds::ZERO,
            delay: Seconds::saturating(delay),
            delay_p95: Seconds::saturating(delay * 1.5),
            first_token: Seconds::saturating(delay / 4.0),
            first_token_p95: Seconds::saturating(delay / 2.0),
            energy: Joules::saturating(energy),
            energy_p95: Joules::saturating(energy * 1.5),
            samples: 0,
        };
        Contender {
            expert: &IDS[n],
            forecast,
            barred: None,
        }
    }

    fn terms(delay: Option<f64>, energy: Option<f64>, experts: usize) -> Terms {
        Terms {
            prices: Prices {
                per_joule: 0.001,
                per_second: 0.01,
                per_first_token_second: 0.0,
            },
            budgets: Budgets {
                delay: delay.map(Seconds::saturating),
                energy: energy.map(Joules::saturating),
                first_token: None,
            },
            experts,
            late: false,
            punctual: None,
        }
    }

    #[test]
    fn a_price_on_seconds_moves_a_query_to_the_faster_of_near_equals() {
        let slow_better = contender(1, 0.80, 20.0, 1.0);
        let fast = contender(2, 0.78, 1.0, 1.0);
        let route = route(&[slow_better, fast], &terms(None, None, 1));
        assert_eq!(route.chosen()[0].expert.name.as_str(), "m2");
        assert_eq!(route.candidates[1].verdict, Verdict::Outscored);
    }

    #[test]
    fn the_risk_of_being_late_counts_as_its_price_says() {
        let slow_better = || contender(1, 0.9, 1.8, 1.0);
        let fast = || contender(2, 0.6, 0.5, 1.0);
        let best = |price: f64, within: f64| {
            let terms = Terms {
                punctual: Some(Punctual {
                    within: Some(Seconds::saturating(within)),
                    first_token: None,
                    price,
                }),
                ..terms(None, None, 1)
            };
            route(&[slow_better(), fast()], &terms).chosen()[0]
                .expert
                .name
                .to_string()
        };
        assert_eq!(best(0.0, 2.0), "m1");
        assert_eq!(best(20.0, 2.0), "m2");
        assert_eq!(best(20.0, 60.0), "m1", "neither will be late");
        assert_eq!(best(20.0, 0.0), "m1", "both are late already");
    }

    #[test]
    fn a_score_is_quality_less_what_joules_and_seconds_cost() {
        let route = route(&[contender(1, 0.75, 20.0, 30.0)], &terms(None, None, 1));
        assert!((route.candidates[0].score - (0.75 - 0.03 - 0.2)).abs() < 1e-12);
    }

    #[test]
    fn the_expert_nearest_to_fitting_is_named_and_a_budget_of_nothing_is_exceeded_by_all_of_it() {
        let smallest = |rows: [(f64, f64); 2], delay: f64, energy: f64| {
            let rows = rows.iter().enumerate();
            let rows: Vec<_> = rows.map(|(n, (d, e))| contender(n, 0.5, *d, *e)).collect();
            let terms = terms(Some(delay), Some(energy), 1);
            let smallest = route(&rows, &terms).smallest_feasible(&terms.budgets);
            (
                smallest.delay.map(Seconds::get),
                smallest.energy.map(Joules::get),
            )
        };
        // Twice over in seconds, or thrice in joules.
        let nearest = smallest([(4.0, 1.0), (1.0, 6.0)], 3.0, 3.0);
        assert_eq!(nearest, (Some(6.0), None));
        let nearest = smallest([(6.0, 1.0), (1.0, 4.0)], 3.0, 3.0);
        assert_eq!(nearest, (None, Some(6.0)));
        let nearest = smallest([(2.5, 1.0), (0.0, 6.0)], 0.0, 3.0);
        // 1 + 3.75 for the first, 3 for the second.
        assert_eq!(nearest, (None, Some(9.0)));
        // 1 + 1.5 for the first, 3 for the second.
        let nearest = smallest([(1.0, 1.0), (0.0, 6.0)], 0.0, 3.0);
        assert_eq!(nearest, (Some(1.5), None));
    }

    #[test]
    fn a_late_answer_must_still_be_paid_for() {
        let late = |energy: f64| {
            let rows = vec![contender(1, 0.5, 2.0, 8.0), contender(2, 0.5, 4.0, 2.0)];
            let terms = Terms {
                late: true,
                ..terms(Some(1.0), Some(energy), 1)
            };
            let route = route(&rows, &terms);
            route.chosen().first().map(|c| c.expert.name.to_string())
        };
        assert_eq!(late(12.0).as_deref(), Some("m1"), "it is nearest");
        assert_eq!(late(11.9).as_deref(), Some("m2"), "what it can pay");
        assert_eq!(late(3.0).as_deref(), Some("m2"));
        assert_eq!(late(2.9), None);
    }

    #[test]
    fn an_infeasible_budget_names_the_smallest_that_is_feasible() {
        let route = route(
            &[contender(1, 0.9, 4.0, 1.0), contender(2, 0.5, 2.0, 9.0)],
            &terms(Some(1.0), None, 1),
        );
        assert_eq!(route.chosen, 0);
        assert_eq!(
            route.smallest_feasible(&terms(Some(1.0), None, 1).budgets),
            Budgets {
                delay: Some(Seconds::saturating(3.0)),
                ..Budgets::default()
            }
        );
    }

    #[test]
    fn a_budget_on_the_first_token_is_kept_named_and_priced_like_one_on_the_last() {
        // Begins after 4·0.25 s, p95 2 s; the other after 2 s, p95 4 s.
        let rows = || vec![contender(1, 0.5, 4.0, 1.0), contender(2, 0.9, 8.0, 1.0)];
        let limited = |first: f64, late| {
            let mut terms = terms(Some(60.0), None, 1);
            terms.budgets.first_token = Some(Seconds::saturating(first));
            Terms { late, ..terms }
        };
        let name = |r: &Route| r.chosen().first().map(|c| c.expert.name.to_string());
        assert_eq!(
            name(&route(&rows(), &limited(5.0, false))).as_deref(),
            Some("m2")
        );
        assert_eq!(
            name(&route(&rows(), &limited(3.0, false))).as_deref(),
            Some("m1")
        );
        let (none, terms) = (route(&rows(), &limited(1.0, false)), limited(1.0, false));
        assert_eq!(name(&none), None);
        let wanted = Budgets {
            first_token: Some(Seconds::saturating(2.0)),
            ..Budgets::default()
        };
        assert_eq!(none.smallest_feasible(&terms.budgets), wanted);
        assert_eq!(
            name(&route(&rows(), &limited(1.0, true))).as_deref(),
            Some("m1")
        );
        let priced = |within: Option<f64>, first: f64| {
            let punctual = Punctual {
                within: within.map(Seconds::saturating),
                first_token: Some(Seconds::saturating(first)),
                price: 2.0,
            };
            let terms = Terms {
                punctual: Some(punctual),
                ..super::tests::terms(None, None, 1)
            };
            name(&route(&rows(), &terms))
        };
        assert_eq!(priced(None, 2.0).as_deref(), Some("m1"));
        assert_eq!(priced(None, 60.0).as_deref(), Some("m2"));
        assert_eq!(
            priced(Some(8.0), 60.0).as_deref(),
            Some("m1"),
            "the end counts as well"
        );
    }

    #[test]
    fn a_cascade_starts_with_the_lowest_price_or_the_fewest_joules() {
        let rows = || vec![contender(1, 0.9, 1.0, 9.0), contender(2, 0.5, 3.0, 2.0)];
        let route = route(&rows(), &terms(None, None, 0));
        let name = |prices| {
            let terms = Terms {
                prices,
                ..terms(None, None, 0)
            };
            let place = route.cheapest(&terms).expect("both are admissible");
            route.candidates[place].expert.name.to_string()
        };
        let prices = |per_joule, per_second| Prices {
            per_joule,
            per_second,
            ..Prices::default()
        };
        assert_eq!(name(prices(0.001, 0.01)), "m1");
        assert_eq!(name(prices(0.01, 0.001)), "m2");
        assert_eq!(name(prices(0.0, 0.0)), "m2");
    }

    proptest! {
        #[test]
        fn relaxing_budgets_never_shrinks_or_worsens_the_choice(
            rows in prop::collection::vec((0.0f64..1.0, 0.1f64..9.0, 0.1f64..9.0), 1..7),
            delay in 0.1f64..12.0,
            energy in 0.1f64..12.0,
            more in 0.0f64..5.0,
        ) {
            let make = || -> Vec<_> {
                rows.iter().enumerate().map(|(n, (q, d, e))| contender(n, *q, *d, *e)).collect()
            };
            let tight = route(&make(), &terms(Some(delay), Some(energy), 1));
            let loose = route(&make(), &terms(Some(delay + more), Some(energy + more), 1));
            let score = |r: &Route| r.chosen().first().map(|c| c.score);
            prop_assert!(score(&loose) >= score(&tight));
            for chosen in tight.chosen() {
                prop_assert!(chosen.forecast.delay_p95.get() <= delay);
                prop_assert!(chosen.forecast.energy_p95.get() <= energy);
            }
        }

        #[test]
        fn budgets_named_as_feasible_are(
            rows in prop::collection::vec((0.0f64..1.0, 0.1f64..9.0, 0.1f64..9.0), 1..7),
            delay in 0.0f64..6.0,
            energy in 0.0f64..6.0,
        ) {
            let make = || -> Vec<_> {
                rows.iter().enumerate().map(|(n, (q, d, e))| contender(n, *q, *d, *e)).collect()
            };
            let tight = terms(Some(delay), Some(energy), 1);
            let refused = route(&make(), &tight);
            if refused.chosen == 0 {
                let smallest = refused.smallest_feasible(&tight.budgets);
                let (more_delay, more_energy) = (smallest.delay, smallest.energy);
                prop_assert!(more_delay.is_none_or(|d| d.get() > delay));
                prop_assert!(more_energy.is_none_or(|e| e.get() > energy));
                let delay = more_delay.map_or(delay, Seconds::get);
                let energy = more_energy.map_or(energy, Joules::get);
                prop_assert_eq!(route(&make(), &terms(Some(delay), Some(energy), 1)).chosen, 1);
            }
        }

        /// Few different numbers, so that many are equal.
        #[test]
        fn the_ranking_is_that_of_sorting_by_verdict_score_and_id(
            rows in prop::collection::vec((0..3_u8, 1..4_u8, 1..4_u8, 0..4_u8), 1..9),
            delay in prop::option::of(1..5_u8),
            late: bool,
        ) {
            let all: Vec<_> = rows.iter().enumerate().map(|(n, (q, d, e, barred))| {
                let [q, d, e] = [q, d, e].map(|x| f64::from(*x));
                let barred = (*barred == 0).then_some(Verdict::NotSelected);
                Contender { barred, ..contender(n, q - 1.0, d, e) }
            }).collect();
            let terms = Terms { late, ..terms(delay.map(f64::from), Some(15.0), 0) };
            let mut plain: Vec<Candidate> = all.iter().map(|c| {
                let excess = Excess::of(&c.forecast, &terms.budgets);
                Candidate {
                    expert: c.expert.clone(),
                    forecast: c.forecast,
                    score: c.forecast.quality - terms.cost(&c.forecast),
                    verdict: c.barred.unwrap_or_else(|| excess.verdict()),
                }
            }).collect();
            let open = |c: &Candidate| c.verdict == Verdict::Outscored;
            if late && !plain.iter().any(open) {
                plain.sort_by(|a, b| (&a.expert.node, &a.expert.name).cmp(&(&b.expert.node, &b.expert.name)));
                let times = |c: &Candidate| Excess::of(&c.forecast, &terms.budgets).slow();
                let slow = plain.iter_mut().filter(|c| c.verdict == Verdict::TooSlow && c.forecast.energy_p95.get() <= 15.0);
                if let Some(nearest) = slow.min_by(|a, b| times(a).total_cmp(&times(b))) {
                    nearest.verdict = Verdict::Outscored;
                }
            }
            plain.sort_by(|a, b| {
                let by_score = open(b).cmp(&open(a)).then(b.score.total_cmp(&a.score));
                by_score.then_with(|| a.expert.cmp(&b.expert))
            });
            prop_assert_eq!(route(&all, &terms).candidates, plain);
        }

        #[test]
        fn a_rank_orders_scores_as_numbers_do(a: f64, b: f64) {
            let rank = |score| rank((&(score, Verdict::Outscored), 7));
            prop_assert_eq!(rank(a).cmp(&rank(b)), b.total_cmp(&a));
        }

        #[test]
        fn several_experts_together_stay_inside_the_energy_budget(
            rows in prop::collection::vec((0.0f64..1.0, 0.1f64..9.0, 0.1f64..9.0), 1..7),
            k in 1usize..5,
            energy in 0.1f64..30.0,
        ) {
            let all: Vec<_> =
                rows.iter().enumerate().map(|(n, (q, d, e))| contender(n, *q, *d, *e)).collect();
            let route = route(&all, &terms(None, Some(energy), k));
            let sum: f64 = route.chosen().iter().map(|c| c.forecast.energy_p95.get()).sum();
            prop_assert!(sum <= energy + 1e-9);
            prop_assert!(route.chosen <= k);
        }
    }
}
