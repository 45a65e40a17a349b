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
    /// The dual value at the prices it is best for: no routing inside the limits is worth more.
    pub(super) bound: f64,
}

/// Relative error of a compensated sum, with that of the scores in it.
const ROUNDING: f64 = 8.0 * f64::EPSILON;

impl Policy {
    /// Every prompt to the expert that is worth most at these prices; of equals to the first.
    pub(super) fn at(problem: &Routing, prices: &Prices) -> Self {
        let mut totals = vec![Totals::default(); blocks(problem)];
        let mut dual = Sum::default();
        dual.add(prices.energy * problem.energy_limit().unwrap_or(0.0));
        let choice: Vec<u16> = (0..problem.prompt_count())
            .map(|x| {
                let (price, limit) = terms(problem, prices, x);
                let costs = problem.energy(x).iter().zip(problem.latency(x));
                let scores = problem.utility(x).iter().zip(costs);
                let mut best = (f64::NEG_INFINITY, 0, 0.0);
                for (n, (utility, (joules, seconds))) in scores.enumerate() {
                    let (paid, late) = (prices.energy * joules, price * (seconds - limit));
                    let score = utility - paid - late;
                    if score > best.0 {
                        best = (score, n, utility + paid + price * (seconds + limit));
                    }
                }
                let weight = problem.weights()[x];
                dual.add(weight * best.0);
                dual.size += weight * best.2;
                add(problem, &mut totals[block(problem, x)], x, best.1, 1.0);
                best.1 as u16
            })
            .collect();
        Self {
            choice,
            // Large prices cancel: what they lose to rounding is added, so that the bound stays true.
            bound: dual.value() + ROUNDING * dual.size,
            totals,
        }
    }
}

/// A compensated sum (Neumaier) that also knows how large its terms were; the judge has its own.
#[derive(Debug, Default)]
struct Sum {
    sum: f64,
    lost: f64,
    size: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        let next = self.sum + term;
        self.lost += if self.sum.abs() >= term.abs() {
            (self.sum - next) + term
        } else {
            (term - next) + self.sum
        };
        self.sum = next;
        self.size += term.abs();
    }

    fn value(&self) -> f64 {
        self.sum + self.lost
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
