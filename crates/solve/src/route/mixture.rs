//! From a mix of policies to a routing that splits at most one prompt per budget.
//!
//! A mix splits every prompt on which its policies differ, thousands where utilities tie. But only the
//! totals matter: shares can be moved among split prompts as long as joules, and seconds within each
//! category, stay what they are, until some share is 0. Such a move exists whenever the changes that
//! the splits could make are linearly dependent, and of its two directions one does not lower the
//! value. What remains is independent, hence at most one split per budget: what a vertex of the
//! linear programme would have.

use std::collections::VecDeque;

use super::policy::{self, Policy, Totals};
use super::problem::Routing;
use super::solution::Spent;
use crate::rows::FEASIBILITY_TOLERANCE;

/// Shares below this are dropped: rounding of the programme that found the mix.
const NOTHING: f64 = 1e-12;
/// Part of a change's size below which what is left of it counts as rounding.
const DEPENDENT: f64 = 1e-9;

/// Shares of a prompt's largest one that may be rounding where they break a limit.
const TINY: f64 = 1e-6;

/// A routing with its totals.
pub(super) struct Mixture {
    pub(super) assignment: Vec<Vec<(usize, f64)>>,
    pub(super) value: f64,
    pub(super) spent: Spent,
}

/// Mixes the policies by their shares per block and moves shares until few prompts are split.
pub(super) fn purified(problem: &Routing, policies: &[Policy], shares: &[Vec<f64>]) -> Mixture {
    let assignment = (0..problem.prompt_count()).map(|x| mixed(problem, policies, shares, x));
    let mut splits = Splits {
        problem,
        assignment: assignment.collect(),
    };
    // Block by block there are two totals to keep, which is quick; what is left is settled jointly.
    let mut left = Vec::new();
    for block in 0..policy::blocks(problem) {
        let split =
            |x: &usize| policy::block(problem, *x) == block && splits.assignment[*x].len() > 1;
        let prompts: Vec<usize> = (0..problem.prompt_count()).filter(split).collect();
        left.extend(splits.settle(prompts));
    }
    splits.settle(left);
    splits.finish()
}

fn mixed(
    problem: &Routing,
    policies: &[Policy],
    shares: &[Vec<f64>],
    prompt: usize,
) -> Vec<(usize, f64)> {
    let mut mixed: Vec<(usize, f64)> = Vec::new();
    for (policy, &share) in policies.iter().zip(&shares[policy::block(problem, prompt)]) {
        let expert = usize::from(policy.choice[prompt]);
        match mixed.iter_mut().find(|m| m.0 == expert) {
            Some(own) => own.1 += share,
            None => mixed.push((expert, share)),
        }
    }
    mixed.retain(|m| m.1 > NOTHING);
    let sum: f64 = mixed.iter().map(|m| m.1).sum();
    mixed.iter_mut().for_each(|m| m.1 /= sum);
    mixed
}

/// Two experts that share a prompt.
#[derive(Debug, Clone, Copy)]
struct Pair {
    prompt: usize,
    to: usize,
    from: usize,
}

struct Splits<'p> {
    problem: &'p Routing,
    assignment: Vec<Vec<(usize, f64)>>,
}

