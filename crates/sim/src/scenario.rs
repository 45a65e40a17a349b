//! What can go wrong in a run, and how often.

use std::time::Duration;

use crate::fault::Kind;

/// Joules a minute that some of a tenant's queries find used up.
const WINDOW: f64 = 100.0;

/// How one run is set up. The presets differ only in what goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// As tests and replay lines name it.
    pub name: &'static str,
    /// Agents; they differ in speed, queues and the models they host.
    pub nodes: usize,
    /// Queries submitted.
    pub queries: usize,
    /// Mean time between queries.
    pub mean_gap: Duration,
    /// Probability that a client leaves before its answer.
    pub leave: f64,
    /// Shortest and longest one-way delay of a message.
    pub latency: (Duration, Duration),
    /// Silence after which either side gives a connection up.
    pub idle_timeout: Duration,
    /// Probability, for each token, that a worker dies.
    pub worker_crash: f64,
    /// Probability that a model does not load.
    pub load_failure: f64,
    /// Probability, for each job, that the worker falls silent at it.
    pub stuck: f64,
    /// Mean time between faults; `None` for none at all.
    pub fault_gap: Option<Duration>,
    /// What faults there are, each with its weight.
    pub faults: &'static [(Kind, u32)],
    /// Largest drift of a process's clock, in parts of a million; its offset is up to an hour.
    pub skew_ppm: u32,
    /// Joules that each tenant has for a minute of the clock; `None` for no limit.
    pub window: Option<f64>,
    /// Most experts that are active; `None` for no limit.
    pub active: Option<usize>,
}

impl Scenario {
    /// Nothing goes wrong; clients still leave and budgets are still too tight.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            name: "calm",
            nodes: 4,
            queries: 40,
            mean_gap: Duration::from_millis(300),
            leave: 0.1,
            latency: (Duration::from_micros(200), Duration::from_millis(5)),
            idle_timeout: Duration::from_secs(3),
            worker_crash: 0.0,
            load_failure: 0.0,
            stuck: 0.0,
            fault_gap: None,
            faults: &[],
            skew_ppm: 0,
            window: None,
            active: None,
        }
    }

    /// Slow, jittery links that are often cut.
    #[must_use]
    pub fn lossy() -> Self {
        Self {
            name: "lossy",
            latency: (Duration::from_millis(1), Duration::from_millis(400)),
            fault_gap: Some(Duration::from_millis(1_500)),
            faults: &[(Kind::Cut, 10), (Kind::Partition, 2)],
            ..Self::calm()
        }
    }

    /// Workers die, fail to load and get stuck; agents crash and drain.
    #[must_use]
    pub fn crashy() -> Self {
        Self {
            name: "crashy",
            worker_crash: 0.01,
            load_failure: 0.1,
            stuck: 0.05,
            fault_gap: Some(Duration::from_secs(3)),
            faults: &[(Kind::Cut, 1), (Kind::Crash, 6), (Kind::Drain, 2)],
            ..Self::calm()
        }
    }

    /// Nodes are cut off for a while; what was sent meanwhile arrives late or never.
    #[must_use]
    pub fn partitions() -> Self {
        Self {
            name: "partitions",
            latency: (Duration::from_millis(1), Duration::from_millis(60)),
            stuck: 0.01,
            fault_gap: Some(Duration::from_millis(1_500)),
            faults: &[(Kind::Cut, 1), (Kind::Crash, 1), (Kind::Partition, 10)],
            ..Self::calm()
        }
    }

    /// Tenants ask for more than they have joules for, faster than answers come, while workers die.
    #[must_use]
    pub fn budgeted() -> Self {
        Self {
            name: "budgeted",
            queries: 120,
            mean_gap: Duration::from_millis(60),
            window: Some(WINDOW),
            ..Self::crashy()
        }
    }

    /// One direction of a link is lost or slow while the other works.
    #[must_use]
    pub fn asymmetric() -> Self {
        Self {
            name: "asymmetric",
            latency: (Duration::from_millis(1), Duration::from_millis(60)),
            fault_gap: Some(Duration::from_millis(1_200)),
            faults: &[(Kind::Deaf, 5), (Kind::Mute, 5), (Kind::SlowLink, 5)],
            ..Self::calm()
        }
    }

    /// Machines become many times slower, or stand still, and go on as if nothing had been.
    #[must_use]
    pub fn sluggish() -> Self {
        Self {
            name: "sluggish",
            fault_gap: Some(Duration::from_millis(1_200)),
            faults: &[
                (Kind::Slow, 6),
                (Kind::Stall, 6),
                (Kind::CoordinatorStall, 2),
            ],
            ..Self::calm()
        }
    }

    /// Every process has a clock of its own.
    #[must_use]
    pub fn skewed() -> Self {
        Self {
            name: "skewed",
            skew_ppm: 100_000,
            stuck: 0.02,
            fault_gap: Some(Duration::from_secs(2)),
            faults: &[(Kind::Cut, 4), (Kind::Crash, 3), (Kind::Restart, 1)],
            window: Some(WINDOW),
            ..Self::calm()
        }
    }

    /// Agents say what is not true, what was not asked for, and more than may be said.
    #[must_use]
    pub fn liars() -> Self {
        Self {
            name: "liars",
            fault_gap: Some(Duration::from_millis(800)),
            faults: &[(Kind::Lie, 10), (Kind::Twin, 2)],
            active: Some(5),
            ..Self::calm()
        }
    }

    /// The coordinator dies and comes back with the books that were on disk, and the disk fails.
    #[must_use]
    pub fn restarts() -> Self {
        Self {
            name: "restarts",
            fault_gap: Some(Duration::from_millis(2_500)),
            faults: &[(Kind::Restart, 6), (Kind::Cut, 2), (Kind::DiskFull, 2)],
            window: Some(WINDOW),
            ..Self::calm()
        }
    }

    /// All of it at once.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            name: "everything",
            queries: 60,
            mean_gap: Duration::from_millis(200),
            latency: (Duration::from_millis(1), Duration::from_millis(100)),
            worker_crash: 0.005,
            load_failure: 0.05,
            stuck: 0.02,
            fault_gap: Some(Duration::from_millis(700)),
            faults: &[
                (Kind::Cut, 3),
                (Kind::Crash, 2),
                (Kind::Drain, 1),
                (Kind::Partition, 3),
                (Kind::Deaf, 2),
                (Kind::Mute, 2),
                (Kind::SlowLink, 2),
                (Kind::Slow, 2),
                (Kind::Stall, 2),
                (Kind::CoordinatorStall, 1),
                (Kind::Lie, 4),
                (Kind::Twin, 1),
                (Kind::Restart, 1),
                (Kind::DiskFull, 1),
            ],
            skew_ppm: 50_000,
            window: Some(2.0 * WINDOW),
            active: Some(6),
            ..Self::calm()
        }
    }

    /// All presets.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::calm(),
            Self::lossy(),
            Self::crashy(),
            Self::partitions(),
            Self::budgeted(),
            Self::asymmetric(),
            Self::sluggish(),
            Self::skewed(),
            Self::liars(),
            Self::restarts(),
            Self::everything(),
        ]
    }

    /// The preset with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|s| s.name == name)
    }
}
