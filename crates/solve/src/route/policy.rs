//! The best routing at given prices, and what it amounts to.

use super::problem::Routing;
use super::solution::Prices;

/// What a policy amounts to within one block of prompts (a category with a limit, or all others).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Totals {
    /// Weighted utility.
    pub(super) value: f64,
    /// Weighted joules.
    pub(super) energy: f64,
    /// Weighted seconds above the category's limit; 0 where there is none.
    pub(super) excess: f64,
}

/// One expert per prompt, with totals per block. Block `categories().len()` has the prompts whose
/// category has no limit.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) choice: Vec<u16>,
    pub(super) totals: Vec<Totals>,
}

impl Policy {
    /// Every prompt to the expert that is worth most at these prices; of equals to the first.
    pub(super) fn at(problem: &Routing, prices: &Prices) -> Self {
        let mut totals = vec![Totals::default(); blocks(problem)];
        let choice = (0..problem.prompt_count()).map(|x| {
            let (price, limit) = terms(problem, prices, x);
            let costs = problem.energy(x).iter().zip(problem.latency(x));
            let scores = problem.utility(x).iter().zip(costs);
            let mut best = (f64::NEG_INFINITY, 0);
            for (n, (utility, (joules, seconds))) in scores.enumerate() {
                let score = utility - prices.energy * joules - price * (seconds - limit);
                if score > best.0 {
                    best = (score, n);
                }
            }
            add(problem, &mut totals[block(problem, x)], x, best.1, 1.0);
            best.1 as u16
        });
        Self {
            choice: choice.collect(),
            totals,
        }
    }

    /// The dual value at these prices if this policy is the best one there: an upper bound on
    /// every routing inside the limits.
    pub(super) fn bound(&self, problem: &Routing, prices: &Prices) -> f64 {
        let budget = prices.energy * problem.energy_limit().unwrap_or(0.0);
        let price = |block: usize| prices.latency.get(block).copied().unwrap_or(0.0);
        let totals = self.totals.iter().enumerate();
        let worth = totals.map(|(b, t)| t.value - prices.energy * t.energy - price(b) * t.excess);
        budget + worth.sum::<f64>()
    }
}

/// Number of blocks of prompts.
pub(super) fn blocks(problem: &Routing) -> usize {
    problem.categories().len() + 1
}

/// The block of a prompt.
pub(super) fn block(problem: &Routing, prompt: usize) -> usize {
    problem
        .category(prompt)
        .unwrap_or(problem.categories().len())
}

/// Price and limit of a prompt's seconds.
fn terms(problem: &Routing, prices: &Prices, prompt: usize) -> (f64, f64) {
    problem.category(prompt).map_or((0.0, 0.0), |c| {
        (prices.latency[c], problem.categories()[c].1)
    })
}

/// Adds a share of a prompt, answered by an expert, to the totals of its block.
pub(super) fn add(
    problem: &Routing,
    totals: &mut Totals,
    prompt: usize,
    expert: usize,
    share: f64,
) {
    let weight = problem.weights()[prompt] * share;
    totals.value += weight * problem.utility(prompt)[expert];
    totals.energy += weight * problem.energy(prompt)[expert];
    if let Some(category) = problem.category(prompt) {
        let limit = problem.categories()[category].1;
        totals.excess += weight * (problem.latency(prompt)[expert] - limit);
    }
}
