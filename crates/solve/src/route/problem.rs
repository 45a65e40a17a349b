//! The routing problem, checked once on the way in.

use crate::problem::{
    MAX_COST, MAX_EXPERTS, MAX_UTILITY, ProblemError, Table, length, names, number, numbers, size,
};

/// Most categories with a limit of their own: each is a coupling row.
pub const MAX_CATEGORIES: usize = 256;

/// Limits on weighted means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoutingLimits {
    /// Joules per prompt, over all prompts.
    pub energy_j_mean: Option<f64>,
    /// Seconds per prompt, by category.
    pub latency_s_mean: Vec<(String, f64)>,
}

/// The unchecked ingredients of a [`Routing`].
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingParts {
    /// Names of the experts, one per column; unique.
    pub experts: Vec<String>,
    /// `utility[x][n]`: how well expert `n` answers prompt `x`, in `[0, 1e9]`.
    pub utility: Vec<Vec<f64>>,
    /// `energy_j[x][n]`: joules that takes.
    pub energy_j: Vec<Vec<f64>>,
    /// `latency_s[x][n]`: seconds that takes.
    pub latency_s: Vec<Vec<f64>>,
    /// Category of each prompt; may be empty when no category has a limit.
    pub category: Vec<String>,
    /// Weight per prompt, used as given; they should sum to 1 for limits to be means. `None` is
    /// uniform.
    pub weights: Option<Vec<f64>>,
    /// The limits.
    pub limits: RoutingLimits,
}

/// Tables as they come from a file, flat.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) utility: Table,
    pub(crate) energy: Table,
    pub(crate) latency: Table,
}

/// Maximise `Σ_x w_x Σ_n y_xn u_xn` over shares `y ≥ 0`, `Σ_n y_xn = 1`, inside the limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    experts: Vec<String>,
    weights: Vec<f64>,
    utility: Vec<f64>,
    energy: Vec<f64>,
    latency: Vec<f64>,
    energy_limit: Option<f64>,
    categories: Vec<(String, f64)>,
    /// Index of each prompt's limited category.
    category: Vec<Option<usize>>,
}

impl Routing {
    /// Checks `parts` and stores them for solving.
    ///
    /// # Errors
    /// [`ProblemError`] naming the first field that is not acceptable.
    pub fn new(parts: RoutingParts) -> Result<Self, ProblemError> {
        let mut tables = Tables::default();
        let RoutingParts {
            experts,
            utility,
            energy_j,
            latency_s,
            category,
            weights,
            limits,
        } = parts;
        for (table, rows) in [
            (&mut tables.utility, utility),
            (&mut tables.energy, energy_j),
            (&mut tables.latency, latency_s),
        ] {
            for row in rows {
                table.push(&row)?;
            }
        }
        Self::build(experts, tables, category, weights, limits)
    }

    /// As [`Routing::new`], from tables that are already flat.
    pub(crate) fn build(
        experts: Vec<String>,
        tables: Tables,
        category: Vec<String>,
        weights: Option<Vec<f64>>,
        limits: RoutingLimits,
    ) -> Result<Self, ProblemError> {
        names("experts", &experts)?;
        size("experts", experts.len(), MAX_EXPERTS)?;
        size(
            "limits.latency_s_mean",
            limits.latency_s_mean.len(),
            MAX_CATEGORIES,
        )?;
        let prompts = tables.utility.rows();
        for (field, table) in [("energy_j", &tables.energy), ("latency_s", &tables.latency)] {
            length(field, table.rows(), prompts)?;
        }
        let energy_limit = limits.energy_j_mean;
        if let Some(limit) = energy_limit {
            number(|| "limits.energy_j_mean".into(), limit, MAX_COST)?;
        }
        for (name, limit) in &limits.latency_s_mean {
            number(|| format!("limits.latency_s_mean.{name}"), *limit, MAX_COST)?;
        }
        if !(category.is_empty() && limits.latency_s_mean.is_empty()) {
            length("category", category.len(), prompts)?;
        }
        let position = |name: &String| limits.latency_s_mean.iter().position(|(c, _)| c == name);
        let mut index: Vec<Option<usize>> = category.iter().map(position).collect();
        index.resize(prompts, None);
        if let Some(unused) = (0..limits.latency_s_mean.len()).find(|c| !index.contains(&Some(*c)))
        {
            let name = &limits.latency_s_mean[unused].0;
            return Err(ProblemError::Empty {
                field: format!("category: prompts of {name:?}, which has a limit"),
            });
        }
        let weights = match weights {
            None => vec![1.0 / prompts as f64; prompts],
            Some(mut given) => {
                length("weights", given.len(), prompts)?;
                numbers("weights", &mut given, MAX_UTILITY)?;
                given
            }
        };
        if weights.iter().all(|&w| w == 0.0) {
            return Err(ProblemError::Empty {
                field: "weights".into(),
            });
        }
        let count = experts.len();
        Ok(Self {
            utility: tables.utility.checked("utility", count, MAX_UTILITY)?,
            energy: tables.energy.checked("energy_j", count, MAX_UTILITY)?,
            latency: tables.latency.checked("latency_s", count, MAX_UTILITY)?,
            experts,
            weights,
            energy_limit,
            categories: limits.latency_s_mean,
            category: index,
        })
    }

    /// Names of the experts, by index.
    pub fn experts(&self) -> &[String] {
        &self.experts
    }

    /// Number of prompts.
    pub fn prompt_count(&self) -> usize {
        self.weights.len()
    }

    /// Weight of each prompt.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Limit on the mean joules.
    pub fn energy_limit(&self) -> Option<f64> {
        self.energy_limit
    }

    /// Categories with a limit on their mean seconds, each with it.
    pub fn categories(&self) -> &[(String, f64)] {
        &self.categories
    }

    /// Index of the prompt's category among those with a limit.
    pub fn category(&self, prompt: usize) -> Option<usize> {
        self.category[prompt]
    }

    /// Utility of every expert on a prompt.
    pub fn utility(&self, prompt: usize) -> &[f64] {
        self.row(&self.utility, prompt)
    }

    /// Joules of every expert on a prompt.
    pub fn energy(&self, prompt: usize) -> &[f64] {
        self.row(&self.energy, prompt)
    }

    /// Seconds of every expert on a prompt.
    pub fn latency(&self, prompt: usize) -> &[f64] {
        self.row(&self.latency, prompt)
    }

    fn row<'t>(&self, table: &'t [f64], prompt: usize) -> &'t [f64] {
        let width = self.experts.len();
        &table[prompt * width..(prompt + 1) * width]
    }

    /// The problem of spending as few joules as the limits on seconds allow: utility is what is
    /// saved against the dearest expert.
    pub(crate) fn thrift(&self) -> Self {
        let dearest = self.energy.iter().copied().fold(0.0, f64::max);
        Self {
            utility: self.energy.iter().map(|e| dearest - e).collect(),
            energy_limit: None,
            ..self.clone()
        }
    }
}
