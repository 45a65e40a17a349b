//! Work that waits for one node, and whose turn it is: deficit round robin between tenants, counted in
//! seconds of the device that each piece of work is forecast to take (Shreedhar and Varghese, "Efficient
//! fair queuing using deficit round-robin", 1996).
//!
//! Whoever waits in a line gets its weight's share of the device, whatever others ask for, and a share that
//! somebody does not use goes to the others. Within a tenant it is first come, first served.

use std::collections::{BTreeSet, VecDeque};

use moe2_model::{DispatchId, ExpertName, QueryId, Seconds, TenantId};

/// Device-seconds that a turn gives to a tenant of weight 1. Work that takes longer waits for several turns;
/// a longer one would make the turns of others come later.
const QUANTUM_S: f64 = 1.0;
/// A weight below this would need too many turns for anything.
const LEAST_WEIGHT: f64 = 1e-3;

/// A piece of work that waits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) dispatch: DispatchId,
    pub(crate) query: QueryId,
    pub(crate) expert: ExpertName,
    /// What it is forecast to take of the device.
    pub(crate) busy: Seconds,
}

/// Whose work it is that a wait is forecast for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) weight: f64,
    pub(crate) query: QueryId,
}

/// Tenants that have as much as they may: their work is passed by.
pub(crate) type Held = BTreeSet<TenantId>;

/// One tenant's work in a line.
#[derive(Debug, Clone)]
struct Lane {
    tenant: TenantId,
    weight: f64,
    /// Seconds it may still take in this turn, and what it saved of those before.
    deficit: f64,
    jobs: VecDeque<Waiting>,
}

impl Lane {
    fn seconds(&self) -> f64 {
        self.jobs.iter().map(|job| job.busy.get()).sum()
    }

    /// Seconds before a query's turn within the lane: all of them if it is not there yet.
    fn seconds_before(&self, query: QueryId) -> f64 {
        let before = self.jobs.iter().take_while(|job| job.query != query);
        before.map(|job| job.busy.get()).sum()
    }

    /// The first job that may begin.
    fn first(&self, barred: &Barred) -> Option<(usize, f64)> {
        if barred.tenants.contains(&self.tenant) {
            return None;
        }
        let full = &barred.experts;
        let place = self.jobs.iter().position(|j| !full.contains(&j.expert))?;
        Some((place, self.jobs[place].busy.get()))
    }

    fn turn(&self) -> f64 {
        QUANTUM_S * self.weight
    }
}

/// What may not begin now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Barred {
    /// Experts without a free place.
    pub(crate) experts: BTreeSet<ExpertName>,
    /// Tenants that have as much as they may.
    pub(crate) tenants: Held,
}

/// Everything that waits for a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    /// In the order of their turns.
    lanes: VecDeque<Lane>,
    /// Whether the first lane has been given its quantum in this turn.
    visited: bool,
}

impl Line {
    /// Puts work at the end of its tenant's lane.
    pub(crate) fn push(&mut self, tenant: &TenantId, weight: f64, job: Waiting) {
        let weight = weight.max(LEAST_WEIGHT);
        match self.lanes.iter_mut().find(|lane| lane.tenant == *tenant) {
            Some(lane) => {
                lane.weight = weight;
                lane.jobs.push_back(job);
            }
            None => self.lanes.push_back(Lane {
                tenant: tenant.clone(),
                weight,
                deficit: 0.0,
                jobs: VecDeque::from([job]),
            }),
        }
    }

    /// Takes the work whose turn it is out of the line.
    pub(crate) fn next(&mut self, barred: &Barred) -> Option<Waiting> {
        self.skip_rounds(barred)?;
        // Ends: after the rounds skipped, some lane can start within its next turn.
        loop {
            let lane = self.lanes.front_mut()?;
            if let Some((place, seconds)) = lane.first(barred) {
                if !self.visited {
                    lane.deficit += lane.turn();
                    self.visited = true;
                }
                if lane.deficit >= seconds {
                    lane.deficit -= seconds;
                    let job = lane.jobs.remove(place);
                    if lane.jobs.is_empty() {
                        self.drop_front();
                    }
                    return job;
                }
            }
            self.lanes.rotate_left(1);
            self.visited = false;
        }
    }

