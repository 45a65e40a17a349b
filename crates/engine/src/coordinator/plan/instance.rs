//! The selection problem of the fleet as it is: utilities from the gate, costs from forecasts, limits
//! from devices and the operator.
//!
//! | row | kind | cost of an expert |
//! |---|---|---|
//! | `memory_bytes/NODE` | sum | weights and full key-value caches, on its own node |
//! | `standing_w` | sum | its part of its node's idle power, by memory |
//! | `delay_s/TOPIC` | max | p95 delay on the topic's prompts, the 95th percentile over them |
//! | `prompt_energy_j` | `top_sum` (k ≥ 2) or max | p95 joules, the 95th percentile over all prompts |
//! | `experts` | count | 1 |

use std::collections::BTreeMap;
use std::sync::Arc;

use moe2_cost::percentile;
use moe2_gate::{Gate, Quality, Topic};
use moe2_model::{
    Budgets, ExpertId, ExpertState, Forecast, Joules, NodeId, Seconds, TenantId, Time, Watts,
};
use moe2_solve::{Constraint, Kind, MAX_COST, Problem, ProblemError, ProblemParts};

use super::super::fleet::{Expert, Fleet, Node};
use super::super::forecast::forecast;
use super::super::health::NodeState;
use super::super::ledger::Wall;
use super::super::residency::Residency;
use super::calibration::Asked;
use super::pricing::{Means, Prompt};
use super::{Calibration, PlanLimits, PlanRequest};

/// Share of prompts that a worst case covers: the single worst prompt would be an outlier.
const COVERED: f64 = 0.95;
/// Prompts that were asked, at most: they are forecast on the engine's own task.
const MAX_PROMPTS: usize = 2_048;
/// Relative change of any number of the problem that makes it another one.
const CHANGED: f64 = 0.1;
/// Change of a utility that does: utilities are probabilities.
const UTILITY_CHANGED: f64 = 0.02;

/// One prompt of the instance.
struct Row<'a> {
    tenant: TenantId,
    asked: &'a Asked,
    weight: f64,
    budgets: Budgets,
}

/// One ready expert.
struct Column<'a> {
    id: ExpertId,
    node: &'a Node,
    expert: &'a Expert,
}

/// What the future is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlook {
    pub(super) residency: Residency,
    pub(super) now: (Time, Wall),
}

/// The instance for this fleet; `None` when there is no ready expert.
///
/// # Errors
/// The fleet is larger than the solver takes.
pub(super) fn request(
    fleet: &Fleet,
    gate: &Gate,
    (limits, calibration): (&PlanLimits, &Calibration),
    outlook: Outlook,
    generation: u64,
) -> Result<Option<PlanRequest>, ProblemError> {
    let columns: Vec<Column<'_>> = fleet
        .experts()
        .filter(|(_, node, expert)| {
            node.health.state() != NodeState::Draining && may_serve(node, expert)
        })
        .map(|(id, node, expert)| Column { id, node, expert })
        .collect();
    if columns.is_empty() {
        return Ok(None);
    }
    let short = fleet.is_tight() && outlook.residency == Residency::Planned;
    let rows = rows(limits, calibration, short.then_some(outlook.now));
    let forecasts: Vec<Vec<Forecast>> = rows
        .iter()
        .map(|row| forecasts(row, gate, &columns))
        .collect();
    let mut utility: Vec<Vec<f64>> = rows
        .iter()
        .zip(&forecasts)
        .map(|(row, line)| line.iter().map(|f| admitted(row, f)).collect())
        .collect();
    let unserved = unserved(&rows, &utility);
    if short {
        only_named(&rows, &columns, &mut utility);
    }
    let mut constraints = match outlook.residency {
        Residency::Planned => memory(&columns),
        // Memory is then no matter of the plan.
        Residency::LeastRecentlyUsed => Vec::new(),
    };
    constraints.extend(limits.standing.map(|limit| standing(&columns, limit)));
    for (&topic, &limit) in &limits.delay {
        constraints.extend(delay(&rows, &forecasts, topic, limit));
    }
    constraints.extend(
        limits
            .energy
            .map(|limit| energy(&forecasts, limits.k(), limit)),
    );
    constraints.extend(limits.experts.map(|most| Constraint {
        name: "experts".to_owned(),
        limit: most as f64,
        kind: Kind::Count,
    }));
    constraints.iter_mut().for_each(representable);
    let means = means(limits, &rows, (&utility, &forecasts));
    let problem = Problem::new(ProblemParts {
        experts: columns.iter().map(|c| c.id.to_string()).collect(),
        utility,
        weights: Some(rows.iter().map(|row| row.weight).collect()),
        k: limits.k(),
        constraints,
    })?;
    Ok(Some(PlanRequest {
        generation,
        problem: Arc::new(problem),
        experts: columns.into_iter().map(|c| c.id).collect(),
        asked: calibration.len(),
        unserved,
        means: Arc::new(means),
    }))
}

