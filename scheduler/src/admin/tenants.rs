//! `/admin/v1/tenants`, `/admin/v1/usage`, `/admin/v1/audit`: who may ask, within what, and what was used.

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use moe2_engine::coordinator::{Input, Room};
use moe2_model::TenantId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, given};
use crate::books::{self, TenantError, UsageQuery, usage};
use crate::config::{Settings, Tenant};
use crate::http::ApiError;
use crate::roster::{Member, Roster};
use crate::state;

/// Lines of the audit that are shown.
const AUDIT: u32 = 1_000;
/// The admin API has one credential, whose bearer is this.
const WHO: &str = "admin";

pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/admin/v1/tenants", get(list).post(add))
        .route(
            "/admin/v1/tenants/{name}",
            get(show).put(set).delete(remove),
        )
        .route("/admin/v1/tenants/{name}/rotate-key", post(rotate))
        .route("/admin/v1/usage", get(used))
        .route("/admin/v1/audit", get(audit))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: TenantId,
    #[serde(default)]
    settings: Settings,
}

async fn list(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let mut all = Vec::new();
    for member in admin.roster.members() {
        all.push(shown(&admin, member).await?);
    }
    Ok(Json(json!({ "tenants": all })).into_response())
}

async fn shown(admin: &Admin, member: Member) -> Result<Value, ApiError> {
    let standing = admin.engine.standing(member.name.clone()).await;
    let standing = standing.map_err(|_| ApiError::shutting_down())?;
    Ok(json!({
        "name": member.name, "settings": member.settings, "changeable": member.changeable,
        "left": left(&standing.room), "prices": standing.prices,
    }))
}

/// What is left of each limit, in words of the API.
fn left(room: &Room) -> Value {
    let of = |left: &moe2_engine::coordinator::Left| json!({"limit": left.limit, "left": left.left, "resets_in_s": left.resets_in.as_secs()});
    let windows = room.windows.iter().map(|(window, left)| {
        let mut value = of(left);
        value["per"] = json!(window.per);
        value["rolling"] = json!(window.rolling);
        value["soft"] = json!(window.soft);
        value
    });
    json!({
        "requests": room.requests.as_ref().map(of), "tokens": room.tokens.as_ref().map(of),
        "joules": windows.collect::<Vec<_>>(),
    })
}

async fn show(
    State(admin): State<Admin>,
    Path(name): Path<TenantId>,
) -> Result<Response, ApiError> {
    let member = admin.roster.members().into_iter().find(|m| m.name == name);
    let member = member.ok_or_else(|| unknown(&name))?;
    Ok(Json(shown(&admin, member).await?).into_response())
}