    /// Gives everyone as many quanta at once as pass before anybody can start. `None` if nobody can.
    fn skip_rounds(&mut self, barred: &Barred) -> Option<()> {
        let visited = self.visited;
        let rounds = |(place, lane): (usize, &Lane)| {
            let (_, seconds) = lane.first(barred)?;
            let needed = ((seconds - lane.deficit) / lane.turn()).ceil().max(0.0);
            // Its turn of this round is over already.
            let had = visited && place == 0 && needed > 0.0;
            Some(if had { needed + 1.0 } else { needed })
        };
        let lanes = self.lanes.iter().enumerate();
        let fewest = lanes.filter_map(rounds).min_by(f64::total_cmp)?;
        let skipped = (fewest - 1.0).max(0.0);
        if skipped > 0.0 {
            for (place, lane) in self.lanes.iter_mut().enumerate() {
                if lane.first(barred).is_some() {
                    let had = visited && place == 0;
                    let turns = if had { skipped - 1.0 } else { skipped };
                    lane.deficit += turns.max(0.0) * lane.turn();
                }
            }
            // A new round begins, with the same lane.
            self.visited = false;
        }
        Some(())
    }

    fn drop_front(&mut self) {
        self.lanes.pop_front();
        self.visited = false;
    }

    /// Takes work out before its turn.
    pub(crate) fn remove(&mut self, dispatch: DispatchId) -> Option<Waiting> {
        let is = |job: &Waiting| job.dispatch == dispatch;
        let at = self.lanes.iter().position(|l| l.jobs.iter().any(is))?;
        let lane = &mut self.lanes[at];
        let job = lane.jobs.iter().position(is)?;
        let job = lane.jobs.remove(job);
        if lane.jobs.is_empty() {
            self.lanes.remove(at);
            self.visited &= at != 0;
        }
        job
    }

    /// Corrects what a tenant has taken by what its work took beyond its forecast, or less.
    pub(crate) fn correct(&mut self, tenant: &TenantId, beyond: f64) {
        if let Some(lane) = self.lanes.iter_mut().find(|l| l.tenant == *tenant) {
            lane.deficit -= beyond;
        }
    }

    /// Device-seconds of this line that come before a piece of work, new or waiting in it, as the fluid limit of
    /// the turns has it: of its tenant's own what is before it, and of each other lane what its weight lets
    /// through meanwhile. Nothing of tenants that are held.
    pub(crate) fn ahead(&self, whose: Whose<'_>, busy: Seconds, held: &Held) -> Seconds {
        let weight = whose.weight.max(LEAST_WEIGHT);
        let own = self.lanes.iter().find(|lane| lane.tenant == *whose.tenant);
        let own = own.map_or(0.0, |lane| lane.seconds_before(whose.query));
        let share = (own + busy.get()) / weight;
        let others = self.lanes.iter().filter(|l| l.tenant != *whose.tenant);
        let others = others.filter(|lane| !held.contains(&lane.tenant));
        let others = others.map(|lane| lane.seconds().min(share * lane.weight));
        Seconds::saturating(own + others.sum::<f64>())
    }

    /// Whether anything waits for an expert.
    pub(crate) fn has_work_for(&self, expert: &ExpertName) -> bool {
        self.jobs().any(|job| job.expert == *expert)
    }

    /// Everything that waits, tenant by tenant.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Waiting> {
        self.lanes.iter().flat_map(|lane| &lane.jobs)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(n: usize) -> TenantId {
        TenantId::new(&format!("t{n}")).expect("a valid name")
    }

    fn job(n: u64, seconds: f64) -> Waiting {
        on(n, seconds, "m")
    }

    fn on(n: u64, seconds: f64, expert: &str) -> Waiting {
        Waiting {
            dispatch: DispatchId(n),
            query: QueryId(n),
            expert: ExpertName::new(expert).expect("a valid name"),
            busy: Seconds::saturating(seconds),
        }
    }

