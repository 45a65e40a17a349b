//! Why an expert is not in a set, and what would bring it in.
//!
//! The reasons are ordered from the hardest to the softest: too large on its own, never better than
//! another one, nothing to add beside the chosen, or outweighed. For the last one the price of having
//! it anyway and the limit at which it would be chosen are found by solving again, exactly: a
//! multiplier of a relaxation would be cheaper and only roughly right.

use serde::{Deserialize, Serialize};

use crate::objective;
use crate::problem::Problem;
use crate::reduce::Costs;
use crate::rows::{self, load};
use crate::solution::Solution;
use crate::solver::{Limits, SolveError, Solver};
use crate::{BranchAndBound, Shortfall};

/// Why an expert is not in a set.
#[derive(Debug, Clone, PartialEq)]
pub enum Dropped {
    /// It breaks these constraints even alone.
    TooLarge {
        /// What each would have to be.
        rows: Vec<Shortfall>,
    },
    /// Another expert is as good on every row and costs no more in any constraint, and only one (k of
    /// them) can count.
    Dominated {
        /// The other expert.
        by: usize,
    },
    /// It changes no row beside the chosen.
    Idle,
    /// It would add something, but does not fit beside the chosen, which are worth more.
    Outweighed {
        /// What it would add to the value.
        gain: f64,
        /// The constraints it would break, with the limits that would make room for it.
        rows: Vec<Shortfall>,
    },
    /// It fits and would add something: the set is not the best.
    Overlooked {
        /// What it would add to the value.
        gain: f64,
    },
}

impl Dropped {
    /// Whether another limit, or giving up some value, would bring the expert in.
    pub const fn can_be_admitted(&self) -> bool {
        matches!(self, Self::Outweighed { .. } | Self::TooLarge { .. })
    }

    /// The reason in words.
    pub fn describe(&self, problem: &Problem) -> String {
        let short = |rows: &[Shortfall]| {
            let one = |s: &Shortfall| {
                let name = &problem.constraints()[s.row].name;
                format!("{name} {} > {}", number(s.needed), number(s.limit))
            };
            rows.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::TooLarge { rows } => format!("too large alone: {}", short(rows)),
            Self::Dominated { by } => {
                format!(
                    "{} is as good everywhere and no dearer",
                    problem.experts()[*by]
                )
            }
            Self::Idle => "adds nothing beside the chosen".to_owned(),
            Self::Outweighed { gain, rows } => format!("would add {gain:.4}, but {}", short(rows)),
            Self::Overlooked { gain } => format!("would fit and add {gain:.4}"),
        }
    }
}

/// A number of any magnitude in a few characters.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e7).contains(&size) {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.*}", if size >= 1000.0 { 0 } else { 4 });
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// The reason for every expert that is not in the solution's set, by index.
pub fn dropped(problem: &Problem, solution: &Solution) -> Vec<(usize, Dropped)> {
    let costs = Costs::of(problem);
    let out = (0..problem.expert_count()).filter(|n| !solution.selected.contains(n));
    out.map(|n| (n, reason((problem, &costs), &solution.selected, n)))
        .collect()
}

fn reason((problem, costs): (&Problem, &Costs<'_>), chosen: &[usize], expert: usize) -> Dropped {
    let alone = short(problem, &[expert]);
    if !alone.is_empty() {
        return Dropped::TooLarge { rows: alone };
    }
    if problem.k() == 1 {
        // A chosen one says more than one that was dropped itself.
        let others = chosen.iter().copied().chain(0..problem.expert_count());
        let by = others
            .into_iter()
            .find(|&n| n != expert && rows::fits_alone(problem, n) && costs.dominates(n, expert));
        if let Some(by) = by {
            return Dropped::Dominated { by };
        }
    }
    let with: Vec<usize> = chosen.iter().copied().chain([expert]).collect();
    let gain = objective::value(problem, &with) - objective::value(problem, chosen);
    let rows = short(problem, &with);
    match (gain > 0.0, rows.is_empty()) {
        (false, _) => Dropped::Idle,
        (true, false) => Dropped::Outweighed { gain, rows },
        (true, true) => Dropped::Overlooked { gain },
    }
}

/// The constraints that a set breaks.
fn short(problem: &Problem, members: &[usize]) -> Vec<Shortfall> {
    let rows = problem.constraints().iter().enumerate();
    let loads = rows.map(|(row, constraint)| (row, constraint, load(constraint, members)));
    loads
        .filter(|(_, constraint, load)| *load > rows::capacity(constraint))
        .map(|(row, constraint, needed)| Shortfall {
            row,
            limit: constraint.limit,
            needed,
        })
        .collect()
}

/// What would bring an expert in.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// The best value of a set that holds it, under the limits as they are; `None` if it does not
    /// fit alone or time ran out.
    pub forced: Option<f64>,
    /// A constraint and a limit at which a best set holds it, the other limits being as they are. It is
    /// within a thousandth of one at which none does, though a smaller one may do again: a wider limit
    /// can let in others that make this expert useless. `None` where none was found among the limits
    /// tried.
    pub limit: Option<Shortfall>,
    /// Whether the search ended by itself and not because it was stopped.
    pub finished: bool,
}