async fn add(State(admin): State<Admin>, body: Bytes) -> Result<Response, ApiError> {
    let New { name, settings } = parse(&body)?;
    sound(&settings)?;
    let key = key()?;
    let stored = Tenant {
        name: name.clone(),
        key_sha256: state::hash(&key),
        settings,
    };
    change(&admin, move |roster, now| {
        roster.may_change(&stored.name, Some(stored.key_sha256))?;
        roster.tenants.add(&stored, WHO, now)
    })
    .await?;
    tracing::info!(tenant = %name, "tenant added");
    let made = json!({"name": name, "key": key, "note": "the key is shown this once"});
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn set(
    State(admin): State<Admin>,
    Path(name): Path<TenantId>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let settings: Settings = parse(&body)?;
    sound(&settings)?;
    let tenant = name.clone();
    let shown = json!({"name": name, "settings": settings});
    change(&admin, move |roster, now| {
        roster.may_change(&tenant, None)?;
        roster.tenants.set(&tenant, &settings, WHO, now)
    })
    .await?;
    tracing::info!(tenant = %name, "tenant changed");
    Ok(Json(shown).into_response())
}

async fn rotate(
    State(admin): State<Admin>,
    Path(name): Path<TenantId>,
) -> Result<Response, ApiError> {
    let key = key()?;
    let (tenant, hash) = (name.clone(), state::hash(&key));
    change(&admin, move |roster, now| {
        roster.may_change(&tenant, Some(hash))?;
        roster.tenants.rotate(&tenant, hash, WHO, now)
    })
    .await?;
    tracing::info!(tenant = %name, "a tenant's key was changed");
    Ok(
        Json(json!({"name": name, "key": key, "note": "the key is shown this once"}))
            .into_response(),
    )
}

async fn remove(
    State(admin): State<Admin>,
    Path(name): Path<TenantId>,
) -> Result<Response, ApiError> {
    let tenant = name.clone();
    change(&admin, move |roster, now| {
        roster.may_change(&tenant, None)?;
        roster.tenants.remove(&tenant, WHO, now)
    })
    .await?;
    tracing::info!(tenant = %name, "tenant removed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn audit(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let lines = blocking(move || admin.roster.tenants.audit(AUDIT)).await?;
    Ok(Json(json!({ "audit": lines })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageParameters {
    #[serde(default)]
    by: Option<String>,
    tenant: Option<String>,
    since: Option<u64>,
    until: Option<u64>,
    #[serde(default)]
    format: Option<String>,
}

async fn used(
    State(admin): State<Admin>,
    parameters: Result<Query<UsageParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let parameters = given(parameters)?;
    let by = parameters.by.unwrap_or_else(|| "tenant".to_owned());
    let group = serde_json::from_value(json!(by)).map_err(|_| {
        let why = "by: one of tenant, expert, day, source";
        ApiError::bad_request(Some("by"), why)
    })?;
    let query = UsageQuery {
        by: group,
        tenant: parameters.tenant,
        since: parameters.since,
        until: parameters.until,
    };
    let lines = blocking(move || Ok(usage(&admin.database, &query)?)).await?;
    match parameters.format.as_deref() {
        None | Some("json") => Ok(Json(json!({"by": group, "usage": lines})).into_response()),
        Some("csv") => {
            let mut text = format!(
                "{by},queries,dispatches,prompt_tokens,output_tokens,energy_j,reserved_j,over_j,busy_s,error_j,source\n"
            );
            for l in lines {
                text += &format!(
                    "{},{},{},{},{},{},{},{},{},{},{}\n",
                    l.key,
                    l.queries,
                    l.dispatches,
                    l.prompt_tokens,
                    l.output_tokens,
                    l.energy_j,
                    l.reserved_j,
                    l.over_j,
                    l.busy_s,
                    l.error_j,
                    l.source
                );
            }
            Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response())
        }
        Some(_) => Err(ApiError::bad_request(Some("format"), "format: json or csv")),
    }
}

fn parse<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))
}

fn wrong(why: &str) -> ApiError {
    ApiError::bad_request(None, why)
}

/// All that is wrong with settings, in one refusal.
fn sound(settings: &Settings) -> Result<(), ApiError> {
    let faults = settings.faults();
    if faults.is_empty() {
        return Ok(());
    }
    let faults: Vec<String> = faults.iter().map(|(k, why)| format!("{k} {why}")).collect();
    Err(wrong(&faults.join("; ")))
}

fn unknown(name: &TenantId) -> ApiError {
    ApiError::invalid(StatusCode::NOT_FOUND, format!("there is no tenant {name}"))
}

/// A fresh API key.
fn key() -> Result<String, ApiError> {
    state::fresh_key().map_err(|error| {
        tracing::error!(%error, "no key was made");
        ApiError::internal()
    })
}

/// Makes a change durable, then has it hold for budgets and keys. In a task of its own: a client that leaves
/// must not end it half-way.
async fn change(
    admin: &Admin,
    make: impl FnOnce(&Roster, u64) -> Result<(), TenantError> + Send + 'static,
) -> Result<(), ApiError> {
    let (roster, engine) = (admin.roster.clone(), admin.engine.clone());
    let changed = tokio::spawn(async move {
        let _changing = roster.changing.lock().await;
        let own = roster.clone();
        let members = blocking(move || {
            make(&own, books::now().0)?;
            own.reread()
        });
        let members = members.await?;
        let limits = Input::Tenants(members.limits());
        let put = roster.put(&engine, limits, members).await;
        put.map_err(|_| ApiError::shutting_down())
    });
    changed.await.unwrap_or_else(|_| Err(ApiError::internal()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TenantError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error @ (TenantError::Exists | TenantError::Fixed(_) | TenantError::KeyTaken))) => {
            Err(ApiError::invalid(StatusCode::CONFLICT, error.to_string()))
        }
        Ok(Err(error @ TenantError::Unknown)) => {
            Err(ApiError::invalid(StatusCode::NOT_FOUND, error.to_string()))
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "the books cannot be read or written");
            Err(ApiError::internal())
        }
        Err(_) => Err(ApiError::internal()),
    }
}
