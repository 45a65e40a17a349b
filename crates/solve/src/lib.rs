//! Which experts to keep active: the coarse level of the two-level selection.
//!
//! The problem is a table of utilities (calibration rows × experts) and a list of monotone
//! constraint rows; an answer is a set of columns with a proven upper bound. Nothing here knows
//! what a query, a tenant or a device is, so the same code serves the planner, the command line
//! and the experiments. The crate is pure: no clock, no files, no threads; a caller that wants a
//! time limit passes a callback that looks at its own clock.
//!
//! Solvers stand in one table ([`solvers`]); whatever they return is re-judged by [`check`],
//! which shares no arithmetic with them.
//!
//! ```
//! use moe2_solve::{Constraint, Kind, Limits, Problem, ProblemParts, check, solver};
//!
//! let problem = Problem::new(ProblemParts {
//!     experts: vec!["small".into(), "large".into()],
//!     utility: vec![vec![0.9, 0.1], vec![0.2, 0.8]],
//!     weights: None,
//!     k: 1,
//!     constraints: vec![Constraint {
//!         name: "standing_power_w".into(),
//!         limit: 4.0,
//!         kind: Kind::Sum { cost: vec![3.0, 2.0] },
//!     }],
//! })?;
//! let solution = solver("auto")?.solve(&problem, &mut Limits::default())?;
//! assert_eq!(solution.selected, [0]);
//! check(&problem, &solution)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backend;
mod bound;
mod brute;
mod check;
mod explain;
mod file;
mod greedy;
mod infeasible;
mod milp;
mod objective;
mod problem;
pub mod proof;
mod reduce;
mod route;
mod rows;
mod search;
mod solution;
mod solver;
mod trim;

pub use check::{CheckError, check};
pub use explain::{Admission, AdmissionRecord, Dropped, RaiseRecord, admission, dropped, number};
pub use file::{
    FileError, INSTANCE_FORMAT, MAX_FILE_BYTES, MAX_STRING_BYTES, PricesRecord, RESULT_FORMAT,
    ROUTING_FORMAT, ROUTING_RESULT_FORMAT, ResultFile, RoutingResultFile, SpentRecord,
    parse_instance, parse_proof, parse_routing, write_instance,
};
pub use infeasible::{Infeasible, Shortfall};
pub use objective::value;
pub use problem::{
    Constraint, Kind, MAX_CONSTRAINTS, MAX_COST, MAX_EXPERTS, MAX_TABLE, MAX_UTILITY, Problem,
    ProblemError, ProblemParts,
};
pub use proof::{Proof, ProofError, prove, verify};
pub use route::{
    EnergyShortfall, MAX_CATEGORIES, Prices, Routing, RoutingCheckError, RoutingInfeasible,
    RoutingLimits, RoutingParts, RoutingSolution, RoutingStatus, Spent, check_routing, price,
    routing_programme,
};
pub use rows::{FEASIBILITY_TOLERANCE, load, spares};
pub use search::{Bounds, BranchAndBound};
pub use solution::{OPTIMALITY_TOLERANCE, Solution, Status};
pub use solver::{Limits, Progress, SolveError, Solver, Unfit, UnknownSolver, solver, solvers};
