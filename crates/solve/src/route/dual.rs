//! The best prices, by cutting planes on the dual.
//!
//! The dual value is convex and piecewise linear in the prices; at any point the best policy there gives
//! a linear function below it, one per block of prompts, that touches. Minimising the largest of
//! those found so far is a tiny linear programme (a variable per budget and block); its solution says
//! where to look next, and its multipliers are the shares in which the policies have to be mixed to keep
//! the budgets. Plain subgradient ascent, which corrects prices on live traffic, gives no routing and no
//! end; this gives both after a few dozen passes over the table.
//!
//! Points are taken between the programme's solution and the best prices so far, as in
//! `search::root`.

use super::mixture::{self, positive};
use super::policy::{self, Policy};
use super::problem::Routing;
use super::solution::{EnergyShortfall, Prices, RoutingInfeasible, RoutingSolution, RoutingStatus};
use crate::bound::simplex::{Simplex, Var};
use crate::rows::FEASIBILITY_TOLERANCE;

/// Rounds, at most; a few dozen are usual.
const ROUNDS: u32 = 2_000;
/// Distance between bound and value, relative to the largest value possible, that counts as none.
const CONVERGED: f64 = 1e-10;
/// Distance up to which a routing is called optimal.
const OPTIMAL: f64 = 1e-9;
/// Relative excess from which a limit is kept by its tolerance only, and not by the rounding of what is
/// needed.
const EDGE: f64 = 1e-10;
/// How far the next prices go from the best ones towards the programme's.
const TOWARDS: f64 = 0.7;
/// First cap on a price, as value per whole budget with the largest value possible as 1, and how it
/// grows when it binds. Feasible problems have finite prices.
const CAP: f64 = 1e4;
const CAP_GROWTH: f64 = 1e3;
const LARGEST_CAP: f64 = 1e13;
const MAX_PIVOTS: u64 = 100_000;

/// Finds prices, the bound they prove, and a routing inside the limits.
pub fn solve(problem: &Routing) -> RoutingSolution {
    let on_the_edge = match feasible(problem) {
        Ok(on_the_edge) => on_the_edge,
        Err(reason) => return RoutingSolution::infeasible(problem, reason),
    };
    // A limit that only its tolerance makes feasible has no finite price.
    let widened = on_the_edge.then(|| problem.widened());
    let problem = widened.as_ref().unwrap_or(problem);
    let found = Search::new(problem).run();
    let mixture = mixture::purified(problem, &found.policies, &found.shares);
    let largest = largest(problem);
    let status = if found.bound - mixture.value <= OPTIMAL * largest {
        RoutingStatus::Optimal
    } else {
        RoutingStatus::Feasible
    };
    RoutingSolution {
        status,
        value: mixture.value,
        bound: found.bound.max(mixture.value),
        prices: found.prices,
        spent: mixture.spent,
        assignment: mixture.assignment,
        rounds: found.rounds,
    }
}

/// Whether a limit can be kept within its tolerance only, or why no routing keeps them all.
fn feasible(problem: &Routing) -> Result<bool, RoutingInfeasible> {
    let mut fastest = vec![0.0; problem.categories().len()];
    let mut weight = fastest.clone();
    let mut thriftiest = 0.0;
    for x in 0..problem.prompt_count() {
        let w = problem.weights()[x];
        let least = |row: &[f64]| row.iter().copied().fold(f64::INFINITY, f64::min);
        if let Some(category) = problem.category(x) {
            fastest[category] += w * least(problem.latency(x));
            weight[category] += w;
        }
        thriftiest += w * least(problem.energy(x));
    }
    let short = |needed: f64, limit: f64| needed > limit * (1.0 + FEASIBILITY_TOLERANCE);
    let just = |needed: f64, limit: f64| needed > limit * (1.0 + EDGE);
    let limits = problem.categories().iter().map(|c| c.1).enumerate();
    let mut edge = limits
        .clone()
        .any(|(c, limit)| just(fastest[c], limit * weight[c]));
    let slow = limits.filter(|&(c, limit)| short(fastest[c], limit * weight[c]));
    let latency: Vec<_> = slow
        .map(|(c, limit)| (c, limit, fastest[c] / weight[c]))
        .collect();
    if !latency.is_empty() {
        return Err(RoutingInfeasible {
            latency,
            energy: None,
        });
    }
    let Some(limit) = problem.energy_limit() else {
        return Ok(edge);
    };
    let found = (!problem.categories().is_empty()).then(|| Search::new(&problem.thrift()).run());
    let prices = found.map_or(Vec::new(), |found| found.prices.latency);
    let needed = spent_at_least(problem, &prices).max(thriftiest);
    let energy = EnergyShortfall {
        limit,
        needed,
        prices,
    };
    edge |= just(needed, limit);
    if short(needed, limit) {
        return Err(RoutingInfeasible {
            latency,
            energy: Some(energy),
        });
    }
    Ok(edge)
}

