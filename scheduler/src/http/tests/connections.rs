//! Clients that waste connections, against real sockets.

use std::net::SocketAddr;

use moe2_metrics::Metrics;
use moe2_net::Stop;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::http::server::{BEYOND, Bounds, serve};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);
/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(150);
const ALIVE: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n";

struct Server {
    address: SocketAddr,
    stop: watch::Sender<Stop>,
    task: JoinHandle<()>,
}

async fn server(connections: usize, patience: Duration) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let (router, _) = idle(fleet(ExpertState::Ready));
    let (stop, told) = watch::channel(Stop::No);
    let bounds = Bounds {
        connections,
        patience,
    };
    let metrics = Metrics::new().expect("the families are sound");
    let task = tokio::spawn(serve(listener, router, bounds, told, metrics));
    Server {
        address,
        stop,
        task,
    }
}

impl Server {
    async fn dial(&self, first: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        stream.write_all(first).await.expect("it is open");
        stream
    }
}

/// What comes until the other side closes; an abrupt end counts as one.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(LONG, stream.read_to_end(&mut bytes)).await;
    let _ended = read.expect("it is closed in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn first_line(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 15];
    let read = timeout(LONG, stream.read_exact(&mut bytes)).await;
    read.expect("an answer comes").expect("it is whole");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn who_does_not_finish_its_headers_in_time_is_closed() {
    let server = server(8, Duration::from_millis(200)).await;
    for begun in ["", "GET /healthz HTTP/1.1\r\nhost: h", "\r\n"] {
        let mut slow = server.dial(begun.as_bytes()).await;
        assert!(!rest(&mut slow).await.contains("200"), "{begun:?}");
    }
    // A byte now and then does not buy time.
    let mut dripping = server.dial(b"GET /healthz HTTP/1.1\r\n").await;
    let dripped = async {
        while dripping.write_all(b"a: b\r\n").await.is_ok() {
            if timeout(MOMENT / 3, dripping.readable()).await.is_ok() {
                return;
            }
        }
    };
    timeout(LONG, dripped).await.expect("it is closed in time");
    // One that was answered and says no more is as idle.
    let mut idle = server.dial(ALIVE).await;
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn one_connection_more_than_may_be_is_told_so_and_how_the_coordinator_is() {
    let server = server(2, LONG).await;
    let (one, _other) = (server.dial(b"GET").await, server.dial(b"").await);
    let asking = b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n";
    let refused = rest(&mut server.dial(asking).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("too_many_connections"), "{refused}");
    assert!(refused.contains("retry-after"), "{refused}");
    // The end of the connection comes with the answer.
    let alive = rest(&mut server.dial(ALIVE).await).await;
    assert!(alive.starts_with("HTTP/1.1 200 OK"), "{alive}");
    drop(one);
    let free = async {
        let line = |mut stream| async move { first_line(&mut stream).await };
        while line(server.dial(asking).await).await == "HTTP/1.1 503 Se" {}
    };
    timeout(LONG, free).await.expect("there is a place again");
}

#[tokio::test]
async fn who_comes_when_even_that_is_too_much_waits() {
    let server = server(2, LONG).await;
    let mut all = Vec::new();
    for _ in 0..2 + BEYOND {
        all.push(server.dial(b"GET").await);
    }
    let mut next = server.dial(ALIVE).await;
    let early = timeout(MOMENT, next.peek(&mut [0])).await;
    assert!(early.is_err(), "all places are taken");
    all.clear();
    assert_eq!(first_line(&mut next).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn loris_that_take_every_place_keep_nobody_out_for_longer_than_their_time() {
    let server = server(4, Duration::from_millis(200)).await;
    let mut slow = Vec::new();
    for _ in 0..3 * (4 + BEYOND) {
        slow.push(server.dial(b"GET /").await);
    }
    let mut good = server.dial(ALIVE).await;
    assert_eq!(first_line(&mut good).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn headers_without_end_are_refused_before_they_fill_memory() {
    let server = server(2, LONG).await;
    let mut long = server.dial(b"GET /healthz HTTP/1.1\r\na: ").await;
    // More than may be, and less than the library's own limit.
    let _ = long.write_all(&[b'x'; 100 << 10]).await;
    let answer = rest(&mut long).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
}

#[tokio::test]
async fn who_does_not_read_its_answer_leaves_its_place() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let long = || std::future::ready(vec![b'x'; 64 << 20]);
    let router = axum::Router::new().route("/long", axum::routing::get(long));
    let (stop, told) = watch::channel(Stop::No);
    let bounds = Bounds {
        connections: 1,
        patience: Duration::from_millis(200),
    };
    let metrics = Metrics::new().expect("the families are sound");
    let task = tokio::spawn(serve(listener, router, bounds, told, metrics));
    let mut deaf = TcpStream::connect(address).await.expect("it listens");
    let asking = b"GET /long HTTP/1.1\r\nhost: here\r\n\r\n";
    deaf.write_all(asking).await.expect("it is open");
    let mut byte = [0];
    let begun = timeout(LONG, deaf.peek(&mut byte)).await;
    begun.expect("an answer begins").expect("it is open");
    // Places are free when all connections have ended.
    stop.send_replace(Stop::Drained);
    let ended = timeout(LONG, task).await;
    ended.expect("it is closed in time").expect("in order");
}

#[tokio::test]
async fn told_to_stop_it_ends_idle_connections_and_takes_no_more() {
    let server = server(2, LONG).await;
    let mut idle = server.dial(ALIVE).await;
    assert_eq!(first_line(&mut idle).await, "HTTP/1.1 200 OK");
    server.stop.send_replace(Stop::Drained);
    timeout(LONG, server.task)
        .await
        .expect("it ends")
        .expect("in order");
    rest(&mut idle).await;
    assert!(TcpStream::connect(server.address).await.is_err());
}
