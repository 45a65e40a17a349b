//! Checking a proof, step by step, from the problem alone.
//!
//! Nothing in a proof is believed: not that a row follows from a constraint, not that one expert
//! dominates another, not that utilities have a common unit. What is needed is plain: a bound is
//! one pass over the table. Cases are a flat list, so that a proof of any depth is walked without
//! recursion.

use super::{Case, Multipliers, PROOF_FORMAT, Proof, Row};
use crate::check::{Sum, burden, holds, limits, worth};
use crate::problem::{Constraint, Kind, Problem};

/// Relative slack on values and limits: that of the solvers plus rounding.
const SLACK: f64 = 2e-9;
/// How far a weighted utility may be from a multiple of the unit, in units.
const UNIT_SLACK: f64 = 1e-9;
/// Relative error of a compensated sum and of the products in it.
const ROUNDING: f64 = 8.0 * f64::EPSILON;
/// Units, at most, in the value of everything: beyond this, errors of single ones could add up.
const MAX_UNITS: f64 = 2e8;

/// The first step found to be wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProofError {
    /// Another format or version.
    #[error("format: is {found:?}, expected {PROOF_FORMAT:?}")]
    Format {
        /// The tag in the proof.
        found: String,
    },
    /// A name, an index or a number that cannot be.
    #[error("{place}: {problem}")]
    Malformed {
        /// Where in the proof.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The set breaks a constraint or is not worth what is claimed.
    #[error("selected: {problem}")]
    Set {
        /// What is wrong.
        problem: String,
    },
    /// A bound is above the objective.
    #[error("{place}: a set could be worth {bound}, {objective} is claimed to be the most")]
    Bound {
        /// Where in the proof.
        place: String,
        /// What the multipliers prove.
        bound: f64,
        /// What is claimed.
        objective: f64,
    },
    /// A step that does not follow.
    #[error("{place}: {problem}")]
    Step {
        /// Where in the proof.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

/// Where an expert is in a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    In,
    Out,
    Open,
}

/// A box and the place in the proof of the case that is to close it.
struct Claim {
    sides: Vec<Side>,
    case: usize,
}

/// Checks that the set keeps every constraint, is worth what is claimed, and that no set is worth more.
///
/// # Errors
/// The first [`ProofError`] found.
pub fn verify(problem: &Problem, proof: &Proof) -> Result<(), ProofError> {
    if proof.format != PROOF_FORMAT {
        return Err(ProofError::Format {
            found: proof.format.clone(),
        });
    }
    set(problem, proof)?;
    if let Some(unit) = proof.unit {
        common(problem, unit)?;
    }
    let judge = Judge {
        problem,
        objective: proof.objective,
        unit: proof.unit,
    };
    let mut used = vec![false; proof.cases.len()];
    let mut claims = vec![Claim {
        sides: vec![Side::Open; problem.expert_count()],
        case: 0,
    }];
    while let Some(Claim { sides, case }) = claims.pop() {
        let place = format!("cases[{case}]");
        let malformed = |problem: &str| ProofError::Malformed {
            place: place.clone(),
            problem: problem.to_owned(),
        };
        let claimed = proof
            .cases
            .get(case)
            .ok_or_else(|| malformed("is missing"))?;
        if std::mem::replace(&mut used[case], true) {
            return Err(malformed("is referred to twice"));
        }
        claims.extend(judge.step(sides, claimed, &place)?);
    }
    Ok(())
}

fn set(problem: &Problem, proof: &Proof) -> Result<(), ProofError> {
    let wrong = |problem: String| ProofError::Set { problem };
    let mut members = Vec::new();
    for name in &proof.selected {
        let known = problem.experts().iter().position(|expert| expert == name);
        members.push(known.ok_or_else(|| wrong(format!("no expert is called {name:?}")))?);
    }
    members.sort_unstable();
    members.dedup();
    if members.is_empty() || members.len() != proof.selected.len() {
        return Err(wrong("must be different experts, at least one".into()));
    }
    limits(problem, &members).map_err(|error| wrong(error.to_string()))?;
    let value = worth(problem, &members);
    if (value - proof.objective).abs() > SLACK * value {
        return Err(wrong(format!("is worth {value}, not {}", proof.objective)));
    }
    Ok(())
}

/// Whether every weighted utility is a multiple of the unit.
fn common(problem: &Problem, unit: f64) -> Result<(), ProofError> {
    let malformed = |problem: String| ProofError::Malformed {
        place: "unit".into(),
        problem,
    };
    let everyone: Vec<usize> = (0..problem.expert_count()).collect();
    if !(unit > 0.0 && worth(problem, &everyone) / unit <= MAX_UNITS) {
        return Err(malformed(format!("{unit} is too small or not a number")));
    }
    for row in 0..problem.row_count() {
        for &utility in problem.row(row) {
            let worth = problem.weights()[row] * utility;
            let times = worth / unit;
            // Relative to itself: beside a large unit everything is nearly 0 times it.
            let off = (times - times.round()).abs() > UNIT_SLACK * times;
            if off || (worth > 0.0 && times < 0.5) {
                return Err(malformed(format!(
                    "a utility of row {row} is not a multiple of it"
                )));
            }
        }
    }
    Ok(())
}

struct Judge<'p> {
    problem: &'p Problem,
    objective: f64,
    unit: Option<f64>,
}

