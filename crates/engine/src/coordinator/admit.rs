//! A query comes in: can anyone take it, and who should?
//!
//! Refusals are decided here, before anything is spent, and each says what would help: another
//! model name, waiting, or a budget that is feasible now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moe2_gate::{FusionGain, Topic};
use moe2_model::{
    Budgets, Candidate, DispatchId, Event, ExpertId, Job, Joules, Mode, NodeId, Outcome, Query,
    QueryId, RefusalKind, Seconds, Target, Task, TenantId, Time, Verdict,
};

use super::decision::{Decision, Grounds, decide};
use super::fleet::{Expert, Node, Places};
use super::forecast::{Shape, forecast};
use super::ledger::{Binding, EnergyWindow, Full};
use super::line::Whose;
use super::query::{Round, Running};
use super::queue::waited_in_vain;
use super::record::QueryRecord;
use super::reply::{Refusal, Reply};
use super::residency::Load;
use super::route::{Contender, Punctual, Route, Terms};
use super::{Engine, Output, Timer};

/// How long a client should wait before it asks a fleet without a ready expert again: about the
/// time a small model takes to load.
const RETRY_NO_EXPERT: Duration = Duration::from_secs(2);
/// How long a client should wait while the books cannot be written: an operator has to make room.
const RETRY_BOOKS: Duration = Duration::from_secs(10);
/// How long a client should wait when too many queries are under way.
const RETRY_OVERLOADED: Duration = Duration::from_secs(1);

/// Who is asked whether it would answer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scope<'a> {
    /// Only those on these nodes.
    pub(super) nodes: Option<[&'a NodeId; 2]>,
    /// [`Fleet::places_by_kind`](super::fleet::Fleet::places_by_kind), where it is known already.
    pub(super) places: Option<&'a Places>,
    /// A node where the query would begin now, before what waits there.
    pub(super) free: Option<&'a NodeId>,
    /// Of a query that waits: its tenant's work that is more pressing, and the dispatch that would be given up.
    pub(super) waits: Option<(Seconds, DispatchId)>,
}

impl Engine {
    pub(super) fn submit(&mut self, now: Time, id: QueryId, mut query: Query) {
        if let Some(message) = self.crowded(&query.tenant) {
            let retry = Some(RETRY_OVERLOADED);
            self.refuse_unadmitted(id, &query, refusal(RefusalKind::Overloaded, message, retry));
            return;
        }
        if let Some(why) = &self.books_closed {
            let message = format!("nothing can be booked, so nothing new is taken: {why}");
            let kind = RefusalKind::BooksClosed;
            self.refuse_unadmitted(id, &query, refusal(kind, message, Some(RETRY_BOOKS)));
            return;
        }
        if self.config.plan.closed && self.config.plan.tenant(&query.tenant).is_none() {
            let message = format!("the tenant {} was removed", query.tenant);
            self.refuse_unadmitted(id, &query, refusal(RefusalKind::NotAllowed, message, None));
            return;
        }
        if !self.fleet.knows(|expert| query.target.admits(expert)) {
            let unknown = match &query.target {
                Target::Auto => no_expert("no agent has joined the fleet yet"),
                Target::Model(name) => unknown_model(name.as_str()),
                Target::Expert(id) => unknown_model(&id.to_string()),
            };
            self.refuse_unadmitted(id, &query, unknown);
            return;
        }
        let wall = self.wall(now);
        let entered = self.ledger.enter(wall, id, &query.tenant, tokens(&query));
        if let Err(full) = entered {
            self.refuse_unadmitted(id, &query, rate_limited(full));
            return;
        }
        let features = self.gate.features(&query);
        self.calibration.note((now, wall), &query, &features);
        let limits = &self.config.plan;
        query.budgets = limits.tightened(&query.tenant, features.topic(), query.budgets);
        query.budgets.first_token = query.budgets.first_token.filter(|_| query.stream);
        let floor = self.config.prices;
        let prices = self.steering.prices(&query.tenant, floor, query.stream);
        let punctual = self.punctual(&query, features.topic());
        let running = Running {
            round: Round::first(query.mode),
            ballot: Vec::new(),
            cascade: None,
            spared: 0,
            saved: Joules::ZERO,
            features,
            query: Arc::new(query),
            submitted: now,
            limit: self.config.query_timeout,
            first_delta: None,
            prices,
            punctual,
            candidates: Vec::new(),
            decisions: Vec::new(),
            attempts: Vec::new(),
            redispatches: 0,
            hedge: None,
            waited: false,
            too_long: None,
        };
        self.timers
            .arm(Timer::Timeout(id), now + self.config.query_timeout);
        self.queries.insert(id, running);
        self.send_to_best(now, id);
    }

