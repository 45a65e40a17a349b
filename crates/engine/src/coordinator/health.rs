//! Whether a node can be counted on: its state, and when silence is too long for it.
//!
//! The state is one machine, [`NodeState`], moved by what was heard of the node and by nothing else. Silence is
//! judged by the node's own habits (an accrual detector by quantiles, after Hayashibara et al., "The φ accrual
//! failure detector", 2004): where heartbeats come as told, two and a half missing ones make a node suspect. Where
//! links are slow and lossy, the 95th percentile of the last gaps takes the heartbeat's place. A quantile and not a
//! deviation, because one pause of the coordinator itself would stretch a deviation for half a minute.

use std::time::Duration;

use moe2_cost::Residuals;
use moe2_model::Time;
use serde::{Deserialize, Serialize};

use super::config::Config;

/// Most that a restless link stretches the limits on silence: no node is to get new work 3 s after it was lost.
const MOST_STRETCH: f64 = 2.0;
/// A node that was not lost for so long has no past.
const STEADY: Duration = Duration::from_secs(60);
/// Heartbeats that a node which was lost twice has to send before it is given work, and for every loss more.
const PROBATION: u32 = 1;
/// The most heartbeats of that: with the time it takes to connect again, a node is to be back within 5 s.
const MOST_PROBATION: u32 = 4;

/// How the coordinator sees a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Connected; all its models are loading, or it was lost again and again and has to prove itself.
    Joining,
    /// Connected and heard from lately.
    Ready,
    /// Connected, but its heartbeats are late: it gets no new work.
    Suspect,
    /// Finishing what it has.
    Draining,
    /// Lost or left; shown for a while.
    Gone,
}

/// What moves a node's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Something came from it. `able`: it has something to work with, and is not on probation.
    Heard { able: bool },
    /// Nothing came for too long.
    Late,
    /// It takes nothing new any more.
    Drains,
    /// Its session is over.
    Lost,
}

impl NodeState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Joining,
        Self::Ready,
        Self::Suspect,
        Self::Draining,
        Self::Gone,
    ];

    /// As people and metrics read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }

    fn after(self, sign: Sign) -> Self {
        match (self, sign) {
            // A node that comes back is another session.
            (Self::Gone, _) | (_, Sign::Lost) => Self::Gone,
            (Self::Draining, _) | (_, Sign::Drains) => Self::Draining,
            (_, Sign::Late) => Self::Suspect,
            (_, Sign::Heard { able: true }) => Self::Ready,
            (_, Sign::Heard { able: false }) => Self::Joining,
        }
    }
}

/// What a node's past sessions say of the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// Losses, each within a minute of the one before.
    losses: u32,
    last: Option<Time>,
}

impl Past {
    fn is_over(&self, now: Time) -> bool {
        self.last.is_none_or(|last| now.since(last) > STEADY)
    }

    /// A session was lost.
    pub(crate) fn lost(&mut self, now: Time) {
        self.losses = if self.is_over(now) {
            1
        } else {
            self.losses + 1
        };
        self.last = Some(now);
    }

    /// Heartbeats that the next session has to send before it counts.
    fn probation(&self, now: Time) -> u32 {
        let again = self.losses.saturating_sub(1);
        if self.is_over(now) {
            0
        } else {
            again.saturating_mul(PROBATION).min(MOST_PROBATION)
        }
    }
}

/// One session of a node.
#[derive(Debug)]
pub(crate) struct Health {
    state: NodeState,
    reason: Option<String>,
    last_heard: Time,
    last_beat: Option<Time>,
    /// Gaps between heartbeats, in heartbeats.
    gaps: Residuals,
    /// Heartbeats that are still to come before it counts.
    probation: u32,
    past: Past,
}

impl Health {
    /// A session that begins. `loading`: nothing there can work yet.
    pub(crate) fn new(now: Time, past: Past, loading: bool) -> Self {
        let mut health = Self {
            state: NodeState::Joining,
            reason: None,
            last_heard: now,
            last_beat: None,
            gaps: Residuals::default(),
            probation: past.probation(now),
            past,
        };
        health.heard(now, loading);
        health
    }