/// What every routing spends that keeps the limits on seconds, by these prices of seconds in joules: the
/// dual value of the thrift problem, without the savings it counts in, which would cancel.
fn spent_at_least(problem: &Routing, prices: &[f64]) -> f64 {
    let least = |x: usize| {
        let (price, limit) = match problem.category(x) {
            Some(c) => (
                prices.get(c).copied().unwrap_or(0.0),
                problem.categories()[c].1,
            ),
            None => (0.0, 0.0),
        };
        let costs = problem.energy(x).iter().zip(problem.latency(x));
        let priced = costs.map(|(joules, seconds)| joules + price * (seconds - limit));
        priced.fold(f64::INFINITY, f64::min)
    };
    let rows = problem.weights().iter().enumerate();
    rows.map(|(x, weight)| weight * least(x)).sum()
}

/// Weight times largest utility: the scale of values.
fn largest(problem: &Routing) -> f64 {
    let best = |x: usize| problem.utility(x).iter().copied().fold(0.0, f64::max);
    let worth = problem
        .weights()
        .iter()
        .enumerate()
        .map(|(x, w)| w * best(x));
    worth.sum::<f64>().max(f64::MIN_POSITIVE)
}

struct Found {
    prices: Prices,
    bound: f64,
    policies: Vec<Policy>,
    /// Per block and policy.
    shares: Vec<Vec<f64>>,
    rounds: u32,
}

struct Search<'p> {
    problem: &'p Routing,
    /// Scales: joules, seconds by category, value.
    joules: f64,
    seconds: Vec<f64>,
    value: f64,
    simplex: Simplex,
    cap: f64,
    policies: Vec<Policy>,
    /// Slack of each policy's row, per block.
    slacks: Vec<Vec<Option<Var>>>,
}

impl<'p> Search<'p> {
    fn new(problem: &'p Routing) -> Self {
        // By the category's own weight: beside the weight of everything a rare category's limit would
        // vanish in rounding.
        let mut weight = vec![0.0; problem.categories().len()];
        for x in 0..problem.prompt_count() {
            if let Some(category) = problem.category(x) {
                weight[category] += problem.weights()[x];
            }
        }
        let mut search = Self {
            problem,
            joules: positive(problem.energy_limit().unwrap_or(0.0)),
            seconds: problem
                .categories()
                .iter()
                .zip(&weight)
                .map(|(c, weight)| positive(c.1 * weight))
                .collect(),
            value: largest(problem),
            simplex: Simplex::new(&[], &[]),
            cap: CAP,
            policies: Vec::new(),
            slacks: Vec::new(),
        };
        search.set_up();
        search
    }

    /// Variables: the price of joules, that of each category's seconds, a value per block.
    fn set_up(&mut self) {
        let prices = 1 + self.seconds.len();
        let blocks = policy::blocks(self.problem);
        let capped = (0..prices).map(|_| (0.0, self.cap));
        let free = (0..blocks).map(|_| (f64::NEG_INFINITY, f64::INFINITY));
        let bounds: Vec<_> = capped.chain(free).collect();
        let mut cost = vec![0.0; prices + blocks];
        cost[0] = -self.problem.energy_limit().unwrap_or(0.0) / self.joules;
        cost[prices..].fill(-1.0);
        self.simplex = Simplex::new(&bounds, &cost);
        self.slacks.clear();
        if self.policies.is_empty() {
            let none = Prices {
                energy: 0.0,
                latency: vec![0.0; self.seconds.len()],
            };
            self.policies.push(Policy::at(self.problem, &none));
        }
        for policy in 0..self.policies.len() {
            self.add_rows(policy, |_| true);
        }
        for block in 0..blocks {
            if let Some(slack) = self.slacks[0][block] {
                self.simplex.make_basic(prices + block, slack);
            }
        }
    }

