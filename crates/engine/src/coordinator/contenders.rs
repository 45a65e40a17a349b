//! Who could answer a query, and what each of them is forecast to make of it.
//!
//! This is asked of everyone for every choice, so it reads the fleet's board; only for work that would have to wait, or
//! where an expert is not trusted, it looks at the node itself. Debug builds compare it with the plain way, which
//! reads the nodes one by one.

use moe2_gate::Quality;
use moe2_model::{DispatchId, Forecast, NodeId, QueryId, Seconds, Target, Time, Verdict};

use super::Engine;
use super::board::Row;
use super::coverage::Factors;
use super::forecast::{Shape, forecast};
use super::line::{Held, Whose};
use super::plan::TenantLimits;
use super::query::Running;
use super::residency::Load;
use super::route::Contender;
use super::shares::Hold;

#[cfg(any(test, debug_assertions))]
mod plain;

/// Who is asked whether it would answer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scope<'a> {
    /// Only those on these nodes.
    pub(super) nodes: Option<[&'a NodeId; 2]>,
    /// A node where the query would begin now, before what waits there.
    pub(super) free: Option<&'a NodeId>,
    /// Of a query that waits: its tenant's work that is more pressing, and the dispatch that would be given up.
    pub(super) waits: Option<(Seconds, DispatchId)>,
}

impl Engine {
    /// Everyone who hosts what is asked for and could start now, in the order of their ids.
    pub(super) fn contenders(
        &self,
        now: Time,
        (id, running): (QueryId, &Running),
        scope: Scope<'_>,
    ) -> Vec<Contender<'_>> {
        let (query, board) = (&running.query, self.fleet.board());
        let asked = Asked::of(self, now, (id, running), scope);
        let rows = self.fleet.rows(scope.nodes);
        let rows = rows.filter_map(|row| {
            let load = asked.load(row).filter(|_| query.target.admits(&row.id))?;
            Some((row, load))
        });
        // Only the expert's tokenizer knows how long a prompt is; a forecast is reason enough to ask another.
        let some_hold = rows.clone().any(|(row, _)| {
            let asked_for = row.now.selected || query.target != Target::Auto;
            asked.fits(row) && asked_for && asked.trusts(row)
        });
        let mut known: Option<(usize, Quality)> = None;
        let mut held = vec![None; board.kinds()];
        let mut contenders = Vec::with_capacity(rows.size_hint().1.unwrap_or_default());
        for (row, load) in rows {
            // Experts of one name are next to each other.
            let quality = match known {
                Some((name, quality)) if name == row.name => quality,
                _ => {
                    let (features, name) = (&running.features, &row.id.name);
                    self.gate
                        .forecast_with(features, name, board.belief_of(row))
                }
            };
            known = Some((row.name, quality));
            let held = held[row.kind].get_or_insert_with(|| {
                let kind = board.kind_of(row);
                let hold = self.shares.hold(now, kind, asked.whose.tenant);
                (hold, self.shares.held(now, kind))
            });
            let forecast = asked.forecast((row, load), &quality, held);
            let short = some_hold && !asked.fits(row);
            contenders.push(Contender {
                barred: asked.barred(row, forecast.quality, short),
                expert: &row.id,
                forecast,
            });
        }
        #[cfg(any(test, debug_assertions))]
        self.compare_with_the_plain_way(now, (id, running), scope, &contenders);
        contenders
    }
}

/// A query as far as it is the same for everyone who is asked.
struct Asked<'a> {
    engine: &'a Engine,
    now: Time,
    running: &'a Running,
    scope: Scope<'a>,
    shape: Shape,
    prompt_bytes: usize,
    in_one_piece: bool,
    whose: Whose<'a>,
    limits: Option<&'a TenantLimits>,
    factors: Factors,
}

