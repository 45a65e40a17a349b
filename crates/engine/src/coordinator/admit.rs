//! A query comes in: can anyone take it, and who should?
//!
//! Refusals are decided here, before anything is spent, and each says what would help: another
//! model name, waiting, or a budget that is feasible now.

use std::sync::Arc;
use std::time::Duration;

use moe2_gate::{FusionGain, Topic};
use moe2_model::{
    Budgets, Candidate, DispatchId, Event, Job, Joules, Mode, Outcome, Query, QueryId, RefusalKind,
    Seconds, Target, Task, TenantId, Time, Verdict,
};

use super::contenders::Scope;
use super::decision::{Choice, Choices, Grounds, decide};
use super::fleet::{Expert, Node};
use super::ledger::{Binding, EnergyWindow, Full};
use super::line::Whose;
use super::query::{Round, Running};
use super::queue::waited_in_vain;
use super::record::QueryRecord;
use super::reply::{Refusal, Reply};
use super::route::{Punctual, Route, Terms};
use super::{Engine, Output, Timer};

/// How long a client should wait before it asks a fleet without a ready expert again: about the
/// time a small model takes to load.
const RETRY_NO_EXPERT: Duration = Duration::from_secs(2);
/// How long a client should wait while the books cannot be written: an operator has to make room.
const RETRY_BOOKS: Duration = Duration::from_secs(10);
/// How long a client should wait when too many queries are under way.
const RETRY_OVERLOADED: Duration = Duration::from_secs(1);

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
            choices: Choices::default(),
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
        let Some(choice) = self.choose(now, id, Scope::default()) else {
            return;
        };
        let chosen = choice.route.chosen().to_vec();
        let refusal = chosen.is_empty().then(|| {
            let quota = self.quota_refusal(now, id, &choice.route);
            quota.unwrap_or_else(|| explain_refusal(&choice.route, &choice.own))
        });
        let Some(running) = self.queries.get_mut(&id) else {
            return;
        };
        let recorded = self.config.records;
        running.choices.note(choice.decision(), recorded);
        if let Some(refusal) = refusal {
            let refusal = match running.too_long {
                Some((prompt, context)) => too_long(prompt, context),
                None if running.attempts.is_empty() => {
                    waited_in_vain(now, running).unwrap_or(refusal)
                }
                None => experts_failed(running),
            };
            self.refuse(now, id, refusal);
            return;
        }
        for candidate in &chosen {
            self.dispatch(now, id, candidate, Job::Answer);
        }
    }

    /// Who should answer.
    pub(super) fn choose(&self, now: Time, id: QueryId, scope: Scope<'_>) -> Option<Choice> {
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
        let route = decide(&self.contenders(now, (id, running), scope), &grounds);
        Some(Choice {
            at: now.seconds_since(running.submitted),
            grounds,
            route,
            own: Budgets {
                energy: running.energy_left(),
                ..budgets
            },
        })
    }

    /// What is left of a query's joules: its own, and its tenant's, once what is reserved for `given_up` has come back.
    pub(super) fn energy_left(
        &self,
        now: Time,
        running: &Running,
        given_up: Option<DispatchId>,
    ) -> Option<Joules> {
        let (wall, tenant) = (self.wall(now), &running.query.tenant);
        let window = self.ledger.binding(wall, tenant, given_up);
        let left = [running.energy_left(), window.map(|window| window.left)];
        let left = left.into_iter().flatten();
        left.min_by(|a, b| a.get().total_cmp(&b.get()))
    }

    /// The refusal of a query that fits its own budgets but not what is left of its tenant's.
    fn quota_refusal(&self, now: Time, id: QueryId, route: &Route) -> Option<Refusal> {
        let running = self.queries.get(&id)?;
        let (wall, tenant) = (self.wall(now), &running.query.tenant);
        let binding = self.ledger.binding(wall, tenant, None)?;
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

fn experts_failed(running: &Running) -> Refusal {
    let tried: Vec<String> = running
        .attempts
        .iter()
        .map(|a| a.expert.to_string())
        .collect();
    let beyond = |c: &Candidate| matches!(c.verdict, Verdict::TooSlow | Verdict::TooCostly);
    let others = if running.choices.candidates().iter().any(beyond) {
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
