//! Tests of the books: crowds, rates, changed limits, and any order of calls.

use moe2_model::{EnergySource, ExpertName, NodeId, Seconds};
use proptest::prelude::*;

use super::*;

fn tenant() -> TenantId {
    TenantId::new("t").expect("a valid name")
}

fn expert() -> ExpertId {
    ExpertId {
        name: ExpertName::new("e").expect("a valid name"),
        node: NodeId::new("n").expect("a valid name"),
    }
}

fn used(joules: f64) -> Option<Usage> {
    Some(Usage {
        prompt_tokens: 3,
        cached_tokens: 0,
        output_tokens: 4,
        queue: Seconds::ZERO,
        prefill: Seconds::ZERO,
        decode: Seconds::ZERO,
        energy: Joules::saturating(joules),
        energy_source: EnergySource::Modelled,
        energy_error: Joules::saturating(joules),
    })
}

fn limited(spending: &Spending) -> Ledger {
    let mut ledger = Ledger::default();
    let tenant = tenant();
    ledger.limit(Wall(0), [(&tenant, spending)].into_iter());
    ledger
}

fn window(joules: f64, per: Span) -> Spending {
    let window = EnergyWindow {
        joules: Joules::saturating(joules),
        per,
        rolling: false,
        soft: false,
    };
    Spending {
        energy_windows: vec![window],
        ..Spending::default()
    }
}

#[test]
fn a_thousand_at_once_against_a_window_for_a_hundred_leave_room_for_exactly_a_hundred() {
    let mut ledger = limited(&window(100.0, Span::Day));
    let bound = Joules::saturating(1.0);
    let mut admitted = Vec::new();
    for n in 0..1_000 {
        let room = ledger
            .binding(Wall(10), &tenant(), None)
            .expect("it has a window");
        if room.left >= bound {
            ledger.reserve(Wall(10), DispatchId(n), &tenant(), bound);
            admitted.push(DispatchId(n));
        }
    }
    assert_eq!(admitted.len(), 100);
    // Half of what was set aside comes back, to the day it was taken from.
    for dispatch in admitted {
        ledger.settle(Wall(20), dispatch, (QueryId(1), &expert()), used(0.5));
    }
    let room = ledger
        .binding(Wall(30), &tenant(), None)
        .expect("it has a window");
    assert!((room.left.get() - 50.0).abs() < 1e-9);
    assert!((room.used.get() - 50.0).abs() < 1e-9);
    let tomorrow = ledger
        .binding(Wall(86_400), &tenant(), None)
        .expect("it has a window");
    assert!((tomorrow.left.get() - 100.0).abs() < 1e-9);
}

#[test]
fn what_a_dispatch_gives_back_is_room_only_where_it_was_taken_from() {
    let mut ledger = limited(&window(100.0, Span::Minute));
    let bound = Joules::saturating(60.0);
    ledger.reserve(Wall(50), DispatchId(1), &tenant(), bound);
    let left = |ledger: &Ledger, at: u64, dispatch: u64| {
        let room = ledger.binding(Wall(at), &tenant(), Some(DispatchId(dispatch)));
        room.expect("it has a window").left.get()
    };
    assert!((left(&ledger, 55, 1) - 100.0).abs() < 1e-9);
    assert!((left(&ledger, 55, 2) - 40.0).abs() < 1e-9, "nobody's");
    // A minute later it still is reserved, in a minute that is over.
    ledger.reserve(Wall(70), DispatchId(2), &tenant(), bound);
    assert!((left(&ledger, 70, 1) - 40.0).abs() < 1e-9);
    assert!((left(&ledger, 70, 2) - 100.0).abs() < 1e-9);
}

#[test]
fn queries_are_counted_in_and_out_and_tokens_become_those_reported() {
    let spending = Spending {
        requests_per_minute: Some(3),
        tokens_per_minute: Some(100),
        parallel: Some(2),
        ..Spending::default()
    };
    let mut ledger = limited(&spending);
    let enter = |ledger: &mut Ledger, at, query, tokens| {
        ledger.enter(Wall(at), QueryId(query), &tenant(), tokens)
    };
    assert_eq!(enter(&mut ledger, 0, 1, 40.0), Ok(()));
    assert_eq!(enter(&mut ledger, 0, 2, 40.0), Ok(()));
    let full = enter(&mut ledger, 0, 3, 1.0);
    assert_eq!(full, Err(Full::Parallel { limit: 2 }));
    let entry = ledger.reserve(Wall(0), DispatchId(1), &tenant(), Joules::ZERO);
    assert!(matches!(entry, Entry::Reserved { .. }));
    ledger.settle(Wall(1), DispatchId(1), (QueryId(1), &expert()), used(1.0));
    ledger.leave(Wall(1), QueryId(1));
    // 7 tokens were reported, 40 are still counted for the other.
    let left = ledger.room(Wall(1), &tenant()).tokens.expect("limited");
    assert!((left.left - 53.0).abs() < 1e-9, "{left:?}");
    let full = enter(&mut ledger, 1, 4, 60.0);
    assert!(matches!(
        full,
        Err(Full::Tokens {
            limit: 100,
            wait: Some(_)
        })
    ));
    assert!(matches!(
        enter(&mut ledger, 1, 4, 101.0),
        Err(Full::Tokens { wait: None, .. })
    ));
    assert_eq!(enter(&mut ledger, 1, 4, 50.0), Ok(()));
    ledger.leave(Wall(2), QueryId(2));
    let full = enter(&mut ledger, 2, 5, 0.0);
    assert!(
        matches!(full, Err(Full::Requests { limit: 3, .. })),
        "{full:?}"
    );
    assert_eq!(enter(&mut ledger, 62, 5, 0.0), Ok(()), "a minute later");
}

