//! Why an expert is not in a set, and what would bring it in.
//!
//! The reasons are ordered from the hardest to the softest: too large on its own, never better than
//! another one, nothing to add beside the chosen, or outweighed. For the last one the price of having
//! it anyway and the limit at which it would be chosen are found by solving again, exactly: a
//! multiplier of a relaxation would be cheaper and only roughly right.

use crate::objective;
use crate::problem::Problem;
use crate::reduce::dominates;
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
    let out = (0..problem.expert_count()).filter(|n| !solution.selected.contains(n));
    out.map(|n| (n, reason(problem, &solution.selected, n)))
        .collect()
}

fn reason(problem: &Problem, chosen: &[usize], expert: usize) -> Dropped {
    let alone = short(problem, &[expert]);
    if !alone.is_empty() {
        return Dropped::TooLarge { rows: alone };
    }
    if problem.k() == 1 {
        // A chosen one says more than one that was dropped itself.
        let others = chosen.iter().copied().chain(0..problem.expert_count());
        let by = others.into_iter().find(|&n| {
            n != expert && rows::fits_alone(problem, n) && dominates(problem, n, expert)
        });
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
    /// fit alone.
    pub forced: Option<f64>,
    /// A constraint and the smallest limit, to within a thousandth, at which a best set holds it, the
    /// other limits being as they are. `None` where no single limit would do.
    pub limit: Option<Shortfall>,
}

/// Limits that are tried, in equal ratios from what makes room beside the chosen to what makes room
/// for everything.
const WIDTHS: u32 = 8;
/// Relative precision of the limit.
const PRECISION: f64 = 1e-3;
/// Smallest relative advantage of sets with the expert that counts as chosen.
const CHOSEN: f64 = 1e-9;

/// Finds what would bring `expert` into the best set, by a few dozen exact solves; `stop` ends each of
/// them early.
///
/// # Errors
/// As [`Solver::solve`].
pub fn admission(
    problem: &Problem,
    expert: usize,
    stop: &mut dyn FnMut() -> bool,
) -> Result<Admission, SolveError> {
    let forced = best_with(problem, expert, stop)?;
    let best = best_of(problem, stop)?;
    let reason = reason(problem, &best.selected, expert);
    let rows = match reason {
        Dropped::TooLarge { rows } | Dropped::Outweighed { rows, .. } => rows,
        _ => Vec::new(),
    };
    let mut found: Option<Shortfall> = None;
    for short in rows {
        let mut trial = |limit: f64| -> Result<bool, SolveError> {
            let wider = problem.with_limit(short.row, limit);
            let with = best_with(&wider, expert, stop)?;
            let without = best_of(&wider.without(expert), stop)?.objective;
            Ok(with.is_some_and(|with| with > without * (1.0 + CHOSEN)))
        };
        // A wider limit may also let in others that make this one useless, so success is not
        // monotone: the first of a few steps that succeeds is refined.
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
        let Some(mut high) = high else { continue };
        while high - low > PRECISION * high {
            let middle = 0.5 * (low + high);
            if trial(middle)? {
                high = middle;
            } else {
                low = middle;
            }
        }
        let growth = |s: &Shortfall| s.needed / s.limit;
        let this = Shortfall {
            needed: high,
            ..short
        };
        if found.is_none_or(|f| growth(&this) < growth(&f)) {
            found = Some(this);
        }
    }
    Ok(Admission {
        forced,
        limit: found,
    })
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
