//! The selection problem, checked once on the way in.
//!
//! Every other module may rely on what [`Problem::new`] has established (lengths agree, numbers
//! are finite and not negative, sizes are capped), so none of them validates again. The table is
//! kept as it was given, exact and one row after the other: that is what a judge needs. Searches ask
//! "what does this expert add?" millions of times and make packed columns of their own (`reduce`).

use std::collections::HashSet;

/// Most experts (columns) in one problem.
pub const MAX_EXPERTS: usize = 4096;
/// Most utilities (calibration rows × experts) in one problem: 512 MiB as `f64`, and as much again
/// and a half for a search.
pub const MAX_TABLE: usize = 1 << 26;
/// Most constraint rows in one problem.
pub const MAX_CONSTRAINTS: usize = 4096;
/// Largest utility or weight: sums over the largest table stay far inside `f64`.
pub const MAX_UTILITY: f64 = 1e9;
/// Largest cost or limit: a sum over [`MAX_EXPERTS`] costs cannot overflow.
pub const MAX_COST: f64 = 1e300;

/// One monotone constraint: the load of the chosen set must not exceed `limit`.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    /// Name in reports, unique in the problem, e.g. `standing_energy_j`.
    pub name: String,
    /// Largest admissible load, in the unit of the row's costs.
    pub limit: f64,
    /// How the load follows from the set.
    pub kind: Kind,
}

/// How the load of a constraint follows from the chosen set.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Sum of the members' costs: standing energy, memory of a shared device.
    Sum {
        /// Cost per expert.
        cost: Vec<f64>,
    },
    /// Largest cost among the members: worst-case latency of servers that run in parallel.
    Max {
        /// Cost per expert.
        cost: Vec<f64>,
    },
    /// Sum of the `top` largest costs: worst-case energy when `top` experts answer one prompt.
    TopSum {
        /// How many of the largest costs count; at least 1.
        top: usize,
        /// Cost per expert.
        cost: Vec<f64>,
    },
    /// Number of members.
    Count,
}

impl Constraint {
    /// What the set `{expert}` alone puts on this row.
    pub fn cost(&self, expert: usize) -> f64 {
        match &self.kind {
            Kind::Sum { cost } | Kind::Max { cost } | Kind::TopSum { cost, .. } => cost[expert],
            Kind::Count => 1.0,
        }
    }

    /// The kind as written in files.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Sum { .. } => "sum",
            Kind::Max { .. } => "max",
            Kind::TopSum { .. } => "top_sum",
            Kind::Count => "count",
        }
    }

    fn costs_mut(&mut self) -> Option<&mut Vec<f64>> {
        match &mut self.kind {
            Kind::Sum { cost } | Kind::Max { cost } | Kind::TopSum { cost, .. } => Some(cost),
            Kind::Count => None,
        }
    }
}

/// The unchecked ingredients of a [`Problem`].
#[derive(Debug, Clone, PartialEq)]
pub struct ProblemParts {
    /// Names of the experts, one per column; unique.
    pub experts: Vec<String>,
    /// `utility[x][n]`: how well expert `n` serves calibration row `x`, in `[0, 1e9]`.
    pub utility: Vec<Vec<f64>>,
    /// Weight per calibration row, used as given (normally they sum to 1); `None` is uniform.
    pub weights: Option<Vec<f64>>,
    /// How many experts answer one row; at least 1.
    pub k: usize,
    /// The constraint rows.
    pub constraints: Vec<Constraint>,
}

/// Maximise `F_k(S) = Σ_x w_x · (sum of the k largest u_n(x), n ∈ S)` over the **non-empty** sets
/// `S` that keep every constraint.
///
/// The empty set is left out on purpose: it keeps every constraint but answers nothing, so a
/// problem in which only it fits is reported as infeasible.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    experts: Vec<String>,
    table: Vec<f64>,
    weights: Vec<f64>,
    k: usize,
    constraints: Vec<Constraint>,
}

/// Why [`Problem::new`] refused; every message starts with the field at fault.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProblemError {
    /// A list or a count that must not be empty or zero.
    #[error("{field}: must not be empty or zero")]
    Empty {
        /// Path of the field, e.g. `constraints[1].top`.
        field: String,
    },
    /// A list of the wrong length.
    #[error("{field}: has {actual} entries, expected {expected}")]
    Length {
        /// Path of the field.
        field: String,
        /// Length it should have.
        expected: usize,
        /// Length it has.
        actual: usize,
    },
    /// A number that is NaN, infinite, negative or above its cap.
    #[error("{field}: is {value}, expected a finite number from 0 to {max:e}")]
    Number {
        /// Path of the field.
        field: String,
        /// The offending value.
        value: f64,
        /// Largest value allowed there.
        max: f64,
    },
    /// A name used twice.
    #[error("{field}: the name {name:?} is already used; names must be unique")]
    Duplicate {
        /// Path of the second use.
        field: String,
        /// The name.
        name: String,
    },
    /// A problem larger than the crate accepts.
    #[error("{field}: {actual} entries, at most {max} are accepted; split or sample the instance")]
    Size {
        /// Path of the field.
        field: String,
        /// Its size.
        actual: usize,
        /// The cap.
        max: usize,
    },
}