#[test]
fn other_limits_keep_what_was_spent_and_new_windows_know_the_past() {
    let tenant = tenant();
    let past = Past {
        charges: [(tenant.clone(), vec![(Wall(7_000), 25.0)])].into(),
    };
    let mut ledger = Ledger::new(past);
    let set = |ledger: &mut Ledger, at, spending: Option<Spending>| {
        let named = spending.iter().map(|s| (&tenant, s));
        ledger.limit(Wall(at), named);
    };
    let left = |ledger: &Ledger, at| {
        let room = ledger.binding(Wall(at), &tenant, None);
        room.map(|room| room.left.get())
    };
    set(&mut ledger, 7_200, Some(window(100.0, Span::Day)));
    assert_eq!(left(&ledger, 7_200), Some(75.0));
    ledger.reserve(
        Wall(7_200),
        DispatchId(1),
        &tenant,
        Joules::saturating(30.0),
    );
    set(&mut ledger, 7_201, Some(window(500.0, Span::Day)));
    assert_eq!(left(&ledger, 7_201), Some(445.0));
    // An hour's window made now: the charge is of the hour before, the reservation of this one.
    set(&mut ledger, 7_202, Some(window(60.0, Span::Hour)));
    assert_eq!(left(&ledger, 7_202), Some(30.0));
    let who = (QueryId(1), &expert());
    ledger.settle(Wall(7_203), DispatchId(1), who, used(10.0));
    assert_eq!(left(&ledger, 7_203), Some(50.0));
    set(&mut ledger, 7_204, None);
    assert_eq!(left(&ledger, 7_204), None);
    // What was settled while there was no window counts in one that is made later.
    set(&mut ledger, 7_205, Some(window(100.0, Span::Day)));
    assert_eq!(left(&ledger, 7_205), Some(65.0));
}

proptest! {
    #[test]
    fn settled_energy_is_the_sum_of_first_settlements_and_no_window_is_exceeded(
        steps in prop::collection::vec((0u64..8, 0.0f64..9.0, 0.0f64..1.0, any::<bool>(), 0u64..40), 0..90),
        rolling in any::<bool>(),
    ) {
        let mut spending = window(20.0, Span::Minute);
        spending.energy_windows[0].rolling = rolling;
        let mut ledger = limited(&spending);
        let mut open: BTreeMap<DispatchId, (u64, f64)> = BTreeMap::new();
        let (mut spent, mut now) = (0.0, 0);
        // What was charged to which second.
        let mut charged: Vec<(u64, f64)> = Vec::new();
        for (n, joules, share, reserve, pause) in steps {
            now += pause;
            let dispatch = DispatchId(n);
            let bound = Joules::saturating(joules);
            let fits = ledger.binding(Wall(now), &tenant(), None).is_some_and(|room| room.left >= bound);
            if reserve && fits {
                open.entry(dispatch).or_insert_with(|| {
                    ledger.reserve(Wall(now), dispatch, &tenant(), bound);
                    (now, joules)
                });
            } else if !reserve {
                let used_now = open.remove(&dispatch).map(|(at, bound)| {
                    spent += bound * share;
                    charged.push((at, bound * share));
                    bound * share
                });
                let who = (QueryId(n), &expert());
                ledger.settle(Wall(now), dispatch, who, used(used_now.unwrap_or(5.0)));
            }
            let all = charged.iter().copied().chain(open.values().copied());
            let recent = all.filter(|(at, _)| if rolling { now - at < 60 } else { at / 60 == now / 60 });
            let held: f64 = recent.map(|(_, joules)| joules).sum();
            prop_assert!(held <= 20.0 + 1e-9, "{} J are held at {}", held, now);
        }
        for dispatch in open.keys() {
            ledger.settle(Wall(now), *dispatch, (QueryId(0), &expert()), None);
        }
        let account = ledger.account(&tenant());
        prop_assert!((account.spent.get() - spent).abs() < 1e-9);
        prop_assert!(account.reserved.get() < 1e-9);
        prop_assert_eq!(ledger.open(), 0);
    }
}

