//! Makes a failing run small: fewer nodes, fewer queries, fewer faults, less that goes wrong all the time.
//!
//! What is left out of a case leaves the rest what it was, so parts can be tried one after the other: halves
//! first, then quarters, down to single ones (delta debugging; Zeller and Hildebrandt, "Simplifying and
//! isolating failure-inducing input", 2002), until nothing can be left out any more. A smaller run must break
//! the same promise: another failure is another story.

use std::collections::BTreeSet;

use crate::case::{Ambient, Case, Kept};
use crate::play;
use crate::report::Report;
use crate::script::Script;

/// A failing case that cannot be made smaller.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The case; its text replays it.
    pub case: Case,
    /// What it comes to.
    pub report: Report,
    /// Runs it took to find.
    pub runs: usize,
}

/// A part of a case that may be left out, and how much of it a whole case has.
type Part = (fn(&mut Case) -> &mut Kept, fn(&Case) -> usize);

const PARTS: [Part; 3] = [
    (|case| &mut case.queries, |case| case.scenario.queries),
    (
        |case| &mut case.faults,
        |case| {
            let whole = Case::new(case.scenario.clone(), case.seed);
            Script::of(&whole).faults.len()
        },
    ),
    (|case| &mut case.nodes, |case| case.scenario.nodes),
];

struct Search {
    best: Case,
    report: Report,
    promise: &'static str,
    runs: usize,
    most: usize,
}

impl Search {
    /// Takes a smaller case if it fails in the same way.
    fn try_out(&mut self, case: Case) -> bool {
        if self.runs >= self.most {
            return false;
        }
        self.runs += 1;
        let report = play(&case);
        let same = report.violations.first().map(|v| v.promise) == Some(self.promise);
        if same {
            (self.best, self.report) = (case, report);
        }
        same
    }

    /// Leaves out what can be left out of one part. Whether anything could.
    fn reduce(&mut self, (part, size): Part) -> bool {
        let all = size(&self.best);
        let mut kept: Vec<usize> = match part(&mut self.best) {
            Some(kept) => kept.iter().copied().filter(|n| *n < all).collect(),
            None => (0..all).collect(),
        };
        let before = kept.len();
        let mut chunk = kept.len();
        while chunk > 0 {
            let mut at = 0;
            while at < kept.len() {
                let end = (at + chunk).min(kept.len());
                let rest = kept[..at].iter().chain(&kept[end..]);
                let rest: BTreeSet<usize> = rest.copied().collect();
                let mut smaller = self.best.clone();
                *part(&mut smaller) = Some(rest);
                if self.try_out(smaller) {
                    kept.drain(at..end);
                } else {
                    at = end;
                }
            }
            chunk /= 2;
        }
        kept.len() < before
    }

    fn calm(&mut self) {
        for ambient in Ambient::ALL {
            let mut calmer = self.best.clone();
            if calmer.without.insert(ambient) {
                self.try_out(calmer);
            }
        }
    }
}

/// Makes a failing case as small as it gets within so many runs; `None` if it does not fail.
#[must_use]
pub fn shrink(case: &Case, most_runs: usize) -> Option<Shrunk> {
    let report = play(case);
    let promise = report.violations.first()?.promise;
    let mut search = Search {
        best: case.clone(),
        report,
        promise,
        runs: 1,
        most: most_runs,
    };
    loop {
        let mut smaller = false;
        for part in PARTS {
            smaller |= search.reduce(part);
        }
        search.calm();
        if !smaller || search.runs >= search.most {
            break;
        }
    }
    Some(Shrunk {
        case: search.best,
        report: search.report,
        runs: search.runs,
    })
}
