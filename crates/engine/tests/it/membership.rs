//! Who is let in, and who is asked.

use moe2_cost::{Profile, Profiles};
use moe2_engine::coordinator::{Config, Input, NodeState, Output};
use moe2_model::{EnergySource, Event, Figure, Joules, RefusalKind, SessionId};
use moe2_wire::{FromAgent, PROTOCOL_VERSION, RefusedAgent, ToAgent};

use crate::support::{Bench, QWEN, SMOL, device, done, question};

fn refused(bench: &Bench) -> Option<&RefusedAgent> {
    let closes = bench
        .outputs
        .iter()
        .any(|o| matches!(o, Output::CloseAgent { .. }));
    let refusal = bench.outputs.iter().find_map(|output| match output {
        Output::ToAgent {
            message: ToAgent::Refused(refusal),
            ..
        } => Some(refusal),
        _ => None,
    });
    refusal.filter(|_| closes)
}

#[test]
fn an_agent_of_another_version_is_refused_and_told_ours() {
    let mut bench = Bench::empty();
    let hello = FromAgent::Hello {
        min_version: PROTOCOL_VERSION + 1,
        max_version: PROTOCOL_VERSION + 3,
        software: "later".to_owned(),
        device: device(),
        experts: Vec::new(),
    };
    bench.agent(1, "late", hello);
    let ours = RefusedAgent::Version {
        min: PROTOCOL_VERSION,
        max: PROTOCOL_VERSION,
    };
    assert_eq!(refused(&bench), Some(&ours));
    assert!(bench.engine.view(bench.now).nodes.is_empty());
}

#[test]
fn an_agent_that_does_not_say_hello_first_is_refused() {
    let mut bench = Bench::empty();
    bench.agent(
        1,
        "rude",
        FromAgent::Heartbeat {
            sequence: 1,
            standing: Figure::NONE,
            clock: None,
        },
    );
    assert!(matches!(refused(&bench), Some(RefusedAgent::BadHello(_))));
}

#[test]
fn a_table_of_speeds_says_what_an_expert_takes_that_nobody_has_asked() {
    let decode = |profiles: Profiles| {
        let config = Config {
            profiles,
            ..Config::default()
        };
        let bench = Bench::configured(config).joined();
        let view = bench.engine.view(bench.now);
        let mut experts = view.nodes.iter().flat_map(|node| &node.experts);
        let smol = experts.find(|expert| expert.id.name.as_str() == SMOL);
        let smol = smol.expect("it has joined");
        let off = smol.decode_s_per_token / smol.prior_decode_s_per_token - 1.0;
        assert!(off.abs() < 1e-9, "nothing has been measured");
        smol.decode_s_per_token
    };
    let slow = Profile {
        device: device().model,
        billions: 0.2,
        quantisation: "Q4_0".to_owned(),
        prefill: None,
        decode: Some(1.0),
        power: None,
    };
    let elsewhere = Profile {
        device: "another machine".to_owned(),
        ..slow.clone()
    };
    let roofline = decode(Profiles::default());
    let told = decode(Profiles::new([slow]));
    assert!(told > 1.0 && told > 10.0 * roofline, "{told} {roofline}");
    let same = decode(Profiles::new([elsewhere]));
    assert_eq!(same.to_bits(), roofline.to_bits());
}