    /// The percentiles that a tenant's answers on a topic are to keep, with the price of being late.
    fn punctual(&self, query: &Query, topic: Topic) -> Option<Punctual> {
        let tenant = self.config.plan.tenant(&query.tenant)?;
        let within = tenant.delay_p95.get(&topic).copied();
        let first_token = tenant.first_token_p95.get(&topic).copied();
        let first_token = first_token.filter(|_| query.stream);
        within.or(first_token)?;
        Some(Punctual {
            within,
            first_token,
            price: self.steering.per_late(&query.tenant),
        })
    }

    /// Routes a query and dispatches it, or refuses it if nobody can take it.
    pub(super) fn send_to_best(&mut self, now: Time, id: QueryId) {
        let Some((route, grounds, budgets)) = self.choose(now, id, Scope::default()) else {
            return;
        };
        let refusal = (route.chosen == 0).then(|| {
            let quota = self.quota_refusal(now, id, &route);
            quota.unwrap_or_else(|| explain_refusal(&route, &budgets))
        });
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        running.candidates.clone_from(&route.candidates);
        if self.config.records {
            running.decisions.push(Decision {
                at: now.seconds_since(running.submitted),
                grounds,
                candidates: route.candidates.clone(),
            });
        }
        if let Some(refusal) = refusal {
            let refusal = match running.too_long {
                Some((prompt, context)) => too_long(prompt, context),
                None if running.attempts.is_empty() => {
                    waited_in_vain(now, running).unwrap_or(refusal)
                }
                None => experts_failed(running, &route),
            };
            self.refuse(now, id, refusal);
            return;
        }
        for candidate in route.chosen() {
            self.dispatch(now, id, candidate, Job::Answer);
        }
    }

    /// Who should answer, and what is left of the query's own budgets.
    pub(super) fn choose(
        &self,
        now: Time,
        id: QueryId,
        scope: Scope<'_>,
    ) -> Option<(Route, Grounds, Budgets)> {
        let running = self.queries.get(&id)?;
        let again = !running.attempts.is_empty();
        let mode = running.query.mode;
        let budgets = Budgets {
            delay: running.delay_left(now),
            first_token: running.first_token_left(now),
            energy: self.energy_left(now, running, scope.waits.map(|(_, dispatch)| dispatch)),
        };
        // For choices only: nothing forecasts what fusing texts is worth, and where it was measured,
        // committees of small models mostly lost to their best member.
        let is_choice = matches!(running.query.task, Task::Choice { .. });
        let fused = match mode {
            Mode::Auto if is_choice && !again => self.most_experts(running).saturating_sub(1),
            _ => 0,
        };
        let grounds = Grounds {
            terms: Terms {
                prices: running.prices,
                budgets,
                experts: match mode {
                    Mode::Cascade => 0,
                    Mode::Fuse if !again => self.most_experts(running),
                    Mode::Fuse | Mode::Auto | Mode::Single => 1,
                },
                late: self.prefers_late(&running.query.tenant),
                punctual: running.punctual_left(now),
            },
            mode,
            fused,
            gain: match fused {
                0 => FusionGain::default(),
                _ => self.gate.fusion(),
            },
        };
        let route = decide(self.contenders(now, (id, running), scope), &grounds);
        // What a client can change is its own.
        let own = Budgets {
            energy: running.energy_left(),
            ..budgets
        };
        Some((route, grounds, own))
    }

    /// What is left of a query's joules: its own, and its tenant's, once what is reserved for `given_up` has come back.
    pub(super) fn energy_left(
        &self,
        now: Time,
        running: &Running,
        given_up: Option<DispatchId>,
    ) -> Option<Joules> {
        let (wall, tenant) = (self.wall(now), &running.query.tenant);
        let window = match given_up {
            Some(dispatch) => self.ledger.binding_without(wall, tenant, dispatch),
            None => self.ledger.binding(wall, tenant),
        };
        let left = [running.energy_left(), window.map(|window| window.left)];
        let left = left.into_iter().flatten();
        left.min_by(|a, b| a.get().total_cmp(&b.get()))
    }

