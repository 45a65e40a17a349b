//! A fleet small enough to reckon by hand.

use std::collections::BTreeMap;

use super::*;
use moe2_engine::coordinator::{PlanLimits, TenantLimits};
use moe2_model::{
    Budgets, DeviceInfo, EnergySource, ExpertOffer, Message, Mode, Prompt, Role, Sampling, Target,
    Task, TenantId, Watts,
};

use crate::clients::node_name;
use crate::host::{self, MODELS};

fn machine(n: usize, rates: Rates) -> Machine {
    let offer = ExpertOffer {
        context_tokens: 8_192,
        slots: 1,
        load: None,
        ..host::offer(&MODELS[1])
    };
    let hosted = Hosted {
        offer: offer.clone(),
        rates,
        load: Duration::ZERO,
    };
    Machine {
        node: node_name(n),
        device: DeviceInfo {
            parallel: 1,
            energy_source: EnergySource::Modelled,
            idle_power: Watts::saturating(5.0),
            ..host::device(n)
        },
        experts: BTreeMap::from([(offer.name, hosted)]),
    }
}

const RATES: Rates = Rates {
    prefill: 0.001,
    decode: 0.01,
    watts: 15.0,
};

fn setup(machines: usize) -> Setup {
    Setup {
        machines: (0..machines).map(|n| machine(n, RATES)).collect(),
        drift: Drift::NONE,
        outages: None,
        config: Config::default(),
        gate: Gate::builtin(),
        seed: 1,
    }
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a valid name")
}

fn query(tenant: TenantId) -> Query {
    Query {
        tenant,
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content: "Hello, how are you?".to_owned(),
        }]),
        task: Task::Generate(Sampling {
            max_tokens: 512,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: Budgets::default(),
        max_experts: 1,
        mode: Mode::Auto,
        stream: true,
    }
}

fn every(seconds: f64, count: usize) -> Vec<Request> {
    let at = |n: usize| Time::ZERO + Duration::from_secs_f64(1.0 + seconds * n as f64);
    let request = |n| Request {
        at: at(n),
        input_tokens: 100,
        output_tokens: 90,
    };
    (0..count).map(request).collect()
}

#[test]
fn one_machine_takes_one_after_the_other_and_draws_what_it_draws() {
    let requests = every(0.0, 3);
    let played = play(&setup(1), &requests, &|_| query(tenant("a")));
    let delays: Vec<f64> = played.outcomes.iter().map(|o| o.delay.get()).collect();
    for (delay, reckoned) in delays.iter().zip([1.0, 2.0, 3.0]) {
        assert!((delay - reckoned).abs() < 1e-6, "{delays:?}");
    }
    let first = played.outcomes[0].first_token.expect("it came");
    assert!((first.get() - 0.1).abs() < 1e-6);
    // A second each, at 15 W of which 5 W are drawn anyway.
    assert!(played.joules.iter().all(|j| (j - 10.0).abs() < 1e-3));
    assert!((played.busy - 3.0).abs() < 1e-6);
}

#[test]
fn work_that_is_cut_short_says_so_and_is_paid_as_far_as_it_went() {
    let mut setup = setup(1);
    setup.config.query_timeout = Duration::from_millis(600);
    let (requests, ask) = (every(5.0, 2), |_| query(tenant("a")));
    let mut world = World::new(&setup, &requests, &ask);
    world.run();
    let (fleet, played) = (world.engine.view(world.now), world.played);
    let ends: Vec<_> = played.outcomes.iter().map(|o| o.end.clone()).collect();
    assert_eq!(ends, vec![Err(RefusalKind::DeadlineExceeded); 2]);
    // The last one is over before its machine has heard of it.
    assert!((played.joules[0] - 6.0).abs() < 1e-3, "{:?}", played.joules);
    let learnt = fleet.nodes[0].experts[0].samples;
    assert_eq!(learnt, 0, "it says nothing of how long work takes");
}

