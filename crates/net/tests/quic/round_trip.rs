//! What works when everything is as it should be, and what streams do when it is not.

use std::net::SocketAddr;
use std::sync::Arc;

use moe2_model::{DispatchId, ExpertName, Prompt, Task};
use moe2_net::{
    Authority, Identity, JoinConnection, JoinError, JoinToken, StreamError, connect,
    constant_time_eq, enrol, hash_secret,
};
use moe2_wire::{
    EnrolError, EnrolReply, FailureKind, FromAgent, FromExpert, MAX_FRAME, RefusedAgent, ToAgent,
    ToExpert,
};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, HOUR, loopback, node, now};

#[tokio::test]
async fn a_machine_joins_connects_and_works() {
    let mut fleet = Fleet::new();
    let token = JoinToken::generate(fleet.authority.ca_sha256());
    let coordinator = fleet.coordinator.clone();
    let serve = async {
        let mut join = fleet.accept_join().await;
        let request = join.request().await.unwrap();
        assert_eq!(request.token_id, token.id);
        assert!(constant_time_eq(
            &hash_secret(&request.secret),
            &hash_secret(token.secret())
        ));
        assert_eq!(join.peer_node(), None);
        issue(&fleet.authority, join, &request.csr_der).await;
        converse_as_coordinator(&fleet.accept_agent().await).await;
    };
    let join = async {
        let identity = enrol(&coordinator, &token, &node()).await.unwrap();
        assert_eq!(identity.node, node());
        converse_as_agent(&coordinator, &identity).await;
    };
    tokio::join!(serve, join);
}

async fn issue(authority: &Authority, join: JoinConnection, csr: &[u8]) {
    let signed = authority.sign_agent(csr, &node(), HOUR, now()).unwrap();
    let reply = EnrolReply::Issued {
        certificate_der: signed.certificate_der,
        ca_der: authority.ca_der().to_vec(),
    };
    join.reply(reply).await.unwrap();
}

async fn converse_as_coordinator(agent: &moe2_net::AgentConnection) {
    assert_eq!(agent.node(), &node());
    let (mut to, mut from) = agent.accept_control().await.unwrap();
    assert_eq!(from.recv().await, Ok(Some(FromAgent::Draining)));
    let refused = RefusedAgent::BadHello("no".into());
    to.send(&ToAgent::Refused(refused)).await.unwrap();

    let (mut to, mut from) = agent.open_work().await.unwrap();
    to.send(&work()).await.unwrap();
    to.send(&ToExpert::Cancel).await.unwrap();
    to.finish();
    assert_eq!(from.recv().await, Ok(Some(FromExpert::Text("hi".into()))));
    assert_eq!(from.recv::<FromExpert>().await, Ok(None));
    agent.close("a newer\nconnection");
}

async fn converse_as_agent(coordinator: &str, identity: &Identity) {
    let link = connect(coordinator, identity, now()).await.unwrap();
    let (mut to, mut from) = link.open_control().await.unwrap();
    to.send(&FromAgent::Draining).await.unwrap();
    assert!(matches!(from.recv().await, Ok(Some(ToAgent::Refused(_)))));

    let (mut to, mut from) = link.accept_work().await.unwrap();
    assert_eq!(from.recv().await, Ok(Some(work())));
    assert_eq!(from.recv().await, Ok(Some(ToExpert::Cancel)));
    assert_eq!(from.recv::<ToExpert>().await, Ok(None));
    to.send(&FromExpert::Text("hi".into())).await.unwrap();
    to.finish();
    let reason = link.closed().await;
    assert!(reason.ends_with("a newer\u{fffd}connection"), "{reason}");
}

fn work() -> ToExpert {
    ToExpert::Work {
        dispatch: DispatchId(1),
        expert: ExpertName::new("tiny").unwrap(),
        prompt: Prompt::Raw("x".repeat(100_000)),
        task: Task::Choice {
            options: vec!["A".into()],
        },
        deadline_ms: 0,
    }
}

#[tokio::test]
async fn a_refused_token_is_reported_as_such() {
    let mut fleet = Fleet::new();
    let token = JoinToken::generate(fleet.authority.ca_sha256());
    let (coordinator, node) = (fleet.coordinator.clone(), node());
    let serve = async {
        let mut join = fleet.accept_join().await;
        join.request().await.unwrap();
        let refused = EnrolReply::Refused(EnrolError::Used);
        join.reply(refused).await.unwrap();
    };
    let (joined, ()) = tokio::join!(enrol(&coordinator, &token, &node), serve);
    let error = joined.unwrap_err();
    assert!(matches!(error, JoinError::Refused(EnrolError::Used)));
}

