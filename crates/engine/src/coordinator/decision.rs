//! One choice of experts, as a pure function of what was known: made again offline, it comes out the same.

use moe2_gate::FusionGain;
use moe2_model::{Candidate, Mode, Seconds};
use serde::{Deserialize, Serialize};

use super::committee::{Committee, pool};
use super::route::{Contender, Route, Terms, route};

/// What a choice follows from, besides the experts' forecasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grounds {
    /// Prices, what is left of the budgets, and how many experts are chosen by score.
    pub terms: Terms,
    /// How many experts are wanted.
    pub mode: Mode,
    /// How many more may be chosen because fusing their answers pays.
    pub fused: usize,
    /// What the gate forecasts of fusing.
    pub gain: FusionGain,
}

/// A choice of experts, with what it followed from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Since the query was submitted.
    pub at: Seconds,
    /// What it followed from.
    pub grounds: Grounds,
    /// All experts looked at, with their forecasts and what became of them: chosen first, then by score.
    pub candidates: Vec<Candidate>,
}

impl Decision {
    /// The same choice made again, from forecasts and grounds alone. Equal to [`Decision::candidates`] if this
    /// is the program that made it and nobody changed the record; with other grounds, what would have been.
    #[must_use]
    pub fn replay(&self) -> Vec<Candidate> {
        let contenders = self.candidates.iter().map(Contender::from).collect();
        decide(contenders, &self.grounds).candidates
    }
}

/// Chooses among contenders.
pub(crate) fn decide(contenders: Vec<Contender>, grounds: &Grounds) -> Route {
    let mut route = route(contenders, &grounds.terms);
    if grounds.mode == Mode::Cascade
        && let Some(cheapest) = route.cheapest(&grounds.terms)
    {
        route.also(cheapest);
    }
    if grounds.fused > 0 {
        fuse_where_it_pays(&mut route, grounds);
    }
    route
}

/// Chooses more experts beside the best one.
fn fuse_where_it_pays(route: &mut Route, grounds: &Grounds) {
    let [best] = route.chosen() else { return };
    let forecast = best.forecast;
    let committee = Committee {
        members: vec![forecast.quality],
        energy: forecast.energy,
        delay: forecast.delay,
        first_token: forecast.first_token,
        prices: grounds.terms.prices,
        energy_left: grounds
            .terms
            .budgets
            .energy
            .map(|left| left - forecast.energy_p95),
        places: grounds.fused,
    };
    let pool = pool(&route.candidates);
    for place in committee.grow(pool, |members| grounds.gain.forecast(members)) {
        route.also(place);
    }
}
