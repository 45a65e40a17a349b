//! Clients' connections: how many there may be, and how long one may keep the other side waiting.
//!
//! The loop of `axum::serve` with bounds, which it has none of: whoever opens connections and sends a byte a minute,
//! or reads none, would have all descriptors and with them the books' files. A connection beyond the limit is told so,
//! or, where that crowd is large too, waits in the system's queue; those that say nothing leave their place when their
//! time is over.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use moe2_metrics::Metrics;
use moe2_net::Stop;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::Service;

use super::error::{ApiError, wrap};
use super::patient::Patient;

/// Bytes of one connection that are read before they are understood; also the most that headers may have.
const BUFFER: usize = 64 * 1024;
/// Descriptors that are left to databases, logs and agents.
const OTHER_DESCRIPTORS: usize = 128;
/// Connections beyond the limit that get one answer each: how the coordinator is, or that it has too many. Without
/// them a crowd would look like a coordinator that hangs, to clients and to what watches over it.
pub(crate) const BEYOND: usize = 32;
/// What is answered there.
const VITAL: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

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
    /// These, with no more connections than this process may have descriptors for; it asks for as many as it needs.
    pub(crate) fn within_descriptors(self, queries: usize) -> Self {
        let others = OTHER_DESCRIPTORS + BEYOND;
        let Some(descriptors) = descriptors(self.connections + others) else {
            return self;
        };
        let connections = self.connections.min(descriptors.saturating_sub(others));
        let connections = connections.max(1);
        if connections < self.connections {
            let wanted = self.connections;
            tracing::warn!(
                wanted,
                descriptors,
                connections,
                "fewer connections of clients than configured: raise this process's limit of open files"
            );
        }
        if connections < queries {
            tracing::warn!(
                connections,
                queries,
                "`limits.queries` cannot be reached: each needs a connection of its own"
            );
        }
        Self {
            connections,
            ..self
        }
    }
}

/// How many files this process may have open, once it has asked for `wanted`; none if the system does not say.
fn descriptors(wanted: usize) -> Option<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX).min(hard);
    // The usual soft limit is for programs that cannot count further; the hard one is the operator's word.
    let raised = wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
    let most = if raised { wanted } else { soft };
    Some(usize::try_from(most).unwrap_or(usize::MAX))
}

/// Answers requests until told to stop, and then until those that have begun are answered. No new connection is
/// taken then: the clients' libraries try again, and find the next coordinator.
pub(crate) async fn serve(
    mut listener: impl Listener<Addr = SocketAddr>,
    router: Router,
    bounds: Bounds,
    stop: watch::Receiver<Stop>,
    metrics: Metrics,
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let beyond = Arc::new(Semaphore::new(BEYOND));
    let crowded = crowded(router.clone(), metrics);
    let mut to_end = stop.clone();
    let mut to_end = pin!(told(&mut to_end));
    loop {
        let next = async {
            let spare = Arc::clone(&beyond).acquire_owned().await;
            (listener.accept().await.0, spare)
        };
        let (stream, spare) = tokio::select! {
            (stream, spare) = next => (stream, spare.expect("the places are never closed")),
            () = &mut to_end => break,
        };
        let place = Arc::clone(&places).try_acquire_owned();
        let (router, place, goes_on) = match place {
            Ok(place) => (router.clone(), place, true),
            Err(_) => (crowded.clone(), spare, false),
        };
        let http = http(bounds.patience, goes_on);
        let stream = TokioIo::new(Patient::new(stream, bounds.patience));
        tokio::spawn(one(http, stream, router, place, stop.clone()));
    }
    drop(listener);
    for (places, all) in [(places, bounds.connections), (beyond, BEYOND)] {
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        // Every connection gives its place back when it ends.
        let _ = places.acquire_many(all).await;
    }
}

/// What is answered beyond the limit.
fn crowded(router: Router, metrics: Metrics) -> Router {
    let answer = move |request: axum::extract::Request, next: Next| {
        let vital = VITAL.contains(&request.uri().path());
        let metrics = metrics.clone();
        async move {
            if vital {
                return next.run(request).await;
            }
            metrics.refused_connection();
            ApiError::too_many_connections().into_response()
        }
    };
    // It has a request id, as every answer.
    wrap(router.layer(middleware::from_fn(answer)))
}

fn http(patience: Duration, goes_on: bool) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(BUFFER)
        .keep_alive(goes_on);
    http
}

/// Returns when it is time to end. Without anybody to tell it, it is.
async fn told(stop: &mut watch::Receiver<Stop>) {
    let _ = stop.wait_for(|stop| *stop != Stop::No).await;
}

async fn one(
    http: http1::Builder,
    stream: TokioIo<Patient<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>>,
    router: Router,
    _place: OwnedSemaphorePermit,
    mut stop: watch::Receiver<Stop>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = router.clone().call(request.map(Body::new));
        async move {
            Ok::<Response<Body>, Infallible>(answered.await.unwrap_or_else(|never| match never {}))
        }
    });
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
