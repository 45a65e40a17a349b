//! What follows when everyone asked has answered: more experts, scores of the answers, or the end.
//!
//! A cascade asks the cheapest expert first and goes on only where that pays: if the gate's forecast
//! for it and others together, with its confidence in the place of its own forecast, exceeds that
//! confidence by more than the others' price. A gate that promises nothing for several experts thus
//! goes on exactly if another's forecast exceeds the confidence by more than its price.
//!
//! Long answers that differ are scored by all who answered. That is one more dispatch to each of
//! them, reserved, billed and bounded by the query's budgets like any other; without them, and if they
//! are lost, the query is answered all the same.

use moe2_gate::{FusionGain, Quality};
use moe2_model::{Budgets, Candidate, Cascade, Job, Joules, QueryId, Seconds, Task, Time, Verdict};

use super::Engine;
use super::admit::takes_work;
use super::answer::{answers, probabilities};
use super::committee::{Committee, pool};
use super::contenders::Scope;
use super::forecast::{Shape, forecast};
use super::fuse::{self, FEWEST_SCORERS};
use super::query::{Attempt, Round, Running};
use super::route::{Terms, route};

impl Engine {
    /// Asks for whatever the answer still needs. False if it needs nothing, or nothing can be had.
    pub(super) fn next_round(&mut self, now: Time, id: QueryId) -> bool {
        let Some(round) = self.queries.get(&id).map(|running| running.round) else {
            return false;
        };
        match round {
            Round::First => self.escalate(now, id),
            Round::Answers => self.cross_score(now, id),
            Round::Scores => return false,
        }
        let waits = |running: &Running| running.active().next().is_some();
        self.queries.get(&id).is_some_and(waits)
    }

    /// After a cascade's first answer: asks others if that pays.
    fn escalate(&mut self, now: Time, id: QueryId) {
        let Some((confidence, chosen)) = self.escalation(now, id) else {
            return;
        };
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        running.round = Round::Answers;
        running.cascade = Some(Cascade {
            confidence,
            escalated: u32::try_from(chosen.len()).unwrap_or(u32::MAX),
        });
        running.choices.join(&chosen);
        for candidate in &chosen {
            self.dispatch(now, id, candidate, Job::Answer);
        }
    }

    /// How sure a cascade's first answer is, and who is to answer as well.
    fn escalation(&self, now: Time, id: QueryId) -> Option<(f64, Vec<Candidate>)> {
        let running = self.queries.get(&id)?;
        let first = running.attempts.iter().find(|a| a.answered())?;
        let confidence = self.confidence(running, first);
        let contenders = self.contenders(now, (id, running), Scope::default());
        let energy = self.energy_left(now, running, None);
        let terms = Terms {
            prices: running.prices,
            budgets: Budgets {
                delay: running.delay_left(now),
                first_token: running.first_token_left(now),
                energy,
            },
            experts: 0,
            late: false,
            punctual: running.punctual_left(now),
        };
        let mut route = route(&contenders, &terms);
        let committee = Committee {
            members: vec![confidence],
            // Spent already.
            energy: Joules::ZERO,
            delay: Seconds::ZERO,
            first_token: Seconds::ZERO,
            prices: running.prices,
            energy_left: energy,
            places: self.most_experts(running).saturating_sub(1),
        };
        let is_choice = matches!(running.query.task, Task::Choice { .. });
        // Of texts nothing is promised beyond the best.
        let gain = if is_choice {
            self.gate.fusion()
        } else {
            FusionGain::default()
        };
        let pool = pool(&route.candidates);
        for place in committee.grow(pool, |members| gain.forecast(members)) {
            route.also(place);
        }
        Some((confidence, route.chosen().to_vec()))
    }

    /// Probability that an answer is right: the expert's own for a choice, the gate's for a text.
    fn confidence(&self, running: &Running, attempt: &Attempt) -> f64 {
        let own = probabilities(&self.gate, running, attempt);
        own.map_or(attempt.forecast.quality, |options| {
            options.into_iter().fold(0.0, f64::max)
        })
    }

    /// Has all answers scored by all who answered, if scores would decide and can be paid for.
    fn cross_score(&mut self, now: Time, id: QueryId) {
        let Some((ballot, scorers)) = self.scoring(now, id) else {
            return;
        };
        if let Some(running) = self.queries.get_mut(&id) {
            running.round = Round::Scores;
            running.ballot = ballot;
        }
        for scorer in &scorers {
            self.dispatch(now, id, scorer, Job::Score);
        }
    }

    /// What is to be scored, and who can: experts at work on nothing are not waited for.
    fn scoring(&self, now: Time, id: QueryId) -> Option<(Vec<String>, Vec<Candidate>)> {
        let running = self.queries.get(&id)?;
        let ballot = fuse::ballot(&answers(&self.gate, running))?;
        // An author's tokens are about what the others make of its text.
        let tokens = |text: &String| {
            let author = running.attempts.iter().find(|a| a.text == *text);
            let usage = author.and_then(|a| a.reported);
            usage.map_or(0.0, |u| f64::from(u.output_tokens))
        };
        let tokens: f64 = ballot.iter().map(tokens).sum();
        let shape = Shape::scoring(running.query.prompt.text_bytes());
        // What is scored comes in one piece: its first token is its last.
        let delay_left = running.whole_left(now);
        let mut energy_left = self.scoring_energy_left(now, running);
        let mut scorers = Vec::new();
        for attempt in running.attempts.iter().filter(|a| a.answered()) {
            let found = self.fleet.experts().find(|(id, ..)| *id == attempt.expert);
            let Some((expert, node, known)) = found else {
                continue;
            };
            let quality = Quality {
                probability: attempt.forecast.quality,
                output_tokens: tokens,
                uncertainty: 0.0,
            };
            let tenant = &running.query.tenant;
            let whose = self.whose(id, tenant);
            let held = self.held_at(now, &expert.node);
            let forecast = forecast(shape, &known.cost.speed(), &quality, |busy| {
                node.wait(now, known, (whose, &held), busy)
            });
            let fits = delay_left.is_none_or(|left| forecast.delay_p95 <= left)
                && energy_left.is_none_or(|left| forecast.energy_p95 <= left);
            if !takes_work(node, known) || !fits {
                continue;
            }
            energy_left = energy_left.map(|left| left - forecast.energy_p95);
            let prices = &running.prices;
            scorers.push(Candidate {
                expert,
                forecast,
                score: forecast.quality - prices.cost(&forecast),
                verdict: Verdict::Chosen,
            });
        }
        (scorers.len() >= FEWEST_SCORERS).then_some((ballot, scorers))
    }

    /// The planner's limit on a prompt's joules counts answers; scores must fit beside them.
    fn scoring_energy_left(&self, now: Time, running: &Running) -> Option<Joules> {
        let planned = self.config.plan.energy;
        let used: Joules = running
            .attempts
            .iter()
            .filter_map(|a| a.reported)
            .map(|usage| usage.energy)
            .sum();
        let left = [
            self.energy_left(now, running, None),
            planned.map(|limit| limit - used),
        ];
        left.into_iter()
            .flatten()
            .min_by(|a, b| a.get().total_cmp(&b.get()))
    }
}
