//! What happens to a fleet from outside, all of it known before the run begins.
//!
//! Queries and faults are drawn from streams of their own, each piece from its own part of it. So leaving
//! some out leaves the others what they are, which is what makes a failing run small.

use std::time::Duration;

use moe2_model::{Query, QueryId, Rng, Time};

use crate::case::{Ambient, Case};
use crate::clients::ask;
use crate::fault::Fault;

/// Agents have this long to load something before the first query.
const START: Duration = Duration::from_millis(500);

/// One query.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) at: Time,
    pub(crate) id: QueryId,
    pub(crate) query: Query,
    /// How long its client has patience, if it leaves.
    pub(crate) leaves: Option<Duration>,
}

/// Everything from outside.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) queries: Vec<Asked>,
    pub(crate) faults: Vec<Fault>,
}

impl Script {
    pub(crate) fn of(case: &Case) -> Self {
        let scenario = &case.scenario;
        let mut rng = Rng::new(stream(case.seed, 1));
        let mut script = Self::default();
        let mut at = Time::ZERO + START;
        for n in 0..scenario.queries {
            if n > 0 {
                at = at + rng.gap(scenario.mean_gap);
            }
            let mut own = Rng::new(rng.bits());
            if !case.asks(n) {
                continue;
            }
            let id = QueryId(n as u64 + 1);
            let query = ask(&mut own, id, scenario.nodes);
            let patience = own.gap(Duration::from_millis(800));
            let leaves = own.chance(scenario.leave) && !case.is_without(Ambient::Leave);
            script.queries.push(Asked {
                at,
                id,
                query,
                leaves: leaves.then_some(patience),
            });
        }
        let last = at;
        let mut rng = Rng::new(stream(case.seed, 2));
        let mut at = Time::ZERO;
        while let Some(gap) = scenario.fault_gap {
            at = at + rng.gap(gap);
            if at > last {
                break;
            }
            script
                .faults
                .extend(Fault::draw(&mut rng, at, scenario.faults, scenario.nodes));
        }
        let mut place = 0;
        script.faults.retain(|fault| {
            place += 1;
            case.suffers(place - 1) && case.hosts(fault.node)
        });
        script
    }
}

/// Seed of one of a run's streams of randomness.
pub(crate) fn stream(seed: u64, number: u64) -> u64 {
    Rng::new(seed ^ number.wrapping_mul(0x9e6c_63d0_876a_46ad)).bits()
}