    /// The refusal of a query that fits its own budgets but not what is left of its tenant's.
    fn quota_refusal(&self, now: Time, id: QueryId, route: &Route) -> Option<Refusal> {
        let running = self.queries.get(&id)?;
        let (wall, tenant) = (self.wall(now), &running.query.tenant);
        let binding = self.ledger.binding(wall, tenant)?;
        let own = running.energy_left();
        let costly = route.candidates.iter();
        let needed = costly
            .filter(|c| c.verdict == Verdict::TooCostly)
            .map(|c| c.forecast.energy_p95)
            .filter(|needed| own.is_none_or(|own| *needed <= own))
            .min_by(|a, b| a.get().total_cmp(&b.get()))
            .filter(|needed| *needed > binding.left)?;
        let reserved = self.ledger.reserved_since(tenant, binding.since);
        let wait = self.ledger.fits_in(wall, tenant, needed);
        Some(quota(&binding, needed, (reserved, wait)))
    }

    /// Most experts that may answer a query together.
    pub(super) fn most_experts(&self, running: &Running) -> usize {
        let most = self.config.plan.most_experts();
        most.min(running.query.max_experts.max(1) as usize)
    }

    pub(super) fn whose<'a>(&self, query: QueryId, tenant: &'a TenantId) -> Whose<'a> {
        Whose {
            tenant,
            weight: self.weight(tenant),
            query,
        }
    }

    /// Everyone who hosts what is asked for and could start now.
    pub(super) fn contenders(
        &self,
        now: Time,
        (id, running): (QueryId, &Running),
        scope: Scope<'_>,
    ) -> Vec<Contender> {
        let query = &running.query;
        let admitted: Vec<_> = self
            .fleet
            .experts_at(|node| scope.nodes.is_none_or(|nodes| nodes.contains(&node)))
            .filter(|(id, _, _)| query.target.admits(id))
            .collect();
        let names: Vec<_> = admitted.iter().map(|(id, _, _)| id.name.clone()).collect();
        let forecasts = self.gate.forecast(&running.features, &names);
        let shape = Shape::of(query);
        let whose = self.whose(id, &query.tenant);
        let topic = running.features.topic();
        let mut contenders = Vec::with_capacity(admitted.len());
        let ready: Vec<_> = admitted
            .into_iter()
            .zip(forecasts)
            .filter_map(|(found, quality)| {
                let load = loads(now, found.1, found.2)?;
                // What is there only when the query's time is over is of no use to it.
                let left = running.limit.saturating_sub(now.since(running.submitted));
                if load.seconds.get() > left.as_secs_f64() {
                    return None;
                }
                Some((found, quality, load))
            })
            .collect();
        // Only the expert's tokenizer knows how long a prompt is; a forecast is reason enough to ask another.
        let bytes = query.prompt.text_bytes();
        let holds = |expert: &Expert| {
            expert.cost.prompt_tokens(bytes) < f64::from(expert.offer.context_tokens)
        };
        let this = scope.waits.map(|(_, dispatch)| dispatch);
        let some_hold = ready.iter().any(|((_, node, expert), ..)| {
            let asked = expert.selected || query.target != Target::Auto;
            holds(expert) && asked && node.trusts(expert, now, this)
        });
        let counted = scope.places.is_none().then(|| self.fleet.places_by_kind());
        let places = scope.places.or(counted.as_ref());
        let mut held = BTreeMap::new();
        for ((id, node, expert), quality, load) in ready {
            let (hold, others) = held.entry(node.kind.clone()).or_insert_with(|| {
                let places = places.and_then(|places| places.get(&node.kind));
                let places = places.copied().unwrap_or_default();
                let kind = (&*node.kind, places);
                let hold = self.shares.hold(now, kind, whose.tenant);
                (hold, self.shares.held(now, kind))
            });
            let at_once = scope.free == Some(&id.node);
            let forecast = forecast(shape, &expert.cost, &quality, |busy| {
                if at_once {
                    return node.next_place(expert, now).max(load.seconds);
                }
                let own = hold.map_or(Seconds::ZERO, |hold| {
                    let ahead = scope.waits.map_or(hold.seconds, |(ahead, _)| ahead);
                    hold.wait(ahead, busy)
                });
                let line = node.wait(now, expert, (whose, others), busy);
                line.max(own).max(load.seconds)
            });
            let mut forecast = self.coverage.corrected((whose.tenant, topic), forecast);
            // They steer the choice; what the query itself may use is as before.
            forecast.energy += load.joules;
            if query.in_one_piece() {
                forecast.first_token = forecast.delay;
                forecast.first_token_p95 = forecast.delay_p95;
            }
            let short = running.known_too_long(expert.offer.context_tokens)
                || (some_hold && !holds(expert));
            contenders.push(Contender {
                barred: self
                    .barred(running, (&id, expert), forecast.quality, short)
                    .or_else(|| (!node.trusts(expert, now, this)).then_some(Verdict::LeftAlone)),
                expert: id,
                forecast,
            });
        }
        contenders
    }

    /// Why an expert may not answer a query at all, whatever it would cost. `short`: its context is, for the prompt.
    fn barred(
        &self,
        running: &Running,
        (id, expert): (&ExpertId, &Expert),
        quality: f64,
        short: bool,
    ) -> Option<Verdict> {
        debug_assert!(quality.is_finite(), "a gate forecasts probabilities");
        let tenant = self.config.plan.tenant(&running.query.tenant);
        let auto = running.query.target == Target::Auto;
        match tenant.and_then(|tenant| tenant.bars(&id.name, quality)) {
            // Whoever names an expert has judged its quality.
            Some(Verdict::TooWeak) if !auto => {}
            Some(reason) => return Some(reason),
            None => {}
        }
        if running.tried(id) {
            Some(Verdict::Excluded)
        } else if short {
            Some(Verdict::ContextTooShort)
        } else if !expert.selected && auto {
            Some(Verdict::NotSelected)
        } else {
            None
        }
    }

    fn refuse_unadmitted(&mut self, id: QueryId, query: &Query, refusal: Refusal) {
        if self.config.records {
            let record = QueryRecord::unadmitted(id, query, &refusal);
            self.outputs.push_back(record.output());
        }
        self.event(Event::QueryEnded {
            tenant: query.tenant.clone(),
            outcome: Outcome::Refused(refusal.kind),
            delay: Seconds::ZERO,
            first_delta: None,
            energy: Joules::ZERO,
        });
        let reply = Reply::Refused(Box::new(refusal));
        self.outputs.push_back(Output::Reply { query: id, reply });
    }
}