impl Problem {
    /// Checks `parts` and stores them for solving.
    ///
    /// # Errors
    /// [`ProblemError`] naming the first field that is not acceptable.
    pub fn new(parts: ProblemParts) -> Result<Self, ProblemError> {
        let ProblemParts {
            experts,
            utility,
            weights,
            k,
            constraints,
        } = parts;
        let mut table = Table::default();
        for row in utility {
            table.push(&row)?;
        }
        Self::build(experts, table, weights, k, constraints)
    }

    /// As [`Problem::new`], from a table that is already flat.
    pub(crate) fn build(
        experts: Vec<String>,
        utility: Table,
        weights: Option<Vec<f64>>,
        k: usize,
        mut constraints: Vec<Constraint>,
    ) -> Result<Self, ProblemError> {
        names("experts", &experts)?;
        size("experts", experts.len(), MAX_EXPERTS)?;
        size("constraints", constraints.len(), MAX_CONSTRAINTS)?;
        if k == 0 {
            return Err(ProblemError::Empty { field: "k".into() });
        }
        let rows = utility.rows();
        let table = utility.checked("utility", experts.len(), MAX_UTILITY)?;
        let weights = match weights {
            None => vec![1.0 / rows as f64; rows],
            Some(mut given) => {
                length("weights", given.len(), rows)?;
                numbers("weights", &mut given, MAX_UTILITY)?;
                if given.iter().all(|&w| w == 0.0) {
                    return Err(ProblemError::Empty {
                        field: "weights".into(),
                    });
                }
                given
            }
        };
        unique(
            "constraints",
            ".name",
            constraints.iter().map(|row| row.name.as_str()),
        )?;
        for (r, row) in constraints.iter_mut().enumerate() {
            constraint(&format!("constraints[{r}]"), row, experts.len())?;
        }
        Ok(Self {
            experts,
            table,
            weights,
            k,
            constraints,
        })
    }

    /// The same problem with another limit on one constraint, from 0 to [`MAX_COST`].
    #[must_use]
    pub(crate) fn with_limit(&self, constraint: usize, limit: f64) -> Self {
        let mut changed = self.clone();
        changed.constraints[constraint].limit = limit;
        changed
    }

    /// The same problem in which one expert is worth nothing.
    #[must_use]
    pub(crate) fn without(&self, expert: usize) -> Self {
        let mut changed = self.clone();
        let width = self.expert_count();
        for row in changed.table.chunks_exact_mut(width) {
            row[expert] = 0.0;
        }
        changed
    }

    /// The same problem with one more row, on which only this expert is worth anything, and that more
    /// than everything else together.
    #[must_use]
    pub(crate) fn favouring(&self, expert: usize) -> Self {
        let mut changed = self.clone();
        let mut row = vec![0.0; self.expert_count()];
        let best = |x: usize| self.row(x).iter().copied().fold(0.0, f64::max);
        let worths = (0..self.row_count()).map(|x| self.weights[x] * best(x));
        let (sum, largest) = worths.fold((0.0, 0.0f64), |(s, l), w| (s + w, l.max(w)));
        // A power of two times a worth that occurs, so that a common unit stays one.
        let times = (2.0 * self.k as f64 * sum / largest.max(f64::MIN_POSITIVE))
            .log2()
            .ceil();
        row[expert] = 1.0;
        changed.table.extend(row);
        changed.weights.push(if largest > 0.0 {
            largest * times.exp2()
        } else {
            1.0
        });
        changed
    }

    /// The same problem with the experts in another order: expert `n` is the old `order[n]`.
    ///
    /// # Panics
    /// If `order` is not a permutation of the experts.
    #[must_use]
    pub fn reordered(&self, order: &[usize]) -> Self {
        let mut seen = vec![false; self.expert_count()];
        order.iter().for_each(|&n| seen[n] = true);
        assert!(
            order.len() == seen.len() && seen.iter().all(|s| *s),
            "every expert has one place"
        );
        let pick = |values: &[f64]| order.iter().map(|&n| values[n]).collect::<Vec<_>>();
        let mut changed = Self {
            experts: order.iter().map(|&n| self.experts[n].clone()).collect(),
            table: Vec::with_capacity(self.table.len()),
            weights: self.weights.clone(),
            k: self.k,
            constraints: self.constraints.clone(),
        };
        for row in 0..self.row_count() {
            changed.table.extend(pick(self.row(row)));
        }
        for constraint in &mut changed.constraints {
            if let Some(cost) = constraint.costs_mut() {
                *cost = pick(cost);
            }
        }
        changed
    }

    /// Number of experts, N.
    pub fn expert_count(&self) -> usize {
        self.experts.len()
    }

    /// Number of calibration rows, M.
    pub fn row_count(&self) -> usize {
        self.weights.len()
    }

    /// Names of the experts, by index.
    pub fn experts(&self) -> &[String] {
        &self.experts
    }