    fn whose(tenant: &TenantId, weight: f64, query: u64) -> Whose<'_> {
        Whose {
            tenant,
            weight,
            query: QueryId(query),
        }
    }

    fn none() -> Barred {
        Barred::default()
    }

    #[test]
    fn a_crowd_of_one_tenant_does_not_keep_another_waiting() {
        let mut line = Line::default();
        (0..100).for_each(|n| line.push(&tenant(0), 1.0, job(n, 1.0)));
        line.push(&tenant(1), 1.0, job(100, 1.0));
        let order: Vec<_> = std::iter::from_fn(|| line.next(&none())).collect();
        assert_eq!(order.len(), 101);
        let place = order.iter().position(|j| j.dispatch == DispatchId(100));
        assert_eq!(place, Some(1));
    }

    #[test]
    fn an_expert_without_a_free_place_holds_up_nobody_else() {
        let mut line = Line::default();
        line.push(&tenant(0), 1.0, on(1, 1.0, "full"));
        line.push(&tenant(0), 1.0, on(2, 1.0, "free"));
        line.push(&tenant(1), 1.0, on(3, 1.0, "full"));
        let full = Barred {
            experts: BTreeSet::from([ExpertName::new("full").expect("a valid name")]),
            ..none()
        };
        let first = line.next(&full).map(|j| j.dispatch);
        assert_eq!(first, Some(DispatchId(2)));
        assert_eq!(line.next(&full), None);
        assert_eq!(line.jobs().count(), 2);
    }

    #[test]
    fn the_wait_counts_others_by_their_weight_over_ones_own() {
        let mut line = Line::default();
        line.push(&tenant(0), 2.0, job(1, 3.0));
        line.push(&tenant(1), 0.5, job(2, 10.0));
        line.push(&tenant(2), 4.0, job(3, 1.0));
        let ahead = |weight: f64| {
            let of = tenant(0);
            line.ahead(
                whose(&of, weight, 9),
                Seconds::saturating(5.0),
                &Held::new(),
            )
            .get()
        };
        // Its own 3 s; while its 8 s pass, 8 / 2 · 0.5 = 2 s of the second, and all of the third.
        assert!((ahead(2.0) - 6.0).abs() < 1e-12);
        assert!((ahead(4.0) - 5.0).abs() < 1e-12);
    }

    #[test]
    fn ahead_of_work_that_waits_is_neither_itself_nor_what_its_tenant_has_behind_it() {
        let mut line = Line::default();
        let of = tenant(0);
        (1..=3).for_each(|n| line.push(&of, 1.0, job(n, 2.0)));
        line.push(&tenant(1), 1.0, job(4, 10.0));
        let ahead = |query| {
            line.ahead(
                whose(&of, 1.0, query),
                Seconds::saturating(2.0),
                &Held::new(),
            )
            .get()
        };
        // What is before it, and as much of the other's as passes until it is done.
        assert!((ahead(1) - 2.0).abs() < 1e-12, "{}", ahead(1));
        assert!((ahead(2) - 6.0).abs() < 1e-12, "{}", ahead(2));
        assert!((ahead(9) - 14.0).abs() < 1e-12, "{}", ahead(9));
    }

    #[test]
    fn who_is_held_is_passed_by_and_not_waited_for() {
        let mut line = Line::default();
        line.push(&tenant(0), 1.0, job(1, 2.0));
        line.push(&tenant(1), 1.0, job(2, 2.0));
        let barred = Barred {
            tenants: Held::from([tenant(0)]),
            ..none()
        };
        let of = tenant(2);
        let ahead = line.ahead(
            whose(&of, 1.0, 9),
            Seconds::saturating(2.0),
            &barred.tenants,
        );
        assert!((ahead.get() - 2.0).abs() < 1e-12, "{ahead:?}");
        assert_eq!(line.next(&barred).map(|job| job.query), Some(QueryId(2)));
        assert_eq!(line.next(&barred), None);
        assert_eq!(line.next(&none()).map(|job| job.query), Some(QueryId(1)));
    }

    #[test]
    fn a_lane_taken_out_in_its_turn_leaves_the_next_its_own() {
        let mut line = Line::default();
        line.push(&tenant(0), 1.0, job(1, 0.25));
        line.push(&tenant(0), 1.0, job(2, 0.25));
        line.push(&tenant(1), 1.0, job(3, 1.0));
        line.push(&tenant(2), 1.0, job(4, 0.5));
        assert_eq!(line.next(&none()).map(|j| j.dispatch.0), Some(1));
        // The turn of the first ends with its lane, and the second has all of its own.
        assert!(line.remove(DispatchId(2)).is_some());
        assert_eq!(line.next(&none()).map(|j| j.dispatch.0), Some(3));
        assert_eq!(line.next(&none()).map(|j| j.dispatch.0), Some(4));
    }

    #[test]
    fn a_weight_so_small_that_it_is_nothing_still_ends() {
        let mut line = Line::default();
        line.push(&tenant(0), 0.0, job(1, 1e6));
        assert_eq!(line.next(&none()).map(|j| j.dispatch), Some(DispatchId(1)));
        assert!(line.is_empty());
    }

    #[test]
    fn what_was_taken_beyond_the_forecast_is_paid_back() {
        let taken = |beyond: f64| {
            let mut line = Line::default();
            for n in 0..40 {
                line.push(&tenant(0), 1.0, job(n, 1.0));
                line.push(&tenant(1), 1.0, job(100 + n, 1.0));
            }
            let mut first = 0;
            for _ in 0..20 {
                let job = line.next(&none()).expect("some are left");
                if job.dispatch.0 < 100 {
                    first += 1;
                    line.correct(&tenant(0), beyond);
                }
            }
            first
        };
        assert_eq!(taken(0.0), 10);
        // Three seconds instead of one: a third of the turns.
        assert!((4..=6).contains(&taken(2.0)), "{}", taken(2.0));
    }

    proptest! {
        /// Two lanes that always wait are served as their weights, to within a turn and a job each
        /// (Shreedhar and Varghese, theorem 2).
        #[test]
        fn shares_follow_weights(
            jobs in prop::collection::vec((0.01f64..8.0, 0.01f64..8.0), 200), weights in (0.2f64..5.0, 0.2f64..5.0)
        ) {
            let mut line = Line::default();
            for (n, (a, b)) in jobs.iter().enumerate() {
                line.push(&tenant(0), weights.0, job(2 * n as u64, *a));
                line.push(&tenant(1), weights.1, job(2 * n as u64 + 1, *b));
            }
            let mut served = [0.0, 0.0];
            let mut left = [200, 200];
            while left.iter().all(|l| *l > 0) {
                let job = line.next(&none()).expect("both wait");
                let side = (job.dispatch.0 % 2) as usize;
                served[side] += job.busy.get();
                left[side] -= 1;
                let gap = (served[0] / weights.0 - served[1] / weights.1).abs();
                let bound = QUANTUM_S + 8.0 / weights.0 + 8.0 / weights.1;
                prop_assert!(gap <= bound + 1e-9, "{gap} > {bound}");
            }
        }

        /// Skipping rounds changes nothing: turn by turn the same order comes out.
        #[test]
        fn skipped_rounds_are_those_in_which_nobody_starts(
            jobs in prop::collection::vec((0usize..4, 0.01f64..30.0), 1..60), weights in prop::collection::vec(0.3f64..3.0, 4)
        ) {
            let mut line = Line::default();
            for (n, (who, seconds)) in jobs.iter().enumerate() {
                line.push(&tenant(*who), weights[*who], job(n as u64, *seconds));
            }
            let mut slow = line.clone();
            loop {
                let (fast, slow) = (line.next(&none()), turn_by_turn(&mut slow));
                prop_assert_eq!(&fast, &slow);
                if fast.is_none() { break }
            }
        }

        /// Nobody and nothing is lost, whatever is taken out of turn; within a tenant order is kept.
        #[test]
        fn all_work_comes_out_once_and_in_its_tenants_order(
            jobs in prop::collection::vec((0usize..4, 0.0f64..9.0), 1..60), taken in prop::collection::vec(0u64..60, 0..20)
        ) {
            let mut line = Line::default();
            for (n, (who, seconds)) in jobs.iter().enumerate() {
                line.push(&tenant(*who), 1.0, job(n as u64, *seconds));
            }
            let mut out: Vec<u64> = taken.iter().filter_map(|n| line.remove(DispatchId(*n))).map(|j| j.dispatch.0).collect();
            let turns: Vec<u64> = std::iter::from_fn(|| line.next(&none())).map(|j| j.dispatch.0).collect();
            for who in 0..4 {
                let own: Vec<_> = turns.iter().filter(|n| jobs[**n as usize].0 == who).collect();
                prop_assert!(own.is_sorted());
            }
            prop_assert!(line.is_empty());
            out.extend(turns);
            out.sort_unstable();
            prop_assert_eq!(out, (0..jobs.len() as u64).collect::<Vec<_>>());
        }

        /// The forecast wait is what the turns make of it, to within a turn and a job of each other lane.
        #[test]
        fn the_wait_is_as_forecast(
            jobs in prop::collection::vec((0usize..4, 0.01f64..4.0), 1..60), busy in 0.01f64..4.0
        ) {
            let mut line = Line::default();
            for (n, (who, seconds)) in jobs.iter().enumerate() {
                line.push(&tenant(*who), 1.0, job(n as u64, *seconds));
            }
            let of = tenant(0);
            let forecast = line.ahead(whose(&of, 1.0, u64::MAX), Seconds::saturating(busy), &Held::new()).get();
            line.push(&tenant(0), 1.0, job(1_000, busy));
            let before = std::iter::from_fn(|| line.next(&none()))
                .take_while(|j| j.dispatch != DispatchId(1_000));
            let waited: f64 = before.map(|j| j.busy.get()).sum();
            prop_assert!((waited - forecast).abs() <= 3.0 * (QUANTUM_S + 4.0) + 1e-9, "{waited} for {forecast}");
        }
    }

    /// Deficit round robin as it is written down, one turn after another.
    fn turn_by_turn(line: &mut Line) -> Option<Waiting> {
        if line.is_empty() {
            return None;
        }
        loop {
            let lane = line.lanes.front_mut()?;
            if !line.visited {
                lane.deficit += QUANTUM_S * lane.weight;
                line.visited = true;
            }
            let seconds = lane.jobs.front()?.busy.get();
            if lane.deficit >= seconds {
                lane.deficit -= seconds;
                let job = lane.jobs.pop_front();
                if lane.jobs.is_empty() {
                    line.drop_front();
                }
                return job;
            }
            line.lanes.rotate_left(1);
            line.visited = false;
        }
    }
}
