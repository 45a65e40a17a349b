//! Writing a proof, given the optimum: the search's own bounds, depth first, each step put down.

use super::{Case, Multipliers, PROOF_FORMAT, Price, Proof, Row};
use crate::problem::{Kind, Problem};
use crate::reduce::{Nature, Reduced, Steps, dominators};
use crate::search::{Basis, Evidence, Prover, Sides};
use crate::solution::{Solution, Status};
use crate::solver::Limits;

/// Proves that no set is worth more than the solution's; `None` if `limits` end the attempt or the
/// solution is not optimal.
pub fn prove(problem: &Problem, solution: &Solution, limits: &mut Limits<'_>) -> Option<Proof> {
    if solution.status != Status::Optimal {
        return None;
    }
    let steps = Steps {
        dominance: true,
        merge: true,
        unit: true,
    };
    let mut reduced = Reduced::of(problem, &steps);
    // Merging rows can make a unit that single rows do not have; a checker looks at those.
    if reduced
        .ticks
        .common_unit()
        .is_some_and(|unit| !common(problem, unit))
    {
        reduced = Reduced::of(
            problem,
            &Steps {
                unit: false,
                ..steps
            },
        );
    }
    let mut writer = Writer {
        problem,
        reduced: &reduced,
        groups: reduced.groups(problem),
        cases: Vec::new(),
    };
    let gone: Vec<(usize, Vec<usize>)> = dominators(problem, &reduced.experts);
    if !gone.is_empty() {
        let rest = writer.cases.len() + 1;
        writer.cases.push(Case::Dominated {
            experts: gone,
            rest,
        });
    }
    let mut prover = Prover::new(problem, &reduced, solution.selected.clone(), limits);
    writer.descend(&mut prover)?;
    let names = solution
        .selected
        .iter()
        .map(|&n| problem.experts()[n].clone());
    Some(Proof {
        format: PROOF_FORMAT.to_owned(),
        selected: names.collect(),
        objective: solution.objective,
        unit: reduced.ticks.common_unit(),
        cases: writer.cases,
    })
}

/// How far a weighted utility may be from a multiple of the unit: half of what a checker accepts.
const UNIT_SLACK: f64 = 5e-10;

/// Whether every weighted utility of the problem is a multiple of the unit.
fn common(problem: &Problem, unit: f64) -> bool {
    let multiple = |times: f64| (times - times.round()).abs() <= UNIT_SLACK * times;
    (0..problem.row_count()).all(|row| {
        let weight = problem.weights()[row];
        problem
            .row(row)
            .iter()
            .all(|utility| multiple(weight * utility / unit))
    })
}

struct Writer<'p> {
    problem: &'p Problem,
    reduced: &'p Reduced,
    /// The problem's rows behind each merged row, with their parts of its weight.
    groups: Vec<Vec<(usize, f64)>>,
    cases: Vec<Case>,
}

impl Writer<'_> {
    /// Puts down the whole case distinction; nothing if the limits end it.
    fn descend(&mut self, prover: &mut Prover<'_, '_, '_>) -> Option<()> {
        // Boxes still to be closed, with the case and the branch that refers to each.
        let mut open: Vec<(Sides, Option<(usize, bool)>)> = vec![(prover.root(), None)];
        let free = prover.root().inside;
        if !free.is_empty() {
            let rest = self.cases.len() + 1;
            let experts = self.reduced.originals(&free);
            self.cases.push(Case::Free { experts, rest });
        }
        while let Some((sides, from)) = open.pop() {
            if let Some((case, with_it)) = from {
                let here = self.cases.len();
                if let Case::Split { with, without, .. } = &mut self.cases[case] {
                    *(if with_it { with } else { without }) = here;
                }
            }
            match prover.examine(sides)? {
                Evidence::Whole => self.cases.push(Case::Whole),
                Evidence::Bounded(basis) => {
                    let by = self.multipliers(&basis);
                    self.cases.push(Case::Bounded(by));
                }
                Evidence::Settled {
                    basis,
                    out,
                    inside,
                    left,
                } => {
                    let rest = self.cases.len() + 1;
                    let by = self.multipliers(&basis);
                    let (out, inside) = (
                        self.reduced.originals(&out),
                        self.reduced.originals(&inside),
                    );
                    self.cases.push(Case::Settled {
                        by,
                        out,
                        inside,
                        rest,
                    });
                    open.push((left, None));
                }
                Evidence::Split {
                    column,
                    with,
                    without,
                } => {
                    let case = self.cases.len();
                    self.cases.push(Case::Split {
                        expert: self.reduced.experts[column],
                        with: 0,
                        without: 0,
                    });
                    open.push((without, Some((case, false))));
                    open.push((with, Some((case, true))));
                }
            }
        }
        Some(())
    }

    /// The basis of a bound in the terms of the problem.
    fn multipliers(&self, basis: &Basis) -> Multipliers {
        let mut phantoms = vec![0.0; self.problem.row_count()];
        // Merged rows share their phantom by weight.
        for (row, phantom) in basis.phantoms.iter().enumerate() {
            for &(original, part) in &self.groups[row] {
                phantoms[original] = phantom * part;
            }
        }
        let unit = self.reduced.ticks.value(1);
        let constraints = self.problem.constraints();
        let linear = basis.linear.iter().map(|&(at, price)| {
            let row = &self.reduced.linear[at];
            let limit = constraints[row.origin].limit;
            let (kind, scale) = match row.nature {
                Nature::Whole if matches!(constraints[row.origin].kind, Kind::Count) => (
                    Row::Whole,
                    crate::rows::capacity(&constraints[row.origin]).floor(),
                ),
                Nature::Whole => (Row::Whole, limit),
                Nature::AllOfTop => (Row::Heaviest(self.reduced.experts.clone()), limit),
                Nature::Tier(tier) => (Row::Tier(tier), tier as f64 - 1.0),
            };
            Price {
                constraint: row.origin,
                row: kind,
                price: price * unit / scale,
            }
        });
        let tangents = basis.tangents.iter().map(|(share, origin, price)| {
            let columns = share.iter().enumerate().filter(|(_, s)| **s > 0.0);
            let members = columns.map(|(c, _)| self.reduced.experts[c]).collect();
            Price {
                constraint: *origin,
                row: Row::Heaviest(members),
                price: price * unit / constraints[*origin].limit,
            }
        });
        Multipliers {
            prices: linear.chain(tangents).filter(|p| p.price > 0.0).collect(),
            phantoms,
        }
    }
}
