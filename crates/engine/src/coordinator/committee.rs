//! Where several experts are forecast to pay (MATH sections 2.2 and 5): a pure function over forecasts.
//!
//! A committee T is worth its forecast chance to be right − λ·(joules of all) − μ·(seconds of the
//! slowest). It grows by the expert that adds most, and what is kept is its best size, not the first at
//! which growing stops paying: two votes decide no more than one, three do.
//!
//! What the chance of a committee is, the gate says. A gate that has seen no outcomes promises nothing
//! beyond the best member, and then `auto` never fuses, and a cascade goes on exactly where an expert
//! with a better forecast is worth its price.

use moe2_model::{Candidate, Joules, Prices, Seconds, Verdict};

/// Experts further down the ranking are not looked at: each of these is weighed once per place.
const POOL: usize = 16;

/// Who is in already, and the terms for others.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Committee {
    /// Chance of each to be right, in [0, 1].
    pub(crate) members: Vec<f64>,
    /// Of the members, as far as it is not spent whatever is decided.
    pub(crate) energy: Joules,
    pub(crate) delay: Seconds,
    /// Of one alone; several answer in one piece.
    pub(crate) first_token: Seconds,
    pub(crate) prices: Prices,
    /// What all that join may use together (p95).
    pub(crate) energy_left: Option<Joules>,
    /// Most that may join.
    pub(crate) places: usize,
}

/// One that could join.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Newcomer {
    /// Its place in the ranking.
    pub(crate) index: usize,
    pub(crate) quality: f64,
    pub(crate) energy: Joules,
    pub(crate) energy_p95: Joules,
    pub(crate) delay: Seconds,
}

/// Those of a ranking who are admissible and not chosen, best first.
pub(crate) fn pool(ranking: &[Candidate]) -> Vec<Newcomer> {
    let open = ranking
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.verdict == Verdict::Outscored);
    open.take(POOL)
        .map(|(index, candidate)| Newcomer {
            index,
            quality: candidate.forecast.quality,
            energy: candidate.forecast.energy,
            energy_p95: candidate.forecast.energy_p95,
            delay: candidate.forecast.delay,
        })
        .collect()
}

impl Committee {
    /// Places in the ranking of those whose joining is forecast to pay, in ascending order.
    pub(crate) fn grow(
        mut self,
        mut pool: Vec<Newcomer>,
        chance: impl Fn(&[f64]) -> f64,
    ) -> Vec<usize> {
        let mut best = (self.worth(&chance), 0);
        let mut joined = Vec::new();
        while joined.len() < self.places {
            pool.retain(|n| self.energy_left.is_none_or(|left| n.energy_p95 <= left));
            let next = pool
                .iter()
                .enumerate()
                .map(|(place, newcomer)| (place, self.with(newcomer).worth(&chance)))
                // The first of equals, i.e. the best by itself.
                .reduce(|a, b| if b.1 > a.1 { b } else { a });
            let Some((place, worth)) = next else { break };
            let newcomer = pool.remove(place);
            self = self.with(&newcomer);
            joined.push(newcomer.index);
            if worth > best.0 {
                best = (worth, joined.len());
            }
        }
        joined.truncate(best.1);
        joined.sort_unstable();
        joined
    }

    fn with(&self, newcomer: &Newcomer) -> Self {
        let mut members = self.members.clone();
        members.push(newcomer.quality);
        Self {
            members,
            energy: self.energy + newcomer.energy,
            delay: self.delay.max(newcomer.delay),
            first_token: self.delay.max(newcomer.delay),
            energy_left: self.energy_left.map(|left| left - newcomer.energy_p95),
            ..*self
        }
    }

