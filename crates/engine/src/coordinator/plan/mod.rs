//! The coarse level: which experts form the active set S (MATH 2.1).
//!
//! `calibration` keeps what is asked and `demand` how likely it is to be asked soon, `instance` makes a selection problem of it, the driver solves
//! that on a worker and judges the answer, and here it is applied. The solver may leave out
//! experts that add nothing to the objective; some optimum is a maximal feasible set, so those that
//! still fit are added back as spares: a spare expert shortens queues and stands in when another is lost.
//!
//! Limits hold while the solver works, too: a newcomer is active at once only if it fits beside those
//! that are. A problem without a solution changes nothing else and says so. An answer to a problem
//! that is over is used only if it keeps the limits of today's and is worth more than what is active.
//!
//! A new plan is asked for when the fleet changes and, since forecasts and the mix of queries drift,
//! when a review finds the problem different from the one last solved.

mod calibration;
mod demand;
mod instance;
mod limits;
mod pricing;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use moe2_model::{Event, ExpertId, Joules, NodeId, Seconds, TenantId, Time};
use moe2_solve::{
    Constraint, FEASIBILITY_TOLERANCE, Problem, ProblemError, Solution, Status, load, spares, value,
};

pub(crate) use calibration::Calibration;
pub use limits::{PlanLimits, TenantLimits};
pub use pricing::Priced;
pub use view::{ConstraintView, PlanView, PlannedExpert};

use super::fleet::{Expert, Node};
use super::residency::Residency;
use super::{Engine, Output, Timer};
use instance::Outlook;
use pricing::Means;

/// How often the problem is looked at again while the fleet stays the same.
const REVIEW_EVERY: Duration = Duration::from_secs(60);
/// A problem is forecasts of every expert on every prompt, and a machine that starts with many experts
/// is as many changes. So many problems are made at once, then one per this time.
const BURST: u32 = 8;
const SETTLE: Duration = Duration::from_millis(100);

/// How many problems may still be made at once, and since when that is so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    left: u32,
    since: Time,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            left: BURST,
            since: Time::ZERO,
        }
    }
}

impl Pace {
    /// Takes one, or says when there will be one.
    fn take(&mut self, now: Time) -> Result<(), Time> {
        let intervals = now.since(self.since).as_micros() / SETTLE.as_micros();
        let gained = u32::try_from(intervals).unwrap_or(u32::MAX);
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(BURST);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.since + SETTLE),
        }
    }
}

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
    /// Tenants whose budgets no expert keeps on any prompt.
    pub unserved: Vec<TenantId>,
    /// Tenants with mean budgets.
    means: Arc<Vec<Means>>,
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
    fn new(request: PlanRequest, solution: Solution, took: Seconds) -> Self {
        let spares = match solution.status {
            Status::Infeasible(_) => Vec::new(),
            _ => spares(&request.problem, &solution.selected),
        };
        Self {
            request,
            solution,
            spares,
            proof: None,
            took,
        }
    }
}

impl Plan {
    /// Columns of the chosen and the spare.
    fn members(&self) -> Vec<usize> {
        let chosen = self.solution.selected.iter();
        chosen.chain(&self.spares).copied().collect()
    }
}

impl PlanRequest {
    fn named(&self, columns: impl IntoIterator<Item = usize>) -> BTreeSet<ExpertId> {
        columns
            .into_iter()
            .filter_map(|n| self.experts.get(n).cloned())
            .collect()
    }

    /// The columns of these experts; `None` if one of them has none.
    fn columns<'a>(&self, experts: impl IntoIterator<Item = &'a ExpertId>) -> Option<Vec<usize>> {
        let columns: BTreeMap<&ExpertId, usize> = self.experts.iter().zip(0..).collect();
        let column = |expert| columns.get(expert).copied();
        experts.into_iter().map(column).collect()
    }
}

fn holds(problem: &Problem, members: &[usize]) -> bool {
    let holds = |row: &Constraint| load(row, members) <= row.limit * (1.0 + FEASIBILITY_TOLERANCE);
    problem.constraints().iter().all(holds)
}

