//! Download over HTTP(S), going on where an earlier download stopped.
//!
//! A server may ignore `Range` (200), honour it (206), or find it out of bounds (416). Only a 206
//! that says it starts exactly where the file ends is appended; everything else starts over. There
//! is no retry here: the partial file is kept, so running the command again is the retry.

use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::partial::Partial;
use crate::error::PullError;
use crate::progress::Progress;

/// Longest wait for a connection: a host that is up answers in a fraction of it.
const CONNECT: Duration = Duration::from_secs(20);
/// Longest silence of a server, before or inside the body.
const SILENCE: Duration = Duration::from_secs(60);

/// Completes `partial` from `url`.
pub(super) fn fetch(
    url: &str,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), PullError> {
    let agent = agent();
    let body = match ask(&agent, url, partial)? {
        Answer::Rest(body) => body,
        Answer::Whole(body) => {
            partial.restart()?;
            body
        }
        Answer::OutOfBounds => {
            partial.restart()?;
            match ask(&agent, url, partial)? {
                Answer::Whole(body) => body,
                _ => return Err(refused(url, StatusCode::RANGE_NOT_SATISFIABLE)),
            }
        }
    };
    check_length(url, &body, partial)?;
    progress.start(partial.want(), &format!("downloading {url}"));
    progress.advance(partial.have());
    let result = partial.append(url, &mut body.into_reader(), progress);
    progress.finish();
    result?;
    partial.complete(url)
}

enum Answer {
    /// The bytes after those already there.
    Rest(Body),
    /// All bytes.
    Whole(Body),
    /// The server has nothing after the bytes already there, or other bytes than asked for.
    OutOfBounds,
}

fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .user_agent(concat!("moe2/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

fn ask(agent: &Agent, url: &str, partial: &Partial) -> Result<Answer, PullError> {
    let have = partial.have();
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let unreachable = |error: ureq::Error| PullError::Http {
        url: url.to_owned(),
        reason: error.to_string(),
    };
    let response = request.call().map_err(unreachable)?;
    match response.status() {
        StatusCode::OK => Ok(Answer::Whole(response.into_body())),
        StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => {
            Ok(Answer::Rest(response.into_body()))
        }
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
            Ok(Answer::OutOfBounds)
        }
        status => Err(refused(url, status)),
    }
}

/// Whether `Content-Range: bytes FIRST-…` names the byte asked for.
fn starts_at(response: &Response<Body>, have: u64) -> bool {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let first = range
        .and_then(|range| range.trim().strip_prefix("bytes "))
        .and_then(|range| range.split_once('-'))
        .and_then(|(first, _)| first.trim().parse().ok());
    have > 0 && first == Some(have)
}

/// Refuses a body whose announced length cannot be the rest of the model, before reading it.
fn check_length(url: &str, body: &Body, partial: &Partial) -> Result<(), PullError> {
    let Some(length) = body.content_length() else {
        return Ok(());
    };
    let (what, want) = (url.to_owned(), partial.want());
    match partial.have().saturating_add(length) {
        total if total == want => Ok(()),
        total if total > want => Err(PullError::TooLarge {
            what,
            declared: want,
        }),
        total => Err(PullError::WrongSize {
            what,
            have: total,
            want,
        }),
    }
}

fn refused(url: &str, status: StatusCode) -> PullError {
    PullError::HttpStatus {
        url: url.to_owned(),
        status: status.as_u16(),
    }
}