    fn worth(&self, chance: impl Fn(&[f64]) -> f64) -> f64 {
        let mut ranked = self.members.clone();
        ranked.sort_by(|a, b| b.total_cmp(a));
        chance(&ranked)
            - self.prices.per_joule * self.energy.get()
            - self.prices.per_second * self.delay.get()
            - self.prices.per_first_token_second * self.first_token.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn newcomer(index: usize, (quality, energy, delay): (f64, f64, f64)) -> Newcomer {
        Newcomer {
            index,
            quality,
            energy: Joules::saturating(energy),
            energy_p95: Joules::saturating(energy * 1.5),
            delay: Seconds::saturating(delay),
        }
    }

    fn pool_of(all: &[(f64, f64, f64)]) -> Vec<Newcomer> {
        let newcomers = all.iter().enumerate();
        newcomers.map(|(n, row)| newcomer(n, *row)).collect()
    }

    fn committee(first: f64, per_joule: f64) -> Committee {
        Committee {
            members: vec![first],
            energy: Joules::saturating(1.0),
            delay: Seconds::saturating(1.0),
            first_token: Seconds::saturating(0.5),
            prices: Prices {
                per_joule,
                per_second: 0.01,
                per_first_token_second: 0.0,
            },
            energy_left: None,
            places: 2,
        }
    }

    /// Of a gate that promises nothing.
    fn best_member(ranked: &[f64]) -> f64 {
        ranked.first().copied().unwrap_or(0.0)
    }

    /// The chance of independent experts to be right by majority, as far as the tests need it.
    fn majority(ranked: &[f64]) -> f64 {
        match ranked {
            [a, b, c] => a * b + a * c + b * c - 2.0 * a * b * c,
            _ => best_member(ranked),
        }
    }

    const EQUALS: [(f64, f64, f64); 2] = [(0.7, 1.0, 1.0), (0.7, 1.0, 1.0)];

    #[test]
    fn three_are_asked_where_three_pay_although_two_do_not() {
        assert_eq!(
            committee(0.7, 0.001).grow(pool_of(&EQUALS), majority),
            [0, 1]
        );
    }

    #[test]
    fn dear_joules_make_one_expert_enough() {
        assert!(
            committee(0.7, 0.05)
                .grow(pool_of(&EQUALS), majority)
                .is_empty()
        );
    }

    #[test]
    fn a_gate_that_promises_nothing_never_fuses_equals() {
        assert!(
            committee(0.7, 0.0)
                .grow(pool_of(&EQUALS), best_member)
                .is_empty()
        );
    }

    #[test]
    fn without_a_promise_a_better_expert_joins_if_it_is_worth_its_price() {
        let sunk = |confidence, per_joule| Committee {
            energy: Joules::ZERO,
            delay: Seconds::ZERO,
            first_token: Seconds::ZERO,
            ..committee(confidence, per_joule)
        };
        let better = pool_of(&[(0.8, 10.0, 1.0), (0.6, 1.0, 1.0)]);
        // Gains 0.3 for 0.01 a joule times ten and 0.01.
        assert_eq!(sunk(0.5, 0.01).grow(better.clone(), best_member), [0]);
        assert!(sunk(0.7, 0.01).grow(better.clone(), best_member).is_empty());
        assert!(sunk(0.9, 0.0).grow(better, best_member).is_empty());
    }

    proptest! {
        #[test]
        fn whoever_joins_fits_the_budget_and_is_worth_it(
            rows in prop::collection::vec((0.0f64..1.0, 0.1f64..5.0, 0.1f64..5.0), 0..8),
            first in 0.0f64..1.0,
            left in prop::option::of(0.0f64..12.0),
            places in 0usize..4,
            per_joule in 0.0f64..0.05,
        ) {
            let start = Committee {
                energy_left: left.map(Joules::saturating),
                places,
                ..committee(first, per_joule)
            };
            let all = pool_of(&rows);
            let joined = start.clone().grow(all.clone(), majority);
            prop_assert!(joined.len() <= places);
            prop_assert!(joined.is_sorted());
            let grown = joined.iter().fold(start.clone(), |c, n| c.with(&all[*n]));
            let used: f64 = joined.iter().map(|n| all[*n].energy_p95.get()).sum();
            prop_assert!(left.is_none_or(|left| used <= left + 1e-9));
            prop_assert!(joined.is_empty() || grown.worth(majority) > start.worth(majority));
        }
    }
}