/// A set and those that still fit beside it.
fn with_spares(problem: &Problem, mut members: Vec<usize>) -> Vec<usize> {
    members.extend(spares(problem, &members));
    members
}

impl Engine {
    /// The last plan that was made for the fleet as it was then.
    #[must_use]
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    /// Number of the newest problem.
    #[must_use]
    pub const fn plan_generation(&self) -> u64 {
        self.generation
    }

    /// Asks for a new active set, at once or when the fleet has settled.
    pub(super) fn replan(&mut self, now: Time) {
        match self.pace.take(now) {
            Ok(()) => self.ask(now),
            Err(soonest) => self.timers.arm(Timer::Settled, soonest),
        }
    }

    /// Makes a problem of the fleet as it is and hands it out. Until it is solved, experts that fit
    /// beside the active ones are active.
    pub(super) fn ask(&mut self, now: Time) {
        self.generation += 1;
        self.timers.disarm(Timer::Settled);
        self.timers.arm(Timer::Review, now + REVIEW_EVERY);
        let request = self.problem(now);
        self.asked_for = None;
        match request {
            Ok(Some(request)) => {
                let members = self.meanwhile(&request);
                self.select(now, &request, &members);
                self.asked_for = Some(request.clone());
                self.outputs.push_back(Output::Plan(Box::new(request)));
            }
            Ok(None) => {
                self.plan = None;
                self.event(Event::ActiveSet {
                    selected: 0,
                    offered: 0,
                });
            }
            Err(problem) => self.event(Event::PlanFailed {
                reason: problem.to_string(),
            }),
        }
    }

    fn problem(&mut self, now: Time) -> Result<Option<PlanRequest>, ProblemError> {
        let wall = self.wall(now);
        self.calibration.turn(wall);
        instance::request(
            &self.fleet,
            &self.gate,
            (&self.config.plan, &self.calibration),
            Outlook {
                residency: self.config.residency,
                now: (now, wall),
            },
            self.generation,
        )
    }

    /// Columns of the experts that are active now.
    fn active(&self, request: &PlanRequest) -> Vec<usize> {
        let experts = self
            .fleet
            .experts()
            .filter(|(_, _, expert)| expert.selected);
        let columns: BTreeMap<&ExpertId, usize> = request.experts.iter().zip(0..).collect();
        experts
            .filter_map(|(id, _, _)| columns.get(&id).copied())
            .collect()
    }

    /// Who is active until there is a plan: whoever was and whoever fits beside, but nobody who would have to be brought
    /// into memory first.
    fn meanwhile(&self, request: &PlanRequest) -> Vec<usize> {
        let problem = &request.problem;
        let mut members = self.active(request);
        let there = |n: &usize| {
            let hosted = self.fleet.hosted(&request.experts[*n]);
            let holds =
                |(node, expert): (&Node, &Expert)| !node.memory.is_tight() || node.holds(expert);
            self.config.residency != Residency::Planned || hosted.is_some_and(holds)
        };
        if self.fleet.is_tight() {
            // Of machines of which nobody is active yet.
            let served: BTreeSet<&NodeId> =
                members.iter().map(|n| &request.experts[*n].node).collect();
            let new = |n: &usize| !served.contains(&request.experts[*n].node);
            let newcomers = (0..request.experts.len()).filter(|n| new(n) && there(n));
            for n in newcomers.collect::<Vec<_>>() {
                members.push(n);
                if !holds(problem, &members) {
                    members.pop();
                }
            }
        }
        let spares = spares(problem, &members);
        members.extend(spares.into_iter().filter(there));
        members
    }

    fn select(&mut self, now: Time, request: &PlanRequest, members: &[usize]) {
        let chosen = request.named(members.iter().copied());
        self.fleet.select(&chosen);
        self.event(Event::ActiveSet {
            selected: chosen.len(),
            offered: request.experts.len(),
        });
        self.withdraw_inactive(now);
        self.settle_all_memory(now);
    }