#[test]
fn every_request_ends_once_although_machines_come_and_go_and_drift() {
    let mut setup = setup(5);
    setup.outages = Some((Duration::from_secs(40), Duration::from_secs(20)));
    setup.drift = Drift {
        amplitude: 0.5,
        period: (Duration::from_secs(60), Duration::from_secs(300)),
        noise: 0.1,
    };
    let requests = every(0.4, 2_000);
    let ask = |n: usize| query(tenant(["a", "b"][n % 2]));
    let played = play(&setup, &requests, &ask);
    let mut ended: Vec<usize> = played.outcomes.iter().map(|o| o.request).collect();
    ended.sort_unstable();
    assert_eq!(ended, (0..2_000).collect::<Vec<_>>());
    assert!(played.losses > 20 && played.redispatches > 0);
    let answered = played.outcomes.iter().filter(|o| o.end.is_ok()).count();
    assert!(answered > 1_500, "{answered}");
    assert!(played.utilisation() > 0.3 && played.utilisation() < 1.0);
    assert_eq!(played, play(&setup, &requests, &ask), "by the seed alone");
    setup.seed = 2;
    assert_ne!(played, play(&setup, &requests, &ask));
}

#[test]
fn a_tenant_that_floods_the_fleet_delays_others_by_a_turn() {
    let limits = ["calm", "flood"].map(|name| TenantLimits::unlimited(tenant(name)));
    let mut setup = setup(4);
    setup.config.plan = PlanLimits {
        tenants: limits.into(),
        ..PlanLimits::default()
    };
    // The calm tenant alone keeps four machines busy for a quarter of the time; the other asks for thrice
    // what they can do.
    let requests = every(1.0 / 13.0, 3_000);
    let ask = |n: usize| {
        query(tenant(if n.is_multiple_of(13) {
            "calm"
        } else {
            "flood"
        }))
    };
    let played = play(&setup, &requests, &ask);
    let calm = played
        .outcomes
        .iter()
        .filter(|o| o.request.is_multiple_of(13));
    let longest = calm.map(|o| o.delay.get()).fold(0.0, f64::max);
    assert!(longest < 4.0, "{longest}");
}

/// Requests at random, so many in a second of each tenant, for a quarter of an hour; and whose each is.
fn at_random(rates: &[(&'static str, f64)]) -> (Vec<Request>, Vec<&'static str>) {
    let mut all = Vec::new();
    for (n, (name, rate)) in rates.iter().enumerate() {
        let mut rng = Rng::new(n as u64 + 1);
        let mut at = Time::from_micros(1_000_000);
        while at < Time::from_micros(900_000_000) {
            at = at + rng.gap(Duration::from_secs_f64(1.0 / rate));
            all.push((at, *name));
        }
    }
    all.sort_unstable();
    let request = |(at, _): &(Time, &str)| Request {
        at: *at,
        ..every(0.0, 1)[0]
    };
    let requests = all.iter().map(request).collect();
    (requests, all.into_iter().map(|(_, name)| name).collect())
}

/// p95 of the delays of the tenants that are calm, s, once the plan and what counts as lately have had time
/// to follow.
fn calm_p95(rates: &[(&'static str, f64)]) -> f64 {
    let limits = rates
        .iter()
        .map(|(name, _)| TenantLimits::unlimited(tenant(name)));
    let mut setup = setup(12);
    setup.config.plan = PlanLimits {
        tenants: limits.collect(),
        ..PlanLimits::default()
    };
    let (requests, whose) = at_random(rates);
    let played = play(&setup, &requests, &|n| query(tenant(whose[n])));
    let settled = Time::from_micros(300_000_000);
    let calm = |n: usize| whose[n] != "flood" && requests[n].at > settled;
    let calm = played.outcomes.iter().filter(|o| calm(o.request));
    assert!(
        calm.clone().all(|o| o.end.is_ok()),
        "nobody calm is refused"
    );
    let mut delays: Vec<f64> = calm.map(|o| o.delay.get()).collect();
    delays.sort_unstable_by(f64::total_cmp);
    delays[delays.len() * 95 / 100]
}

#[test]
fn a_flood_leaves_others_the_machines_that_they_use() {
    // A quarter of what twelve machines can do; the flood alone is nearly twice as much as they can.
    let calm = [("a", 1.0), ("b", 1.0), ("c", 1.0)];
    let before = calm_p95(&calm);
    let [a, b, c] = calm;
    let beside = calm_p95(&[a, b, c, ("flood", 20.0)]);
    assert!(
        beside < 1.1 * before,
        "{beside} s beside a flood, {before} s without"
    );
}