pub(super) fn takes_work(node: &Node, expert: &Expert) -> bool {
    node.health.is_ready() && node.holds(expert)
}

/// What comes before an expert takes work, if it does at all.
fn loads(now: Time, node: &Node, expert: &Expert) -> Option<Load> {
    node.load(now, expert).filter(|_| node.health.is_ready())
}

fn refusal(kind: RefusalKind, message: String, retry_after: Option<Duration>) -> Refusal {
    Refusal {
        kind,
        message,
        smallest: Budgets::default(),
        retry_after,
    }
}

/// About how many tokens a query is of, its answer at its longest.
fn tokens(query: &Query) -> f64 {
    const BYTES_PER_TOKEN: f64 = 4.0;
    let prompt = query.prompt.text_bytes() as f64 / BYTES_PER_TOKEN;
    let answer = match &query.task {
        Task::Generate(sampling) => f64::from(sampling.max_tokens),
        Task::Choice { options } => {
            options.iter().map(String::len).sum::<usize>() as f64 / BYTES_PER_TOKEN
        }
    };
    (prompt + answer).ceil()
}

fn rate_limited(full: Full) -> Refusal {
    let (message, wait) = match full {
        Full::Parallel { limit } => (
            format!("{limit} queries of this tenant are under way, as many as it may have at once"),
            Some(RETRY_OVERLOADED),
        ),
        Full::Requests { limit, wait } => (
            format!("this tenant has asked {limit} times within a minute, as often as it may"),
            Some(wait),
        ),
        Full::Tokens { limit, wait: None } => (
            format!(
                "this query may take more than {limit} tokens, all that this tenant has for a minute: lower max_tokens"
            ),
            None,
        ),
        Full::Tokens { limit, wait } => (
            format!(
                "the {limit} tokens that this tenant has for a minute do not reach for this query: wait, or lower max_tokens"
            ),
            wait,
        ),
    };
    refusal(RefusalKind::RateLimited, message, wait)
}