/// What a forecast is worth to who asks: nothing if it breaks a budget.
fn admitted(row: &Row<'_>, forecast: &Forecast) -> f64 {
    let late = row
        .budgets
        .delay
        .is_some_and(|limit| forecast.delay_p95 > limit);
    let first = if row.asked.in_one_piece {
        forecast.delay_p95
    } else {
        forecast.first_token_p95
    };
    let begins_late =
        row.asked.streamed && row.budgets.first_token.is_some_and(|limit| first > limit);
    let dear = row
        .budgets
        .energy
        .is_some_and(|limit| forecast.energy_p95 > limit);
    if late || begins_late || dear {
        0.0
    } else {
        forecast.quality
    }
}

/// Where memory is short, who is named has to be there: nobody else is of any use. Elsewhere whoever is named is
/// asked, active or not.
fn only_named(rows: &[Row<'_>], columns: &[Column<'_>], utility: &mut [Vec<f64>]) {
    for (row, line) in rows.iter().zip(utility) {
        for (column, cell) in columns.iter().zip(line) {
            if !row.asked.target.admits(&column.id) {
                *cell = 0.0;
            }
        }
    }
}

/// Whether an expert can be in memory: it is, or it will be if it is chosen.
fn may_serve(node: &Node, expert: &Expert) -> bool {
    match expert.state {
        ExpertState::Ready => true,
        ExpertState::Failed { .. } => false,
        ExpertState::Loading | ExpertState::Unloaded | ExpertState::Unloading => {
            node.memory.is_tight()
        }
    }
}

/// Tenants with mean budgets, and what they ask.
fn means(
    limits: &PlanLimits,
    rows: &[Row<'_>],
    (utility, forecasts): (&[Vec<f64>], &[Vec<Forecast>]),
) -> Vec<Means> {
    let means = limits
        .tenants
        .iter()
        .filter(|t| t.has_mean())
        .map(|tenant| {
            let lines = rows.iter().zip(utility.iter().zip(forecasts));
            let own = lines.filter(|(row, _)| row.tenant == tenant.tenant);
            let prompts = own.map(|(row, (utility, forecasts))| {
                let cells = utility.iter().copied().zip(forecasts.iter().copied());
                Prompt {
                    weight: row.weight,
                    streamed: row.asked.streamed,
                    in_one_piece: row.asked.in_one_piece,
                    cells: cells.collect(),
                }
            });
            Means {
                tenant: tenant.tenant.clone(),
                energy: tenant.mean_energy,
                delay: tenant.mean_delay,
                first_token: tenant.mean_first_token,
                prompts: prompts.collect(),
            }
        });
    means.collect()
}

/// What an agent states about itself can be any finite number; the largest that the solver takes is
/// beyond every limit just as well.
fn representable(constraint: &mut Constraint) {
    constraint.limit = constraint.limit.min(MAX_COST);
    if let Kind::Sum { cost } | Kind::Max { cost } | Kind::TopSum { cost, .. } =
        &mut constraint.kind
    {
        cost.iter_mut().for_each(|c| *c = c.min(MAX_COST));
    }
}

/// Tenants whose budgets no expert keeps on any prompt.
fn unserved(rows: &[Row<'_>], utility: &[Vec<f64>]) -> Vec<TenantId> {
    let mut served: BTreeMap<&TenantId, bool> = BTreeMap::new();
    for (row, line) in rows.iter().zip(utility) {
        let any = line.iter().any(|u| *u > 0.0);
        *served.entry(&row.tenant).or_default() |= any;
    }
    let without = served.into_iter().filter(|(_, served)| !served);
    without.map(|(tenant, _)| tenant.clone()).collect()
}

/// Every tenant's prompts; weights sum to 1. Where memory is `short`, each counts by the chance that something like
/// it is asked soon.
fn rows<'a>(
    limits: &'a PlanLimits,
    calibration: &'a Calibration,
    short: Option<(Time, Wall)>,
) -> Vec<Row<'a>> {
    let nobody = TenantId::new("planner").expect("a literal name is valid");
    let mut tenants: BTreeMap<TenantId, f64> =
        calibration.tenants().map(|t| (t.clone(), 1.0)).collect();
    tenants.extend(limits.tenants.iter().map(|t| (t.tenant.clone(), t.weight)));
    if tenants.values().all(|weight| *weight == 0.0) {
        tenants.insert(nobody, 1.0);
    }
    // A tenant that does not count must not tighten worst cases either.
    tenants.retain(|_, weight| *weight > 0.0);
    let total: f64 = tenants.values().sum();
    let each = (MAX_PROMPTS / tenants.len()).max(1);
    let mut rows = Vec::new();
    for (tenant, weight) in &tenants {
        for (asked, part) in calibration.prompts(tenant, each) {
            let topic = asked.features.topic();
            let chance = short.map_or(1.0, |now| calibration.chance(now, tenant, asked));
            rows.push(Row {
                tenant: tenant.clone(),
                asked,
                weight: weight / total * part * chance,
                budgets: limits.tightened(tenant, topic, Budgets::default()),
            });
        }
    }
    let all: f64 = rows.iter().map(|row| row.weight).sum();
    rows.iter_mut().for_each(|row| row.weight /= all);
    rows
}