impl<'a> Asked<'a> {
    fn of(
        engine: &'a Engine,
        now: Time,
        (id, running): (QueryId, &'a Running),
        scope: Scope<'a>,
    ) -> Self {
        let query = &running.query;
        Self {
            engine,
            now,
            running,
            scope,
            shape: Shape::of(query),
            prompt_bytes: query.prompt.text_bytes(),
            in_one_piece: query.in_one_piece(),
            whose: engine.whose(id, &query.tenant),
            limits: engine.config.plan.tenant(&query.tenant),
            factors: engine.coverage.of(&query.tenant, running.features.topic()),
        }
    }

    /// Whether the prompt is forecast to fit an expert's context.
    fn fits(&self, row: &Row) -> bool {
        row.now.speed.prompt_tokens(self.prompt_bytes) < f64::from(row.now.context_tokens)
    }

    /// What comes before an expert takes work; nothing if it does not, or only when the query's time is over.
    fn load(&self, row: &Row) -> Option<Load> {
        if row.now.takes_work {
            return Some(Load::default());
        }
        if !row.now.may_load {
            return None;
        }
        let (node, expert) = self.engine.fleet.hosted(&row.id)?;
        let left = self.running.time_left(self.now);
        node.load(self.now, expert)
            .filter(|load| load.seconds <= left)
    }

    fn trusts(&self, row: &Row) -> bool {
        row.now.trusted || {
            let this = self.scope.waits.map(|(_, dispatch)| dispatch);
            let hosted = self.engine.fleet.hosted(&row.id);
            hosted.is_some_and(|(node, expert)| node.trusts(expert, self.now, this))
        }
    }

    /// What an expert would make of the query. `held`: what its tenant is held to on such machines, and who else is.
    fn forecast(
        &self,
        (row, load): (&Row, Load),
        quality: &Quality,
        held: &(Option<Hold>, Held),
    ) -> Forecast {
        let forecast = forecast(self.shape, &row.now.speed, quality, |busy| {
            self.wait(row, held, busy).max(load.seconds)
        });
        let mut forecast = self.factors.correct(forecast);
        // They steer the choice; what the query itself may use is as before.
        forecast.energy += load.joules;
        if self.in_one_piece {
            forecast.first_token = forecast.delay;
            forecast.first_token_p95 = forecast.delay_p95;
        }
        forecast
    }

    /// How long work that keeps an expert `busy` for so long would wait.
    fn wait(&self, row: &Row, (hold, others): &(Option<Hold>, Held), busy: Seconds) -> Seconds {
        let own = hold.map_or(Seconds::ZERO, |hold| {
            let ahead = self.scope.waits.map_or(hold.seconds, |(ahead, _)| ahead);
            hold.wait(ahead, busy)
        });
        let first = self.scope.free == Some(&row.id.node);
        let hosted = if row.now.free {
            None
        } else {
            self.engine.fleet.hosted(&row.id)
        };
        match hosted {
            Some((node, expert)) if first => node.next_place(expert, self.now),
            Some((node, expert)) => {
                let whose = (self.whose, others);
                node.wait(self.now, expert, whose, busy).max(own)
            }
            None if first => Seconds::ZERO,
            None => own,
        }
    }

    /// Why an expert may not answer, whatever it would cost. `short`: its context is forecast to be.
    fn barred(&self, row: &Row, quality: f64, short: bool) -> Option<Verdict> {
        debug_assert!(quality.is_finite(), "a gate forecasts probabilities");
        let auto = self.running.query.target == Target::Auto;
        let limits = self.limits;
        match limits.and_then(|limits| limits.bars(&row.id.name, quality)) {
            // Whoever names an expert has judged its quality.
            Some(Verdict::TooWeak) if !auto => {}
            Some(reason) => return Some(reason),
            None => {}
        }
        let short = short || self.running.known_too_long(row.now.context_tokens);
        if self.running.tried(&row.id) {
            Some(Verdict::Excluded)
        } else if short {
            Some(Verdict::ContextTooShort)
        } else if !row.now.selected && auto {
            Some(Verdict::NotSelected)
        } else if !self.trusts(row) {
            Some(Verdict::LeftAlone)
        } else {
            None
        }
    }
}