#[tokio::test]
async fn bytes_that_are_no_message_are_an_error() {
    let mut fleet = Fleet::new();
    let (_endpoint, rogue, seen) = fleet.rogue_agent().await;
    let cases: [&[u8]; 4] = [
        // A length of 4 GB, an unknown variant, an empty message, bytes left over.
        &[0xff; 100],
        &[1, 0, 0, 0, 0x77],
        &[0, 0, 0, 0],
        &[3, 0, 0, 0, 3, 5, 5],
    ];
    for garbage in cases {
        let (mut raw, _recv) = rogue.open_bi().await.unwrap();
        raw.write_all(garbage).await.unwrap();
        let (_to, mut from) = seen.accept_control().await.unwrap();
        let error = from.recv::<FromAgent>().await.unwrap_err();
        assert!(
            matches!(error, StreamError::Frame(_)),
            "{garbage:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_message_is_an_error() {
    let mut fleet = Fleet::new();
    let (_endpoint, rogue, seen) = fleet.rogue_agent().await;

    let (mut raw, _recv) = rogue.open_bi().await.unwrap();
    raw.write_all(&[9, 0, 0, 0, 1]).await.unwrap();
    raw.finish().unwrap();
    let (_to, mut from) = seen.accept_control().await.unwrap();
    assert_eq!(from.recv::<FromAgent>().await, Err(StreamError::Truncated));

    let (mut raw, _recv) = rogue.open_bi().await.unwrap();
    let frame = moe2_wire::encode_frame(&FromAgent::Draining).unwrap();
    raw.write_all(&frame).await.unwrap();
    let (_to, mut from) = seen.accept_control().await.unwrap();
    assert_eq!(from.recv().await, Ok(Some(FromAgent::Draining)));
    raw.reset(0_u32.into()).unwrap();
    assert_eq!(from.recv::<FromAgent>().await, Err(StreamError::Closed));
}

#[tokio::test]
async fn an_oversized_message_is_not_sent_and_the_stream_stays_good() {
    let mut fleet = Fleet::new();
    let (agent, seen) = fleet.agent().await;
    let (mut to, _from) = agent.open_control().await.unwrap();
    let text = |bytes| FromExpert::Failed {
        kind: FailureKind::Busy,
        message: "x".repeat(bytes),
        usage: None,
    };
    let error = to.send(&text(MAX_FRAME)).await.unwrap_err();
    assert!(matches!(error, StreamError::Frame(_)), "{error}");

    // Just under the limit, and several times the stream's window.
    let largest = text(MAX_FRAME - 64);
    let receive = async {
        let (_to, mut from) = seen.accept_control().await.unwrap();
        from.recv::<FromExpert>().await
    };
    let (sent, received) = tokio::join!(to.send(&largest), receive);
    assert_eq!(sent, Ok(()));
    assert_eq!(received, Ok(Some(largest)));
}

#[tokio::test]
async fn an_agent_that_says_goodbye_is_gone_with_its_reason() {
    let mut fleet = Fleet::new();
    let (agent, seen) = fleet.agent().await;
    agent.close("bye");
    let reason = seen.closed().await;
    assert!(reason.ends_with("bye"), "{reason}");
}

#[tokio::test]
async fn a_coordinator_that_stops_tells_its_agents() {
    let mut fleet = Fleet::new();
    let (agent, _seen) = fleet.agent().await;
    let ((), reason) = tokio::join!(fleet.listener.shut_down("upgrade"), agent.closed());
    assert!(reason.ends_with("upgrade"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_vanishes_without_a_word_is_noticed() {
    let mut fleet = Fleet::new();
    // Dialled through a relay, so that cutting the relay is like pulling the cable.
    let (address, cable) = relay(fleet.listener.local_addr()).await;
    fleet.coordinator = address.to_string();
    let (agent, seen) = fleet.agent().await;
    cable.abort();
    let (theirs, ours) = tokio::join!(seen.closed(), agent.closed());
    assert!(theirs.contains("nothing was heard"), "{theirs}");
    assert!(ours.contains("nothing was heard"), "{ours}");
}

async fn relay(to: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let near = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
    let far = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
    let address = near.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut client = None;
        let (mut a, mut b) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                Ok((n, from)) = near.recv_from(&mut a) => {
                    client = Some(from);
                    far.send_to(&a[..n], to).await.unwrap();
                }
                Ok((n, _)) = far.recv_from(&mut b) => {
                    let client = client.expect("the coordinator only answers");
                    near.send_to(&b[..n], client).await.unwrap();
                }
            }
        }
    });
    (address, task)
}