    /// Utilities of all experts on one calibration row.
    pub fn row(&self, row: usize) -> &[f64] {
        let experts = self.expert_count();
        &self.table[row * experts..(row + 1) * experts]
    }

    /// Utilities of one expert over all calibration rows.
    pub fn column(&self, expert: usize) -> impl ExactSizeIterator<Item = f64> + '_ {
        let rows = self.table.chunks_exact(self.expert_count());
        rows.map(move |row| row[expert])
    }

    /// Weight of each calibration row.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// How many experts answer one row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The constraint rows.
    pub fn constraints(&self) -> &[Constraint] {
        &self.constraints
    }
}

/// Utilities while they are read: flat, capped as they arrive, so that no file can take more
/// memory than the largest table that would be accepted.
#[derive(Debug, Default)]
pub(crate) struct Table {
    values: Vec<f64>,
    rows: usize,
    /// Length of the first row.
    width: usize,
    /// The first row of another length, with that length.
    ragged: Option<(usize, usize)>,
}

impl Table {
    /// Appends a row.
    pub(crate) fn push(&mut self, row: &[f64]) -> Result<(), ProblemError> {
        let began = self.begin_row();
        row.iter().try_for_each(|&value| self.add(value))?;
        self.end_row(began);
        Ok(())
    }

    /// Where the next row begins; to be given to [`Table::end_row`].
    pub(crate) fn begin_row(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn add(&mut self, value: f64) -> Result<(), ProblemError> {
        size("a table's numbers", self.values.len() + 1, MAX_TABLE)?;
        self.values.push(value);
        Ok(())
    }

    pub(crate) fn end_row(&mut self, began: usize) {
        let length = self.values.len() - began;
        if self.rows == 0 {
            self.width = length;
        } else if length != self.width && self.ragged.is_none() {
            self.ragged = Some((self.rows, length));
        }
        self.rows += 1;
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The values of the table called `name`, every row found to have `experts` numbers up to `max`.
    pub(crate) fn checked(
        mut self,
        name: &str,
        experts: usize,
        max: f64,
    ) -> Result<Vec<f64>, ProblemError> {
        if self.rows == 0 {
            return Err(ProblemError::Empty { field: name.into() });
        }
        length(&format!("{name}[0]"), self.width, experts)?;
        if let Some((row, actual)) = self.ragged {
            length(&format!("{name}[{row}]"), actual, experts)?;
        }
        for (at, value) in self.values.iter_mut().enumerate() {
            let field = || format!("{name}[{}][{}]", at / experts, at % experts);
            *value = number(field, *value, max)?;
        }
        self.values.shrink_to_fit();
        Ok(self.values)
    }
}

fn constraint(field: &str, row: &mut Constraint, experts: usize) -> Result<(), ProblemError> {
    row.limit = number(|| format!("{field}.limit"), row.limit, MAX_COST)?;
    if let Kind::TopSum { top: 0, .. } = row.kind {
        return Err(ProblemError::Empty {
            field: format!("{field}.top"),
        });
    }
    if let Some(cost) = row.costs_mut() {
        let field = format!("{field}.cost");
        length(&field, cost.len(), experts)?;
        numbers(&field, cost, MAX_COST)?;
    }
    Ok(())
}

pub(crate) fn names(field: &str, names: &[String]) -> Result<(), ProblemError> {
    if names.is_empty() {
        return Err(ProblemError::Empty {
            field: field.into(),
        });
    }
    unique(field, "", names.iter().map(String::as_str))
}

pub(crate) fn unique<'a>(
    field: &str,
    suffix: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), ProblemError> {
    let mut seen = HashSet::new();
    for (i, name) in names.enumerate() {
        let field = || format!("{field}[{i}]{suffix}");
        if name.is_empty() {
            return Err(ProblemError::Empty { field: field() });
        }
        if !seen.insert(name) {
            return Err(ProblemError::Duplicate {
                field: field(),
                name: name.into(),
            });
        }
    }
    Ok(())
}

pub(crate) fn numbers(field: &str, values: &mut [f64], max: f64) -> Result<(), ProblemError> {
    for (i, value) in values.iter_mut().enumerate() {
        *value = number(|| format!("{field}[{i}]"), *value, max)?;
    }
    Ok(())
}

pub(crate) fn number(
    field: impl Fn() -> String,
    value: f64,
    max: f64,
) -> Result<f64, ProblemError> {
    if (0.0..=max).contains(&value) {
        // Turns -0.0 into 0.0, which sorts where it should under `total_cmp`.
        Ok(value + 0.0)
    } else {
        Err(ProblemError::Number {
            field: field(),
            value,
            max,
        })
    }
}

pub(crate) fn length(field: &str, actual: usize, expected: usize) -> Result<(), ProblemError> {
    if actual == expected {
        Ok(())
    } else {
        Err(ProblemError::Length {
            field: field.into(),
            expected,
            actual,
        })
    }
}

pub(crate) fn size(field: &str, actual: usize, max: usize) -> Result<(), ProblemError> {
    if actual <= max {
        Ok(())
    } else {
        Err(ProblemError::Size {
            field: field.into(),
            actual,
            max,
        })
    }
}