impl Splits<'_> {
    /// Moves shares among these prompts until the changes that their splits could make are
    /// independent; returns the prompts that are still split.
    fn settle(&mut self, prompts: Vec<usize>) -> Vec<usize> {
        let mut waiting: VecDeque<Pair> = prompts.iter().flat_map(|&x| self.pairs(x)).collect();
        let mut settled: Vec<Pair> = Vec::new();
        while let Some(pair) = waiting.pop_front() {
            let Some(parts) = self.parts(&settled, pair) else {
                settled.push(pair);
                continue;
            };
            let moves = parts
                .iter()
                .zip(&settled)
                .map(|(part, other)| (*other, -part));
            let moves: Vec<(Pair, f64)> =
                moves.chain([(pair, 1.0)]).filter(|m| m.1 != 0.0).collect();
            let emptied = self.shift(&moves);
            settled.retain(|other| !emptied.contains(&other.prompt));
            waiting.retain(|other| !emptied.contains(&other.prompt));
            waiting.extend(emptied.iter().flat_map(|&x| self.pairs(x)));
            if !emptied.contains(&pair.prompt) {
                waiting.push_front(pair);
            }
        }
        let mut left: Vec<usize> = settled.iter().map(|pair| pair.prompt).collect();
        left.dedup();
        left
    }

    fn pairs(&self, prompt: usize) -> Vec<Pair> {
        let shares = &self.assignment[prompt];
        let others = shares[1..].iter().map(|other| other.0);
        let pair = |from| Pair {
            prompt,
            to: shares[0].0,
            from,
        };
        others.map(pair).collect()
    }

    /// Change of the totals when all of a prompt goes from one expert of the pair to the other.
    fn change(&self, pair: Pair) -> Totals {
        let mut change = Totals::default();
        policy::add(self.problem, &mut change, pair.prompt, pair.to, 1.0);
        policy::add(self.problem, &mut change, pair.prompt, pair.from, -1.0);
        change
    }

    /// The change as seen by the budgets, each in units of its limit.
    fn seen(&self, pair: Pair) -> [(usize, f64); 2] {
        let change = self.change(pair);
        let joules = self
            .problem
            .energy_limit()
            .map_or(0.0, |limit| change.energy / positive(limit));
        let category = self.problem.category(pair.prompt);
        let limit = category.map_or(1.0, |c| positive(self.problem.categories()[c].1));
        [
            (0, joules),
            (1 + category.unwrap_or(0), change.excess / limit),
        ]
    }

    /// How the pair's change is made up of those of the settled pairs, if it is.
    fn parts(&self, settled: &[Pair], pair: Pair) -> Option<Vec<f64>> {
        let budgets = 1 + self.problem.categories().len().max(1);
        let width = settled.len();
        let mut rows = vec![vec![0.0; width + 1]; budgets];
        for (at, &pair) in settled.iter().chain([&pair]).enumerate() {
            self.seen(pair)
                .iter()
                .for_each(|&(budget, by)| rows[budget][at] += by);
        }
        let size = rows.iter().map(|row| row[width].abs()).fold(0.0, f64::max);
        let mut pivots: Vec<usize> = Vec::new();
        for column in 0..width {
            // Settled changes are independent, so there is a pivot; the largest one is safest.
            let free = (0..budgets).filter(|row| !pivots.contains(row));
            let pivot =
                free.max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
            pivots.push(pivot);
            let line = rows[pivot].clone();
            for (at, row) in rows.iter_mut().enumerate().filter(|(at, _)| *at != pivot) {
                let factor = row[column] / line[column];
                if factor != 0.0 {
                    row.iter_mut()
                        .zip(&line)
                        .for_each(|(a, b)| *a -= factor * b);
                    debug_assert!(at != pivot);
                }
            }
        }
        let rest = (0..budgets).filter(|row| !pivots.contains(row));
        let left = rest.map(|row| rows[row][width].abs()).fold(0.0, f64::max);
        let part = |(column, &pivot): (usize, &usize)| rows[pivot][width] / rows[pivot][column];
        (left <= DEPENDENT * size).then(|| pivots.iter().enumerate().map(part).collect())
    }

    /// Moves shares in these proportions, in the direction that does not lower the value, until
    /// some are 0; returns the prompts that lost a share.
    fn shift(&mut self, moves: &[(Pair, f64)]) -> Vec<usize> {
        let gain: f64 = moves
            .iter()
            .map(|(pair, by)| by * self.change(*pair).value)
            .sum();
        let sign = if gain < 0.0 { -1.0 } else { 1.0 };
        let mut net: Vec<(usize, usize, f64)> = Vec::new();
        for &(pair, by) in moves {
            for (expert, by) in [(pair.to, sign * by), (pair.from, -sign * by)] {
                match net.iter_mut().find(|n| (n.0, n.1) == (pair.prompt, expert)) {
                    Some(own) => own.2 += by,
                    None => net.push((pair.prompt, expert, by)),
                }
            }
        }
        let losing = net.iter().filter(|n| n.2 < 0.0);
        let step = losing
            .map(|n| self.share(n.0, n.1) / -n.2)
            .fold(f64::INFINITY, f64::min);
        let mut emptied = Vec::new();
        for &(prompt, expert, by) in &net {
            let shares = &mut self.assignment[prompt];
            let own = shares
                .iter_mut()
                .find(|s| s.0 == expert)
                .expect("pairs name sharers");
            own.1 += step * by;
            if by < 0.0 && own.1 <= NOTHING {
                shares.retain(|s| s.0 != expert);
                if !emptied.contains(&prompt) {
                    emptied.push(prompt);
                }
            }
        }
        emptied
    }

    fn share(&self, prompt: usize, expert: usize) -> f64 {
        let own = self.assignment[prompt].iter().find(|s| s.0 == expert);
        own.map_or(0.0, |s| s.1)
    }

    /// The routing, without the tiny shares that the programme's rounding left where they break a limit:
    /// beside costs of a billion times the limit its tolerance is seen.
    fn finish(self) -> Mixture {
        let problem = self.problem;
        let whole = self.total();
        let excess = whole.excess(problem);
        if excess <= FEASIBILITY_TOLERANCE {
            return whole;
        }
        let mut assignment = whole.assignment.clone();
        for shares in &mut assignment {
            // The largest share comes first.
            let most = shares[0].1;
            shares.retain(|s| s.1 >= TINY * most);
        }
        let snapped = Splits {
            problem,
            assignment,
        }
        .total();
        if snapped.excess(problem) < excess {
            snapped
        } else {
            whole
        }
    }

    fn total(mut self) -> Mixture {
        let problem = self.problem;
        let mut totals = Totals::default();
        let mut late = vec![(0.0, 0.0); problem.categories().len()];
        for (x, shares) in self.assignment.iter_mut().enumerate() {
            let sum: f64 = shares.iter().map(|s| s.1).sum();
            shares.iter_mut().for_each(|s| s.1 /= sum);
            shares.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            for &(expert, share) in shares.iter() {
                policy::add(problem, &mut totals, x, expert, share);
                if let Some(category) = problem.category(x) {
                    let weight = problem.weights()[x] * share;
                    late[category].0 += weight * problem.latency(x)[expert];
                    late[category].1 += weight;
                }
            }
        }
        let mean =
            |&(seconds, weight): &(f64, f64)| if weight > 0.0 { seconds / weight } else { 0.0 };
        Mixture {
            assignment: self.assignment,
            value: totals.value,
            spent: Spent {
                energy_j_mean: totals.energy,
                latency_s_mean: late.iter().map(mean).collect(),
            },
        }
    }
}

impl Mixture {
    /// The largest relative excess over a limit.
    fn excess(&self, problem: &Routing) -> f64 {
        let over = |spent: f64, limit: f64| (spent - limit) / positive(limit);
        let energy = problem.energy_limit().map_or(f64::NEG_INFINITY, |limit| {
            over(self.spent.energy_j_mean, limit)
        });
        let limits = problem.categories().iter().map(|c| c.1);
        let seconds = self.spent.latency_s_mean.iter().zip(limits);
        seconds
            .map(|(spent, limit)| over(*spent, limit))
            .fold(energy, f64::max)
    }
}

/// A scale to divide by: 1 in place of 0.
pub(super) fn positive(scale: f64) -> f64 {
    if scale > 0.0 { scale } else { 1.0 }
}
