//! What only the operator may do, behind a credential of its own.
//!
//! `GET /admin/v1/fleet`, `POST /admin/v1/fleet/{node}/revoke`, `GET /admin/v1/plan`, `POST /admin/v1/join-tokens`, `GET /metrics`. Errors have the same envelope as
//! the rest of the API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use moe2_metrics::Metrics;
use moe2_model::NodeId;
use moe2_net::{JoinToken, constant_time_eq, hash_secret};
use serde::Deserialize;
use serde_json::json;

use crate::handle::{EngineHandle, Planning};
use crate::http::{ApiError, bearer};
use crate::join::Registrar;
use crate::records::Records;
use crate::roster::Roster;
use crate::state;
use crate::store::NewToken;

mod explanations;
mod tenants;

/// Longest life of a join token: for machines that are set up days before they are connected.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What the admin routes need.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) engine: EngineHandle,
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) metrics: Metrics,
    pub(crate) key_sha256: [u8; 32],
    /// Where agents dial, `host:port`.
    pub(crate) advertise: String,
    pub(crate) roster: Arc<Roster>,
    /// The books.
    pub(crate) database: PathBuf,
    /// How queries went, if that is recorded.
    pub(crate) records: Option<Records>,
}

/// The operator's routes.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/admin/v1/fleet", get(fleet))
        .route("/admin/v1/fleet/{node}/revoke", post(revoke))
        .route("/admin/v1/plan", get(plan))
        .route("/admin/v1/plan/instance", get(plan_instance))
        .route("/admin/v1/join-tokens", post(create_token))
        .merge(explanations::router())
        .merge(tenants::router())
        .route("/metrics", get(metrics))
        .route_layer(from_fn_with_state(admin.clone(), authorise))
        .with_state(admin)
}

async fn authorise(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let given = bearer(request.headers()).map(state::hash);
    if given.is_some_and(|hash| constant_time_eq(&hash, &admin.key_sha256)) {
        next.run(request).await
    } else {
        ApiError::unauthorised().into_response()
    }
}

/// A route's parameters, or what is wrong with them.
fn given<T>(parameters: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    let Query(parameters) =
        parameters.map_err(|error| ApiError::bad_request(None, error.body_text()))?;
    Ok(parameters)
}

async fn fleet(State(admin): State<Admin>) -> Response {
    Json(admin.engine.fleet().as_ref()).into_response()
}

/// Takes a node's certificates and unused join tokens back.
async fn revoke(State(admin): State<Admin>, Path(node): Path<String>) -> Response {
    let Ok(node) = NodeId::new(&node) else {
        return ApiError::bad_request(Some("node"), "this is no node's name").into_response();
    };
    let named = node.clone();
    let taken = tokio::task::spawn_blocking(move || admin.registrar.revoke(&named)).await;
    match taken {
        Ok(Ok(Some(taken))) => {
            let (certificates, tokens) = (taken.serials.len(), taken.tokens);
            tracing::info!(%node, certificates, tokens, "revoked");
            let taken = json!({ "node": node, "certificates": certificates, "tokens": tokens });
            Json(taken).into_response()
        }
        Ok(Ok(None)) => {
            let message = format!(
                "the node `{node}` has never joined; GET /admin/v1/fleet lists those that are there"
            );
            ApiError::invalid(StatusCode::NOT_FOUND, message).into_response()
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "nothing was revoked");
            ApiError::internal().into_response()
        }
        Err(_) => ApiError::internal().into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanQuery {
    /// Also find what would bring dropped experts in; takes further solves.
    #[serde(default)]
    explain: bool,
}

/// Longest that finding what would bring dropped experts in may take.
const EXPLAIN_TIME: Duration = Duration::from_secs(20);

async fn plan(
    State(admin): State<Admin>,
    query: Result<Query<PlanQuery>, QueryRejection>,
) -> Response {
    let query = match given(query) {
        Ok(query) => query,
        Err(error) => return error.into_response(),
    };
    let Planning { plan, generation } = admin.engine.planning();
    let Some(plan) = plan else {
        return no_plan().into_response();
    };
    let mut view = plan.view();
    view.superseded = generation != view.generation;
    let fleet = admin.engine.fleet();
    view.active = fleet.active_experts().map(|e| e.id.clone()).collect();
    if query.explain && view.infeasible.is_none() {
        let began = Instant::now();
        let mut stop = move || began.elapsed() > EXPLAIN_TIME;
        let found = tokio::task::spawn_blocking(move || plan.admissions(&mut stop)).await;
        match found {
            Ok(Ok(admissions)) => view.admissions = admissions,
            Ok(Err(error)) => {
                tracing::error!(%error, "what would bring experts in was not found");
                return ApiError::internal().into_response();
            }
            Err(_) => return ApiError::internal().into_response(),
        }
    }
    Json(view).into_response()
}

/// The selection problem of the last plan as a file for `moe2 solve`.
async fn plan_instance(State(admin): State<Admin>) -> Response {
    let Some(plan) = admin.engine.planning().plan else {
        return no_plan().into_response();
    };
    let mut headers = HeaderMap::new();
    let kind = header::HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, kind);
    (headers, moe2_solve::write_instance(&plan.request.problem)).into_response()
}

fn no_plan() -> ApiError {
    let message = "there is no plan: no expert is ready";
    ApiError::invalid(StatusCode::NOT_FOUND, message)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.encode() {
        Ok(text) => {
            let mut headers = HeaderMap::new();
            let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, kind);
            (headers, text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            ApiError::internal().into_response()
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    node: NodeId,
    ttl_seconds: u64,
}

async fn create_token(State(admin): State<Admin>, body: axum::body::Bytes) -> Response {
    let request: TokenRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return ApiError::bad_request(None, error.to_string()).into_response(),
    };
    let ttl = Duration::from_secs(request.ttl_seconds);
    if ttl.is_zero() || ttl > MAX_TTL {
        let why = format!("ttl_seconds must be from 1 to {}", MAX_TTL.as_secs());
        return ApiError::bad_request(Some("ttl_seconds"), why).into_response();
    }
    let made = tokio::task::spawn_blocking(move || {
        let token = JoinToken::generate(admin.registrar.authority.ca_sha256());
        let expires_at = SystemTime::now() + ttl;
        let stored = NewToken {
            id: token.id.clone(),
            secret_sha256: hash_secret(token.secret()),
            node: request.node.clone(),
            expires_at,
        };
        admin.registrar.store.add_token(&stored)?;
        tracing::info!(node = %request.node, id = token.id, "join token made");
        let expires = expires_at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Ok::<_, rusqlite::Error>(json!({
            "token": token.to_string(),
            "node": request.node,
            "coordinator": admin.advertise,
            "expires_at": expires,
        }))
    });
    match made.await {
        Ok(Ok(token)) => (StatusCode::CREATED, Json(token)).into_response(),
        Ok(Err(error)) => {
            tracing::error!(%error, "the join token was not stored");
            ApiError::internal().into_response()
        }
        Err(_) => ApiError::internal().into_response(),
    }
}
