//! Errors as OpenAI clients read them: one envelope, one table from refusals to statuses.
//!
//! The official SDKs retry on 408, 409, 429 and 5xx unless `x-should-retry` says otherwise, so the
//! status and the retry headers decide how a fleet in trouble is loaded; they are chosen here and
//! nowhere else. [`wrap`] also turns the bare responses of the router (404, 405, rejected paths)
//! into the envelope, so that a merged router cannot forget to.

use std::fmt;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use moe2_engine::coordinator::Refusal;
use moe2_model::RefusalKind;
use serde::Serialize;
use serde_json::{Value, json};

use crate::handle::ShuttingDown;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Longest client-given request id that is taken over.
const MAX_REQUEST_ID: usize = 128;
/// When nothing better is known: about the time in which a lost node is replaced or has rejoined.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// OpenAI's `type` for what the client did wrong.
const INVALID: &str = "invalid_request_error";
/// OpenAI's `type` for what the client could not help.
const SERVER: &str = "server_error";

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// The envelope's `type`.
    pub kind: &'static str,
    /// The envelope's `code`.
    pub code: Option<&'static str>,
    /// The request field at fault.
    pub param: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
    /// Overrides what SDKs would do for the status.
    pub should_retry: Option<bool>,
    /// More for programs, under the envelope's `moe2`.
    pub extra: Option<Box<Value>>,
}

impl ApiError {
    /// An error with nothing but a status, a `type` and a message.
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
            retry_after: None,
            should_retry: None,
            extra: None,
        }
    }

    /// The client's mistake, with this status.
    pub(crate) fn invalid(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, INVALID, message)
    }

    /// 400, naming the field at fault if there is one.
    pub(crate) fn bad_request(param: Option<&str>, message: impl Into<String>) -> Self {
        let mut error = Self::invalid(StatusCode::BAD_REQUEST, message);
        error.param = param.map(str::to_owned);
        error
    }

    /// 401 `invalid_api_key`; the key itself is never repeated.
    pub(crate) fn unauthorised() -> Self {
        let message = "The API key is missing or not known; send `Authorization: Bearer YOUR_KEY`, \
                       with a key from the operator.";
        Self::invalid(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key")
    }

    /// 500 for what the client can neither cause nor mend; the log says more.
    pub(crate) fn internal() -> Self {
        let message = "The coordinator failed; its log says why. Trying again may help.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message).with_code("internal_error")
    }

    /// 404 `model_not_found`.
    pub(crate) fn model_not_found(message: impl Into<String>) -> Self {
        let mut error = Self::invalid(StatusCode::NOT_FOUND, message).with_code("model_not_found");
        error.param = Some("model".to_owned());
        error
    }

    /// 503 `no_expert_available`.
    pub(crate) fn no_expert(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message)
            .with_code("no_expert_available");
        error.retry_after = Some(RETRY_AFTER);
        error
    }

    /// 503 while the process goes down.
    pub(crate) fn shutting_down() -> Self {
        let message = "The coordinator is shutting down; try again in a moment.";
        let mut error =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message).with_code("shutting_down");
        error.retry_after = Some(RETRY_AFTER);
        error
    }

    /// 503 where there are as many connections as may be.
    pub(crate) fn too_many_connections() -> Self {
        let message =
            "The coordinator has as many connections as it may have; try again in a moment.";
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message)
            .with_code("too_many_connections");
        error.retry_after = Some(RETRY_AFTER);
        error
    }

    /// The same with a `code`.
    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// What the engine refused, as HTTP says it; `prompt_field` is where the prompt came from.
    pub(crate) fn from_refusal(refusal: &Refusal, prompt_field: &str) -> Self {
        let (status, kind, code, param) = match refusal.kind {
            RefusalKind::UnknownModel => (404, INVALID, "model_not_found", Some("model")),
            RefusalKind::NoExpert => (503, SERVER, "no_expert_available", None),
            RefusalKind::BudgetInfeasible => (422, INVALID, "budget_infeasible", Some("moe2")),
            RefusalKind::Overloaded => (429, "rate_limit_error", "rate_limit_exceeded", None),
            RefusalKind::NotAllowed => (403, "permission_error", "not_allowed", None),
            RefusalKind::QualityInfeasible => (422, INVALID, "quality_infeasible", None),
            RefusalKind::BooksClosed => (503, SERVER, "ledger_unavailable", None),
            RefusalKind::RateLimited => (429, "rate_limit_error", "rate_limit_exceeded", None),
            RefusalKind::QuotaExhausted => (429, "insufficient_quota", "insufficient_quota", None),
            RefusalKind::ContextTooLong => {
                (400, INVALID, "context_length_exceeded", Some(prompt_field))
            }
            RefusalKind::LostMidStream => (502, SERVER, "lost_mid_stream", None),
            RefusalKind::ExpertFailed => (502, SERVER, "expert_failed", None),
            RefusalKind::DeadlineExceeded => (408, "timeout_error", "deadline_exceeded", None),
        };
        let status = StatusCode::from_u16(status).expect("the table above has valid statuses");
        let mut error = Self::new(status, kind, refusal.message.clone()).with_code(code);
        error.param = param.map(str::to_owned);
        match refusal.kind {
            // Waiting helps only where it is said how long.
            RefusalKind::RateLimited if refusal.retry_after.is_none() => {
                error.should_retry = Some(false);
            }
            RefusalKind::QuotaExhausted => {
                error.should_retry = Some(false);
                error.extra = Some(Box::new(json!({
                    "resets_in_s": refusal.retry_after.map(|wait| wait.as_secs()),
                })));
            }
            RefusalKind::NoExpert
            | RefusalKind::Overloaded
            | RefusalKind::RateLimited
            | RefusalKind::BooksClosed => {
                error.retry_after = Some(refusal.retry_after.unwrap_or(RETRY_AFTER));
            }
            // A second try would spend the same budget on the same disappointment.
            RefusalKind::DeadlineExceeded => error.should_retry = Some(false),
            RefusalKind::BudgetInfeasible => {
                error.extra = Some(Box::new(json!({
                    "smallest_delay_ms": refusal.smallest.delay.map(|s| s.get() * 1_000.0),
                    "smallest_first_token_ms": refusal.smallest.first_token.map(|s| s.get() * 1_000.0),
                    "smallest_energy_j": refusal.smallest.energy.map(|j| j.get()),
                })));
            }
            _ => error.retry_after = refusal.retry_after,
        }
        error
    }

    /// `{"error":{…}}`.
    pub(crate) fn envelope(&self) -> String {
        let envelope = Envelope {
            error: Inner {
                message: &self.message,
                kind: self.kind,
                param: self.param.as_deref(),
                code: self.code,
                moe2: self.extra.as_deref(),
            },
        };
        serde_json::to_string(&envelope).expect("strings and JSON values can be written as JSON")
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moe2: Option<&'a Value>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<ShuttingDown> for ApiError {
    fn from(_: ShuttingDown) -> Self {
        Self::shutting_down()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (
            self.status,
            [(header::CONTENT_TYPE, "application/json")],
            self.envelope(),
        )
            .into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds are rounded up: coming back too early only meets the same refusal.
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, millis.div_ceil(1_000).into());
            headers.insert(RETRY_AFTER_MS, millis.into());
        }
        if let Some(retry) = self.should_retry {
            let value = if retry { "true" } else { "false" };
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(value));
        }
        response
    }
}

