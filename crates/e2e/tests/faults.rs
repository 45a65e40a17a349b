//! Losses while the system works: workers and agents killed, agents drained, coordinators restarted.
//!
//! The rule under test: before the first word reached the client another expert takes over and the
//! client sees nothing; after it, the stream ends with the error frame and without `[DONE]`; the
//! fleet view shows the loss within three seconds.

use std::time::{Duration, Instant};

use moe2_e2e::{
    Agent, Coordinator, Event, MODELS, Reply, Spec, Stream, System, alone, eventually, free_port,
    signal, stub, until,
};
use serde_json::{Value, json};

/// In which the fleet view must show a loss.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);
/// Restarting and loading a small model, with room for a slow machine.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// A prompt of this many words keeps the small model busy for seconds before its first word.
const LONG_PROMPT_WORDS: usize = 1_200;

/// Two nodes with the same small model, so that either can take over from the other.
fn two_of_a_kind() -> System {
    let real = |node| Spec::real(node, MODELS[0]);
    System::start(&[real("edge-1"), real("edge-2")])
}

fn long_answer() -> Value {
    json!({"max_tokens": 400})
}

const STORY: &str = "Tell me a long story about a fisherman and the sea.";

/// The agent that works on the only query.
fn busy(system: &System) -> usize {
    eventually("an agent has work", BACK_WITHIN, || {
        let works = |agent: &Agent| system.coordinator.in_flight(&agent.node) > 0;
        system.agents.iter().position(works)
    })
}

/// Asks something whose prompt takes seconds, and breaks the agent that got it before it has
/// said anything.
fn ask_and_break(system: &mut System, break_it: impl FnOnce(&mut Agent)) -> (usize, Reply) {
    let api = system.api().clone();
    let words = "sea ship wind wave ".repeat(LONG_PROMPT_WORDS / 4);
    let asked = std::thread::spawn(move || api.chat(&words, &json!({"max_tokens": 4})));
    let victim = busy(system);
    break_it(&mut system.agents[victim]);
    (victim, asked.join().expect("the request ends"))
}

/// Starts a stream and breaks the agent that answers after the first word.
fn stream_and_break(system: &mut System, break_it: impl FnOnce(&mut Agent)) -> (usize, Stream) {
    let mut stream = system.api().stream(STORY, &long_answer());
    let _ = stream.first_text();
    let victim = busy(system);
    break_it(&mut system.agents[victim]);
    (victim, stream)
}

fn took_over(system: &System, victim: usize, reply: &Reply) {
    assert_eq!(reply.status, 200, "{:?}", reply.json);
    let lost = format!("@{}", system.agents[victim].node);
    assert!(!reply.model().ends_with(&lost), "{}", reply.model());
    assert_eq!(reply.json["moe2"]["redispatches"], 1, "{:?}", reply.json);
    let experts = reply.json["moe2"]["experts"].as_array();
    let experts = experts.expect("those that worked on it");
    assert!(experts[0]["failure"].is_string(), "{experts:?}");
}

fn ends_with_the_error_frame(stream: Stream) {
    let events = stream.rest();
    let [.., Event::Error(error), Event::Closed] = events.as_slice() else {
        unreachable!("not an error and then the end: {events:?}");
    };
    assert_eq!(error["error"]["code"], "lost_mid_stream", "{error}");
    assert!(!events.contains(&Event::Done), "{events:?}");
}

fn expert_state(system: &System, agent: usize) -> String {
    system.coordinator.expert_state(&system.agents[agent].node)
}

fn kill_worker(agent: &mut Agent) {
    signal(agent.worker(), "KILL");
}

fn worker_loss_is_shown_and_mended(system: &System, victim: usize) {
    until("the fleet view shows the failure", SHOWN_WITHIN, || {
        expert_state(system, victim) == "failed"
    });
    until("the worker is back", BACK_WITHIN, || {
        expert_state(system, victim) == "ready"
    });
}

#[test]
fn a_worker_killed_before_its_first_word_is_replaced_unseen() {
    let _alone = alone();
    let mut system = two_of_a_kind();
    let (victim, reply) = ask_and_break(&mut system, kill_worker);
    took_over(&system, victim, &reply);
    until("the worker is back", BACK_WITHIN, || {
        expert_state(&system, victim) == "ready"
    });
}

#[test]
fn a_worker_killed_mid_stream_ends_it_with_an_error_and_comes_back() {
    let _alone = alone();
    let mut system = two_of_a_kind();
    let (victim, stream) = stream_and_break(&mut system, kill_worker);
    worker_loss_is_shown_and_mended(&system, victim);
    ends_with_the_error_frame(stream);
    let after = system.api().chat("Hello!", &json!({"max_tokens": 4}));
    assert_eq!(after.status, 200, "{:?}", after.json);
}

#[test]
fn an_agent_killed_before_its_first_word_is_replaced_unseen() {
    let _alone = alone();
    let mut system = two_of_a_kind();
    let mut worker = 0;
    let (victim, reply) = ask_and_break(&mut system, |agent| {
        worker = agent.worker();
        agent.process.kill();
    });
    took_over(&system, victim, &reply);
    until("the worker has ended with its agent", BACK_WITHIN, || {
        !moe2_e2e::is_alive(worker)
    });
}

