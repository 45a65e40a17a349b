//! A plan for people: the certificate, who is in and who is not, and what would change that.

use moe2_model::{ExpertId, Seconds, TenantId};
use moe2_solve::{AdmissionRecord, SolveError, admission, dropped, load, value};
use serde::{Deserialize, Serialize};

use super::Plan;

/// A limit of which less than this share is left has no room.
const FULL: f64 = 1e-9;

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// Which problem it answers.
    pub generation: u64,
    /// `optimal`, `feasible`, `stopped` or `infeasible`.
    pub status: String,
    /// Value of the chosen set: forecast quality of the best experts, averaged over the prompts.
    pub objective: f64,
    /// Proven upper bound on the value of every set inside the limits.
    pub bound: f64,
    /// Relative gap between the two.
    pub gap: f64,
    /// The solver that ran.
    pub solver: String,
    /// Subproblems it looked at.
    pub nodes: u64,
    /// Cases of the proof that no set is worth more, which was verified; `None` if there is none.
    pub proof: Option<usize>,
    /// How long it took.
    pub took: Seconds,
    /// How many experts answer one query.
    pub experts_per_query: usize,
    /// Prompts of the calibration set, and how many of them were really asked.
    pub prompts: usize,
    /// Those that were really asked.
    pub asked: usize,
    /// Why no set keeps the limits; what was active before stays active then.
    pub infeasible: Option<String>,
    /// A newer problem is being solved, or could not be: the fleet is not what this plan is about.
    pub superseded: bool,
    /// Experts that are active now, filled in by whoever knows the fleet.
    pub active: Vec<ExpertId>,
    /// Tenants whose budgets no expert keeps on any prompt.
    pub unserved: Vec<TenantId>,
    /// All experts that were ready.
    pub experts: Vec<PlannedExpert>,
    /// All limits.
    pub constraints: Vec<ConstraintView>,
    /// What would bring each dropped expert in; only where it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admissions: Vec<AdmissionRecord>,
}

/// One expert of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedExpert {
    /// Who.
    pub expert: ExpertId,
    /// In the chosen set.
    pub chosen: bool,
    /// Active although it adds nothing to the value: it still fits.
    pub spare: bool,
    /// Value of the set of this expert alone.
    pub alone: f64,
    /// What the chosen set would lose without it.
    pub only_here: f64,
    /// Why it is not chosen.
    pub why: Option<String>,
}

/// One limit of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConstraintView {
    /// Its name, with the unit.
    pub name: String,
    /// `sum`, `max`, `top_sum` or `count`.
    pub kind: String,
    /// What the active set uses.
    pub used: f64,
    /// The limit.
    pub limit: f64,
    /// No room left.
    pub binding: bool,
}

impl Plan {
    /// The plan for people.
    #[must_use]
    pub fn view(&self) -> PlanView {
        let (problem, solution) = (&self.request.problem, &self.solution);
        PlanView {
            generation: self.request.generation,
            status: solution.status.name().to_owned(),
            objective: solution.objective,
            bound: solution.bound,
            gap: solution.gap(),
            solver: solution.solver.to_owned(),
            nodes: solution.nodes,
            proof: self.proof,
            took: self.took,
            experts_per_query: problem.k(),
            prompts: problem.row_count(),
            asked: self.request.asked,
            infeasible: solution.infeasibility(problem),
            superseded: false,
            active: Vec::new(),
            unserved: self.request.unserved.clone(),
            experts: self.experts(),
            constraints: self.constraints(),
            admissions: Vec::new(),
        }
    }

    fn experts(&self) -> Vec<PlannedExpert> {
        let (problem, solution) = (&self.request.problem, &self.solution);
        let mut why: Vec<Option<String>> = vec![None; self.request.experts.len()];
        for (n, reason) in dropped(problem, solution) {
            why[n] = Some(reason.describe(problem));
        }
        let without = |n: usize| -> Vec<usize> {
            solution
                .selected
                .iter()
                .copied()
                .filter(|m| *m != n)
                .collect()
        };
        let experts = self.request.experts.iter().zip(why).enumerate();
        experts
            .map(|(n, (expert, why))| {
                let chosen = solution.selected.contains(&n);
                let rest = if chosen {
                    value(problem, &without(n))
                } else {
                    solution.objective
                };
                PlannedExpert {
                    expert: expert.clone(),
                    chosen,
                    spare: self.spares.contains(&n),
                    alone: value(problem, &[n]),
                    only_here: solution.objective - rest,
                    why,
                }
            })
            .collect()
    }

    fn constraints(&self) -> Vec<ConstraintView> {
        let active = self.members();
        let rows = self.request.problem.constraints().iter().enumerate();
        rows.map(|(at, row)| ConstraintView {
            name: row.name.clone(),
            kind: row.kind_name().to_owned(),
            used: load(row, &active),
            limit: row.limit,
            binding: self.solution.binding.contains(&at)
                || load(row, &active) >= row.limit * (1.0 - FULL),
        })
        .collect()
    }

    /// What would bring each outweighed or too large expert in, by further exact solves that `stop` can
    /// end.
    ///
    /// # Errors
    /// As the solver's.
    pub fn admissions(
        &self,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<AdmissionRecord>, SolveError> {
        let (problem, solution) = (&self.request.problem, &self.solution);
        let asked = dropped(problem, solution)
            .into_iter()
            .filter(|(_, why)| why.can_be_admitted());
        asked
            .map(|(n, _)| {
                let found = admission(problem, n, stop)?;
                Ok(AdmissionRecord::new(problem, solution, n, found))
            })
            .collect()
    }
}