impl Judge<'_> {
    /// Checks one case; returns the boxes that it leaves.
    fn step(
        &self,
        mut sides: Vec<Side>,
        case: &Case,
        place: &str,
    ) -> Result<Vec<Claim>, ProofError> {
        self.close(&mut sides);
        let next = |sides: Vec<Side>, case: usize| Claim { sides, case };
        match case {
            Case::Whole => self.whole(&sides, place).map(|()| Vec::new()),
            Case::Bounded(by) => {
                let bound = self.bound(&sides, by, place)?;
                self.at_most(bound.value, place)?;
                Ok(Vec::new())
            }
            Case::Dominated { experts, rest } => {
                for (expert, by) in experts {
                    self.dominated(&sides, *expert, by, place)?;
                }
                for (expert, _) in experts {
                    sides[*expert] = Side::Out;
                }
                Ok(vec![next(sides, *rest)])
            }
            Case::Free { experts, rest } => {
                for &expert in experts {
                    self.free(&sides, expert, place)?;
                    sides[expert] = Side::In;
                }
                Ok(vec![next(sides, *rest)])
            }
            Case::Settled {
                by,
                out,
                inside,
                rest,
            } => {
                let bound = self.bound(&sides, by, place)?;
                for (&expert, goes) in out
                    .iter()
                    .map(|e| (e, Side::Out))
                    .chain(inside.iter().map(|e| (e, Side::In)))
                {
                    self.open(&sides, expert, place)?;
                    // What the bound becomes with the expert on its other side.
                    let net = bound.net[expert];
                    let forced = match (goes, sides[expert]) {
                        (Side::Out, _) => net.min(0.0),
                        (_, Side::Open) => -net.max(0.0),
                        // What is out already is not in the bound, which must then close the box.
                        _ => 0.0,
                    };
                    self.at_most(bound.value + forced, place)?;
                }
                out.iter().for_each(|&e| sides[e] = Side::Out);
                inside.iter().for_each(|&e| sides[e] = Side::In);
                Ok(vec![next(sides, *rest)])
            }
            Case::Split {
                expert,
                with,
                without,
            } => {
                self.open(&sides, *expert, place)?;
                if sides[*expert] == Side::Out {
                    return Ok(vec![next(sides, *without)]);
                }
                let mut inside = sides.clone();
                inside[*expert] = Side::In;
                sides[*expert] = Side::Out;
                Ok(vec![next(inside, *with), next(sides, *without)])
            }
        }
    }

    /// Whether an expert uses up nothing that could be short: it fits alone, and costs nothing where
    /// costs add up and what is left of the box does not fit together.
    fn free(&self, sides: &[Side], expert: usize, place: &str) -> Result<(), ProofError> {
        self.open(sides, expert, place)?;
        let left = members(sides, |side| side != Side::Out);
        let costless = |row: &Constraint| {
            let cost = row.cost(expert);
            let alone = matches!(row.kind, Kind::Max { .. }) && holds(row, cost);
            cost == 0.0 || alone || holds(row, burden(row, &left))
        };
        if sides[expert] == Side::Open && self.problem.constraints().iter().all(costless) {
            return Ok(());
        }
        Err(self.wrong(place, format!("expert {expert} uses something up")))
    }

    /// What cannot join is out.
    fn close(&self, sides: &mut [Side]) {
        let mut with: Vec<usize> = members(sides, |side| side == Side::In);
        for expert in members(sides, |side| side == Side::Open) {
            with.push(expert);
            if limits(self.problem, &with).is_err() {
                sides[expert] = Side::Out;
            }
            with.pop();
        }
    }

    fn whole(&self, sides: &[Side], place: &str) -> Result<(), ProofError> {
        let inside = members(sides, |side| side == Side::In);
        let left = members(sides, |side| side != Side::Out);
        if limits(self.problem, &inside).is_err() {
            return Ok(());
        }
        if limits(self.problem, &left).is_err() {
            return Err(self.wrong(place, "what is left does not fit together".into()));
        }
        self.at_most(worth(self.problem, &left), place)
    }

    fn at_most(&self, bound: f64, place: &str) -> Result<(), ProofError> {
        let rounded = self.unit.map_or(bound, |unit| {
            (bound / unit * (1.0 + SLACK) + SLACK).floor() * unit
        });
        if rounded <= self.objective * (1.0 + SLACK) {
            return Ok(());
        }
        Err(ProofError::Bound {
            place: place.into(),
            bound: rounded,
            objective: self.objective,
        })
    }

    fn open(&self, sides: &[Side], expert: usize, place: &str) -> Result<(), ProofError> {
        // What did not fit is out already, which a proof need not know.
        match sides.get(expert) {
            Some(Side::Open | Side::Out) => Ok(()),
            Some(Side::In) => Err(self.wrong(place, format!("expert {expert} is in"))),
            None => Err(self.wrong(place, format!("there is no expert {expert}"))),
        }
    }

    fn dominated(
        &self,
        sides: &[Side],
        expert: usize,
        by: &[usize],
        place: &str,
    ) -> Result<(), ProofError> {
        self.open(sides, expert, place)?;
        let mut distinct = by.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() < self.problem.k() {
            return Err(self.wrong(place, format!("expert {expert} has too few dominators")));
        }
        for &n in &distinct {
            let known = sides.get(n).copied();
            let in_box = known.is_some_and(|side| side != Side::Out) || sides[expert] == Side::Out;
            if known.is_none() {
                return Err(self.wrong(place, format!("there is no expert {n}")));
            }
            let mut rows = (0..self.problem.row_count()).map(|x| self.problem.row(x));
            let mut costs = self.problem.constraints().iter();
            let good = rows.all(|row| row[n] >= row[expert]);
            let cheap = costs.all(|row| row.cost(n) <= row.cost(expert));
            // Of equals the first one stays, so that no two can go out for each other.
            let strict = n < expert || !self.equals(n, expert);
            if !(in_box && good && cheap && strict) {
                let problem = format!("expert {n} does not dominate expert {expert}");
                return Err(self.wrong(place, problem));
            }
        }
        Ok(())
    }

    fn equals(&self, a: usize, b: usize) -> bool {
        let mut rows = (0..self.problem.row_count()).map(|x| self.problem.row(x));
        let mut costs = self.problem.constraints().iter();
        rows.all(|row| row[a] == row[b]) && costs.all(|row| row.cost(a) == row.cost(b))
    }

    /// The bound of the multipliers for the box, and what each open expert adds to it.
    fn bound(&self, sides: &[Side], by: &Multipliers, place: &str) -> Result<Bound, ProofError> {
        let problem = self.problem;
        let sound = |number: &f64| number.is_finite() && *number >= 0.0;
        if by.phantoms.len() != problem.row_count() || !by.phantoms.iter().all(sound) {
            let problem = "phantoms must be one number of at least 0 per row".into();
            return Err(ProofError::Malformed {
                place: place.into(),
                problem,
            });
        }
        let mut net = vec![Sum::default(); problem.expert_count()];
        for (x, phantom) in by.phantoms.iter().enumerate() {
            let weight = problem.weights()[x];
            for (net, utility) in net.iter_mut().zip(problem.row(x)) {
                net.add((weight * utility - phantom).max(0.0));
            }
        }
        let mut value = Sum::default();
        let k = problem.k() as f64;
        by.phantoms
            .iter()
            .for_each(|phantom| value.add(k * phantom));
        for price in &by.prices {
            let row = self.row(price.constraint, &price.row, place)?;
            if !sound(&price.price) {
                return Err(self.wrong(place, "a price is not a number of at least 0".into()));
            }
            value.add(price.price * row.limit);
            for (net, cost) in net.iter_mut().zip(&row.cost) {
                net.add(-price.price * cost);
            }
        }
        for (net, side) in net.iter().zip(sides) {
            match side {
                Side::In => value.add(net.value()),
                Side::Out => {}
                Side::Open => value.add(net.value().max(0.0)),
            }
            value.size += if *side == Side::Out { 0.0 } else { net.size };
        }
        // Large prices cancel, and what they lose to rounding could make any bound.
        let rounding = ROUNDING * value.size;
        let small = SLACK / 4.0 * self.objective.max(f64::MIN_POSITIVE);
        if rounding.is_nan() || rounding > small {
            let problem = "its numbers are too large for a bound of this size".into();
            return Err(self.wrong(place, problem));
        }
        let net = net.iter().map(Sum::value).collect();
        Ok(Bound {
            value: value.value() + rounding,
            net,
        })
    }

    /// The inequality `Σ cost ≤ limit` that a row stands for, after checking that it follows.
    fn row(&self, constraint: usize, row: &Row, place: &str) -> Result<Inequality, ProofError> {
        let Some(source) = self.problem.constraints().get(constraint) else {
            return Err(self.wrong(place, format!("there is no constraint {constraint}")));
        };
        let experts = 0..self.problem.expert_count();
        let room = source.limit * (1.0 + SLACK / 2.0);
        let does_not = || {
            self.wrong(
                place,
                format!("{row:?} does not follow from constraint {constraint}"),
            )
        };
        match (row, &source.kind) {
            (Row::Whole, Kind::Sum { cost }) => Ok(Inequality {
                cost: cost.clone(),
                limit: room,
            }),
            (Row::Whole, Kind::Count) => Ok(Inequality {
                cost: vec![1.0; experts.len()],
                limit: room.floor(),
            }),
            (Row::Heaviest(members), Kind::TopSum { top, cost }) => {
                let distinct = members.windows(2).all(|pair| pair[0] < pair[1]);
                if !distinct || members.len() > *top || members.iter().any(|n| *n >= cost.len()) {
                    return Err(does_not());
                }
                let counted = |n: usize| if members.contains(&n) { cost[n] } else { 0.0 };
                Ok(Inequality {
                    cost: experts.map(counted).collect(),
                    limit: room,
                })
            }
            (Row::Tier(tier), Kind::TopSum { top, cost }) if (2..=*top).contains(tier) => {
                // So many of them cost more than the limit together, even with its slack.
                let heavy = |n: usize| cost[n] * *tier as f64 > room;
                Ok(Inequality {
                    cost: experts.map(|n| f64::from(u8::from(heavy(n)))).collect(),
                    limit: *tier as f64 - 1.0,
                })
            }
            _ => Err(does_not()),
        }
    }

    fn wrong(&self, place: &str, problem: String) -> ProofError {
        ProofError::Step {
            place: place.into(),
            problem,
        }
    }
}

struct Bound {
    value: f64,
    net: Vec<f64>,
}

struct Inequality {
    cost: Vec<f64>,
    limit: f64,
}

fn members(sides: &[Side], wanted: impl Fn(Side) -> bool) -> Vec<usize> {
    (0..sides.len()).filter(|n| wanted(sides[*n])).collect()
}