#[test]
fn an_agent_killed_mid_stream_ends_it_with_an_error_and_is_shown_gone() {
    let _alone = alone();
    let mut system = two_of_a_kind();
    let (victim, stream) = stream_and_break(&mut system, |agent| agent.process.kill());
    let node = system.agents[victim].node.clone();
    until("the fleet view shows the node gone", SHOWN_WITHIN, || {
        system.coordinator.node(&node)["state"] == "gone"
    });
    ends_with_the_error_frame(stream);
    let after = system.api().chat("Hello!", &json!({"max_tokens": 4}));
    assert_eq!(after.status, 200, "{:?}", after.json);
}

#[test]
fn a_drained_agent_finishes_its_stream_and_then_ends() {
    let _alone = alone();
    let mut system = two_of_a_kind();
    let (victim, stream) = stream_and_break(&mut system, |agent| agent.process.signal("TERM"));
    let node = system.agents[victim].node.clone();
    until("the fleet view shows it draining", SHOWN_WITHIN, || {
        system.coordinator.node(&node)["state"] == "draining"
    });
    let meanwhile = system.api().chat("Hello!", &json!({"max_tokens": 4}));
    assert_eq!(meanwhile.status, 200, "{:?}", meanwhile.json);
    let drained = format!("@{node}");
    assert!(!meanwhile.model().ends_with(&drained), "{:?}", meanwhile);
    let events = stream.rest();
    assert!(
        events.ends_with(&[Event::Done, Event::Closed]),
        "{events:?}"
    );
    let status = system.agents[victim].process.ends(BACK_WITHIN);
    assert!(status.success(), "{status}");
}

#[test]
fn agents_come_back_to_a_coordinator_that_was_killed_and_restarted() {
    let _alone = alone();
    let dir = tempfile::TempDir::new().expect("a temporary directory can be made");
    let (http, quic) = (free_port(), free_port());
    let mut coordinator = Coordinator::start(dir.path(), http, quic);
    let names = ["edge-1", "edge-2"];
    let agents = names.map(|node| {
        let mut spec = stub(node);
        spec.token = Some(coordinator.token(node, 600));
        Agent::start(dir.path(), &coordinator.quic, &spec)
    });
    let all_ready = |coordinator: &Coordinator| {
        until("both agents are ready", BACK_WITHIN, || {
            names.iter().all(|node| coordinator.is_ready(node))
        });
    };
    all_ready(&coordinator);
    let key = coordinator.api.key().to_owned();
    coordinator.process.kill();
    drop(coordinator);
    let began = Instant::now();
    let coordinator = Coordinator::start(dir.path(), http, quic);
    all_ready(&coordinator);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "slow to come back"
    );
    assert_eq!(coordinator.api.key(), key, "clients keep their key");
    for agent in &agents {
        let body = json!({"model": format!("stub-{}", agent.node)});
        let reply = coordinator.api.chat("Hello!", &body);
        assert_eq!(reply.status, 200, "{:?}", reply.json);
        assert!(reply.text().starts_with("stub "), "{:?}", reply.text());
    }
}

/// A rolling restart: what has begun is finished, nothing new begins, and the next coordinator has its agents back.
#[test]
fn a_coordinator_told_to_stop_finishes_what_has_begun_and_its_agents_find_the_next() {
    let _alone = alone();
    let dir = tempfile::TempDir::new().expect("a temporary directory can be made");
    let (http, quic) = (free_port(), free_port());
    let mut coordinator = Coordinator::start(dir.path(), http, quic);
    let mut spec = moe2_e2e::slow_stub("edge-1", Duration::from_millis(250));
    spec.token = Some(coordinator.token("edge-1", 600));
    let agent = Agent::start(dir.path(), &coordinator.quic, &spec);
    until("the agent is ready", BACK_WITHIN, || {
        coordinator.is_ready("edge-1")
    });
    let mut stream = coordinator.api.stream("Hello!", &json!({}));
    let mut said = stream.first_text();
    let api = coordinator.api.clone();
    let whole = std::thread::spawn(move || api.chat("Hello!", &json!({})));
    until("both are under way", BACK_WITHIN, || {
        coordinator.in_flight("edge-1") == 2
    });
    coordinator.process.signal("TERM");
    coordinator
        .process
        .says("finishing what is under way", BACK_WITHIN);
    let refused = coordinator.api.try_chat("Hello!", &json!({}));
    assert!(refused.is_none(), "{refused:?}");
    let events = stream.rest();
    for event in &events {
        if let Event::Text(text) = event {
            said.push_str(text);
        }
    }
    assert!(
        events.ends_with(&[Event::Done, Event::Closed]),
        "{events:?}"
    );
    let whole = whole.join().expect("the request ends");
    assert_eq!((whole.status, whole.text()), (200, said.as_str()));
    let status = coordinator.process.ends(BACK_WITHIN);
    assert!(status.success(), "{status}");
    drop(coordinator);
    let coordinator = Coordinator::start(dir.path(), http, quic);
    until("the agent is back", BACK_WITHIN, || {
        coordinator.is_ready(&agent.node)
    });
    let usage = coordinator.usage("default");
    assert_eq!(usage["queries"], 2, "both are in the books: {usage}");
    let reply = coordinator.api.chat("Hello!", &json!({}));
    assert_eq!(reply.status, 200, "{:?}", reply.json);
}
