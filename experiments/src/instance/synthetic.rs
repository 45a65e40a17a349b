//! Synthetic families, by seed.
//!
//! Except for the independent ones, a question has a domain and a difficulty, an expert an ability and
//! a skill per domain, and answers well with probability `logistic(ability + skill − difficulty)`: the
//! item-response model, which gives the correlations that real tables have.

use moe2_model::Rng;
use moe2_solve::{Constraint, Kind, Problem, ProblemParts};

/// Domains of questions.
const DOMAINS: usize = 6;
/// Standard deviations of abilities, skills and difficulties, in logits.
const ABILITY: f64 = 0.8;
const SKILL: f64 = 1.0;
const DIFFICULTY: f64 = 1.5;
/// Noise of real-valued forecasts, in logits.
const NOISE: f64 = 0.7;
/// Experts of one cluster: variants of one model.
const CLUSTER: usize = 6;
/// How often a variant answers as its model does.
const AS_THE_MODEL: f64 = 0.9;

/// A family of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Family {
    /// Right or wrong, correlated by skill and difficulty.
    Graded,
    /// Probabilities, correlated alike, with noise.
    Real,
    /// Right or wrong, in clusters of near twins.
    Clustered,
    /// Probabilities, independent: the hardest, and like nothing real.
    IidReal,
    /// Right or wrong with even odds, independent.
    IidGraded,
}

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spec<'s> {
    pub(crate) family: Family,
    pub(crate) experts: usize,
    pub(crate) rows: usize,
    pub(crate) seed: u64,
    pub(crate) k: usize,
    /// A `sum` row for each, with its limit as a share of the sum of all costs.
    pub(crate) budgets: &'s [f64],
    /// Whether better experts cost more.
    pub(crate) dear: bool,
}

/// The instance.
pub(crate) fn instance(spec: &Spec<'_>) -> Problem {
    let mut rng = Rng::new(spec.seed);
    let ability: Vec<f64> = (0..spec.experts).map(|_| ABILITY * rng.normal()).collect();
    let skill: Vec<[f64; DOMAINS]> = (0..spec.experts)
        .map(|_| std::array::from_fn(|_| SKILL * rng.normal()))
        .collect();
    let utility = (0..spec.rows).map(|_| {
        let domain = rng.below(DOMAINS);
        let difficulty = DIFFICULTY * rng.normal();
        let logit = |n: usize| ability[n] + skill[n][domain] - difficulty;
        let row: Vec<f64> = (0..spec.experts)
            .map(|n| utility(spec.family, n, &logit, &mut rng))
            .collect();
        if spec.family == Family::Clustered {
            clustered(&row, &mut rng)
        } else {
            row
        }
    });
    let utility: Vec<Vec<f64>> = utility.collect();
    let constraints = spec.budgets.iter().enumerate().map(|(r, share)| {
        let price = |n: usize| {
            if spec.dear {
                (ABILITY * ability[n]).exp()
            } else {
                1.0
            }
        };
        let cost: Vec<f64> = (0..spec.experts)
            .map(|n| (0.5 + rng.unit()) * price(n))
            .collect();
        Constraint {
            name: format!("budget_{r}"),
            limit: share * cost.iter().sum::<f64>(),
            kind: Kind::Sum { cost },
        }
    });
    Problem::new(ProblemParts {
        constraints: constraints.collect(),
        experts: (0..spec.experts).map(|n| format!("e{n}")).collect(),
        utility,
        weights: None,
        k: spec.k,
    })
    .expect("generated numbers are sound")
}

fn utility(family: Family, n: usize, logit: &impl Fn(usize) -> f64, rng: &mut Rng) -> f64 {
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    match family {
        Family::Graded | Family::Clustered => f64::from(u8::from(rng.chance(logistic(logit(n))))),
        Family::Real => logistic(logit(n) + NOISE * rng.normal()),
        Family::IidReal => rng.unit(),
        Family::IidGraded => f64::from(u8::from(rng.chance(0.5))),
    }
}

/// Variants mostly answer as the first of their cluster.
fn clustered(row: &[f64], rng: &mut Rng) -> Vec<f64> {
    let variant = |n: usize| {
        let model = row[n - n % CLUSTER];
        if rng.chance(AS_THE_MODEL) {
            model
        } else {
            row[n]
        }
    };
    (0..row.len()).map(variant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_an_instance() {
        let spec = Spec {
            family: Family::Clustered,
            experts: 12,
            rows: 200,
            seed: 3,
            k: 1,
            budgets: &[0.3],
            dear: true,
        };
        assert_eq!(instance(&spec), instance(&spec));
        assert_ne!(instance(&spec), instance(&Spec { seed: 4, ..spec }));
        let problem = instance(&spec);
        // Twins agree more often than strangers.
        let agree = |a: usize, b: usize| {
            problem
                .column(a)
                .zip(problem.column(b))
                .filter(|(a, b)| a == b)
                .count()
        };
        assert!(agree(0, 1) > agree(0, 6));
    }
}