#[test]
fn what_is_reserved_is_counted_for_its_tenant_and_from_a_time_on() {
    let mut ledger = Ledger::default();
    let other = TenantId::new("other").expect("a valid name");
    let reservations = [(tenant(), 10, 1.0), (tenant(), 20, 2.0), (other, 20, 4.0)];
    for (n, (tenant, at, joules)) in reservations.into_iter().enumerate() {
        let bound = Joules::saturating(joules);
        ledger.reserve(Wall(at), DispatchId(n as u64), &tenant, bound);
    }
    let since = |at| ledger.reserved_since(&tenant(), Wall(at)).get();
    assert_eq!([9, 10, 11, 20, 21].map(since), [3.0, 3.0, 2.0, 2.0, 0.0]);
}

/// What may happen to books.
#[derive(Debug, Clone)]
enum Step {
    Reserve(f64),
    /// One of those under way ends, having used this share of its bound.
    Settle(usize, f64),
    /// One of those under way was never sent.
    Release(usize),
    /// The file is read again: another limit, another kind of window, or none.
    Limit(Option<(f64, Span, bool)>),
    /// The process dies and begins again with what is on disk: charges by the minute, and a mark that covers
    /// what was under way.
    Crash(f64),
}

fn step() -> impl Strategy<Value = Step> {
    let windows = (1.0f64..60.0, prop::bool::ANY, prop::bool::ANY);
    let windows = windows.prop_map(|(joules, hour, rolling)| {
        let per = if hour { Span::Hour } else { Span::Minute };
        (joules, per, rolling)
    });
    prop_oneof![
        5 => (0.0f64..9.0).prop_map(Step::Reserve),
        4 => (any::<usize>(), 0.0f64..1.0).prop_map(|(n, share)| Step::Settle(n, share)),
        1 => any::<usize>().prop_map(Step::Release),
        1 => prop::option::weighted(0.8, windows).prop_map(Step::Limit),
        1 => (1.0f64..2.0).prop_map(Step::Crash),
    ]
}

/// The books beside a list of all that was ever charged.
struct Twin {
    ledger: Ledger,
    now: u64,
    limit: Option<(f64, Span, bool)>,
    /// Settled, or charged after a crash: when, and how much.
    charged: Vec<(u64, f64)>,
    open: Vec<(DispatchId, u64, f64)>,
    next: u64,
}

impl Twin {
    fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            now: 7_200,
            limit: None,
            charged: Vec::new(),
            open: Vec::new(),
            next: 0,
        }
    }

    fn take(&mut self, n: usize) -> Option<(DispatchId, u64, f64)> {
        let at = n.checked_rem(self.open.len())?;
        Some(self.open.swap_remove(at))
    }

    fn set(&mut self, limit: Option<(f64, Span, bool)>) {
        self.limit = limit;
        let (tenant, spending) = (
            tenant(),
            limit.map(|(joules, per, rolling)| {
                let mut spending = window(joules, per);
                spending.energy_windows[0].rolling = rolling;
                spending
            }),
        );
        let named = spending.iter().map(|spending| (&tenant, spending));
        self.ledger.limit(Wall(self.now), named);
    }

    fn crash(&mut self, spare: f64) {
        let mark: f64 = self.open.drain(..).map(|(_, _, bound)| bound).sum();
        self.charged.push((self.now, mark * spare));
        let charges = self
            .charged
            .iter()
            .map(|(at, joules)| (Wall(at / 60 * 60), *joules));
        let past = Past {
            charges: [(tenant(), charges.collect())].into(),
        };
        self.ledger = Ledger::new(past);
        self.set(self.limit);
    }

    fn apply(&mut self, step: Step) {
        let (now, who) = (Wall(self.now), (QueryId(0), &expert()));
        match step {
            Step::Reserve(joules) => {
                let room = self.ledger.binding(now, &tenant(), None);
                let bound = Joules::saturating(joules);
                if room.is_none_or(|room| bound <= room.left) {
                    self.next += 1;
                    let dispatch = DispatchId(self.next);
                    self.ledger.reserve(now, dispatch, &tenant(), bound);
                    self.open.push((dispatch, self.now, joules));
                }
            }
            Step::Settle(n, share) => {
                if let Some((dispatch, at, bound)) = self.take(n) {
                    let energy = bound * share;
                    assert!(
                        self.ledger
                            .settle(now, dispatch, who, used(energy))
                            .is_some()
                    );
                    assert_eq!(self.ledger.settle(now, dispatch, who, used(energy)), None);
                    self.charged.push((at, energy));
                }
            }
            Step::Release(n) => {
                if let Some((dispatch, _, _)) = self.take(n) {
                    assert!(self.ledger.release(now, dispatch).is_some());
                    assert_eq!(self.ledger.settle(now, dispatch, who, used(1.0)), None);
                }
            }
            Step::Limit(limit) => self.set(limit),
            Step::Crash(spare) => self.crash(spare),
        }
    }

    /// Joules that count in a window, and those that may count in it because of how finely it is kept.
    fn held(&self, per: Span, rolling: bool) -> (f64, f64) {
        let length = if per == Span::Hour { 3_600 } else { 60 };
        let open = self.open.iter().map(|(_, at, bound)| (*at, *bound));
        let all = || self.charged.iter().copied().chain(open.clone());
        let sum = |counts: &dyn Fn(u64) -> bool| {
            let counted = all().filter(|(at, _)| counts(*at));
            counted.map(|(_, joules)| joules).sum::<f64>()
        };
        if rolling {
            let within = |seconds: u64| sum(&|at| self.now - at < seconds);
            (within(length), within(length + length / 60 + 60))
        } else {
            let exact = sum(&|at| at / length == self.now / length);
            (exact, exact)
        }
    }
}

