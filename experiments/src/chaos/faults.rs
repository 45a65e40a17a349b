//! What happens to a machine in a round, and the order of it all.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use moe2_model::Rng;

use super::watch::Watch;
use crate::live::api::Api;
use crate::live::processes::Node;
use crate::live::way::Trouble;

/// How long a fault lasts: longer than a machine may take to be ejected.
const HOLDS: (Duration, Duration) = (Duration::from_millis(3_200), Duration::from_millis(5_000));
/// After all machines take work again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1_000), Duration::from_millis(2_000));
/// Longest that a machine may take to come back before the experiment is given up.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9` of the agent; healed by starting it again.
    Kill,
    /// SIGSTOP of the agent; healed by SIGCONT.
    Stop,
    /// The network swallows everything.
    Cut,
    /// The network is slow.
    Delay,
    /// The network drops packets.
    Loss,
}

impl Fault {
    pub(super) const ALL: [Self; 5] = [Self::Kill, Self::Stop, Self::Cut, Self::Delay, Self::Loss];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Stop => "stopped",
            Self::Cut => "partitioned",
            Self::Delay => "delayed",
            Self::Loss => "lossy",
        }
    }

    /// Whether the machine cannot answer while it lasts. In other trouble it may well be kept.
    pub(super) const fn silences(self) -> bool {
        matches!(self, Self::Kill | Self::Stop | Self::Cut)
    }

    fn begin(self, node: &mut Node) -> anyhow::Result<()> {
        match self {
            Self::Kill => {
                node.kill();
                Ok(())
            }
            Self::Stop => node.stop(),
            Self::Cut => node.way.set(Some(Trouble::Cut)),
            Self::Delay => node.way.set(Some(Trouble::Delay)),
            Self::Loss => node.way.set(Some(Trouble::Loss)),
        }
    }

    fn heal(self, node: &mut Node) -> anyhow::Result<()> {
        match self {
            Self::Kill => node.start_again(),
            Self::Stop => {
                node.go_on();
                Ok(())
            }
            Self::Cut | Self::Delay | Self::Loss => node.way.set(None),
        }
    }
}

/// A round as it was.
#[derive(Debug, Clone)]
pub(super) struct Round {
    pub(super) fault: Fault,
    /// Whose machine.
    pub(super) node: usize,
    pub(super) began: Instant,
    pub(super) healed: Instant,
    /// When all machines took work again, and a pause was over.
    pub(super) ended: Instant,
    /// Work that was given to another expert in it.
    pub(super) redispatched: u64,
}

/// A round to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    fault: Fault,
    node: usize,
    holds: Duration,
    pause: Duration,
}

impl Next {
    /// Has it happen.
    ///
    /// # Errors
    /// The fault cannot be made, or the machine does not come back.
    pub(super) fn happen(
        self,
        nodes: &mut [Node],
        watch: &Watch,
        admin: &Api,
    ) -> anyhow::Result<Round> {
        let node = &mut nodes[self.node];
        let before = redispatched(&admin.text("/metrics")?);
        let began = Instant::now();
        self.fault.begin(node)?;
        thread::sleep(self.holds.saturating_sub(began.elapsed()));
        let healed = Instant::now();
        self.fault.heal(node)?;
        // Until the view is newer than the healing.
        thread::sleep(PAUSE.0 / 2);
        while !super::all_take(watch) {
            if healed.elapsed() > BACK_WITHIN {
                bail!(
                    "{} was not back {BACK_WITHIN:?} after it was {}",
                    node.name,
                    self.fault.as_str()
                );
            }
            thread::sleep(LOOK_EVERY);
        }
        thread::sleep(self.pause);
        let redispatched = redispatched(&admin.text("/metrics")?).saturating_sub(before);
        let ended = Instant::now();
        let (fault, node) = (self.fault, self.node);
        Ok(Round {
            fault,
            node,
            began,
            healed,
            ended,
            redispatched,
        })
    }
}

/// All rounds to be: every fault about as often on every machine, in an order that the seed decides.
#[derive(Debug)]
pub(super) struct Chaos {
    rng: Rng,
    left: Vec<(Fault, usize)>,
}

impl Chaos {
    pub(super) fn new(seed: u64, rounds: usize, nodes: usize) -> Self {
        let faults = Fault::ALL.len();
        let kinds = (0..rounds).map(|n| (Fault::ALL[n % faults], (n / faults) % nodes));
        let mut left: Vec<_> = kinds.collect();
        let mut rng = Rng::new(seed ^ 0xc4a0_5000);
        rng.shuffle(&mut left);
        Self { rng, left }
    }
}

impl Iterator for Chaos {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        let (fault, node) = self.left.pop()?;
        let (holds, pause) = (self.rng.within(HOLDS), self.rng.within(PAUSE));
        Some(Next {
            fault,
            node,
            holds,
            pause,
        })
    }
}

/// Sums of the coordinator's counters that tell of trouble, over all their labels.
pub(super) fn counters(metrics: &str) -> BTreeMap<&str, f64> {
    let mut sums = BTreeMap::new();
    for line in metrics.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let family = name.split('{').next().unwrap_or_default();
        let told = [
            "moe2_breaker_openings_total",
            "moe2_dispatches_total",
            "moe2_dispatch_failures_total",
            "moe2_hedges_total",
            "moe2_hedges_won_total",
            "moe2_moves_total",
            "moe2_nodes_joined_total",
            "moe2_nodes_lost_total",
        ]
        .contains(&family);
        if let Some(value) = value.parse::<f64>().ok().filter(|_| told) {
            *sums.entry(family).or_insert(0.0) += value;
        }
    }
    sums
}

/// Attempts at queries that were not their first.
fn redispatched(metrics: &str) -> u64 {
    let again = |line: &&str| {
        line.starts_with("moe2_dispatches_total{") && line.contains("redispatch=\"true\"")
    };
    let values = metrics
        .lines()
        .filter(again)
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.map(|v| v as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_meets_every_machine_and_a_seed_is_an_order() {
        let drawn = |seed| {
            Chaos::new(seed, 200, 3)
                .map(|n| (n.fault, n.node, n.holds))
                .collect::<Vec<_>>()
        };
        let all = drawn(1);
        assert_eq!(all, drawn(1));
        assert_ne!(all, drawn(2));
        for fault in Fault::ALL {
            assert_eq!(all.iter().filter(|(f, ..)| *f == fault).count(), 40);
            for node in 0..3 {
                let times = all
                    .iter()
                    .filter(|(f, n, _)| *f == fault && *n == node)
                    .count();
                assert!(times >= 13, "{fault:?} on {node}: {times}");
            }
        }
    }

    #[test]
    fn counters_are_summed_over_labels() {
        let metrics = "# HELP moe2_dispatches_total x\n\
            moe2_dispatches_total{expert=\"a@b\",redispatch=\"true\"} 3\n\
            moe2_dispatches_total{expert=\"a@c\",redispatch=\"false\"} 9\nmoe2_other_total 5\n";
        assert_eq!(redispatched(metrics), 3);
        assert_eq!(
            counters(metrics),
            BTreeMap::from([("moe2_dispatches_total", 12.0)])
        );
    }
}