#[test]
fn a_calendar_that_is_off_is_shown_and_told_once() {
    const EPOCH: u64 = 1_700_000_000_000_000;
    let config = Config {
        epoch: EPOCH,
        ..Config::default()
    };
    let mut bench = Bench::configured(config).joined();
    let ours = EPOCH + bench.now.as_micros();
    for behind in [90_000_000, 90_200_000] {
        let beat = FromAgent::Heartbeat {
            sequence: 1,
            standing: Figure::NONE,
            clock: Some(ours - behind),
        };
        bench.agent(1, "smol", beat);
    }
    let told = bench.outputs.iter().filter_map(|output| match output {
        Output::Event(Event::Clock { node, ahead }) => Some((node.as_str(), *ahead)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [("smol", -90.0)]);
    let view = bench.engine.view(bench.now);
    let smol = view.nodes.iter().find(|n| n.node.as_str() == "smol");
    assert_eq!(smol.and_then(|n| n.clock_ahead_s), Some(-90.2));
    let beat = FromAgent::Heartbeat {
        sequence: 1,
        standing: Figure::NONE,
        clock: Some(u64::MAX),
    };
    bench.agent(1, "smol", beat);
    let view = bench.engine.view(bench.now);
    let absurd = view.nodes.iter().find_map(|n| n.clock_ahead_s);
    assert!(absurd.is_some_and(|ahead| ahead > 1e12 && ahead.is_finite()));
}

#[test]
fn standing_energy_in_a_heartbeat_is_an_event_of_its_node() {
    let mut bench = Bench::with_fleet();
    let standing = Figure {
        joules: Joules::saturating(5.0),
        error: Joules::saturating(0.5),
        source: EnergySource::Rapl,
    };
    for standing in [Figure::NONE, standing] {
        let sequence = 1;
        bench.agent(
            1,
            "smol",
            FromAgent::Heartbeat {
                sequence,
                standing,
                clock: None,
            },
        );
    }
    let told: Vec<&Event> = bench
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Event(event @ Event::Standing { .. }) => Some(event),
            _ => None,
        })
        .collect();
    let node = "smol".parse().expect("a valid name");
    let energy = standing;
    assert_eq!(told, [&Event::Standing { node, energy }]);
}

#[test]
fn a_draining_node_finishes_its_work_and_gets_no_more() {
    let mut bench = Bench::with_fleet();
    let first = bench.ask_one(question("Hello, how are you?"));
    assert_eq!(first.expert, SMOL);
    bench.agent(1, "smol", FromAgent::Draining);
    assert_eq!(bench.state_of("smol"), NodeState::Draining);
    assert_eq!(bench.ask_one(question("Hello again")).expert, QWEN);
    bench.says(&first, done(1.0));
    assert_eq!(bench.answer().explanation.redispatches, 0);
}

#[test]
fn an_empty_fleet_asks_to_come_back_and_an_unknown_model_does_not() {
    let mut bench = Bench::empty();
    bench.ask(question("Hello?"));
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::NoExpert);
    assert!(refusal.retry_after.is_some());
    bench.join(1, "smol", SMOL);
    let mut query = question("Hello?");
    query.target = moe2_model::Target::Model("gpt-4o".parse().expect("a valid name"));
    bench.ask(query);
    let (_, refusal) = bench.refusal();
    assert_eq!(
        (refusal.kind, refusal.retry_after),
        (RefusalKind::UnknownModel, None)
    );
}

#[test]
fn a_model_whose_node_is_gone_is_unavailable_rather_than_unknown() {
    let mut bench = Bench::with_fleet();
    bench.feed(Input::AgentLost {
        session: SessionId(1),
        reason: "gone".to_owned(),
    });
    let mut query = question("Hello?");
    query.target = moe2_model::Target::Model(SMOL.parse().expect("a valid name"));
    bench.ask(query);
    assert_eq!(bench.refusal().1.kind, RefusalKind::NoExpert);
}

#[test]
fn an_agent_that_says_hello_twice_is_gone_at_once() {
    let mut bench = Bench::empty();
    bench.join(1, "a", SMOL);
    bench.join(2, "b", SMOL);
    bench.plan();
    bench.ask(question("Hello"));
    let first = bench.sent().remove(0);
    let (session, node) = match first.session {
        SessionId(1) => (1, "a"),
        _ => (2, "b"),
    };
    bench.join(session, node, SMOL);
    assert_eq!(bench.state_of(node), NodeState::Gone);
    // What it had goes to the other, while its connection is still closing.
    let again = bench.sent();
    assert_eq!(again.len(), 1, "{again:?}");
    assert_ne!(again[0].session, first.session);
}