/// What a window of joules has no room for. `reserved` is what may still come back when work under way is
/// settled.
fn quota(
    binding: &Binding,
    needed: Joules,
    (reserved, wait): (Joules, Option<Duration>),
) -> Refusal {
    let EnergyWindow { joules, per, .. } = binding.window;
    let state = format!(
        "the tenant's window of {:.3} J per {}: {:.3} J are spent or reserved, {:.3} J are left, and the cheapest answer may take {:.3} J",
        joules.get(),
        per.as_str(),
        binding.used.get(),
        binding.left.get(),
        needed.get()
    );
    if joules >= needed && (binding.left + reserved) >= needed {
        let message = format!("{state}; what work under way does not use comes back: try again");
        return refusal(RefusalKind::RateLimited, message, Some(RETRY_OVERLOADED));
    }
    let message = match wait {
        Some(wait) => format!("{state}; there will be room in {} s", wait.as_secs()),
        None => format!("{state}; no answer ever fits this window: ask the operator to raise it"),
    };
    refusal(RefusalKind::QuotaExhausted, message, wait)
}

pub(super) fn no_expert(why: &str) -> Refusal {
    refusal(
        RefusalKind::NoExpert,
        format!("no expert can answer now: {why}"),
        Some(RETRY_NO_EXPERT),
    )
}

fn unknown_model(name: &str) -> Refusal {
    let message = format!("the model `{name}` is not in the fleet; GET /v1/models lists what is");
    refusal(RefusalKind::UnknownModel, message, None)
}

pub(super) fn too_long(prompt: u32, context: u32) -> Refusal {
    let message = format!(
        "the prompt has {prompt} tokens, and the longest context of an admissible expert holds {context}: shorten the prompt"
    );
    refusal(RefusalKind::ContextTooLong, message, None)
}

fn experts_failed(running: &Running, route: &Route) -> Refusal {
    let tried: Vec<String> = running
        .attempts
        .iter()
        .map(|a| a.expert.to_string())
        .collect();
    let beyond = |c: &Candidate| matches!(c.verdict, Verdict::TooSlow | Verdict::TooCostly);
    let others = if route.candidates.iter().any(beyond) {
        "; others would break what is left of the budgets"
    } else {
        ""
    };
    let tried = tried.join(", ");
    let message = format!("no admissible expert is left; tried {tried}{others}");
    refusal(RefusalKind::NoExpert, message, Some(RETRY_NO_EXPERT))
}

fn explain_refusal(route: &Route, budgets: &Budgets) -> Refusal {
    let smallest = route.smallest_feasible(budgets);
    if smallest == Budgets::default() {
        let any = |verdict| route.candidates.iter().any(|c| c.verdict == verdict);
        if any(Verdict::NotSelected) {
            return no_expert("none is in the active set; the operator's `moe2 plan` says why");
        }
        if any(Verdict::TooWeak) {
            let why = "no expert is forecast to answer as well as this tenant wants: name a model to ask it anyway";
            return refusal(RefusalKind::QualityInfeasible, why.to_owned(), None);
        }
        if any(Verdict::NotAllowed) {
            let why = "this tenant may ask none of the experts that are ready";
            return refusal(RefusalKind::NotAllowed, why.to_owned(), None);
        }
        if any(Verdict::LeftAlone) {
            let why = "those that could have failed again and again and are left alone for a while; `moe2 fleet` says how long";
            return no_expert(why);
        }
        return no_expert("none of those that host this model is ready");
    }
    let mut parts = Vec::new();
    let seconds = [
        ("delay_budget_ms", smallest.delay),
        ("first_token_budget_ms", smallest.first_token),
    ];
    for (name, smallest) in seconds {
        parts.extend(smallest.map(|s| {
            let ms = (s.get() * 1e3).ceil();
            format!("the smallest feasible {name} is {ms:.0}")
        }));
    }
    if let Some(energy) = smallest.energy {
        parts.push(format!(
            "the smallest feasible energy_budget_j is {:.3}",
            energy.get()
        ));
    }
    Refusal {
        kind: RefusalKind::BudgetInfeasible,
        message: format!(
            "no expert is forecast to fit the budgets: {}",
            parts.join(" and ")
        ),
        smallest,
        retry_after: None,
    }
}
