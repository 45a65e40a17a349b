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
            .binding(Wall(10), &tenant())
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
        .binding(Wall(30), &tenant())
        .expect("it has a window");
    assert!((room.left.get() - 50.0).abs() < 1e-9);
    assert!((room.used.get() - 50.0).abs() < 1e-9);
    let tomorrow = ledger
        .binding(Wall(86_400), &tenant())
        .expect("it has a window");
    assert!((tomorrow.left.get() - 100.0).abs() < 1e-9);
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
        let room = ledger.binding(Wall(at), &tenant);
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
            let fits = ledger.binding(Wall(now), &tenant()).is_some_and(|room| room.left >= bound);
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
        let room = ledger.binding(Wall(now), &tenant);
        room.expect("it has a window").left.get()
    };
    // All of the minute from 6,000 to 6,059 is in sight until its end is an hour ago.
    assert_eq!(left(6_000, 6_059 + 3_600), 75.0);
    assert_eq!(left(6_059, 6_059 + 3_600), 75.0);
    assert_eq!(left(6_000, 6_060 + 3_660), 100.0);
    // What is charged in the minute of now is not in the future.
    assert_eq!(left(6_000, 6_001), 75.0);
}