fn forecasts(row: &Row<'_>, gate: &Gate, columns: &[Column<'_>]) -> Vec<Forecast> {
    let names: Vec<_> = columns.iter().map(|c| c.id.name.clone()).collect();
    let qualities = gate.forecast(&row.asked.features, &names);
    let one = |(column, quality): (&Column<'_>, Quality)| {
        let speed = column.expert.cost.speed();
        forecast(row.asked.shape, &speed, &quality, |_| Seconds::ZERO)
    };
    columns.iter().zip(qualities).map(one).collect()
}

/// One row per device: what its experts keep in memory.
fn memory(columns: &[Column<'_>]) -> Vec<Constraint> {
    let mut limits: BTreeMap<&NodeId, f64> = BTreeMap::new();
    for column in columns {
        limits.insert(&column.id.node, as_f64(column.node.device.memory.0));
    }
    let here = |column: &Column<'_>, node: &NodeId| {
        if column.id.node == *node {
            resident_bytes(column.expert)
        } else {
            0.0
        }
    };
    let row = |(node, limit): (&NodeId, f64)| Constraint {
        name: format!("memory_bytes/{node}"),
        limit,
        kind: Kind::Sum {
            cost: columns.iter().map(|column| here(column, node)).collect(),
        },
    };
    limits.into_iter().map(row).collect()
}

/// A node's idle power is shared among the experts it hosts by their memory, so that a node whose
/// experts are all active is charged in full.
fn standing(columns: &[Column<'_>], limit: Watts) -> Constraint {
    let part = |column: &Column<'_>| {
        let all: f64 = column.node.experts.values().map(resident_bytes).sum();
        let own = resident_bytes(column.expert);
        let share = if all > 0.0 { own / all } else { 1.0 };
        column.node.device.idle_power.get() * share
    };
    Constraint {
        name: "standing_w".to_owned(),
        limit: limit.get(),
        kind: Kind::Sum {
            cost: columns.iter().map(part).collect(),
        },
    }
}

/// The worst case of a topic; none if nobody asks about it.
fn delay(
    rows: &[Row<'_>],
    forecasts: &[Vec<Forecast>],
    topic: Topic,
    limit: Seconds,
) -> Option<Constraint> {
    let on_topic = rows.iter().zip(forecasts);
    let lines: Vec<&Vec<Forecast>> = on_topic
        .filter(|(row, _)| row.asked.features.topic() == topic)
        .map(|(_, line)| line)
        .collect();
    Some(Constraint {
        name: format!("delay_s/{topic}"),
        limit: limit.get(),
        kind: Kind::Max {
            cost: worst(&lines, |f| f.delay_p95.get())?,
        },
    })
}

/// The worst case of one prompt when k experts answer it.
fn energy(forecasts: &[Vec<Forecast>], k: usize, limit: Joules) -> Constraint {
    let lines: Vec<&Vec<Forecast>> = forecasts.iter().collect();
    let cost = worst(&lines, |f| f.energy_p95.get()).expect("there are typical prompts");
    let kind = if k > 1 {
        Kind::TopSum { top: k, cost }
    } else {
        Kind::Max { cost }
    };
    Constraint {
        name: "prompt_energy_j".to_owned(),
        limit: limit.get(),
        kind,
    }
}

/// Per expert, what [`COVERED`] of the prompts stay under.
fn worst(lines: &[&Vec<Forecast>], cost: impl Fn(&Forecast) -> f64) -> Option<Vec<f64>> {
    let experts = lines.first()?.len();
    let column = |n: usize| {
        let costs: Vec<f64> = lines.iter().map(|line| cost(&line[n])).collect();
        percentile(&costs, COVERED)
    };
    (0..experts).map(column).collect()
}

/// Weights plus a full key-value cache for each slot.
fn resident_bytes(expert: &Expert) -> f64 {
    as_f64(expert.offer.resident().0)
}

#[allow(clippy::cast_precision_loss)] // exact below 2^53 bytes
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// Whether two problems differ enough that the answer may.
pub(super) fn differs(old: &PlanRequest, new: &PlanRequest) -> bool {
    let (a, b) = (&old.problem, &new.problem);
    if old.experts != new.experts || a.constraints().len() != b.constraints().len() {
        return true;
    }
    let moved = |x: f64, y: f64| (x - y).abs() > CHANGED * x.abs().max(y.abs());
    let constraints = a.constraints().iter().zip(b.constraints());
    let costs = constraints
        .clone()
        .any(|(a, b)| (0..old.experts.len()).any(|n| moved(a.cost(n), b.cost(n))));
    let limits = constraints
        .clone()
        .any(|(a, b)| a.name != b.name || moved(a.limit, b.limit));
    // Rows come and go with every query; what each expert is worth to all of them is what counts.
    let worth = |problem: &Problem, n: usize| -> f64 {
        problem
            .column(n)
            .zip(problem.weights())
            .map(|(u, w)| u * w)
            .sum()
    };
    let values =
        (0..old.experts.len()).any(|n| (worth(a, n) - worth(b, n)).abs() > UTILITY_CHANGED);
    costs || limits || values
}
