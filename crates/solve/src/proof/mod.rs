//! Proofs of optimality that anyone can check without trusting, or running, a solver.
//!
//! A claim that no set is worth more than v is a case distinction: experts are settled or the rest is split
//! in two, and each case ends with multipliers whose bound is at most v (`bound` has the formula and why
//! it holds). [`verify`] checks every step from the problem alone, in one pass over the table per case.
//! It shares no code with the search; what it does share, the meaning of limits and values, it takes
//! from the judge of solutions.
//!
//! A search that wants to be fast closes small cases by enumerating them, which would have to be repeated
//! to be believed. [`prove`] therefore goes through the problem once more without that, given the
//! optimum.

mod prove;
mod verify;

use serde::{Deserialize, Deserializer, Serialize};

use crate::file::Bounded;

pub use prove::prove;
pub use verify::{ProofError, verify};

/// Format tag of a proof file.
pub const PROOF_FORMAT: &str = "moe2-proof/1";

/// A set and the proof that none is worth more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// [`PROOF_FORMAT`].
    pub format: String,
    /// Names of the chosen experts.
    pub selected: Vec<String>,
    /// Value of the set.
    pub objective: f64,
    /// A number of which every weighted utility is a multiple, and so every value is, if there is
    /// one: bounds may then be rounded down to a multiple.
    pub unit: Option<f64>,
    /// Why no set is worth more: the first case is about every set; cases refer to others by their
    /// place in this list, always to later ones and to each one once.
    #[serde(deserialize_with = "few")]
    pub cases: Vec<Case>,
}

/// Cases of a proof, at most; it bounds what a small file can make of itself.
pub const MAX_CASES: usize = 1 << 20;

fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Case>, D::Error> {
    Ok(Bounded::<Case, MAX_CASES>::deserialize(deserializer)?.0)
}

/// Why no set of a box is worth more than the objective. A box has experts that are in, experts
/// that are out, and open ones; those that do not fit beside the ones in it are out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Case {
    /// All that is left fits together, or nothing is left, and is worth no more.
    Whole,
    /// The multipliers bound every set of the box.
    Bounded(Multipliers),
    /// Experts that have as many dominators among the others of the box as can count can go out.
    Dominated {
        /// Each with its dominators, by index.
        experts: Vec<(usize, Vec<usize>)>,
        /// The case of the rest of the box.
        rest: usize,
    },
    /// Experts that use up nothing can be in.
    Free {
        /// By index.
        experts: Vec<usize>,
        /// The case of the rest of the box.
        rest: usize,
    },
    /// The multipliers bound the other side of each of these.
    Settled {
        /// The multipliers.
        by: Multipliers,
        /// Experts that go out: with any of them in, the bound is no better.
        out: Vec<usize>,
        /// Experts that go in: without any of them, the bound is no better.
        inside: Vec<usize>,
        /// The case of the rest of the box.
        rest: usize,
    },
    /// One expert is in or out.
    Split {
        /// By index.
        expert: usize,
        /// The case of the box with it.
        with: usize,
        /// The case of the box without it.
        without: usize,
    },
}

/// Multipliers: phantoms per calibration row, and prices of linear consequences of the constraints.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Multipliers {
    /// Per calibration row, at least 0, in weight × utility.
    pub phantoms: Vec<f64>,
    /// Each at least 0.
    pub prices: Vec<Price>,
}

/// The price of one linear inequality that every feasible set keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Index of the constraint it follows from.
    pub constraint: usize,
    /// How.
    pub row: Row,
    /// Value per unit of the row.
    pub price: f64,
}

/// A linear inequality that follows from a constraint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Row {
    /// `sum` and `count`: the constraint itself, a count rounded down.
    Whole,
    /// `top_sum`: the costs of these experts, no more than it counts, stay within the limit.
    Heaviest(Vec<usize>),
    /// `top_sum` that counts at least `t`: fewer than `t` members cost more than a `t`-th of the limit.
    Tier(usize),
}
