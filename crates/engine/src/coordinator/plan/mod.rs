//! The coarse level: which experts form the active set S (MATH 2.1).
//!
//! `calibration` keeps what is asked, `instance` makes a selection problem of it, the driver solves
//! that on a worker and judges the answer, and here it is applied: a result for an older fleet is
//! dropped, and a problem without a solution changes nothing and says so. The solver may leave out
//! experts that add nothing to the objective; some optimum is a maximal feasible set, so those that
//! still fit are added back as spares: a spare expert shortens queues and stands in when another is lost.
//!
//! A new plan is asked for when the fleet changes and, since forecasts and the mix of queries drift,
//! when a review finds the problem different from the one last solved.

mod calibration;
mod instance;
mod limits;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moe2_model::{Event, ExpertId, Seconds, Time};
use moe2_solve::{Constraint, FEASIBILITY_TOLERANCE, Problem, Solution, Status, load};

pub(crate) use calibration::Calibration;
pub use limits::{PlanLimits, TenantLimits};
pub use view::{AdmissionView, ConstraintView, Limit, PlanView, PlannedExpert};

use super::{Engine, Output, Timer};

/// How often the problem is looked at again while the fleet stays the same.
const REVIEW_EVERY: Duration = Duration::from_secs(60);

/// A selection problem with the experts its columns stand for.
#[derive(Debug, Clone)]
pub struct PlanRequest {
    /// Counts problems; a result is used only for the latest.
    pub generation: u64,
    /// The instance.
    pub problem: Arc<Problem>,
    /// Expert of each column.
    pub experts: Vec<ExpertId>,
    /// Queries behind the utilities that were really asked; the others are typical ones.
    pub asked: usize,
}

/// A solved problem and what was made of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What was asked.
    pub request: PlanRequest,
    /// The checked answer.
    pub solution: Solution,
    /// Columns that are active although the answer leaves them out.
    pub spares: Vec<usize>,
    /// Cases of the verified proof that no set is better, if there is one.
    pub proof: Option<usize>,
    /// How long the solver took.
    pub took: Seconds,
}

impl Plan {
    fn new(
        request: PlanRequest,
        solution: Solution,
        (proof, took): (Option<usize>, Seconds),
    ) -> Self {
        let spares = match solution.status {
            Status::Infeasible(_) => Vec::new(),
            _ => spares(&request.problem, &solution.selected),
        };
        Self {
            request,
            solution,
            spares,
            proof,
            took,
        }
    }

    /// The active set; `None` if no set keeps the limits.
    fn active(&self) -> Option<BTreeSet<ExpertId>> {
        if matches!(self.solution.status, Status::Infeasible(_)) {
            return None;
        }
        let columns = self.solution.selected.iter().chain(&self.spares);
        Some(
            columns
                .filter_map(|&n| self.request.experts.get(n).cloned())
                .collect(),
        )
    }
}

/// Experts outside the set that still fit beside it, taken in order.
fn spares(problem: &Problem, selected: &[usize]) -> Vec<usize> {
    let mut members = selected.to_vec();
    for extra in (0..problem.expert_count()).filter(|n| !selected.contains(n)) {
        members.push(extra);
        let holds =
            |row: &Constraint| load(row, &members) <= row.limit * (1.0 + FEASIBILITY_TOLERANCE);
        if !problem.constraints().iter().all(holds) {
            members.pop();
        }
    }
    members.split_off(selected.len())
}

impl Engine {
    /// The last plan that was made for the fleet as it was then.
    #[must_use]
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    /// Asks for a new active set; until it comes the old one stays, and newcomers count as chosen.
    pub(super) fn replan(&mut self, now: Time) {
        self.generation += 1;
        self.timers.arm(Timer::Review, now + REVIEW_EVERY);
        self.asked_for = instance::request(
            &self.fleet,
            &self.gate,
            (&self.config.plan, &self.calibration),
            self.generation,
        );
        if let Some(request) = &self.asked_for {
            let request = Box::new(request.clone());
            self.outputs.push_back(Output::Plan(request));
        }
    }

    /// Asks for a new active set if the problem has become another one.
    pub(super) fn review(&mut self, now: Time) {
        let fresh = instance::request(
            &self.fleet,
            &self.gate,
            (&self.config.plan, &self.calibration),
            self.generation,
        );
        let same = match (&self.asked_for, &fresh) {
            (Some(old), Some(new)) => !instance::differs(old, new),
            (old, new) => old.is_none() == new.is_none(),
        };
        if same {
            self.timers.arm(Timer::Review, now + REVIEW_EVERY);
        } else {
            self.replan(now);
        }
    }

    pub(super) fn planned(
        &mut self,
        request: PlanRequest,
        solution: Solution,
        (proof, took): (Option<usize>, Seconds),
    ) {
        if request.generation != self.generation {
            return;
        }
        let plan = Plan::new(request, solution, (proof, took));
        let active = plan.active();
        self.event(Event::Planned {
            selected: active.as_ref().map_or(0, BTreeSet::len),
            offered: plan.request.experts.len(),
            objective: plan.solution.objective,
            bound: plan.solution.bound,
            took,
            infeasible: match &plan.solution.status {
                Status::Infeasible(reason) => Some(reason.describe(&plan.request.problem)),
                _ => None,
            },
        });
        if let Some(active) = active {
            self.fleet.select(&active);
        }
        self.plan = Some(Arc::new(plan));
    }
}
