//! Clients' connections: how many there may be, and how long one may keep the other side waiting.
//!
//! The loop of `axum::serve` with bounds, which it has none of: whoever opens connections and sends a byte a minute,
//! or reads none, would have all descriptors and with them the books' files. A connection beyond the limit waits in
//! the system's queue until a place is free; those that say nothing leave theirs when their time is over.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use moe2_net::Stop;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::Service;

use super::patient::Patient;

/// Bytes of one connection that are read before they are understood; also the most that headers may have.
const BUFFER: usize = 64 * 1024;
/// Descriptors that are left to databases, logs and agents.
const OTHER_DESCRIPTORS: usize = 128;

/// What connections may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// At once.
    pub(crate) connections: usize,
    /// Until a request's headers are there, from the beginning or the request before; and until a client that does
    /// not read takes some of what it is sent.
    pub(crate) patience: Duration,
}

impl Bounds {
    /// These, with no more connections than this process may have descriptors for.
    pub(crate) fn within_descriptors(self) -> Self {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let Some(most) = descriptors(&limits) else {
            return self;
        };
        let connections = self
            .connections
            .min(most.saturating_sub(OTHER_DESCRIPTORS))
            .max(1);
        if connections < self.connections {
            let (wanted, descriptors) = (self.connections, most);
            tracing::warn!(
                wanted,
                descriptors,
                connections,
                "fewer connections of clients than configured: raise this process's limit of open files"
            );
        }
        Self {
            connections,
            ..self
        }
    }
}

/// The soft limit of open files, if there is one.
fn descriptors(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Answers requests until told to stop, and then until those that have begun are answered. No new connection is
/// taken then: the clients' libraries try again, and find the next coordinator.
pub(crate) async fn serve(
    mut listener: impl Listener<Addr = SocketAddr>,
    router: Router,
    bounds: Bounds,
    stop: watch::Receiver<Stop>,
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut to_end = stop.clone();
    let mut to_end = pin!(told(&mut to_end));
    loop {
        let next = async {
            let place = match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => place,
                Err(_) => {
                    tracing::debug!("all places for clients are taken; the next has to wait");
                    let place = Arc::clone(&places).acquire_owned().await;
                    place.expect("the places are never closed")
                }
            };
            (listener.accept().await.0, place)
        };
        tokio::select! {
            (stream, place) = next => {
                tokio::spawn(one(stream, router.clone(), (bounds.patience, place), stop.clone()));
            }
            () = &mut to_end => break,
        }
    }
    drop(listener);
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    // Every connection gives its place back when it ends.
    let _ = places.acquire_many(all).await;
}

/// Returns when it is time to end. Without anybody to tell it, it is.
async fn told(stop: &mut watch::Receiver<Stop>) {
    let _ = stop.wait_for(|stop| *stop != Stop::No).await;
}

async fn one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    (patience, _place): (Duration, OwnedSemaphorePermit),
    mut stop: watch::Receiver<Stop>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = router.clone().call(request.map(Body::new));
        async move {
            Ok::<Response<Body>, Infallible>(answered.await.unwrap_or_else(|never| match never {}))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(BUFFER);
    let stream = TokioIo::new(Patient::new(stream, patience));
    let mut connection = pin!(http.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read_from_what_the_system_says() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95971                95971                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(descriptors(limits), Some(1_024));
        let none = limits.replace("1024 ", "unlimited ");
        assert_eq!(descriptors(&none), None);
    }
}
