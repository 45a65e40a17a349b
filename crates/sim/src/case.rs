//! One run as a line of text: a scenario, a seed, and what of it is left.
//!
//! ```
//! let line = "everything:4711/nodes=0,2/queries=3/faults=1,7/without=leave,stuck";
//! let case: moe2_sim::Case = line.parse().unwrap();
//! assert_eq!(case.to_string(), line);
//! assert_eq!(moe2_sim::play(&case), moe2_sim::play(&case));
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::mutant::Mutant;
use crate::scenario::Scenario;

/// What goes wrong all the time, and can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ambient {
    /// Clients leave.
    Leave,
    /// Workers die.
    Crash,
    /// Models do not load.
    Load,
    /// Workers fall silent.
    Stuck,
    /// Clocks differ.
    Skew,
}

impl Ambient {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Leave,
        Self::Crash,
        Self::Load,
        Self::Stuck,
        Self::Skew,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Crash => "crash",
            Self::Load => "load",
            Self::Stuck => "stuck",
            Self::Skew => "skew",
        }
    }
}

/// Which of a scenario's nodes, queries or faults take part; all of them where nothing is said.
pub(crate) type Kept = Option<BTreeSet<usize>>;

/// One run. Equal cases give equal reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What may happen.
    pub scenario: Scenario,
    /// What does.
    pub seed: u64,
    /// A fault planted beside the engines.
    pub mutant: Option<Mutant>,
    pub(crate) nodes: Kept,
    pub(crate) queries: Kept,
    pub(crate) faults: Kept,
    pub(crate) without: BTreeSet<Ambient>,
}

impl Case {
    /// The whole of a scenario.
    #[must_use]
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        Self {
            scenario,
            seed,
            mutant: None,
            nodes: None,
            queries: None,
            faults: None,
            without: BTreeSet::new(),
        }
    }

    /// The same with a planted fault.
    #[must_use]
    pub fn with(self, mutant: Mutant) -> Self {
        Self {
            mutant: Some(mutant),
            ..self
        }
    }

    pub(crate) fn hosts(&self, node: usize) -> bool {
        kept(&self.nodes, node)
    }

    pub(crate) fn asks(&self, query: usize) -> bool {
        kept(&self.queries, query)
    }

    pub(crate) fn suffers(&self, fault: usize) -> bool {
        kept(&self.faults, fault)
    }

    pub(crate) fn is_without(&self, ambient: Ambient) -> bool {
        self.without.contains(&ambient)
    }
}

fn kept(kept: &Kept, n: usize) -> bool {
    kept.as_ref().is_none_or(|kept| kept.contains(&n))
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scenario.name, self.seed)?;
        let kept = [
            ("nodes", &self.nodes),
            ("queries", &self.queries),
            ("faults", &self.faults),
        ];
        for (name, kept) in kept {
            if let Some(kept) = kept {
                let numbers: Vec<String> = kept.iter().map(ToString::to_string).collect();
                write!(f, "/{name}={}", numbers.join(","))?;
            }
        }
        if !self.without.is_empty() {
            let names: Vec<&str> = self.without.iter().map(|a| a.name()).collect();
            write!(f, "/without={}", names.join(","))?;
        }
        if let Some(mutant) = self.mutant {
            write!(f, "/mutant={mutant:?}")?;
        }
        Ok(())
    }
}

/// A line that is no case, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` {why}: a case is SCENARIO:SEED, and after it any of /nodes=0,1 /queries=3 /faults=2 /without=leave,crash,load,stuck,skew /mutant=NAME"
)]
pub struct NoCase {
    part: String,
    why: &'static str,
}

impl FromStr for Case {
    type Err = NoCase;

    fn from_str(line: &str) -> Result<Self, NoCase> {
        let wrong = |part: &str, why| NoCase {
            part: part.to_owned(),
            why,
        };
        let mut parts = line.trim().split('/');
        let head = parts.next().unwrap_or_default();
        let (name, seed) = head
            .split_once(':')
            .ok_or_else(|| wrong(head, "has no seed"))?;
        let scenario = Scenario::named(name).ok_or_else(|| wrong(name, "is no scenario"))?;
        let seed = seed.parse().map_err(|_| wrong(seed, "is no seed"))?;
        let mut case = Self::new(scenario, seed);
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| wrong(part, "has no `=`"))?;
            let words = || value.split(',').filter(|word| !word.is_empty());
            let numbers = || {
                let numbers = words().map(|n| n.parse().map_err(|_| wrong(n, "is no number")));
                numbers.collect::<Result<BTreeSet<usize>, NoCase>>()
            };
            match key {
                "nodes" => case.nodes = Some(numbers()?),
                "queries" => case.queries = Some(numbers()?),
                "faults" => case.faults = Some(numbers()?),
                "without" => {
                    let named = |word| {
                        let found = Ambient::ALL.into_iter().find(|a| a.name() == word);
                        found.ok_or_else(|| wrong(word, "is nothing that can be left out"))
                    };
                    case.without = words().map(named).collect::<Result<_, _>>()?;
                }
                "mutant" => {
                    let found = Mutant::ALL.iter().find(|m| format!("{m:?}") == value);
                    let found = found.ok_or_else(|| wrong(value, "is no planted fault"))?;
                    case.mutant = Some(*found);
                }
                _ => return Err(wrong(key, "is nothing that a case has")),
            }
        }
        Ok(case)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_reads_back_and_what_is_no_case_says_why() {
        for line in [
            "calm:0",
            "everything:18446744073709551615/nodes=0,3/queries=/faults=2,11/without=crash,skew",
            "restarts:7/mutant=ForgetMarks",
        ] {
            let case: Case = line.parse().expect(line);
            assert_eq!(case.to_string(), line);
        }
        for (line, part) in [
            ("calm", "calm"),
            ("storm:1", "storm"),
            ("calm:x", "x"),
            ("calm:1/nodes", "nodes"),
            ("calm:1/nodes=a", "a"),
            ("calm:1/without=rain", "rain"),
            ("calm:1/mutant=None", "None"),
            ("calm:1/colour=red", "colour"),
        ] {
            let error = line.parse::<Case>().expect_err(line);
            assert_eq!(error.part, part);
        }
    }
}
