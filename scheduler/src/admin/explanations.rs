//! `/admin/v1/explanations`: how queries went.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::{Admin, given};
use crate::http::ApiError;
use crate::records::Records;

/// Records listed unless asked for otherwise, and at most.
const LISTED: (u32, u32) = (20, 1_000);

pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/admin/v1/explanations", get(list))
        .route("/admin/v1/explanations/{id}", get(one))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    tenant: Option<String>,
    limit: Option<u32>,
}

async fn list(
    State(admin): State<Admin>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let parameters = given(parameters)?;
    let most = parameters.limit.unwrap_or(LISTED.0).min(LISTED.1);
    let lines = read(admin, move |records| {
        records.list(parameters.tenant.as_deref(), most)
    });
    Ok(Json(json!({ "explanations": lines.await? })).into_response())
}

async fn one(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let asked = id.clone();
    let kept = read(admin, move |records| records.find(&asked)).await?;
    let none = || {
        let id: String = id.chars().take(80).collect();
        let why = format!(
            "nothing is recorded of {id}: give the id of an answer (chatcmpl-…) or its x-request-id; old records make room for new ones (explanations_mb)"
        );
        ApiError::invalid(StatusCode::NOT_FOUND, why)
    };
    Ok(Json(kept.ok_or_else(none)?).into_response())
}

async fn read<T: Send + 'static>(
    admin: Admin,
    work: impl FnOnce(&Records) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let Some(records) = admin.records else {
        let why = "nothing is recorded: set explanations_mb in the coordinator's configuration";
        return Err(ApiError::invalid(StatusCode::NOT_FOUND, why));
    };
    match tokio::task::spawn_blocking(move || work(&records)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::error!(%error, "the records cannot be read");
            Err(ApiError::internal())
        }
        Err(_) => Err(ApiError::internal()),
    }
}