    pub(crate) fn state(&self) -> NodeState {
        self.state
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(crate) fn last_heard(&self) -> Time {
        self.last_heard
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state == NodeState::Ready
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state == NodeState::Gone
    }

    pub(crate) fn past(&self) -> Past {
        self.past
    }

    fn takes(&mut self, sign: Sign, reason: impl FnOnce(&Self) -> Option<String>) -> bool {
        let before = self.state;
        self.state = before.after(sign);
        let news = self.state != before;
        if news || self.state == NodeState::Joining {
            self.reason = reason(self);
        }
        news
    }

    /// Anything came from the node. True if its state is another now.
    pub(crate) fn heard(&mut self, now: Time, loading: bool) -> bool {
        self.last_heard = now;
        let able = !loading && self.probation == 0;
        self.takes(Sign::Heard { able }, |health| {
            match (health.state, health.probation) {
                (NodeState::Joining, 0) => Some("its models are loading".to_owned()),
                (NodeState::Joining, beats) => Some(format!(
                    "it was lost {} times lately: work after {beats} heartbeats more",
                    health.past.losses
                )),
                _ => None,
            }
        })
    }

    /// A heartbeat came; `heartbeat` is the time between two as told.
    pub(crate) fn beat(&mut self, now: Time, heartbeat: Duration) {
        if let Some(last) = self.last_beat.replace(now) {
            let gap = now.since(last).as_secs_f64();
            self.gaps.observe(heartbeat.as_secs_f64(), gap);
        }
        self.probation = self.probation.saturating_sub(1);
    }

    /// It takes nothing new any more.
    pub(crate) fn drains(&mut self) {
        let why = "the agent is finishing what it has".to_owned();
        self.takes(Sign::Drains, |_| Some(why));
    }

    /// Its session is over. One that was leaving is not held against it.
    pub(crate) fn lost(&mut self, now: Time, reason: &str) {
        if !matches!(self.state, NodeState::Draining | NodeState::Gone) {
            self.past.lost(now);
        }
        self.takes(Sign::Lost, |_| Some(reason.to_owned()));
    }

    /// Looks at how long nothing came, and acts on it.
    pub(crate) fn look(&mut self, now: Time, config: &Config) -> Silence {
        let silence = now.since(self.last_heard);
        // Compared as points in time, which is how a timer rounds them: it would fire for ever otherwise.
        let [late, lost] = self.limits(config).map(|limit| self.last_heard + limit);
        if now >= lost {
            return Silence::Lost(silence);
        }
        if now < late {
            return Silence::Until(late);
        }
        let why = format!("nothing was heard for {:.1} s", silence.as_secs_f64());
        self.takes(Sign::Late, |_| Some(why));
        Silence::Until(lost)
    }

    /// When to look next if nothing comes before.
    pub(crate) fn next_look(&self, config: &Config) -> Time {
        self.last_heard + self.limits(config)[0]
    }

    /// Silence that makes it suspect, and that ends it.
    fn limits(&self, config: &Config) -> [Duration; 2] {
        let stretch = self.gaps.factor_95().unwrap_or(1.0);
        let stretch = stretch.clamp(1.0, MOST_STRETCH);
        [config.suspect_after, config.lost_after].map(|limit| limit.mul_f64(stretch))
    }
}

/// What a look at a node's silence found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Look again then.
    Until(Time),
    /// It is given up.
    Lost(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1_000)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A node whose heartbeats came after these gaps, and when the last came.
    fn after_gaps(gaps: impl IntoIterator<Item = u64>) -> (Health, u64) {
        let mut health = Health::new(at(0), Past::default(), false);
        let mut now = 0;
        for gap in gaps {
            now += gap;
            health.heard(at(now), false);
            health.beat(at(now), ms(500));
        }
        (health, now)
    }

    fn limits(health: &Health) -> [u128; 2] {
        health.limits(&Config::default()).map(|l| l.as_millis())
    }

    #[test]
    fn every_move_of_the_state() {
        use NodeState::{Draining, Gone, Joining, Ready, Suspect};
        let (able, unable) = (Sign::Heard { able: true }, Sign::Heard { able: false });
        let signs = [able, unable, Sign::Late, Sign::Drains, Sign::Lost];
        let table = [
            (Joining, [Ready, Joining, Suspect, Draining, Gone]),
            (Ready, [Ready, Joining, Suspect, Draining, Gone]),
            (Suspect, [Ready, Joining, Suspect, Draining, Gone]),
            (Draining, [Draining, Draining, Draining, Draining, Gone]),
            (Gone, [Gone; 5]),
        ];
        assert_eq!(table.map(|(from, _)| from), NodeState::ALL);
        for (from, to) in table {
            assert_eq!(signs.map(|sign| from.after(sign)), to, "{from:?}");
        }
    }

