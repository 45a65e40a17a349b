//! What can be asked, and whether anything can: `/v1/models`, `/healthz` and `/readyz`.
//!
//! Only experts that take work now are listed: a client that picks a model from the list expects
//! an answer from it. A deployment shows up twice, by model (any node) and as `model@node`.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use moe2_engine::coordinator::FleetView;
use serde::Serialize;

use super::error::ApiError;
use super::{Api, unix_seconds};

/// The name under which the router decides.
pub(super) const AUTO: &str = "auto";

#[derive(Debug, Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: &'static str,
}

pub(super) async fn list(State(api): State<Api>) -> Json<List> {
    let created = unix_seconds(api.started);
    let data = names(&api.engine.fleet())
        .into_iter()
        .map(|id| model(id, created))
        .collect();
    Json(List {
        object: "list",
        data,
    })
}

pub(super) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    if names(&api.engine.fleet()).contains(&id) {
        return Ok(Json(model(id, unix_seconds(api.started))));
    }
    let shown: String = id.chars().take(80).collect();
    Err(ApiError::model_not_found(format!(
        "The model {shown:?} is not available now; GET /v1/models lists those that are."
    )))
}

pub(super) async fn alive() -> Json<Health> {
    Json(Health { status: "ok" })
}

pub(super) async fn ready(State(api): State<Api>) -> Result<Json<Health>, ApiError> {
    if api.engine.fleet().active_experts().next().is_some() {
        return Ok(Json(Health { status: "ready" }));
    }
    Err(ApiError::no_expert(
        "No expert is ready and in the active set; start an agent with a model, wait until one has loaded, or see `moe2 plan`.",
    ))
}

fn model(id: String, created: u64) -> Model {
    Model {
        id,
        object: "model",
        created,
        owned_by: "moe2",
    }
}

/// `auto`, then models, then deployments, each sorted.
fn names(fleet: &FleetView) -> Vec<String> {
    let models: BTreeSet<_> = fleet.ready_experts().map(|e| e.id.name.clone()).collect();
    let deployments: BTreeSet<_> = fleet.ready_experts().map(|e| e.id.clone()).collect();
    std::iter::once(AUTO.to_owned())
        .chain(models.iter().map(ToString::to_string))
        .chain(deployments.iter().map(ToString::to_string))
        .collect()
}
