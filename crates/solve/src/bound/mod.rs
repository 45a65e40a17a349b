//! Upper bounds on the best set inside a box, all of one family.
//!
//! For any ticks `v_x ≥ 0` per row, imagine k *phantom* experts that reach exactly `v_x` there and use
//! up nothing. Adding them never lowers a value, and from the phantoms alone every set S gains at most
//! the sum of what its members gain, because values are submodular:
//!
//! ```text
//! F(S) ≤ F(S + phantoms) ≤ k·Σ_x v_x + Σ_{n ∈ S} Σ_x (r_xn − v_x)⁺
//! ```
//!
//! which is linear in S (`majorant`). Maximising it over the constraints, relaxed by prices λ ≥ 0
//! (`knapsack`), bounds every feasible set. The bounds of the literature are choices of v and λ:
//!
//! | bound | v | λ |
//! |---|---|---|
//! | value of everything allowed | k-th best of everything allowed | 0 |
//! | marginal values and a fractional knapsack | k-th best of the members so far | one row at a time |
//! | linear-programming (Benders, Nemhauser–Wolsey) | the best there is, by cuts (`master`) | its duals |
//! | Lagrangian | by subgradient steps (`lagrange`) | by coordinate descent |
//!
//! Whatever proposes v and λ, the bound itself is computed from them in whole ticks, so the proof
//! rests on a few lines of integer arithmetic and not on a simplex method in floating point.

pub(crate) mod exact;
pub(crate) mod knapsack;
pub(crate) mod lagrange;
pub(crate) mod majorant;
pub(crate) mod master;
pub(crate) mod simplex;
