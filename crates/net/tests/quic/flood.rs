//! Handshakes that never finish must not keep a good agent out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use moe2_net::{Accepted, SERVER_NAME, StreamError, connect};
use moe2_wire::{ALPN, ALPN_JOIN, EnrolError, EnrolReply, EnrolRequest, encode_frame};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::fleet::{Fleet, loopback, node, now, stranger};

/// More than the coordinator has places for.
const FLOOD: usize = 300;

/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(400);
/// Only a failing test waits this long; answers come within a millisecond.
const ANSWER: Duration = Duration::from_secs(5);

/// Genuine first packets of `FLOOD` clients, caught before they reach a coordinator.
async fn first_packets(fleet: &Fleet) -> Vec<Vec<u8>> {
    let trap = UdpSocket::bind(loopback()).await.unwrap();
    let clients = quinn::Endpoint::client(loopback()).unwrap();
    let (config, address) = (stranger(fleet, None, ALPN), trap.local_addr().unwrap());
    let (mut packets, mut pending) = (BTreeMap::new(), Vec::new());
    let mut buffer = vec![0; 2048];
    while packets.len() < FLOOD {
        // Kept until the end: a client given up would send a goodbye instead.
        pending.push(clients.connect_with(config.clone(), address, SERVER_NAME));
        let (length, _) = trap.recv_from(&mut buffer).await.unwrap();
        let id_length = usize::from(buffer[5]);
        let id = buffer[6..6 + id_length].to_vec();
        packets.insert(id, buffer[..length].to_vec());
    }
    packets.into_values().collect()
}

/// Sends every packet from an address of its own, which says nothing more.
async fn send_all(fleet: &Fleet, packets: &[Vec<u8>]) -> Vec<UdpSocket> {
    let mut sockets = Vec::new();
    for packet in packets {
        let socket = UdpSocket::bind(loopback()).await.unwrap();
        socket.send_to(packet, &fleet.coordinator).await.unwrap();
        sockets.push(socket);
    }
    sockets
}

/// The source connection id of a packet with a long header.
fn source_id(packet: &[u8]) -> Vec<u8> {
    let at = 6 + usize::from(packet[5]);
    packet[at + 1..][..usize::from(packet[at])].to_vec()
}

/// Strangers on another address that prove it, and then say no more of their handshakes.
struct Proven {
    trap: UdpSocket,
    clients: quinn::Endpoint,
    known: BTreeSet<Vec<u8>>,
}

impl Proven {
    async fn next(&mut self, fleet: &Fleet) -> UdpSocket {
        let config = stranger(fleet, None, ALPN_JOIN);
        let address = self.trap.local_addr().unwrap();
        let connecting = self.clients.connect_with(config, address, SERVER_NAME);
        // Not dropped, or it would say goodbye.
        tokio::spawn(connecting.unwrap());
        let far = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0))
            .await
            .unwrap();
        far.connect(&fleet.coordinator).await.unwrap();
        let mut packet = vec![0; 2048];
        let (mut length, client) = loop {
            let (length, client) = self.trap.recv_from(&mut packet).await.unwrap();
            // What those before it say again is not passed on.
            if self.known.insert(source_id(&packet[..length])) {
                break (length, client);
            }
        };
        let own = source_id(&packet);
        far.send(&packet[..length]).await.unwrap();
        let answer = timeout(ANSWER, far.recv(&mut packet)).await;
        length = answer.expect("every stranger gets an answer").unwrap();
        if packet[0] & 0xf0 == 0xf0 {
            self.trap.send_to(&packet[..length], client).await.unwrap();
            length = loop {
                let (length, _) = self.trap.recv_from(&mut packet).await.unwrap();
                // The one with the proof has it between the ids and the rest; the one before had none.
                if source_id(&packet[..length]) == own
                    && packet[6 + usize::from(packet[5])..][1 + own.len()] != 0
                {
                    break length;
                }
            };
            far.send(&packet[..length]).await.unwrap();
        }
        far
    }
}

async fn a_good_agent_gets_in(fleet: &mut Fleet) {
    let identity = fleet.identity(Duration::ZERO);
    let agent = connect(&fleet.coordinator, &identity, now()).await;
    let _agent = agent.unwrap();
    loop {
        if let Accepted::Agent(seen) = fleet.listener.accept().await.unwrap() {
            assert_eq!(seen.node(), &node());
            return;
        }
    }
}

#[tokio::test]
async fn half_open_handshakes_do_not_keep_a_good_agent_out() {
    let mut fleet = Fleet::new();
    let mut sockets = Vec::new();
    for packet in first_packets(&fleet).await {
        let half_open = send_all(&fleet, &[packet]).await.remove(0);
        // A handshake or a request to retry: as long as strangers get either, places are left.
        let answer = timeout(ANSWER, half_open.recv(&mut [0; 2048])).await;
        answer.expect("every stranger gets an answer").unwrap();
        sockets.push(half_open);
    }
    a_good_agent_gets_in(&mut fleet).await;
}

