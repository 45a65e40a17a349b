//! What tenants ask, as far as planning needs it: the calibration set.
//!
//! Per tenant the last queries are kept as features and sizes, not as texts. Until there are some, and
//! with the weight of a few afterwards, typical prompts stand in for them, so that a topic nobody
//! asked about lately still has an expert.

use std::collections::{BTreeMap, VecDeque};

use moe2_gate::QueryFeatures;
use moe2_model::{
    Budgets, Message, Mode, Prompt, Query, Role, Sampling, Target, Task, TenantId, Time,
};

use super::super::forecast::Shape;
use super::super::ledger::Wall;
use super::demand::Demand;

/// Queries kept per tenant: enough for a mix, few enough that the problem stays small.
const KEPT: usize = 128;
/// Tenants that are remembered; more would be a configuration nobody has.
const MAX_TENANTS: usize = 256;
/// Weight of each typical prompt, in queries.
const TYPICAL_WEIGHT: f64 = 1.0;
/// Answer length of typical prompts.
const TYPICAL_TOKENS: u32 = 128;

/// One prompt per topic of free text.
fn typical_prompts() -> [Prompt; 4] {
    let asked = |text: &str| {
        Prompt::Chat(vec![Message {
            role: Role::User,
            content: text.to_owned(),
        }])
    };
    [
        asked("Write a Python function that reverses a string."),
        asked("Calculate 17 * 23."),
        asked("Hello, how are you today?"),
        Prompt::Raw("The history of the city begins in".to_owned()),
    ]
}

/// One prompt of the calibration set.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) features: QueryFeatures,
    pub(crate) shape: Shape,
    /// Whether budgets on the first token count for it.
    pub(crate) streamed: bool,
    /// Whether its first token comes with its last.
    pub(crate) in_one_piece: bool,
    /// Who may answer it.
    pub(crate) target: Target,
}

impl Asked {
    fn of(query: &Query, features: QueryFeatures) -> Self {
        Self {
            features,
            shape: Shape::of(query),
            streamed: query.stream,
            in_one_piece: query.in_one_piece(),
            target: query.target.clone(),
        }
    }
}

/// The last queries of each tenant.
#[derive(Debug)]
pub(crate) struct Calibration {
    typical: Vec<Asked>,
    asked: BTreeMap<TenantId, VecDeque<Asked>>,
    demand: Demand,
    /// Queries since this was last asked.
    lately: u32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            typical: typical_prompts()
                .map(|prompt| {
                    let query = typical(prompt);
                    Asked::of(&query, QueryFeatures::of(&query))
                })
                .into(),
            asked: BTreeMap::new(),
            demand: Demand::default(),
            lately: 0,
        }
    }
}

impl Calibration {
    /// Remembers a query.
    pub(crate) fn note(&mut self, now: (Time, Wall), query: &Query, features: &QueryFeatures) {
        self.demand.note(now, &query.tenant, features.topic());
        self.lately = self.lately.saturating_add(1);
        if self.asked.len() >= MAX_TENANTS && !self.asked.contains_key(&query.tenant) {
            return;
        }
        let kept = self.asked.entry(query.tenant.clone()).or_default();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Asked::of(query, features.clone()));
    }

    /// Tenants that have asked.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.asked.keys()
    }

    /// A tenant's prompts with their weights, which sum to 1; no more than `most` of its own, the
    /// newest.
    pub(crate) fn prompts(&self, tenant: &TenantId, most: usize) -> Vec<(&Asked, f64)> {
        let asked = self.asked.get(tenant);
        let own = asked.into_iter().flatten().rev().take(most);
        let own = own.map(|a| (a, 1.0));
        let typical = self.typical.iter().map(|a| (a, TYPICAL_WEIGHT));
        let mut prompts: Vec<(&Asked, f64)> = typical.chain(own).collect();
        let total: f64 = prompts.iter().map(|p| p.1).sum();
        prompts.iter_mut().for_each(|p| p.1 /= total);
        prompts
    }

    /// Probability that a tenant soon asks something like this.
    pub(crate) fn chance(&self, now: (Time, Wall), tenant: &TenantId, asked: &Asked) -> f64 {
        self.demand.chance(now, tenant, asked.features.topic())
    }

    /// Queries to be expected soon.
    pub(crate) fn expected(&self, now: (Time, Wall)) -> f64 {
        self.demand.expected(now)
    }

    /// Queries since the last call.
    pub(crate) fn take_lately(&mut self) -> u32 {
        std::mem::take(&mut self.lately)
    }

    /// Closes the hours that are over.
    pub(crate) fn turn(&mut self, wall: Wall) {
        self.demand.turn(wall);
    }

    /// Queries remembered.
    pub(crate) fn len(&self) -> usize {
        self.asked.values().map(VecDeque::len).sum()
    }
}

fn typical(prompt: Prompt) -> Query {
    Query {
        tenant: TenantId::new("planner").expect("a literal name is valid"),
        prompt,
        task: Task::Generate(Sampling {
            max_tokens: TYPICAL_TOKENS,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: Budgets::default(),
        max_experts: 1,
        mode: Mode::Auto,
        // A tenant that has not asked yet is taken to stream: budgets on the first token count.
        stream: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_gate::Topic;

    #[test]
    fn every_topic_of_free_text_has_its_typical_prompt() {
        let calibration = Calibration::default();
        let topics = calibration
            .typical
            .iter()
            .map(|asked| asked.features.topic());
        let expected = [Topic::Code, Topic::Math, Topic::Chat, Topic::Text];
        assert_eq!(topics.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_tenant_is_remembered_by_its_last_queries_only() {
        let mut calibration = Calibration::default();
        let query = typical(Prompt::Raw("x".to_owned()));
        let features = QueryFeatures::of(&query);
        for _ in 0..3 * KEPT {
            calibration.note((Time::ZERO, Wall(0)), &query, &features);
        }
        assert_eq!(calibration.len(), KEPT);
        let prompts = calibration.prompts(&query.tenant, KEPT);
        assert_eq!(prompts.len(), KEPT + 4);
        assert!((prompts.iter().map(|p| p.1).sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