/// What would bring an expert in, as files and replies have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdmissionRecord {
    /// Who.
    pub expert: String,
    /// What having it anyway would cost in value; `None` if it does not fit alone, or time ran out.
    pub cost: Option<f64>,
    /// A limit to raise so that the best set holds it; `None` where none was found.
    pub raise: Option<RaiseRecord>,
    /// Time ran out: what is missing may exist.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

/// A limit to be raised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RaiseRecord {
    /// Which constraint.
    pub constraint: String,
    /// Its limit as it is.
    pub from: f64,
    /// One that would do, see [`Admission::limit`].
    pub to: f64,
}

impl AdmissionRecord {
    /// The record of what was found for an expert that `solution` leaves out.
    pub fn new(problem: &Problem, solution: &Solution, expert: usize, found: Admission) -> Self {
        let cost = |forced: f64| (solution.objective - forced).max(0.0);
        Self {
            expert: problem.experts()[expert].clone(),
            cost: found.forced.map(cost),
            raise: found.limit.map(|limit| RaiseRecord {
                constraint: problem.constraints()[limit.row].name.clone(),
                from: limit.limit,
                to: limit.needed,
            }),
            unfinished: !found.finished,
        }
    }
}

/// Limits that are tried, in equal ratios from what makes room beside the chosen to what makes room
/// for everything.
const WIDTHS: u32 = 16;
/// Relative precision of the limit.
const PRECISION: f64 = 1e-3;
/// Smallest relative advantage of sets with the expert that counts as chosen.
const CHOSEN: f64 = 1e-9;

/// Finds what would bring `expert` into the best set, by a few dozen exact solves; `stop` ends the
/// search, and whatever was not settled by then is left out.
///
/// # Errors
/// As [`Solver::solve`].
pub fn admission(
    problem: &Problem,
    expert: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Admission, SolveError> {
    let mut stopped = false;
    let mut stop = || {
        stopped = stopped || stop();
        stopped
    };
    let mut admission = Admission {
        forced: None,
        limit: None,
        finished: false,
    };
    let forced = best_with(problem, expert, &mut stop)?;
    if stop() {
        return Ok(admission);
    }
    admission.forced = forced;
    let best = best_of(problem, &mut stop)?;
    let costs = Costs::of(problem);
    let rows = match reason((problem, &costs), &best.selected, expert) {
        Dropped::TooLarge { rows } | Dropped::Outweighed { rows, .. } => rows,
        _ => Vec::new(),
    };
    for short in rows {
        let raised = raised(problem, expert, short, &mut stop)?;
        if stop() {
            return Ok(admission);
        }
        let growth = |s: &Shortfall| s.needed / s.limit;
        if let Some(this) = raised
            && admission.limit.is_none_or(|f| growth(&this) < growth(&f))
        {
            admission.limit = Some(this);
        }
    }
    admission.finished = true;
    Ok(admission)
}

/// The limit of one constraint at which the best set holds `expert`; meaningless once stopped.
fn raised(
    problem: &Problem,
    expert: usize,
    short: Shortfall,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Option<Shortfall>, SolveError> {
    let mut trial = |limit: f64| -> Result<bool, SolveError> {
        let wider = problem.with_limit(short.row, limit);
        let with = best_with(&wider, expert, stop)?;
        let without = best_of(&wider.without(expert), stop)?.objective;
        Ok(with.is_some_and(|with| with > without * (1.0 + CHOSEN)))
    };
    // Success is not monotone: the first of a few steps that succeeds is refined.
    let everyone: Vec<usize> = (0..problem.expert_count()).collect();
    let most = load(&problem.constraints()[short.row], &everyone);
    let widths = (0..=WIDTHS).map(|step| {
        let part = f64::from(step) / f64::from(WIDTHS);
        short.needed * (most / short.needed).powf(part)
    });
    let (mut low, mut high) = (short.limit, None);
    for width in widths {
        if trial(width)? {
            high = Some(width);
            break;
        }
        low = width;
    }
    let Some(mut high) = high else {
        return Ok(None);
    };
    while high - low > PRECISION * high {
        let middle = 0.5 * (low + high);
        if trial(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(Some(Shortfall {
        needed: high,
        ..short
    }))
}

/// The best value of a set that holds `expert`, which a row of its own makes worth more than all
/// others together.
fn best_with(
    problem: &Problem,
    expert: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Option<f64>, SolveError> {
    if !rows::fits_alone(problem, expert) {
        return Ok(None);
    }
    let chosen = best_of(&problem.favouring(expert), stop)?.selected;
    Ok(chosen
        .contains(&expert)
        .then(|| objective::value(problem, &chosen)))
}

fn best_of(problem: &Problem, stop: &mut dyn FnMut() -> bool) -> Result<Solution, SolveError> {
    let mut limits = |_: &crate::Progress| stop();
    BranchAndBound::FULL.solve(problem, &mut Limits::default().with_stop(&mut limits))
}
