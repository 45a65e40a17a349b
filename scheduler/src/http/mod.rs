//! The OpenAI-style HTTP API: bytes in, a checked [`moe2_model::Query`] to the engine, JSON out.
//!
//! The way of a request: [`error::wrap`] stamps it, [`auth`] names its tenant before a byte of the
//! body is read, [`body`] reads it within limits, [`request`] turns it into a query, and [`reply`]
//! or [`stream`] writes what the engine says. `request` and `reply` are pure, so every refusal and
//! every byte of output is tested without a socket. Axum's own `Json` extractor was not taken: its
//! rejections are plain text, and clients expect the error envelope on every path.

pub(crate) mod auth;
mod body;
pub(crate) mod error;
mod models;
mod patient;
mod ratelimit;
mod reply;
mod request;
pub(crate) mod server;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use moe2_engine::coordinator::Reply;
use moe2_model::TenantId;

pub(crate) use auth::bearer;
pub(crate) use error::ApiError;

use crate::handle::{EngineHandle, Submission};
use crate::records::Names;
use auth::KeyTable;
use error::RequestId;
use reply::Head;

/// Bounds on what a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Largest request body in bytes.
    pub max_body: usize,
    /// Most tokens of answer that may be asked for.
    pub max_output_tokens: u32,
    /// Longest a client may take to send its body.
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 1 << 20,
            max_output_tokens: 4_096,
            body_timeout: Duration::from_secs(30),
        }
    }
}

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// The way to the engine.
    pub engine: EngineHandle,
    /// Who may ask.
    pub keys: Arc<KeyTable>,
    /// What they may send.
    pub limits: Limits,
    /// When this process started; `created` of every model.
    pub started: SystemTime,
}

/// The two ways to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

impl Endpoint {
    /// The field that holds what is asked.
    const fn prompt_field(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Text => "prompt",
        }
    }
}

/// All routes of the public API, stamped and authenticated.
pub(crate) fn router(api: Api) -> Router {
    let keys = middleware::from_fn_with_state(Arc::clone(&api.keys), auth::require);
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(text))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/healthz", get(models::alive))
        .route("/readyz", get(models::ready))
        .layer(keys)
        .with_state(api);
    error::wrap(routes)
}

async fn chat(
    State(api): State<Api>,
    Extension(tenant): Extension<TenantId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(api, Endpoint::Chat, tenant, request).await
}

async fn text(
    State(api): State<Api>,
    Extension(tenant): Extension<TenantId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(api, Endpoint::Text, tenant, request).await
}

async fn answer(
    api: Api,
    endpoint: Endpoint,
    tenant: TenantId,
    request: Request,
) -> Result<Response, ApiError> {
    let asked_as = request.extensions().get::<RequestId>();
    let asked_as = asked_as.map_or_else(String::new, RequestId::text);
    let body = body::read(request, &api.limits).await?;
    let context = request::Context {
        tenant,
        limits: &api.limits,
        // The upper half is dropped on purpose: samplers take 32 bits.
        seed: random() as u32,
    };
    let parsed = request::parse(endpoint, &body, context)?;
    let head = Head {
        endpoint,
        id: reply::completion_id(endpoint, random(), random()),
        created: unix_seconds(SystemTime::now()),
        include_usage: parsed.include_usage,
        explain: parsed.explain,
    };
    let streamed = parsed.query.stream;
    let names = Names {
        id: head.id.clone(),
        request: asked_as,
    };
    let submission = api.engine.submit(parsed.query, names).await?;
    let room = submission.room();
    let answered = if streamed {
        stream::respond(submission, head).await
    } else {
        whole(submission, &head).await
    };
    // A refusal says what is left as well as an answer does.
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    if let Some(room) = room.get() {
        ratelimit::stamp(response.headers_mut(), room);
    }
    Ok(response)
}

/// Waits for the terminal reply; a stray delta of a query that is not streamed is part of its
/// answer's text anyway.
async fn whole(mut submission: Submission, head: &Head) -> Result<Response, ApiError> {
    while let Some(reply) = submission.next().await {
        match reply {
            Reply::Started { .. } | Reply::Delta(_) => {}
            Reply::Finished(answer) => {
                return Ok(Json(reply::completion(head, &answer)).into_response());
            }
            Reply::Refused(refusal) => {
                return Err(ApiError::from_refusal(
                    &refusal,
                    head.endpoint.prompt_field(),
                ));
            }
        }
    }
    Err(ApiError::shutting_down())
}

/// 64 bits that no other request has: the standard library's hash keys, drawn from the system once
/// per thread and counted on. Good for ids and default seeds; nothing secret is made from it.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
