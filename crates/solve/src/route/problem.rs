//! The routing problem, checked once on the way in.

use std::collections::HashMap;

use crate::problem::{
    MAX_COST, MAX_EXPERTS, MAX_TABLE, MAX_UTILITY, ProblemError, Table, length, names, number,
    numbers, size,
};
use crate::rows::FEASIBILITY_TOLERANCE;

/// Most categories with a limit of their own: each is a coupling row.
pub const MAX_CATEGORIES: usize = 256;

/// Most categories, with or without a limit.
const MAX_NAMES: usize = 1 << 16;

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

/// The category of each prompt, every name kept once.
#[derive(Debug, Default)]
pub(crate) struct Categories {
    names: Vec<String>,
    index: HashMap<String, u32>,
    of: Vec<u32>,
}

impl Categories {
    pub(crate) fn add(&mut self, name: String) -> Result<(), ProblemError> {
        size("category", self.of.len() + 1, MAX_TABLE)?;
        let known = self.index.get(&name).copied();
        let index = match known {
            Some(index) => index,
            None => {
                size("category: different names", self.names.len() + 1, MAX_NAMES)?;
                let index = self.names.len() as u32;
                self.names.push(name.clone());
                self.index.insert(name, index);
                index
            }
        };
        self.of.push(index);
        Ok(())
    }
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
        let mut categories = Categories::default();
        for name in category {
            categories.add(name)?;
        }
        Self::build(experts, tables, categories, weights, limits)
    }

    /// As [`Routing::new`], from tables that are already flat.
    pub(crate) fn build(
        experts: Vec<String>,
        tables: Tables,
        category: Categories,
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
        if prompts == 0 {
            return Err(ProblemError::Empty {
                field: "utility".into(),
            });
        }
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
        if !(category.of.is_empty() && limits.latency_s_mean.is_empty()) {
            length("category", category.of.len(), prompts)?;
        }
        let position = |name: &String| limits.latency_s_mean.iter().position(|(c, _)| c == name);
        let limited: Vec<Option<usize>> = category.names.iter().map(position).collect();
        let of = category.of.iter();
        let mut index: Vec<Option<usize>> = of.map(|&c| limited[c as usize]).collect();
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

    /// The problem with limits at the far end of their tolerance.
    pub(crate) fn widened(&self) -> Self {
        let wider = |limit: f64| limit * (1.0 + FEASIBILITY_TOLERANCE);
        let mut widened = self.clone();
        widened.energy_limit = self.energy_limit.map(wider);
        for (_, limit) in &mut widened.categories {
            *limit = wider(*limit);
        }
        widened
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
