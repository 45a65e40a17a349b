//! The selection file and the result object, versions `moe2-selection/1` and
//! `moe2-selection-result/1`.
//!
//! The file types stand apart from [`Problem`] so that a change of the file format is not a change
//! of the solvers. A constraint is read into one flat record and its shape checked by hand: a tagged
//! enum would read it too, but its errors lose the position inside the record, and a file with a
//! million numbers is only repairable if the error says which one is wrong.

use serde::{Deserialize, Serialize};

use crate::problem::{Constraint, Kind, Problem, ProblemError, ProblemParts};
use crate::solution::{Solution, Status};

/// Format tag of an instance file.
pub const INSTANCE_FORMAT: &str = "moe2-selection/1";
/// Format tag of a result object.
pub const RESULT_FORMAT: &str = "moe2-selection-result/1";

/// Why an instance file was refused; every message names the field.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FileError {
    /// Not JSON, an unknown or missing field, or a value of the wrong type.
    #[error("{field}: {message}")]
    Json {
        /// Path of the field, e.g. `utility[3][1]`; `.` is the file as a whole.
        field: String,
        /// What is wrong, with line and column.
        message: String,
    },
    /// Another format or version.
    #[error("format: is {found:?}, expected {INSTANCE_FORMAT:?}")]
    Format {
        /// The tag in the file.
        found: String,
    },
    /// A field that the constraint's kind needs, or that it does not have.
    #[error("{field}: {problem} for kind {kind:?}")]
    Shape {
        /// Path of the field.
        field: String,
        /// `missing` or `not allowed`.
        problem: &'static str,
        /// The constraint's kind.
        kind: &'static str,
    },
    /// Well-formed, but not an acceptable problem.
    #[error(transparent)]
    Problem(#[from] ProblemError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceFile {
    format: String,
    experts: Vec<String>,
    utility: Vec<Vec<f64>>,
    weights: Option<Vec<f64>>,
    k: usize,
    #[serde(default)]
    constraints: Vec<ConstraintRecord>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConstraintRecord {
    name: String,
    kind: KindTag,
    limit: f64,
    cost: Option<Vec<f64>>,
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
pub fn parse_instance(text: &[u8]) -> Result<Problem, FileError> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let file: InstanceFile =
        serde_path_to_error::deserialize(&mut reader).map_err(|error| FileError::Json {
            field: error.path().to_string(),
            message: error.inner().to_string(),
        })?;
    let trailing = |error: serde_json::Error| FileError::Json {
        field: ".".into(),
        message: error.to_string(),
    };
    reader.end().map_err(trailing)?;
    if file.format != INSTANCE_FORMAT {
        return Err(FileError::Format { found: file.format });
    }
    let records = file.constraints.into_iter().enumerate();
    let constraints = records
        .map(|(r, record)| record.build(r))
        .collect::<Result<_, _>>()?;
    Ok(Problem::new(ProblemParts {
        experts: file.experts,
        utility: file.utility,
        weights: file.weights,
        k: file.k,
        constraints,
    })?)
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
            reason: match &solution.status {
                Status::Infeasible(reason) => Some(reason.describe(problem)),
                _ => None,
            },
        }
    }
}
