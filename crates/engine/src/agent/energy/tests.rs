//! Bills, and what must hold of them whatever happens.

use super::*;
use proptest::prelude::*;

const A: DispatchId = DispatchId(1);
const B: DispatchId = DispatchId(2);
const IDLE: f64 = 5.0;
const DYNAMIC: f64 = 10.0;

fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1_000)
}

fn rapl(joules: f64, error: f64) -> Figure {
    Figure {
        joules: Joules::saturating(joules),
        error: Joules::saturating(error),
        source: EnergySource::Rapl,
    }
}

/// A reading of a meter that is a tenth off and never late.
fn reading(millis: u64, joules: f64) -> MeterReading {
    MeterReading {
        at: at(millis),
        total: rapl(joules, joules / 10.0),
        lag: Seconds::ZERO,
    }
}

fn accountant() -> Accountant {
    Accountant::new(at(0), IDLE, DYNAMIC)
}

/// An accountant that has seen a meter show 5 W without work from 0 s to 10 s, 50 J.
fn metered() -> Accountant {
    let mut accountant = accountant();
    accountant.measured(reading(0, 0.0), true);
    read(&mut accountant, 5_000, 25.0);
    read(&mut accountant, 10_000, 50.0);
    let standing = accountant.take_standing();
    assert_eq!(standing.joules, Joules::saturating(50.0));
    accountant
}

