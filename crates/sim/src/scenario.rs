//! What can go wrong in a run, and how often.

use std::time::Duration;

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
    /// Mean time between faults of the network or of agents; `None` for none at all.
    pub fault_gap: Option<Duration>,
    /// Weights of a cut connection, an agent's crash, a partition and a drain.
    pub faults: [u32; 4],
    /// Joules that each tenant has for a minute of the clock; `None` for no limit.
    pub window: Option<f64>,
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
            faults: [0; 4],
            window: None,
        }
    }

    /// Slow, jittery links that are often cut.
    #[must_use]
    pub fn lossy() -> Self {
        Self {
            name: "lossy",
            latency: (Duration::from_millis(1), Duration::from_millis(400)),
            fault_gap: Some(Duration::from_millis(1_500)),
            faults: [10, 0, 2, 0],
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
            faults: [1, 6, 0, 2],
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
            faults: [1, 1, 10, 0],
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

    /// All presets.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::calm(),
            Self::lossy(),
            Self::crashy(),
            Self::partitions(),
            Self::budgeted(),
        ]
    }

    /// The preset with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|s| s.name == name)
    }
}
