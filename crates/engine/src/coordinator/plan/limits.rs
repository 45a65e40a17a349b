//! What an operator allows: limits on the active set, and budgets of tenants.
//!
//! The limits of the whole fleet are guarantees about *every* active expert, in the worst case over the
//! calibration prompts: that is the paper's formulation. A tenant's budgets concern its own queries only. As
//! rows of the same kind they would let the strictest tenant take slow experts away from all others, so
//! they act where they belong: on that tenant's utilities, of which an expert that breaks its budget
//! has none, and on each of its queries when it is routed.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ledger::Spending;
use moe2_gate::Topic;
use moe2_model::{Budgets, ExpertName, Joules, Seconds, TenantId, Verdict, Watts};

/// Limits on the active set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlanLimits {
    /// How many experts answer one query at most; at least 1. `None`: as many as a request asks for,
    /// and the set is chosen for one.
    pub experts_per_query: Option<usize>,
    /// Most experts that are active.
    pub experts: Option<usize>,
    /// Standing power of all active experts together.
    pub standing: Option<Watts>,
    /// Energy of the [`PlanLimits::experts_per_query`] dearest active experts on one prompt.
    pub energy: Option<Joules>,
    /// Delay of every active expert on prompts of a topic.
    pub delay: BTreeMap<Topic, Seconds>,
    /// Whether only `tenants` may ask.
    pub closed: bool,
    /// Tenants with their weights and budgets; others have weight 1 and no budgets.
    pub tenants: Vec<TenantLimits>,
}

/// One tenant's weight and budgets.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantLimits {
    /// Whose.
    pub tenant: TenantId,
    /// How much its queries count against those of others.
    pub weight: f64,
    /// Energy of one query.
    pub energy: Option<Joules>,
    /// Delay by topic.
    pub delay: BTreeMap<Topic, Seconds>,
    /// Time to the first token by topic, of answers that are streamed.
    pub first_token: BTreeMap<Topic, Seconds>,
    /// Whether it has answers late rather than not at all: where no expert keeps the delay budget, the one
    /// that is nearest to it is asked.
    pub late: bool,
    /// Delay by topic that 95 in 100 answers stay within, kept by a price on being late.
    pub delay_p95: BTreeMap<Topic, Seconds>,
    /// Time to the first token by topic that 95 in 100 streamed answers stay within, kept by the same price.
    pub first_token_p95: BTreeMap<Topic, Seconds>,
    /// Energy of a query on average, kept by a price.
    pub mean_energy: Option<Joules>,
    /// Delay of a query on average, kept by a price.
    pub mean_delay: Option<Seconds>,
    /// Time to the first token of a streamed answer on average, kept by a price.
    pub mean_first_token: Option<Seconds>,
    /// Experts that may answer it; all if absent.
    pub experts: Option<BTreeSet<ExpertName>>,
    /// Forecast probability of a good answer below which an expert is not asked.
    pub least_quality: Option<f64>,
    /// What it may spend, whatever it asks.
    pub spending: Spending,
}

impl TenantLimits {
    /// A tenant without any limit.
    #[must_use]
    pub fn unlimited(tenant: TenantId) -> Self {
        Self {
            tenant,
            weight: 1.0,
            energy: None,
            delay: BTreeMap::new(),
            first_token: BTreeMap::new(),
            late: false,
            delay_p95: BTreeMap::new(),
            first_token_p95: BTreeMap::new(),
            mean_energy: None,
            mean_delay: None,
            mean_first_token: None,
            experts: None,
            least_quality: None,
            spending: Spending::default(),
        }
    }

    /// Why this expert may not answer, as far as its name and its forecast go.
    pub(crate) fn bars(&self, expert: &ExpertName, quality: f64) -> Option<Verdict> {
        if self
            .experts
            .as_ref()
            .is_some_and(|all| !all.contains(expert))
        {
            Some(Verdict::NotAllowed)
        } else if self.least_quality.is_some_and(|least| quality < least) {
            Some(Verdict::TooWeak)
        } else {
            None
        }
    }

    /// Whether its queries have a price of their own that keeps a mean.
    pub(crate) fn has_mean(&self) -> bool {
        self.mean_energy.is_some() || self.mean_delay.is_some() || self.mean_first_token.is_some()
    }

    /// Whether most of its answers are to keep a time.
    pub(crate) fn has_percentile(&self) -> bool {
        !(self.delay_p95.is_empty() && self.first_token_p95.is_empty())
    }

    /// The budgets of a query on this topic.
    pub(crate) fn budgets(&self, topic: Topic) -> Budgets {
        Budgets {
            delay: self.delay.get(&topic).copied(),
            first_token: self.first_token.get(&topic).copied(),
            energy: self.energy,
        }
    }
}

impl PlanLimits {
    /// How many experts' answers a calibration prompt counts: k of MATH 2.1.
    pub(crate) fn k(&self) -> usize {
        self.experts_per_query.unwrap_or(1).max(1)
    }

    /// How many experts may answer one query. A limit on a prompt's energy is a limit on k experts, so
    /// with one there cannot be more.
    pub(crate) fn most_experts(&self) -> usize {
        if self.experts_per_query.is_some() || self.energy.is_some() {
            self.k()
        } else {
            usize::MAX
        }
    }

    /// A tenant's limits, if it has any.
    pub(crate) fn tenant(&self, tenant: &TenantId) -> Option<&TenantLimits> {
        self.tenants.iter().find(|t| t.tenant == *tenant)
    }

    /// What a tenant's query on a topic may cost: its own budgets tighten the tenant's, never loosen
    /// them.
    pub(crate) fn tightened(&self, tenant: &TenantId, topic: Topic, own: Budgets) -> Budgets {
        let limits = self.tenant(tenant);
        let given = limits.map_or(Budgets::default(), |limits| limits.budgets(topic));
        own.tightened(given)
    }
}