    /// Adds the rows of a policy for the blocks where it is wanted.
    fn add_rows(&mut self, policy: usize, wanted: impl Fn(usize) -> bool) {
        let prices = 1 + self.seconds.len();
        let mut slacks = vec![None; policy::blocks(self.problem)];
        for (block, slack) in slacks.iter_mut().enumerate().filter(|(b, _)| wanted(*b)) {
            let totals = self.policies[policy].totals[block];
            let mut row = vec![(prices + block, 1.0)];
            if self.problem.energy_limit().is_some() {
                row.push((0, totals.energy / self.joules));
            }
            if let Some(seconds) = self.seconds.get(block) {
                row.push((1 + block, totals.excess / seconds));
            }
            *slack = Some(self.simplex.add_row(-totals.value / self.value, &row));
        }
        self.slacks.push(slacks);
    }

    fn run(mut self) -> Found {
        let mut best: Option<(f64, Prices)> = None;
        let mut rounds = 0;
        while rounds < ROUNDS {
            rounds += 1;
            self.simplex.solve(f64::NEG_INFINITY, MAX_PIVOTS);
            let wanted = self.point();
            let below = -self.simplex.objective() * self.value;
            let between = best
                .as_ref()
                .map_or(wanted.clone(), |(_, b)| mix(&wanted, b));
            let stuck = !self.look(&between, &mut best);
            let moved = if stuck {
                self.look(&wanted, &mut best)
            } else {
                true
            };
            let bound = best.as_ref().map_or(f64::INFINITY, |b| b.0);
            let settled = bound - below <= CONVERGED * self.value || !moved;
            if settled && !(self.capped() && self.raise_cap()) {
                break;
            }
        }
        let (bound, prices) = best.expect("there is a first round");
        Found {
            prices,
            bound,
            shares: self.shares(),
            policies: self.policies,
            rounds,
        }
    }

    /// Takes the best policy at these prices into the programme; whether that can change it.
    fn look(&mut self, prices: &Prices, best: &mut Option<(f64, Prices)>) -> bool {
        let policy = Policy::at(self.problem, prices);
        let bound = policy.bound;
        if best.as_ref().is_none_or(|(b, _)| bound < *b) {
            *best = Some((bound, prices.clone()));
        }
        let known = |block: usize| {
            let totals = policy.totals[block];
            let here = |p: usize| self.slacks[p][block].is_some();
            let same = |p: &Policy| p.totals[block] == totals;
            self.policies
                .iter()
                .enumerate()
                .any(|(p, old)| here(p) && same(old))
        };
        let fresh: Vec<bool> = (0..policy.totals.len())
            .map(|block| !known(block))
            .collect();
        let news = fresh.iter().any(|f| *f);
        if news {
            self.policies.push(policy);
            self.add_rows(self.policies.len() - 1, |block| fresh[block]);
        }
        news
    }

    /// The programme's prices, in their own units.
    fn point(&self) -> Prices {
        let price = |var: Var| self.simplex.value(var).max(0.0) * self.value;
        let seconds = self.seconds.iter().enumerate();
        let limited = self.problem.energy_limit().is_some();
        Prices {
            energy: if limited { price(0) / self.joules } else { 0.0 },
            latency: seconds.map(|(c, scale)| price(1 + c) / scale).collect(),
        }
    }

    /// Whether a price is at its cap.
    fn capped(&self) -> bool {
        (0..=self.seconds.len()).any(|var| self.simplex.value(var) >= self.cap * (1.0 - 1e-9))
    }

    /// Raises the cap on prices; whether it could.
    fn raise_cap(&mut self) -> bool {
        self.cap *= CAP_GROWTH;
        for var in 0..=self.seconds.len() {
            self.simplex.set_bounds(var, 0.0, self.cap);
        }
        self.cap <= LARGEST_CAP
    }

    /// Shares of the policies within each block: the multipliers of their rows.
    fn shares(&self) -> Vec<Vec<f64>> {
        let share = |block: usize, slacks: &Vec<Option<Var>>| {
            slacks[block].map_or(0.0, |slack| self.simplex.multiplier(slack).max(0.0))
        };
        let normal = |mut shares: Vec<f64>| {
            let sum: f64 = shares.iter().sum();
            shares.iter_mut().for_each(|s| *s /= sum);
            shares
        };
        let blocks = 0..policy::blocks(self.problem);
        blocks
            .map(|b| normal(self.slacks.iter().map(|s| share(b, s)).collect()))
            .collect()
    }
}

fn mix(towards: &Prices, from: &Prices) -> Prices {
    let between = |a: f64, b: f64| TOWARDS * a + (1.0 - TOWARDS) * b;
    let latency = towards.latency.iter().zip(&from.latency);
    Prices {
        energy: between(towards.energy, from.energy),
        latency: latency.map(|(a, b)| between(*a, *b)).collect(),
    }
}