/// Puts `x-request-id` and `openai-processing-ms` on every response, and every error that is not
/// JSON yet into the envelope. Wrapping twice does no harm.
pub(crate) fn wrap(router: Router) -> Router {
    router.layer(middleware::from_fn(stamp))
}

/// What the reply's `x-request-id` will be.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    pub(super) fn text(&self) -> String {
        self.0.to_str().unwrap_or_default().to_owned()
    }
}

async fn stamp(mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(120).collect();
    let has_body = !request.body().is_end_stream();
    let mut response = next.run(request).await;
    let by_router = needs_envelope(&response);
    if by_router {
        response = enveloped(&response, method.as_str(), &path);
    }
    if has_body && (by_router || leaves_body_unread(response.status())) {
        // The server closes the connection behind such a response; unsaid, a client that keeps its
        // connections would send the next request into it.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    tracing::debug!(request_id = ?id, %method, path, status, millis, "request answered");
    let headers = response.headers_mut();
    headers.entry(REQUEST_ID).or_insert(id);
    headers
        .entry(PROCESSING_MS)
        .or_insert_with(|| millis.into());
    response
}

/// The client's own id if it is fit to be logged and echoed, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fit = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    headers
        .get(REQUEST_ID)
        .filter(fit)
        .cloned()
        .unwrap_or_else(|| {
            let id = format!("req_{:016x}{:016x}", super::random(), super::random());
            HeaderValue::from_str(&id).expect("hexadecimal digits are visible ASCII")
        })
}

/// Refusals made before the body was read to its end.
fn leaves_body_unread(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
    )
}

fn needs_envelope(response: &Response) -> bool {
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    (response.status().is_client_error() || response.status().is_server_error()) && !json
}

fn enveloped(bare: &Response, method: &str, path: &str) -> Response {
    let status = bare.status();
    let allow = bare.headers().get(header::ALLOW);
    let message = match status {
        StatusCode::NOT_FOUND => {
            format!("There is nothing at {path}; the API's paths begin with /v1/.")
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let use_instead = allow
                .and_then(|a| a.to_str().ok())
                .unwrap_or("another method");
            format!("{method} is not allowed at {path}; use {use_instead}.")
        }
        _ => status
            .canonical_reason()
            .unwrap_or("The request failed")
            .to_owned(),
    };
    let kind = if status.is_server_error() {
        SERVER
    } else {
        INVALID
    };
    let mut response = ApiError::new(status, kind, message).into_response();
    for (name, value) in bare.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}