    #[test]
    fn heartbeats_that_come_as_told_leave_the_limits_as_configured() {
        let (health, _) = after_gaps([500; 40]);
        assert_eq!(limits(&health), [1_250, 2_200]);
        let (early, _) = after_gaps([100; 40]);
        assert_eq!(limits(&early), [1_250, 2_200], "never shorter");
    }

    #[test]
    fn a_restless_link_is_given_more_time_up_to_a_limit() {
        // One in five 400 ms late: its 95th percentile is 0.9 s, 1.8 heartbeats.
        let restless = || (0..60).map(|n| if n % 5 == 0 { 900 } else { 500 });
        let (mut health, last) = after_gaps(restless());
        assert_eq!(limits(&health), [2_250, 3_960]);
        let look =
            |health: &mut Health, after: u64| health.look(at(last + after), &Config::default());
        assert_eq!(look(&mut health, 2_200), Silence::Until(at(last + 2_250)));
        assert!(health.is_ready());
        assert_eq!(look(&mut health, 2_300), Silence::Until(at(last + 3_960)));
        assert_eq!(health.state(), NodeState::Suspect);
        assert_eq!(look(&mut health, 3_960), Silence::Lost(ms(3_960)));
        let (hopeless, _) = after_gaps([9_000; 40]);
        assert_eq!(limits(&hopeless), [2_500, 4_400]);
    }

    proptest::proptest! {
        #[test]
        fn a_look_at_the_time_it_asked_for_always_finds_something_new(
            gaps in proptest::collection::vec(1_u64..3_000_000, 20..70)
        ) {
            let mut health = Health::new(at(0), Past::default(), false);
            let mut now = 0;
            for gap in gaps {
                now += gap;
                health.heard(Time::from_micros(now), false);
                health.beat(Time::from_micros(now), ms(500));
            }
            let config = Config::default();
            let late = health.next_look(&config);
            let lost = health.look(late, &config);
            proptest::prop_assert_eq!(health.state(), NodeState::Suspect);
            let Silence::Until(lost) = lost else { unreachable!("it is only late") };
            proptest::prop_assert!(lost > late);
            proptest::prop_assert!(matches!(health.look(lost, &config), Silence::Lost(_)));
        }
    }

    #[test]
    fn one_pause_of_the_coordinator_changes_nothing() {
        let gaps = (0..40).map(|n| if n == 30 { 20_000 } else { 500 });
        assert_eq!(limits(&after_gaps(gaps).0), [1_250, 2_200]);
    }

    #[test]
    fn a_node_is_joining_while_its_models_load() {
        let mut health = Health::new(at(0), Past::default(), true);
        assert_eq!(health.state(), NodeState::Joining);
        assert_eq!(health.reason(), Some("its models are loading"));
        assert!(health.heard(at(10), false), "that is news");
        assert!(health.is_ready() && health.reason().is_none());
    }

    #[test]
    fn a_node_that_is_lost_again_and_again_has_to_prove_itself() {
        let mut past = Past::default();
        let mut waits = Vec::new();
        for n in 0..7 {
            let mut health = Health::new(at(n * 10_000), past, false);
            let mut beats = 0;
            while !health.is_ready() {
                beats += 1;
                let now = at(n * 10_000 + beats * 500);
                health.beat(now, ms(500));
                health.heard(now, false);
            }
            waits.push(beats);
            health.lost(at(n * 10_000 + 9_000), "for the test");
            past = health.past();
        }
        assert_eq!(waits, [0, 0, 1, 2, 3, 4, 4]);
        let later = Health::new(at(70_000 + 60_000), past, false);
        assert!(later.is_ready(), "a minute later it has no past");
    }

    #[test]
    fn who_leaves_in_order_has_no_past() {
        let mut health = Health::new(at(0), Past::default(), false);
        health.drains();
        health.lost(at(100), "left");
        assert_eq!(health.past(), Past::default());
        assert_eq!(health.reason(), Some("left"));
    }

    #[test]
    fn a_suspect_that_speaks_on_any_stream_is_trusted_again() {
        let mut health = Health::new(at(0), Past::default(), false);
        health.look(at(1_300), &Config::default());
        assert_eq!(health.state(), NodeState::Suspect);
        assert_eq!(health.reason(), Some("nothing was heard for 1.3 s"));
        assert!(health.heard(at(1_400), false));
        assert!(health.is_ready());
        assert_eq!(health.next_look(&Config::default()), at(2_650));
    }
}
