//! The routing file and the result object, versions `moe2-routing/1` and `moe2-routing-result/1`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::read::{self, Bounded, FileError};
use crate::problem::{MAX_EXPERTS, MAX_TABLE, Table};
use crate::route::{
    Categories, MAX_CATEGORIES, Routing, RoutingLimits, RoutingSolution, RoutingStatus, Tables,
};

/// Format tag of a routing file.
pub const ROUTING_FORMAT: &str = "moe2-routing/1";
/// Format tag of a result object.
pub const ROUTING_RESULT_FORMAT: &str = "moe2-routing-result/1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutingFile {
    format: String,
    experts: Bounded<String, MAX_EXPERTS>,
    utility: Table,
    energy_j: Table,
    latency_s: Table,
    category: Option<Categories>,
    weights: Option<Bounded<f64, MAX_TABLE>>,
    limits: LimitsRecord,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsRecord {
    energy_j_mean: Option<f64>,
    latency_s_mean: Option<LatencyLimits>,
}

/// Limits by category, each once: of two limits for one category neither can be the one meant.
#[derive(Default)]
struct LatencyLimits(BTreeMap<String, f64>);

impl<'de> Deserialize<'de> for LatencyLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Limits;
        impl<'de> Visitor<'de> for Limits {
            type Value = LatencyLimits;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a limit per category")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LatencyLimits, A::Error> {
                let mut limits = BTreeMap::new();
                while let Some((category, limit)) = map.next_entry::<String, f64>()? {
                    if limits.len() == MAX_CATEGORIES {
                        let message = format!("more than {MAX_CATEGORIES} categories");
                        return Err(A::Error::custom(message));
                    }
                    if limits.insert(category.clone(), limit).is_some() {
                        let message = format!("{category:?} has two limits; leave one");
                        return Err(A::Error::custom(message));
                    }
                }
                Ok(LatencyLimits(limits))
            }
        }
        deserializer.deserialize_map(Limits)
    }
}

impl<'de> Deserialize<'de> for Categories {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Categories;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a category per prompt")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Categories, A::Error> {
                let mut categories = Categories::default();
                while let Some(name) = seq.next_element()? {
                    categories.add(name).map_err(A::Error::custom)?;
                }
                Ok(categories)
            }
        }
        deserializer.deserialize_seq(Names)
    }
}

/// Reads and checks a routing file.
///
/// # Errors
/// [`FileError`] naming the field at fault.
pub fn parse_routing(input: impl Read) -> Result<Routing, FileError> {
    let file: RoutingFile = read::record(input)?;
    if file.format != ROUTING_FORMAT {
        return Err(FileError::Format {
            found: file.format,
            expected: ROUTING_FORMAT,
        });
    }
    let tables = Tables {
        utility: file.utility,
        energy: file.energy_j,
        latency: file.latency_s,
    };
    let latency = file.limits.latency_s_mean.unwrap_or_default().0;
    let limits = RoutingLimits {
        energy_j_mean: file.limits.energy_j_mean,
        latency_s_mean: latency.into_iter().collect(),
    };
    let category = file.category.unwrap_or_default();
    let weights = file.weights.map(|list| list.0);
    Ok(Routing::build(
        file.experts.0,
        tables,
        category,
        weights,
        limits,
    )?)
}

/// A result object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoutingResultFile {
    /// [`ROUTING_RESULT_FORMAT`].
    pub format: &'static str,
    /// `optimal`, `feasible` or `infeasible`.
    pub status: &'static str,
    /// Value of the routing.
    pub value: f64,
    /// Upper bound on every routing inside the limits.
    pub bound: f64,
    /// One price per budget.
    pub prices: PricesRecord,
    /// Means under the routing.
    pub spent: SpentRecord,
    /// Per prompt `[expert index, share]`; a split prompt goes on with further pairs in the same
    /// list, the largest share first.
    pub assignment: Vec<Vec<serde_json::Number>>,
    /// Wall-clock seconds, as measured by the caller.
    pub seconds: f64,
    /// Which limits would help; only if infeasible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Prices by budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PricesRecord {
    /// λ, in utility per joule.
    pub energy_j: f64,
    /// μ, in utility per second, by category.
    pub latency_s: BTreeMap<String, f64>,
}

/// Means by budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpentRecord {
    /// Joules.
    pub energy_j_mean: f64,
    /// Seconds by category that has a limit.
    pub latency_s_mean: BTreeMap<String, f64>,
}

impl RoutingResultFile {
    /// The result object of `solution`; `seconds` is the time the caller measured.
    pub fn new(problem: &Routing, solution: &RoutingSolution, seconds: f64) -> Self {
        let named = |values: &[f64]| {
            let names = problem.categories().iter().map(|c| c.0.clone());
            names.zip(values.iter().copied()).collect()
        };
        let flat = |shares: &Vec<(usize, f64)>| {
            let pairs = shares.iter().map(|&(expert, share)| {
                let share = serde_json::Number::from_f64(share);
                [expert.into(), share.unwrap_or_else(|| 0.into())]
            });
            pairs.flatten().collect()
        };
        Self {
            format: ROUTING_RESULT_FORMAT,
            status: solution.status.name(),
            value: solution.value,
            bound: solution.bound,
            prices: PricesRecord {
                energy_j: solution.prices.energy,
                latency_s: named(&solution.prices.latency),
            },
            spent: SpentRecord {
                energy_j_mean: solution.spent.energy_j_mean,
                latency_s_mean: named(&solution.spent.latency_s_mean),
            },
            assignment: solution.assignment.iter().map(flat).collect(),
            seconds,
            reason: match &solution.status {
                RoutingStatus::Infeasible(reason) => Some(reason.describe(problem)),
                _ => None,
            },
        }
    }
}
