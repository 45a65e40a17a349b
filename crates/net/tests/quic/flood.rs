//! Handshakes that never finish must not keep a good agent out.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_net::{Accepted, SERVER_NAME, connect};
use moe2_wire::ALPN;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::fleet::{Fleet, loopback, node, now, stranger};

/// More than the coordinator has places for.
const FLOOD: usize = 300;

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
