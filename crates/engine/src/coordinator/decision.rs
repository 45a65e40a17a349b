//! One choice of experts, as a pure function of what was known: made again offline, it comes out the same.

use moe2_gate::FusionGain;
use moe2_model::{Budgets, Candidate, Mode, Seconds, Verdict};
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

/// A choice that is made and not yet acted on.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Since the query was submitted.
    pub(crate) at: Seconds,
    pub(crate) grounds: Grounds,
    pub(crate) route: Route,
    /// What is left of the query's own budgets: what a client can change.
    pub(crate) own: Budgets,
}

impl Choice {
    pub(crate) fn decision(self) -> Decision {
        Decision {
            at: self.at,
            grounds: self.grounds,
            candidates: self.route.candidates,
        }
    }
}

/// The choices of experts for one query.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    /// All so far where they are recorded, else the last that was shown.
    made: Vec<Decision>,
    /// Which of them the query's explanation shows: the last that is not a hedge.
    shown: usize,
    /// Whom a cascade asked besides, later than that.
    joined: Vec<Candidate>,
}

impl Choices {
    /// Notes a choice.
    pub(crate) fn note(&mut self, decision: Decision, recorded: bool) {
        if !recorded {
            self.made.clear();
        }
        self.shown = self.made.len();
        self.made.push(decision);
        self.joined.clear();
    }

    /// Notes the choice of a hedge, which is in records only.
    pub(crate) fn note_hedge(&mut self, decision: Decision, recorded: bool) {
        if recorded {
            self.made.push(decision);
        }
    }

    /// Notes whom a cascade asks besides.
    pub(crate) fn join(&mut self, chosen: &[Candidate]) {
        self.joined.extend_from_slice(chosen);
    }

    /// Everyone looked at for the last choice; nobody before the first.
    pub(crate) fn candidates(&self) -> &[Candidate] {
        let shown = self.made.get(self.shown);
        shown.map_or(&[], |decision| &decision.candidates)
    }

    /// The same with those whom a cascade asked besides.
    pub(crate) fn explained(&self) -> Vec<Candidate> {
        let mut candidates = self.candidates().to_vec();
        for candidate in &self.joined {
            // Behind those chosen before, in the place that the candidates' order promises.
            candidates.retain(|c| c.expert != candidate.expert);
            let chosen = candidates
                .iter()
                .take_while(|c| c.verdict == Verdict::Chosen);
            let first = chosen.count();
            candidates.insert(first, candidate.clone());
        }
        candidates
    }

    /// All that were noted, in order.
    pub(crate) fn take(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.made)
    }
}

impl Decision {
    /// The same choice made again, from forecasts and grounds alone. Equal to [`Decision::candidates`] if this
    /// is the program that made it and nobody changed the record; with other grounds, what would have been.
    #[must_use]
    pub fn replay(&self) -> Vec<Candidate> {
        let mut contenders: Vec<Contender<'_>> =
            self.candidates.iter().map(Contender::from).collect();
        contenders.sort_by_key(|contender| contender.expert);
        decide(&contenders, &self.grounds).candidates
    }
}

/// Chooses among contenders, which are in the order of their ids.
pub(crate) fn decide(contenders: &[Contender<'_>], grounds: &Grounds) -> Route {
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
