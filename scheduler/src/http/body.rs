//! Reads a request body within its limits.
//!
//! A client that sends too much or too slowly costs a bounded amount of memory and time: the limit
//! is enforced while bytes arrive, and a deadline runs over the whole body rather than between
//! chunks, which a patient sender of single bytes would never meet.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{StatusCode, header};

use super::Limits;
use super::error::ApiError;

/// The body of a JSON request.
pub(super) async fn read(mut request: Request, limits: &Limits) -> Result<Bytes, ApiError> {
    if !is_json(&request) {
        let message = "Send the request as JSON, with `Content-Type: application/json`.";
        return Err(ApiError::invalid(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            message,
        ));
    }
    DefaultBodyLimit::max(limits.max_body).apply(&mut request);
    let reading = Bytes::from_request(request, &());
    match tokio::time::timeout(limits.body_timeout, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!(
                "The request body is larger than {} bytes; send less text.",
                limits.max_body
            );
            Err(ApiError::invalid(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(_)) => Err(ApiError::invalid(
            StatusCode::BAD_REQUEST,
            "The request body broke off before its end; send it again.",
        )),
        Err(_) => {
            let message = format!(
                "The request body did not arrive within {} s; send it faster or make it smaller.",
                limits.body_timeout.as_secs()
            );
            Err(ApiError::invalid(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

fn is_json(request: &Request) -> bool {
    let essence = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    essence.is_some_and(|essence| {
        let essence = essence.to_ascii_lowercase();
        essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}
