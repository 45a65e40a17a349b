//! The selection file and the result object, versions `moe2-selection/1` and
//! `moe2-selection-result/1`.
//!
//! A constraint is read into one flat record and its shape checked by hand: a tagged enum would read
//! it too, but its errors lose the position inside the record.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::read::{self, Bounded, FileError};
use crate::explain::AdmissionRecord;
use crate::problem::{Constraint, Kind, MAX_CONSTRAINTS, MAX_EXPERTS, MAX_TABLE, Problem, Table};
use crate::solution::Solution;

/// Format tag of an instance file.
pub const INSTANCE_FORMAT: &str = "moe2-selection/1";
/// Format tag of a result object.
pub const RESULT_FORMAT: &str = "moe2-selection-result/1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceFile {
    format: String,
    experts: Bounded<String, MAX_EXPERTS>,
    utility: Table,
    weights: Option<Bounded<f64, MAX_TABLE>>,
    k: usize,
    constraints: Option<Bounded<ConstraintRecord, MAX_CONSTRAINTS>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConstraintRecord {
    name: String,
    kind: KindTag,
    limit: f64,
    cost: Option<Bounded<f64, MAX_EXPERTS>>,
    top: Option<usize>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum KindTag {
    Sum,
    Max,
    TopSum,
    Count,
}

/// Reads and checks an instance file.
///
/// # Errors
/// [`FileError`] naming the field at fault.
pub fn parse_instance(input: impl Read) -> Result<Problem, FileError> {
    let file: InstanceFile = read::record(input)?;
    if file.format != INSTANCE_FORMAT {
        return Err(FileError::Format {
            found: file.format,
            expected: INSTANCE_FORMAT,
        });
    }
    let records = file.constraints.map_or(Vec::new(), |list| list.0);
    let constraints = records
        .into_iter()
        .enumerate()
        .map(|(r, record)| record.build(r))
        .collect::<Result<_, _>>()?;
    Ok(Problem::build(
        file.experts.0,
        file.utility,
        file.weights.map(|list| list.0),
        file.k,
        constraints,
    )?)
}

impl KindTag {
    fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
            Self::TopSum => "top_sum",
            Self::Count => "count",
        }
    }
}

impl ConstraintRecord {
    fn build(self, index: usize) -> Result<Constraint, FileError> {
        let Self {
            name,
            kind: tag,
            limit,
            cost,
            top,
        } = self;
        let cost = cost.map(|list| list.0);
        let shape = |field: &str, problem| FileError::Shape {
            field: format!("constraints[{index}].{field}"),
            problem,
            kind: tag.name(),
        };
        let missing = |field| shape(field, "missing");
        let kind = match (tag, cost, top) {
            (KindTag::Count, Some(_), _) => return Err(shape("cost", "not allowed")),
            (KindTag::Count | KindTag::Sum | KindTag::Max, _, Some(_)) => {
                return Err(shape("top", "not allowed"));
            }
            (KindTag::Count, None, None) => Kind::Count,
            (_, None, _) => return Err(missing("cost")),
            (KindTag::Sum, Some(cost), None) => Kind::Sum { cost },
            (KindTag::Max, Some(cost), None) => Kind::Max { cost },
            (KindTag::TopSum, Some(_), None) => return Err(missing("top")),
            (KindTag::TopSum, Some(cost), Some(top)) => Kind::TopSum { top, cost },
        };
        Ok(Constraint { name, limit, kind })
    }
}

#[derive(Serialize)]
struct InstanceOut<'p> {
    format: &'static str,
    experts: &'p [String],
    utility: Vec<&'p [f64]>,
    weights: &'p [f64],
    k: usize,
    constraints: Vec<ConstraintOut<'p>>,
}

#[derive(Serialize)]
struct ConstraintOut<'p> {
    name: &'p str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<&'p [f64]>,
    limit: f64,
}

/// Writes a problem as an instance file; it reads back as the same problem.
pub fn write_instance(problem: &Problem) -> String {
    let out = InstanceOut {
        format: INSTANCE_FORMAT,
        experts: problem.experts(),
        utility: (0..problem.row_count())
            .map(|row| problem.row(row))
            .collect(),
        weights: problem.weights(),
        k: problem.k(),
        constraints: problem
            .constraints()
            .iter()
            .map(ConstraintOut::of)
            .collect(),
    };
    serde_json::to_string(&out).expect("finite numbers and strings are always JSON")
}

impl<'p> ConstraintOut<'p> {
    fn of(row: &'p Constraint) -> Self {
        let (top, cost) = match &row.kind {
            Kind::Sum { cost } | Kind::Max { cost } => (None, Some(&cost[..])),
            Kind::TopSum { top, cost } => (Some(*top), Some(&cost[..])),
            Kind::Count => (None, None),
        };
        Self {
            name: &row.name,
            kind: row.kind_name(),
            top,
            cost,
            limit: row.limit,
        }
    }
}

/// A result object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultFile {
    /// [`RESULT_FORMAT`].
    pub format: &'static str,
    /// `optimal`, `feasible`, `stopped` or `infeasible`.
    pub status: &'static str,
    /// Names of the chosen experts, in the instance's order.
    pub selected: Vec<String>,
    /// Value of the chosen set.
    pub objective: f64,
    /// Upper bound on every feasible set.
    pub bound: f64,
    /// Relative gap, see [`Solution::gap`].
    pub gap: f64,
    /// The solver that ran.
    pub solver: &'static str,
    /// Subproblems looked at.
    pub nodes: u64,
    /// Evaluations made.
    pub evaluations: u64,
    /// Wall-clock seconds, as measured by the caller.
    pub seconds: f64,
    /// Names of the constraints without room left.
    pub binding: Vec<String>,
    /// Why nothing fits and which limits would help; only if infeasible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What would bring dropped experts in; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admissions: Option<Vec<AdmissionRecord>>,
}

impl ResultFile {
    /// The result object of `solution`; `seconds` is the time the caller measured.
    pub fn new(problem: &Problem, solution: &Solution, seconds: f64) -> Self {
        let expert = |&n: &usize| problem.experts()[n].clone();
        let row = |&r: &usize| problem.constraints()[r].name.clone();
        Self {
            format: RESULT_FORMAT,
            status: solution.status.name(),
            selected: solution.selected.iter().map(expert).collect(),
            objective: solution.objective,
            bound: solution.bound,
            gap: solution.gap(),
            solver: solution.solver,
            nodes: solution.nodes,
            evaluations: solution.evaluations,
            seconds,
            binding: solution.binding.iter().map(row).collect(),
            reason: solution.infeasibility(problem),
            admissions: None,
        }
    }
}
