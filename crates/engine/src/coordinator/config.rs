//! The engine's settings, each with its reason.

use std::time::Duration;

use moe2_cost::Profiles;
use moe2_model::Prices;

use super::ledger::Past;
use super::plan::PlanLimits;
use super::residency::Residency;

/// Settings that may change while queries are under way; these keep the time they were given.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// As [`Config::prices`].
    pub prices: Prices,
    /// As [`Config::plan`].
    pub plan: PlanLimits,
    /// As [`Config::max_queries`].
    pub max_queries: usize,
    /// As [`Config::query_timeout`].
    pub query_timeout: Duration,
    /// As [`Config::hedge_share`].
    pub hedge_share: f64,
}

/// Settings of the coordinator's engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// λ and μ until a tenant's own prices are computed. The defaults break ties: a joule is worth
    /// a thousandth of an answer's quality and a second a hundredth, so that of two equally good
    /// experts the faster and thriftier is taken, and a clearly better one is waited for.
    pub prices: Prices,
    /// Limits on the active set, and budgets of tenants.
    pub plan: PlanLimits,
    /// How often agents are told to send heartbeats.
    pub heartbeat: Duration,
    /// Silence after which a node gets no new work: two missed heartbeats and a half.
    pub suspect_after: Duration,
    /// Silence after which a node is given up: the fleet view must show a loss within 3 s.
    pub lost_after: Duration,
    /// How long a node that is gone is shown: long enough for an operator to see what happened.
    pub remember_gone: Duration,
    /// Queries under way at once; more are refused with "try again".
    pub max_queries: usize,
    /// Longest a query may take, whatever its budgets say.
    pub query_timeout: Duration,
    /// Silence of a dispatch beyond five times its forecast after which its expert counts as stuck.
    pub stall_grace: Duration,
    /// Time for work that was told to stop to say what it has used; then its place is free again and its joules
    /// are unknown. Agents kill a worker that does not stop within 15 s.
    pub cancel_grace: Duration,
    /// Share of all work that may be given to a second expert because the first is late; 0 for none.
    pub hedge_share: f64,
    /// Who decides what machines keep in memory that host more than they hold.
    pub residency: Residency,
    /// Attempts at one query, the first included.
    pub max_attempts: u32,
    /// Microseconds from 1970-01-01 UTC to the driver's zero: budgets of a day begin at midnight.
    pub epoch: u64,
    /// Speeds measured elsewhere, for experts that nobody has asked yet.
    pub profiles: Profiles,
    /// What tenants have been charged before.
    pub past: Past,
    /// Whether [`Output::Ended`](super::Output::Ended) tells how each query went.
    pub records: bool,
    /// Number of the first dispatch. A coordinator that restarts must not reuse numbers that agents
    /// may still be working on, so its driver derives this from the wall clock.
    pub first_dispatch: u64,
}

impl Config {
    /// Those of the settings that may change.
    #[must_use]
    pub fn live(&self) -> Live {
        Live {
            prices: self.prices,
            plan: self.plan.clone(),
            max_queries: self.max_queries,
            query_timeout: self.query_timeout,
            hedge_share: self.hedge_share,
        }
    }

    pub(super) fn take(&mut self, live: Live) {
        let Live {
            prices,
            plan,
            max_queries,
            query_timeout,
            hedge_share,
        } = live;
        self.prices = prices;
        self.plan = plan;
        self.max_queries = max_queries;
        self.query_timeout = query_timeout;
        self.hedge_share = hedge_share;
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            prices: Prices {
                per_joule: 0.001,
                per_second: 0.01,
                per_first_token_second: 0.0,
            },
            plan: PlanLimits::default(),
            heartbeat: Duration::from_millis(500),
            suspect_after: Duration::from_millis(1_250),
            lost_after: Duration::from_millis(2_200),
            remember_gone: Duration::from_secs(600),
            max_queries: 1_024,
            query_timeout: Duration::from_secs(300),
            stall_grace: Duration::from_secs(10),
            cancel_grace: Duration::from_secs(60),
            hedge_share: 0.05,
            residency: Residency::default(),
            max_attempts: 4,
            epoch: 0,
            profiles: Profiles::default(),
            past: Past::default(),
            records: false,
            first_dispatch: 1,
        }
    }
}
