//! Priced routing: who answers what when budgets are on the mean (MATH section 2.2).
//!
//! Every prompt goes to one expert, or in shares to several; the weighted mean of joules, and of
//! seconds within each category, must keep its limit. It is a linear programme with a variable per
//! prompt and expert but only one coupling row per budget. Its dual has one price per budget and
//! decomposes: at prices λ and μ each prompt goes to the expert with the largest
//! `utility − λ·joules − μ·(seconds − limit)`, and the sum of those maxima plus `λ·limit` is an upper
//! bound on what any routing can achieve. So the prices *are* the routing, for live queries too.
//!
//! `dual` finds the best prices, `mixture` the routing that meets the budgets, [`check_routing`] judges
//! both from the problem alone, and [`routing_programme`] gives the same to a general LP solver.

mod check;
mod dual;
mod mixture;
mod policy;
mod problem;
mod programme;
mod solution;

pub use check::{RoutingCheckError, check as check_routing};
pub use dual::solve as price;
pub(crate) use problem::{Categories, Tables};
pub use problem::{MAX_CATEGORIES, Routing, RoutingLimits, RoutingParts};
pub use programme::optimum as routing_programme;
pub use solution::{
    EnergyShortfall, Prices, RoutingInfeasible, RoutingSolution, RoutingStatus, Spent,
};