proptest! {
    /// In any order of reservations, settlements, releases, reloads and crashes, a window leaves no more than
    /// its limit less what counts in it, and no less than that for reasons other than its grain.
    #[test]
    fn a_window_leaves_what_is_not_taken_whatever_happens(
        steps in prop::collection::vec((step(), prop_oneof![4 => 0u64..3, 1 => 0u64..90, 1 => 0u64..4_000]), 1..120),
    ) {
        let mut twin = Twin::new();
        twin.set(Some((20.0, Span::Minute, false)));
        for (step, pause) in steps {
            twin.now += pause;
            twin.apply(step.clone());
            let room = twin.ledger.binding(Wall(twin.now), &tenant(), None);
            prop_assert_eq!(room.is_some(), twin.limit.is_some());
            if let (Some(room), Some((limit, per, rolling))) = (room, twin.limit) {
                let (held, most) = twin.held(per, rolling);
                let left = room.left.get();
                prop_assert!(left <= f64::max(0.0, limit - held) + 1e-9, "{:?}: {} J left, {} J of {} J held", step, left, held, limit);
                prop_assert!(left >= limit - most - 1e-9, "{:?}: {} J left, at most {} J of {} J held", step, left, most, limit);
            }
            let reserved: f64 = twin.open.iter().map(|o| o.2).sum();
            prop_assert!((twin.ledger.account(&tenant()).reserved.get() - reserved).abs() < 1e-9);
            prop_assert_eq!(twin.ledger.open(), twin.open.len());
        }
    }
}

#[test]
fn a_window_made_later_counts_what_was_charged_until_the_end_of_its_minute() {
    let tenant = tenant();
    let left = |charged: u64, now: u64| {
        let past = Past {
            charges: [(tenant.clone(), vec![(Wall(charged), 25.0)])].into(),
        };
        let mut ledger = Ledger::new(past);
        let mut spending = window(100.0, Span::Hour);
        spending.energy_windows[0].rolling = true;
        ledger.limit(Wall(now), [(&tenant, &spending)].into_iter());
        let room = ledger.binding(Wall(now), &tenant, None);
        room.expect("it has a window").left.get()
    };
    // All of the minute from 6,000 to 6,059 is in sight until its end is an hour ago.
    assert_eq!(left(6_000, 6_059 + 3_600), 75.0);
    assert_eq!(left(6_059, 6_059 + 3_600), 75.0);
    assert_eq!(left(6_000, 6_060 + 3_660), 100.0);
    // What is charged in the minute of now is not in the future.
    assert_eq!(left(6_000, 6_001), 75.0);
}

#[test]
fn a_window_of_tokens_that_is_made_anew_is_not_given_back_what_the_old_one_counted() {
    let tokens = |limit| Spending {
        tokens_per_minute: limit,
        ..Spending::default()
    };
    let mut ledger = limited(&tokens(Some(1_000)));
    let enter = |ledger: &mut Ledger, query, tokens| {
        ledger.enter(Wall(1), QueryId(query), &tenant(), tokens)
    };
    enter(&mut ledger, 1, 900.0).expect("it fits");
    for limit in [None, Some(1_000)] {
        let (tenant, spending) = (tenant(), tokens(limit));
        ledger.limit(Wall(1), [(&tenant, &spending)].into_iter());
    }
    ledger.leave(Wall(2), QueryId(1));
    enter(&mut ledger, 2, 1_000.0).expect("the window is new");
    let more = enter(&mut ledger, 3, 1.0);
    assert!(matches!(more, Err(Full::Tokens { .. })), "{more:?}");
}
