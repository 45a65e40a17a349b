//! What can happen to a fleet from outside.

use std::time::Duration;

use moe2_model::{Rng, Time};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A connection breaks.
    Cut,
    /// An agent's process dies, and is started again.
    Crash,
    /// An agent is told to finish what it has.
    Drain,
    /// Nothing passes between a node and the coordinator.
    Partition,
    /// Nothing reaches an agent; what it says passes.
    Deaf,
    /// Nothing that an agent says arrives; it hears.
    Mute,
    /// One direction of a link is seconds late.
    SlowLink,
    /// A machine works 10 to 50 times slower.
    Slow,
    /// A machine stands still, and goes on where it was.
    Stall,
    /// The coordinator stands still, and goes on where it was.
    CoordinatorStall,
    /// An agent says what is not true.
    Lie,
    /// Another process with a node's certificate says hello, and nothing more.
    Twin,
    /// The coordinator dies. Another is started with what was on disk.
    Restart,
    /// The coordinator's disk takes nothing.
    DiskFull,
}

impl Kind {
    /// How long it lasts; longer than the idle timeout in some cases.
    const fn lasting(self) -> (Duration, Duration) {
        match self {
            Self::Cut | Self::Drain => (Duration::ZERO, Duration::ZERO),
            Self::Crash | Self::Partition | Self::Deaf | Self::Mute => {
                (Duration::from_millis(100), Duration::from_secs(6))
            }
            Self::SlowLink | Self::Slow | Self::Lie => {
                (Duration::from_secs(1), Duration::from_secs(10))
            }
            Self::Stall => (Duration::from_millis(50), Duration::from_secs(6)),
            Self::CoordinatorStall => (Duration::from_millis(50), Duration::from_secs(4)),
            Self::Twin => (Duration::from_millis(10), Duration::from_secs(3)),
            Self::Restart => (Duration::from_millis(100), Duration::from_secs(4)),
            Self::DiskFull => (Duration::from_millis(100), Duration::from_secs(5)),
        }
    }
}

/// One fault of a run.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) at: Time,
    pub(crate) kind: Kind,
    pub(crate) node: usize,
    pub(crate) lasting: Duration,
    /// What it draws from.
    pub(crate) rng: Rng,
}

impl Fault {
    /// One of those there are, by their weights.
    pub(crate) fn draw(
        rng: &mut Rng,
        at: Time,
        kinds: &[(Kind, u32)],
        nodes: usize,
    ) -> Option<Self> {
        let all = kinds.iter().map(|(_, weight)| weight).sum::<u32>();
        let mut draw = rng.between(1, all.max(1));
        let (kind, _) = kinds.iter().find(|(_, weight)| {
            let hit = draw <= *weight;
            draw = draw.saturating_sub(*weight);
            hit
        })?;
        let node = rng.below(nodes);
        let lasting = rng.within(kind.lasting());
        let rng = Rng::new(rng.bits());
        Some(Self {
            at,
            kind: *kind,
            node,
            lasting,
            rng,
        })
    }
}