fn read(accountant: &mut Accountant, millis: u64, joules: f64) {
    accountant.advance(at(millis));
    accountant.measured(reading(millis, joules), true);
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

#[test]
fn without_a_meter_overlapping_jobs_share_the_dynamic_power_and_idle_power_stands() {
    let mut accountant = accountant();
    accountant.begin(A, 0);
    accountant.advance(at(2_000));
    accountant.begin(B, 1);
    accountant.advance(at(4_000));
    assert_eq!(accountant.end(A), Some(modelled(30.0)));
    accountant.advance(at(5_000));
    assert_eq!(accountant.end(B), Some(modelled(20.0)));
    assert_eq!(accountant.take_standing(), modelled(25.0));
    assert_eq!(accountant.take_standing(), Figure::NONE);
}

#[test]
fn a_metered_job_is_billed_at_the_next_reading_and_never_for_idle_power() {
    let mut accountant = metered();
    accountant.begin(A, 0);
    accountant.advance(at(12_000));
    assert_eq!(accountant.end(A), None, "its joules are not read yet");
    read(&mut accountant, 12_000, 50.0 + 40.0);
    let settled = accountant.take_settled();
    let [(A, bill)] = settled[..] else {
        panic!("one bill: {settled:?}")
    };
    assert!(
        near(bill.joules.get(), 30.0),
        "20 W less 5 W for 2 s: {bill:?}"
    );
    // A tenth of the 40 J, and of the 10 J that are taken for idle.
    assert!(near(bill.error.get(), 5.0), "{bill:?}");
    assert_eq!(bill.source, EnergySource::Rapl);
    assert!(near(accountant.take_standing().joules.get(), 10.0));
}

#[test]
fn a_second_reading_at_one_moment_adds_nothing_and_bills_what_ended_then() {
    let mut accountant = metered();
    accountant.begin(A, 0);
    read(&mut accountant, 11_000, 50.0 + 20.0);
    assert_eq!(accountant.end(A), None);
    read(&mut accountant, 11_000, 50.0 + 20.0);
    let (_, bill) = accountant.take_settled()[0];
    assert!(near(bill.joules.get(), 15.0), "{bill:?}");
}

#[test]
fn a_reading_from_before_a_job_s_end_neither_bills_it_nor_takes_what_came_after() {
    let mut accountant = metered();
    accountant.begin(A, 0);
    accountant.advance(at(12_000));
    accountant.end(A);
    // Read at 11 s, but seen only now.
    accountant.measured(reading(11_000, 50.0 + 20.0), true);
    assert_eq!(accountant.take_settled(), []);
    read(&mut accountant, 12_000, 50.0 + 20.0 + 40.0);
    let (_, bill) = accountant.take_settled()[0];
    assert!(near(bill.joules.get(), 15.0 + 35.0), "{bill:?}");
}

#[test]
fn a_job_does_not_pay_for_one_of_its_name_that_is_not_billed_yet() {
    let mut accountant = metered();
    accountant.begin(A, 0);
    accountant.advance(at(12_000));
    accountant.end(A);
    accountant.begin(A, 0);
    assert_eq!(accountant.take_settled(), [(A, modelled(20.0))]);
    read(&mut accountant, 12_000, 50.0 + 40.0);
    accountant.advance(at(13_000));
    accountant.end(A);
    read(&mut accountant, 13_000, 50.0 + 40.0 + 20.0);
    let (_, bill) = accountant.take_settled()[0];
    assert!(near(bill.joules.get(), 15.0), "{bill:?}");
}

#[test]
fn jobs_that_overlap_pay_by_token_work() {
    let mut accountant = metered();
    accountant.learn(0, 300.0, Seconds::saturating(1.0));
    accountant.learn(1, 100.0, Seconds::saturating(1.0));
    accountant.begin(A, 0);
    accountant.begin(B, 1);
    accountant.advance(at(11_000));
    accountant.end(A);
    accountant.end(B);
    read(&mut accountant, 11_000, 50.0 + 25.0);
    let bills: Vec<f64> = accountant
        .take_settled()
        .iter()
        .map(|(_, b)| b.joules.get())
        .collect();
    assert!(near(bills[0], 15.0) && near(bills[1], 5.0), "{bills:?}");
}

#[test]
fn jobs_in_one_batch_together_count_what_their_worker_does() {
    let mut accountant = accountant();
    // Worker 0 writes two answers at once, 50 tokens each while worker 1 writes 100 of one.
    accountant.learn(0, 50.0, Seconds::saturating(10.0));
    accountant.learn(1, 100.0, Seconds::saturating(10.0));
    let jobs = [(A, 0), (B, 0), (DispatchId(3), 1)];
    for (job, worker) in jobs {
        accountant.begin(job, worker);
    }
    accountant.advance(at(4_000));
    let bills = jobs.map(|(job, _)| accountant.end(job));
    assert_eq!(
        bills,
        [10.0, 10.0, 20.0].map(|joules| Some(modelled(joules)))
    );
}

#[test]
fn a_token_of_prompt_counts_less_and_a_larger_model_more() {
    let (small, large) = (moe2_model::Bytes(100), moe2_model::Bytes(700));
    assert!(near(work((10, 5), small), 900.0));
    assert!(near(work((10, 5), large), 7.0 * work((10, 5), small)));
}

#[test]
fn a_late_meter_is_off_by_a_moment_at_either_end() {
    let mut accountant = metered();
    accountant.begin(A, 0);
    accountant.advance(at(12_000));
    accountant.end(A);
    let late = MeterReading {
        lag: Seconds::saturating(0.1),
        ..reading(12_000, 90.0)
    };
    accountant.measured(late, true);
    let (_, bill) = accountant.take_settled()[0];
    // 20 W for 0.1 s, twice, beyond the 5 J of the test before.
    assert!(near(bill.error.get(), 5.0 + 4.0), "{bill:?}");
}

#[test]
fn a_job_too_short_for_the_meter_is_modelled_and_never_free() {
    let mut accountant = metered();
    accountant.begin(A, 0);
    accountant.advance(at(10_100));
    accountant.end(A);
    read(&mut accountant, 10_100, 50.0);
    let (_, bill) = accountant.take_settled()[0];
    assert_eq!(bill, modelled(1.0));
    // The meter counts it later, as standing energy, from which it is taken.
    read(&mut accountant, 11_000, 57.0);
    assert!(near(accountant.take_standing().joules.get(), 6.0));
}

#[test]
fn a_meter_that_is_lost_or_silent_leaves_the_rest_to_the_model() {
    for silent in [false, true] {
        let mut accountant = metered();
        accountant.begin(A, 0);
        read(&mut accountant, 11_000, 50.0 + 20.0);
        accountant.advance(at(12_000));
        if silent {
            accountant.advance(at(12_000) + SILENCE);
        } else {
            accountant.meter_lost();
        }
        assert!(!accountant.is_measuring());
        let bill = accountant.end(A).expect("the model bills at once");
        let seconds = if silent { 6.0 } else { 1.0 };
        assert!(
            near(bill.joules.get(), 15.0 + DYNAMIC * seconds),
            "{bill:?}"
        );
        assert_eq!(bill.source, EnergySource::Modelled);
        assert!(bill.error.get() > DYNAMIC * seconds);
    }
}

#[test]
fn readings_of_two_sources_are_never_subtracted() {
    let mut accountant = metered();
    let other = MeterReading {
        total: Figure {
            source: EnergySource::Nvml,
            ..rapl(9_000.0, 0.0)
        },
        ..reading(10_000, 0.0)
    };
    accountant.measured(other, true);
    accountant.begin(A, 0);
    accountant.advance(at(11_000));
    accountant.end(A);
    let next = MeterReading {
        at: at(11_000),
        total: Figure {
            joules: Joules::saturating(9_020.0),
            ..other.total
        },
        ..other
    };
    accountant.measured(next, true);
    let (_, bill) = accountant.take_settled()[0];
    // Nothing is known about idle power of the new one: half the 20 W at most, so 5 W.
    assert!(near(bill.joules.get(), 15.0), "{bill:?}");
    assert_eq!(bill.source, EnergySource::Nvml);
}

#[test]
fn idle_power_is_not_learnt_from_times_that_are_not_quiet() {
    let mut accountant = accountant();
    accountant.measured(reading(0, 0.0), true);
    accountant.advance(at(1_000));
    accountant.measured(reading(1_000, 90.0), false);
    accountant.begin(A, 0);
    accountant.advance(at(2_000));
    accountant.end(A);
    read(&mut accountant, 2_000, 110.0);
    let (_, bill) = accountant.take_settled()[0];
    assert!(
        near(bill.joules.get(), 15.0),
        "5 W are assumed, not 90 W: {bill:?}"
    );
}

#[test]
fn of_an_interval_with_a_part_of_a_job_the_job_gets_its_time_and_the_rest_is_in_its_bound() {
    let mut accountant = metered();
    accountant.advance(at(11_500));
    accountant.begin(A, 0);
    accountant.advance(at(12_000));
    accountant.end(A);
    read(&mut accountant, 12_000, 50.0 + 30.0);
    let (_, bill) = accountant.take_settled()[0];
    // 20 J beyond idle power, a quarter of them by time.
    assert!(near(bill.joules.get(), 5.0), "{bill:?}");
    // A tenth of the 30 J, a tenth of 5 W for half a second, and the 15 J that may have been its own.
    assert!(near(bill.error.get(), 3.0 + 0.25 + 15.0), "{bill:?}");
}

proptest! {
    /// One job at a time on a device whose meter has an error of up to a tenth, read at any times.
    #[test]
    fn what_a_job_really_drew_is_within_its_bound(
        gain in -0.09f64..0.09,
        jobs in prop::collection::vec((1u64..2_000, 1u64..4_000, 0.5f64..200.0, 0u64..2_000), 1..6),
    ) {
        let mut accountant = accountant();
        let shown = |joules: f64| joules / (1.0 + gain);
        accountant.measured(reading(0, 0.0), true);
        read(&mut accountant, 4_000, shown(20.0));
        let (mut now, mut drawn) = (4_000, 20.0);
        for (wait, busy, watts, late) in jobs {
            now += wait;
            drawn += IDLE * wait as f64 / 1e3;
            accountant.advance(at(now));
            accountant.begin(A, 0);
            now += busy;
            let own = watts * busy as f64 / 1e3;
            drawn += own + IDLE * busy as f64 / 1e3;
            accountant.advance(at(now));
            let early = accountant.end(A);
            now += late;
            drawn += IDLE * late as f64 / 1e3;
            read(&mut accountant, now, shown(drawn));
            let settled: Vec<Figure> =
                accountant.take_settled().into_iter().map(|(_, bill)| bill).chain(early).collect();
            for bill in settled {
                if bill.source == EnergySource::Rapl {
                    prop_assert!(
                        (bill.joules.get() - own).abs() <= bill.error.get() + 1e-9,
                        "{own} J, billed {bill:?}"
                    );
                }
            }
        }
    }
}

/// What happens next, after some milliseconds in which so many millijoules were drawn.
#[derive(Debug, Clone, Copy)]
enum Step {
    Toggle(u64),
    Read,
    Lose,
}

fn steps() -> impl Strategy<Value = Vec<(Step, u64, u32)>> {
    let step = prop_oneof![
        4 => (0u64..5).prop_map(Step::Toggle),
        4 => Just(Step::Read),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec((step, 0u64..3_000, 0u32..90_000), 1..60)
}

proptest! {
    #[test]
    fn bills_and_standing_energy_are_the_total_and_no_bill_is_free(
        steps in steps(),
        speeds in prop::collection::vec(0.1f64..9.0, 5),
    ) {
        let mut accountant = metered();
        for (worker, speed) in speeds.iter().enumerate().skip(1) {
            accountant.learn(worker, *speed, Seconds::saturating(1.0));
        }
        // `read` is what a meter said or a model made, whichever was in charge.
        let (mut now, mut total, mut booked, mut last) = (10_000, 50.0, 0.0, Some((10_000, 50.0)));
        let mut busy = BTreeMap::new();
        let mut bills = Vec::new();
        let mut model = 0.0;
        for (step, wait, drawn) in steps {
            let was_busy = !busy.is_empty();
            now += wait;
            total += f64::from(drawn) / 1_000.0;
            if last.is_none() {
                model += wait as f64 / 1_000.0 * (IDLE + if was_busy { DYNAMIC } else { 0.0 });
            }
            // No silence: it is another test's.
            if let Some((then, before)) = last && now - then > 5_000 {
                let middle = now - wait;
                accountant.measured(reading(middle, total - f64::from(drawn) / 1_000.0), true);
                booked += total - f64::from(drawn) / 1_000.0 - before;
                last = Some((middle, total - f64::from(drawn) / 1_000.0));
            }
            accountant.advance(at(now));
            match step {
                Step::Toggle(job) => {
                    let id = DispatchId(job);
                    if busy.remove(&job).is_some() {
                        if let Some(bill) = accountant.end(id) {
                            bills.push(bill);
                        }
                    } else if !accountant.jobs.contains_key(&id) {
                        busy.insert(job, ());
                        accountant.begin(id, usize::try_from(job).expect("small"));
                    }
                }
                Step::Read => {
                    accountant.measured(reading(now, total), true);
                    booked += last.map_or(0.0, |(_, before)| total - before);
                    last = Some((now, total));
                }
                // Losing books what is open by the model, which is not this test's sum.
                Step::Lose if last.is_some_and(|(then, _)| then == now) => {
                    accountant.meter_lost();
                    last = None;
                }
                Step::Lose => {}
            }
            bills.extend(accountant.take_settled().into_iter().map(|(_, bill)| bill));
        }
        for job in busy.keys() {
            bills.extend(accountant.end(DispatchId(*job)));
        }
        if let Some((then, before)) = last {
            total += 1.0;
            // After the last reading, and not a silence after it.
            read(&mut accountant, now.max(then + 1), total);
            booked += total - before;
        }
        bills.extend(accountant.take_settled().into_iter().map(|(_, bill)| bill));
        let billed: f64 = bills.iter().map(|bill| bill.joules.get()).sum();
        let standing = accountant.take_standing().joules.get() - accountant.owed;
        prop_assert!(
            (billed + standing - booked - model).abs() < 1e-6 * (1.0 + booked),
            "{billed} + {standing} are not {booked} + {model}"
        );
        for bill in bills {
            prop_assert!(bill.joules == Joules::ZERO || bill.error > Joules::ZERO, "{bill:?}");
        }
    }
}