#[tokio::test]
async fn garbage_that_looks_like_a_first_packet_does_not_keep_a_good_agent_out() {
    let mut fleet = Fleet::new();
    let garbage = |i: usize| {
        // Long header, Initial, version 1, two ids of 8 bytes, then nonsense.
        let mut packet = vec![0xc0, 0, 0, 0, 1, 8];
        packet.extend((i as u64).to_le_bytes());
        packet.push(8);
        packet.resize(1200, i.to_le_bytes()[0]);
        packet
    };
    let packets: Vec<_> = (0..FLOOD).map(garbage).collect();
    let _sockets = send_all(&fleet, &packets).await;
    a_good_agent_gets_in(&mut fleet).await;
}

#[tokio::test]
async fn an_address_that_is_proven_takes_its_share_of_places_and_no_more() {
    let mut fleet = Fleet::new();
    let mut strangers = Proven {
        trap: UdpSocket::bind(loopback()).await.unwrap(),
        clients: quinn::Endpoint::client(loopback()).unwrap(),
        known: BTreeSet::new(),
    };
    let mut sockets = Vec::new();
    for _ in 0..FLOOD {
        sockets.push(strangers.next(&fleet).await);
    }
    a_good_agent_gets_in(&mut fleet).await;
}

#[tokio::test]
async fn an_address_that_asks_for_nothing_leaves_places_to_join() {
    let mut fleet = Fleet::new();
    let config = stranger(&fleet, None, ALPN_JOIN);
    let mut held = Vec::new();
    for _ in 0..64 {
        let (endpoint, connection) = fleet.dial(config.clone()).await;
        held.push((endpoint, connection, fleet.accept_join().await));
    }
    let early = timeout(MOMENT, fleet.dial(config.clone())).await;
    assert!(early.is_err(), "all places of this address are taken");
    let elsewhere = (Ipv4Addr::new(127, 0, 0, 2), 0).into();
    let endpoint = quinn::Endpoint::client(elsewhere).unwrap();
    let connecting = endpoint.connect_with(config, fleet.listener.local_addr(), SERVER_NAME);
    let _other = connecting.unwrap().await.unwrap();
    drop(fleet.accept_join().await);
}

#[tokio::test]
async fn who_takes_all_places_to_join_keeps_no_node_from_renewing() {
    let mut fleet = Fleet::new();
    let (config, address) = (
        stranger(&fleet, None, ALPN_JOIN),
        fleet.listener.local_addr(),
    );
    let from = |last: u8| quinn::Endpoint::client((Ipv4Addr::new(127, 0, 0, last), 0).into());
    let endpoints = [2, 3, 4].map(|last| from(last).unwrap());
    let dial = |endpoint: &quinn::Endpoint| {
        let connecting = endpoint.connect_with(config.clone(), address, SERVER_NAME);
        connecting.unwrap()
    };
    let mut held = Vec::new();
    for n in 0..128 {
        let connection = dial(&endpoints[n / 64]).await.unwrap();
        held.push((connection, fleet.accept_join().await));
    }
    let late = dial(&endpoints[2]).await.unwrap();
    let renewing = stranger(&fleet, Some(&fleet.identity(Duration::ZERO)), ALPN_JOIN);
    let mut renewals = Vec::new();
    for _ in 0..2 {
        let (endpoint, connection) = fleet.dial(renewing.clone()).await;
        renewals.push((endpoint, connection, fleet.accept_join().await));
    }
    let (_endpoint, third) = fleet.dial(renewing).await;
    // The one more of the node at once, the one more of all when it has waited for its turn.
    for one_more in [third.unwrap(), late] {
        let told = timeout(2 * ANSWER, one_more.closed()).await;
        let told = told.expect("it is told").to_string();
        assert!(told.contains("try again in a moment"), "{told}");
    }
}

#[tokio::test]
async fn who_asks_for_a_certificate_and_takes_no_answer_leaves_its_place() {
    let mut fleet = Fleet::new();
    let mut config = stranger(&fleet, None, ALPN_JOIN);
    let mut nothing = quinn::TransportConfig::default();
    nothing.stream_receive_window(0_u32.into());
    config.transport_config(nothing.into());
    let (_endpoint, connection) = fleet.dial(config).await;
    let (mut send, _recv) = connection.as_ref().unwrap().open_bi().await.unwrap();
    let request = EnrolRequest {
        token_id: String::new(),
        secret: String::new(),
        node: node().to_string(),
        csr_der: Vec::new(),
    };
    let request = encode_frame(&request).unwrap();
    send.write_all(&request).await.unwrap();
    let mut join = fleet.accept_join().await;
    join.request().await.unwrap();
    let refused = EnrolReply::Refused(EnrolError::Invalid);
    let answered = timeout(2 * ANSWER, join.reply(refused)).await;
    let answered = answered.expect("it is given up");
    assert!(
        matches!(answered, Err(StreamError::TimedOut)),
        "{answered:?}"
    );
}
