//! A stretch of bad network in user space: a UDP relay that delays, drops or swallows datagrams.
//!
//! It stands in for `netem` where the kernel has none, and for a cut cable where there are no namespaces. An
//! agent dials it instead of the coordinator and notices nothing: QUIC goes through untouched.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use moe2_model::Rng;

/// How often threads look whether they are to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Silence of the server after which an address of an agent is forgotten; connections die far earlier.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// Larger than any datagram of QUIC.
const DATAGRAM: usize = 65_536;

/// What happens to every datagram, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Weather {
    /// On top of what the way takes anyhow.
    pub(crate) delay: Duration,
    /// Probability of being dropped.
    pub(crate) loss: f64,
    /// Nothing gets through.
    pub(crate) cut: bool,
}

/// A datagram on its way: when it is due, its number, and where it goes.
struct Due {
    at: Instant,
    number: u64,
    by: Arc<UdpSocket>,
    /// `None` where the socket is connected.
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What the threads of a relay share.
struct Shared {
    weather: Mutex<(Weather, Rng, u64)>,
    line: mpsc::Sender<Due>,
    over: AtomicBool,
}

impl Shared {
    /// Puts a datagram on its way, if the weather lets it through.
    fn take(&self, by: &Arc<UdpSocket>, to: Option<SocketAddr>, bytes: &[u8]) {
        let mut guard = self.weather.lock().unwrap_or_else(PoisonError::into_inner);
        let (weather, rng, count) = &mut *guard;
        if weather.cut || rng.chance(weather.loss) {
            return;
        }
        *count += 1;
        let due = Due {
            at: Instant::now() + weather.delay,
            number: *count,
            by: Arc::clone(by),
            to,
            bytes: bytes.to_vec(),
        };
        // Fails only when the relay is ending.
        let _ = self.line.send(due);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A running relay; dropping it ends it.
pub(crate) struct Relay {
    /// What to dial.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// A relay on any port of `ip` that passes on to `server`.
    ///
    /// # Errors
    /// A socket cannot be had.
    pub(crate) fn start(ip: &str, server: SocketAddr, seed: u64) -> io::Result<Self> {
        let front = Arc::new(UdpSocket::bind((ip, 0))?);
        front.set_read_timeout(Some(LOOK_EVERY))?;
        let address = front.local_addr()?;
        let (line, due) = mpsc::channel();
        let shared = Arc::new(Shared {
            weather: Mutex::new((Weather::default(), Rng::new(seed), 0)),
            line,
            over: AtomicBool::new(false),
        });
        let sender = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || send_when_due(&shared, &due))
        };
        let listener = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || listen(&shared, &front, server))
        };
        Ok(Self {
            address,
            shared,
            threads: vec![sender, listener],
        })
    }

    /// What happens to datagrams from now on; those on their way stay as they were.
    pub(crate) fn set(&self, weather: Weather) {
        let guard = self.shared.weather.lock();
        guard.unwrap_or_else(PoisonError::into_inner).0 = weather;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Sends each datagram when it is due: those that are to take less time overtake, as with `netem`.
fn send_when_due(shared: &Shared, line: &mpsc::Receiver<Due>) {
    let mut waiting: BinaryHeap<Reverse<Due>> = BinaryHeap::new();
    while !shared.is_over() {
        let now = Instant::now();
        let next = waiting.peek().map(|Reverse(due)| due.at);
        match next {
            Some(at) if at <= now => {
                if let Some(Reverse(due)) = waiting.pop() {
                    // A datagram that cannot be sent is a lost one.
                    let _ = match due.to {
                        Some(to) => due.by.send_to(&due.bytes, to),
                        None => due.by.send(&due.bytes),
                    };
                }
            }
            _ => {
                let wait = next.map_or(LOOK_EVERY, |at| at.saturating_duration_since(now));
                match line.recv_timeout(wait.min(LOOK_EVERY)) {
                    Ok(due) => waiting.push(Reverse(due)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }
}

/// Takes what agents send; each of their addresses has a socket of its own towards the server, as behind a
/// router, until nothing has come back for long.
fn listen(shared: &Arc<Shared>, front: &Arc<UdpSocket>, server: SocketAddr) {
    let mut behind: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    while !shared.is_over() {
        let Ok((length, from)) = front.recv_from(&mut buffer) else {
            continue;
        };
        behind.retain(|_, (_, answering)| !answering.is_finished());
        let back = match behind.entry(from) {
            Entry::Occupied(known) => Arc::clone(&known.get().0),
            Entry::Vacant(new) => {
                // What cannot be passed on is lost.
                let Ok(back) = back_socket(server).map(Arc::new) else {
                    continue;
                };
                let (shared, front) = (Arc::clone(shared), Arc::clone(front));
                let own = Arc::clone(&back);
                let answering = thread::spawn(move || answer(&shared, (&own, &front), from));
                new.insert((Arc::clone(&back), answering));
                back
            }
        };
        shared.take(&back, None, &buffer[..length]);
    }
    for (_, answering) in behind.into_values() {
        let _ = answering.join();
    }
}

fn back_socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let back = UdpSocket::bind((server.ip(), 0))?;
    back.connect(server)?;
    back.set_read_timeout(Some(LOOK_EVERY))?;
    Ok(back)
}

/// Takes what the server answers to one address.
fn answer(shared: &Shared, (back, front): (&UdpSocket, &Arc<UdpSocket>), to: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM];
    let mut heard = Instant::now();
    while !shared.is_over() && heard.elapsed() < FORGET_AFTER {
        if let Ok(length) = back.recv(&mut buffer) {
            heard = Instant::now();
            shared.take(front, Some(to), &buffer[..length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers with what it got, a relay before it, and a client.
    fn echo() -> (Relay, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        let at = server.local_addr().expect("it is bound");
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], from);
            }
        });
        let relay = Relay::start("127.0.0.1", at, 1).expect("loopback is there");
        let client = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        client.connect(relay.address).expect("loopback is there");
        (relay, client)
    }

    /// How many of so many come back within the time, and when the first did.
    fn send(client: &UdpSocket, count: u8, within: Duration) -> (usize, Option<Duration>) {
        let began = Instant::now();
        for n in 0..count {
            client.send(&[n]).expect("loopback takes it");
        }
        let (mut back, mut first) = (0, None);
        while let Some(left) = within.checked_sub(began.elapsed()).filter(|l| !l.is_zero()) {
            client.set_read_timeout(Some(left)).expect("not zero");
            if client.recv(&mut [0; 64]).is_ok() {
                back += 1;
                first.get_or_insert(began.elapsed());
            }
            if back == usize::from(count) {
                break;
            }
        }
        (back, first)
    }

    #[test]
    fn datagrams_pass_are_delayed_each_way_dropped_or_swallowed() {
        let (relay, client) = echo();
        let second = Duration::from_secs(1);
        assert_eq!(send(&client, 20, second).0, 20);
        let delay = Duration::from_millis(60);
        relay.set(Weather {
            delay,
            ..Weather::default()
        });
        let (back, first) = send(&client, 20, second);
        assert_eq!(back, 20);
        assert!(first.is_some_and(|first| first >= 2 * delay), "{first:?}");
        relay.set(Weather {
            loss: 0.5,
            ..Weather::default()
        });
        let (back, _) = send(&client, 200, Duration::from_millis(400));
        assert!(
            (20..90).contains(&back),
            "a quarter is to come back: {back} of 200"
        );
        relay.set(Weather {
            cut: true,
            ..Weather::default()
        });
        assert_eq!(send(&client, 20, Duration::from_millis(200)).0, 0);
        relay.set(Weather::default());
        assert_eq!(send(&client, 20, second).0, 20);
    }
}
