//! What a lost connection means, read from QUIC's error codes.
//!
//! A TLS alert travels as a number in the connection's closing frame. Which side raised it decides
//! whose certificate is at fault, so both ways are kept apart. Text that a peer sent is cut and
//! stripped of control characters before it reaches a log or a terminal.

use quinn::{ConnectionError, TransportErrorCode};
use rustls::AlertDescription;

use crate::transport::CODE_REVOKED;

/// QUIC's code for a TLS alert is this plus the alert (RFC 9001, section 4.8).
const CRYPTO_ERROR: u64 = 0x100;
/// What a revoked agent is told.
pub(crate) const REVOKED: &str = "this node's certificate was revoked";
/// Longest text of a peer that is passed on, in characters.
const MAX_REASON: usize = 200;

/// Why a connection failed or ended.
pub(crate) enum Failure {
    /// Nothing was heard.
    Silent,
    /// No common application protocol or QUIC version.
    OtherVersion,
    /// The peer would not take our certificate, or something else of ours.
    TheirAlert(AlertDescription),
    /// We would not take the peer's certificate, or something else of theirs.
    OurAlert(AlertDescription),
    /// The peer takes no new connections now.
    Busy,
    /// Our certificate was revoked.
    Revoked,
    /// The peer's program closed the connection and said why.
    Closed(String),
    /// Anything else, described.
    Other(String),
}

pub(crate) fn classify(error: &ConnectionError) -> Failure {
    match error {
        ConnectionError::TimedOut => Failure::Silent,
        ConnectionError::VersionMismatch => Failure::OtherVersion,
        ConnectionError::TransportError(e) => match alert(e.code) {
            Some(AlertDescription::NoApplicationProtocol) => Failure::OtherVersion,
            Some(alert) => Failure::OurAlert(alert),
            None => Failure::Other(printable(&e.to_string())),
        },
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(AlertDescription::NoApplicationProtocol) => Failure::OtherVersion,
            Some(alert) => Failure::TheirAlert(alert),
            None if close.error_code == TransportErrorCode::CONNECTION_REFUSED => Failure::Busy,
            None => Failure::Other(printable(&close.to_string())),
        },
        ConnectionError::ApplicationClosed(close) if close.error_code == CODE_REVOKED => {
            Failure::Revoked
        }
        ConnectionError::ApplicationClosed(close) => {
            Failure::Closed(printable(&String::from_utf8_lossy(&close.reason)))
        }
        other => Failure::Other(other.to_string()),
    }
}

fn alert(code: TransportErrorCode) -> Option<AlertDescription> {
    let alert = u64::from(code).checked_sub(CRYPTO_ERROR)?;
    Some(AlertDescription::from(u8::try_from(alert).ok()?))
}

/// One line for a log.
pub(crate) fn describe(error: &ConnectionError) -> String {
    match classify(error) {
        Failure::Silent => "nothing was heard from the peer any more".to_owned(),
        Failure::OtherVersion => "the peer speaks another protocol version".to_owned(),
        Failure::TheirAlert(alert) => format!("the peer refused the handshake ({alert:?})"),
        Failure::OurAlert(_) => printable(&error.to_string()),
        Failure::Busy => "the peer takes no new connections now".to_owned(),
        Failure::Revoked => REVOKED.to_owned(),
        Failure::Closed(reason) if reason.is_empty() => "the peer went away".to_owned(),
        Failure::Closed(reason) => format!("the peer closed the connection: {reason}"),
        Failure::Other(text) => text,
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_REASON)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_peer_is_cut_and_has_no_control_characters() {
        let text = printable(&"\u{1b}[2J\n".repeat(1000));
        assert_eq!(text.chars().count(), MAX_REASON);
        assert!(!text.chars().any(char::is_control));
    }
}
