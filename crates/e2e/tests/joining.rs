//! Joining a fleet, and every reason why it may not work: each must be told in the agent's log.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use moe2_e2e::{Agent, Coordinator, System, alone, free_port, run, stub, until};
use tempfile::TempDir;

/// Dialling, being refused and logging it.
const SAID_WITHIN: Duration = Duration::from_secs(10);

/// Starts an agent `edge-1` with this token and waits for the reason it logs.
fn refused(system: &mut System, token: &str, reason: &str) {
    let mut spec = stub("edge-1");
    spec.token = Some(token.to_owned());
    let agent = system.join(spec);
    agent.process.says(reason, SAID_WITHIN);
    assert!(
        !agent.process.log().contains(secret(token)),
        "the log repeats the token's secret"
    );
    assert!(!system.coordinator.is_ready("edge-1"));
}

fn secret(token: &str) -> &str {
    token.rsplit_once('.').map_or(token, |(_, secret)| secret)
}

#[test]
fn a_token_with_a_wrong_secret_is_refused() {
    let _alone = alone();
    let mut system = System::empty();
    let token = system.coordinator.token("edge-1", 600);
    let other = system.coordinator.token("edge-1", 600);
    let (head, _) = token.rsplit_once('.').expect("a token has four parts");
    let wrong = format!("{head}.{}", secret(&other));
    refused(&mut system, &wrong, "the join token is not valid");
}

#[test]
fn a_garbled_token_is_recognised_as_one() {
    let _alone = alone();
    let mut system = System::empty();
    let token = system.coordinator.token("edge-1", 600);
    refused(&mut system, &token[..30], "not a join token");
}

#[test]
fn a_token_of_another_fleet_keeps_its_secret() {
    let _alone = alone();
    let other = System::empty();
    let mut system = System::empty();
    let token = other.coordinator.token("edge-1", 600);
    refused(&mut system, &token, "so the token's secret was not sent");
}

#[test]
fn a_token_is_good_for_one_agent_only() {
    let _alone = alone();
    let mut system = System::empty();
    let token = system.coordinator.token("edge-1", 600);
    let mut spec = stub("edge-1");
    spec.token = Some(token.clone());
    let first = system.join(spec);
    first.process.says("enrolled", SAID_WITHIN);
    system.all_ready();
    // Another machine has another state directory.
    let elsewhere = TempDir::new().expect("a temporary directory can be made");
    let mut spec = stub("edge-1");
    spec.token = Some(token);
    let second = Agent::start(elsewhere.path(), &system.coordinator.quic, &spec);
    second
        .process
        .says("the join token was used before", SAID_WITHIN);
    assert!(system.coordinator.is_ready("edge-1"), "the first one stays");
}

#[test]
fn a_token_for_another_node_is_refused() {
    let _alone = alone();
    let mut system = System::empty();
    let token = system.coordinator.token("edge-2", 600);
    refused(
        &mut system,
        &token,
        "the join token was made for another node name",
    );
}

#[test]
fn a_revoked_node_is_cut_off_until_it_has_a_new_token() {
    let _alone = alone();
    let mut system = System::empty();
    let mut spec = stub("edge-1");
    spec.token = Some(system.coordinator.token("edge-1", 600));
    let spare = system.coordinator.token("edge-1", 600);
    system.join(spec);
    system.all_ready();
    let taken = system.coordinator.moe2(&["fleet", "revoke", "edge-1"]);
    assert_eq!(taken["certificates"], 1);
    assert_eq!(taken["tokens"], 1, "{spare} is of no use any more");
    until("the node is cut off", SAID_WITHIN, || {
        !system.coordinator.is_ready("edge-1")
    });
    let log = &system.agents[0].process;
    log.says("revoked", SAID_WITHIN);
    // The token in its file let it in once.
    log.says("the join token was used before", SAID_WITHIN);
    let fresh = system.coordinator.token("edge-1", 600);
    let file = system.dir().join("edge-1").join("join.token");
    std::fs::write(file, fresh).expect("the temporary directory can be written");
    // An agent whose token was refused waits for half a minute before it reads the file again.
    until("it is back", Duration::from_secs(45), || {
        system.coordinator.is_ready("edge-1")
    });
}

#[test]
fn an_expired_token_is_refused() {
    let _alone = alone();
    let mut system = System::empty();
    let token = system.coordinator.token("edge-1", 1);
    std::thread::sleep(Duration::from_millis(1_100));
    refused(&mut system, &token, "the join token has expired");
}

#[test]
fn a_port_in_use_ends_the_coordinator_with_its_address() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let http = tcp.local_addr().expect("it is bound").port();
    let quic = udp.local_addr().expect("it is bound").port();
    for (ports, taken) in [((http, 0), http), ((0, quic), quic)] {
        let mut command = Coordinator::command(dir.path(), ports.0, ports.1);
        let ended = run(&mut command, SAID_WITHIN);
        assert_eq!(ended.code, Some(2), "{}", ended.said);
        let address = format!("127.0.0.1:{taken}");
        assert!(ended.said.contains(&address), "{}", ended.said);
        assert!(ended.said.contains("choose another"), "{}", ended.said);
    }
}

#[test]
fn an_agent_that_is_started_first_joins_when_the_coordinator_comes() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory can be made");
    let (http, quic) = (free_port(), free_port());
    // The token has to be made by a coordinator that then goes away.
    let mut coordinator = Coordinator::start(dir.path(), http, quic);
    let mut spec = stub("edge-1");
    spec.token = Some(coordinator.token("edge-1", 600));
    coordinator.process.kill();
    let agent = Agent::start(dir.path(), &coordinator.quic, &spec);
    agent.process.says("does not answer", SAID_WITHIN);
    drop(coordinator);
    let coordinator = Coordinator::start(dir.path(), http, quic);
    until("the agent has joined", Duration::from_secs(15), || {
        coordinator.is_ready("edge-1")
    });
}