    /// Asks for a new active set if the problem has become another one.
    pub(super) fn review(&mut self, now: Time) {
        let problem = self.problem(now);
        let same = match (&self.asked_for, problem) {
            (Some(old), Ok(Some(new))) => !instance::differs(old, &new),
            (old, Ok(new)) => old.is_none() && new.is_none(),
            (_, Err(_)) => false,
        };
        if same {
            self.timers.arm(Timer::Review, now + REVIEW_EVERY);
        } else {
            self.ask(now);
        }
    }

    pub(super) fn planned(
        &mut self,
        now: Time,
        request: PlanRequest,
        (solution, prices): (Solution, &[Priced]),
        took: Seconds,
    ) {
        if request.generation != self.generation {
            self.adopt(now, &request, &solution);
            return;
        }
        let plan = Plan::new(request, solution, took);
        self.event(Event::Planned {
            selected: plan.solution.selected.len() + plan.spares.len(),
            offered: plan.request.experts.len(),
            objective: plan.solution.objective,
            bound: plan.solution.bound,
            took,
            infeasible: plan.solution.infeasibility(&plan.request.problem),
            unserved: plan.request.unserved.clone(),
        });
        self.steering.planned(prices);
        for priced in prices {
            self.tell_price(&priced.tenant);
        }
        if !matches!(plan.solution.status, Status::Infeasible(_)) {
            let members = self.worth_loading(now, &plan);
            self.select(now, &plan.request, &members);
        }
        self.plan = Some(Arc::new(plan));
    }

    /// The members of a plan, or who is active if bringing others into memory does not pay: what they would add to the
    /// queries that are expected soon, and would have added to those that came since the last change, against the
    /// joules of their loads at the operator's price. Whoever waited costs at most twice of what either choice
    /// would have from the start (rent or buy; Karlin et al., 1988).
    fn worth_loading(&mut self, now: Time, plan: &Plan) -> Vec<usize> {
        let (request, members) = (&plan.request, plan.members());
        let joules: Joules = members
            .iter()
            .map(|n| self.fleet.load_joules(now, &request.experts[*n]))
            .sum();
        if joules == Joules::ZERO || self.config.residency != Residency::Planned {
            self.missed = 0.0;
            return members;
        }
        let active = self.meanwhile(request);
        let problem = &request.problem;
        let gain = value(problem, &members) - value(problem, &active);
        let clock = (now, self.wall(now));
        self.missed += gain.max(0.0) * f64::from(self.calibration.take_lately());
        let expected = gain * self.calibration.expected(clock);
        let serves = holds(problem, &active) && !active.is_empty();
        if serves && expected + self.missed <= self.config.prices.per_joule * joules.get() {
            return active;
        }
        self.missed = 0.0;
        members
    }

    /// Uses an answer to a problem that is over, if it is one to today's too: a fleet that changes
    /// faster than it can be planned would never have a plan otherwise.
    fn adopt(&mut self, now: Time, old: &PlanRequest, solution: &Solution) {
        let Some(current) = self.asked_for.clone() else {
            return;
        };
        let chosen = old.named(solution.selected.iter().copied());
        let Some(members) = current.columns(&chosen) else {
            return;
        };
        let (problem, active) = (&current.problem, self.active(&current));
        if holds(problem, &members) && value(problem, &members) > value(problem, &active) {
            let members = with_spares(problem, members);
            self.select(now, &current, &members);
        }
    }

    /// The last plan was proven; a proof of an older one is of no use.
    pub(super) fn proven(&mut self, generation: u64, cases: usize) {
        if let Some(plan) = &mut self.plan
            && plan.request.generation == generation
        {
            Arc::make_mut(plan).proof = Some(cases);
        }
    }

    /// The solver gave no usable answer; the next review asks again.
    pub(super) fn plan_failed(&mut self, generation: u64, reason: String) {
        if generation == self.generation {
            self.asked_for = None;
        }
        self.event(Event::PlanFailed { reason });
    }
}
