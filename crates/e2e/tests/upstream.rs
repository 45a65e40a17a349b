//! An agent whose expert is a server that speaks OpenAI's interface: another moe2.

use std::time::Duration;

use moe2_e2e::{
    Agent, Coordinator, Event, MODELS, Spec, System, alone, free_port, slow_stub, stub, until,
};
use serde_json::json;

/// Seeing that a server is gone, or that a client is.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Starting, and coming back through every back-off.
const BACK_WITHIN: Duration = Duration::from_secs(40);

/// A system whose only expert, `served`, is `model` of another.
fn in_front_of(server: &System, model: &str) -> System {
    let spec = Spec::served("front", ("served", model), server.api(), server.dir());
    System::start(&[spec])
}

#[test]
fn another_moe2_answers_behind_an_agent() {
    let _alone = alone();
    let server = System::start(&[stub("behind")]);
    let front = in_front_of(&server, "stub-behind");
    let reply = front.api().chat("Hello!", &json!({}));
    assert_eq!(reply.status, 200, "{:?}", reply.json);
    assert_eq!(reply.model(), "served@front");
    assert_eq!(
        reply.text().split_whitespace().count(),
        8,
        "{:?}",
        reply.text()
    );
    assert_eq!(reply.json["usage"]["completion_tokens"], 8);
    let energy = &reply.json["moe2"]["energy_j"];
    assert!(energy.as_f64() > Some(0.0), "{:?}", reply.json);

    let events = front.api().stream("Hello!", &json!({})).rest();
    let texts = events
        .iter()
        .filter(|e| matches!(e, Event::Text(_)))
        .count();
    assert!(texts > 1, "{events:?}");
    assert!(events.contains(&Event::Done), "{events:?}");

    let body = json!({"structured_outputs": {"choice": ["yes", "no"]}});
    let reply = front.api().chat("Is water wet?", &body);
    assert_eq!(
        (reply.status, reply.text()),
        (200, "yes"),
        "{:?}",
        reply.json
    );
    let experts = &reply.json["moe2"]["experts"];
    assert_eq!(experts[0]["unscored"], true, "{experts}");
    for agent in &front.agents {
        let key = server.api().key();
        assert!(!agent.process.log().contains(key), "its key is in the log");
    }
}

#[test]
fn a_client_that_leaves_is_not_waited_for_behind_the_agent_either() {
    let _alone = alone();
    let server = System::start(&[slow_stub("behind", Duration::from_secs(2))]);
    let front = in_front_of(&server, "stub-behind");
    let mut stream = front.api().stream("Hello!", &json!({}));
    let _ = stream.first_text();
    assert_eq!(server.coordinator.in_flight("behind"), 1);
    drop(stream);
    until("nothing is in flight", Duration::from_secs(5), || {
        front.coordinator.in_flight("front") == 0 && server.coordinator.in_flight("behind") == 0
    });
}

#[test]
fn an_expert_is_gone_with_its_server_and_back_with_it() {
    let _alone = alone();
    let dir = tempfile::TempDir::new().expect("a temporary directory can be made");
    let (http, quic) = (free_port(), free_port());
    let mut server = Coordinator::start(dir.path(), http, quic);
    let mut spec = slow_stub("behind", Duration::from_millis(500));
    spec.token = Some(server.token("behind", 600));
    let _agent = Agent::start(dir.path(), &server.quic, &spec);
    until("the server's expert is ready", BACK_WITHIN, || {
        server.is_ready("behind")
    });
    let mut front = System::empty();
    let served = Spec::served("front", ("served", "stub-behind"), &server.api, dir.path());
    front.join_all(&[served]);

    let mut stream = front.api().stream("Hello!", &json!({}));
    let _ = stream.first_text();
    server.process.kill();
    let events = stream.rest();
    let [.., Event::Error(error), Event::Closed] = events.as_slice() else {
        unreachable!("not an error and then the end: {events:?}");
    };
    assert_eq!(error["error"]["code"], "lost_mid_stream", "{error}");
    until("its expert is not ready", SEEN_WITHIN, || {
        !front.coordinator.is_ready("front")
    });
    let refused = front.api().chat("Hello!", &json!({}));
    assert_eq!(refused.status, 503, "{:?}", refused.json);

    let server = Coordinator::start(dir.path(), http, quic);
    until("its expert is ready again", BACK_WITHIN, || {
        server.is_ready("behind") && front.coordinator.is_ready("front")
    });
    let reply = front.api().chat("Hello!", &json!({}));
    assert_eq!(reply.status, 200, "{:?}", reply.json);
}

#[test]
fn a_real_model_says_the_same_behind_an_agent() {
    let _alone = alone();
    let server = System::start(&[Spec::real("behind", MODELS[0])]);
    let front = in_front_of(&server, MODELS[0]);
    let body = json!({"max_tokens": 16});
    let ask = |system: &System| system.api().chat("What is the capital of France?", &body);
    let (direct, through) = (ask(&server), ask(&front));
    assert_eq!(through.status, 200, "{:?}", through.json);
    assert!(through.text().contains("Paris"), "{:?}", through.text());
    assert_eq!(direct.text(), through.text());
    let tokens = |reply: &moe2_e2e::Reply| reply.json["usage"].clone();
    assert_eq!(tokens(&direct), tokens(&through));
}
