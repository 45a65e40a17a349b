//! `x-ratelimit-*`: what is left of a tenant's limits, as OpenAI's clients read it, and the same for joules.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use moe2_engine::coordinator::{Left, Room};

/// Writes a header for each limit that there is.
pub(super) fn stamp(headers: &mut HeaderMap, room: &Room) {
    for (what, left) in [
        ("requests", &room.requests),
        ("tokens", &room.tokens),
        ("joules", &room.joules),
    ] {
        let Some(Left {
            limit,
            left,
            resets_in,
        }) = left
        else {
            continue;
        };
        let whole = |amount: f64| {
            if what == "joules" {
                format!("{amount:.3}")
            } else {
                format!("{amount:.0}")
            }
        };
        for (name, value) in [
            ("limit", whole(*limit)),
            ("remaining", whole(*left)),
            ("reset", duration(*resets_in)),
        ] {
            let name = format!("x-ratelimit-{name}-{what}");
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                headers.insert(name, value);
            }
        }
    }
}

/// `1s`, `6m0s`, `23h59m1s`, as OpenAI writes it.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_headers_and_others_none() {
        let left = |limit: f64, left: f64, seconds| {
            Some(Left {
                limit,
                left,
                resets_in: Duration::from_secs(seconds),
            })
        };
        let room = Room {
            requests: left(60.0, 59.0, 1),
            tokens: None,
            joules: left(20_000.0, 12.34567, 86_341),
            windows: Vec::new(),
        };
        let mut headers = HeaderMap::new();
        stamp(&mut headers, &room);
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        assert_eq!(text("x-ratelimit-remaining-requests"), Some("59"));
        assert_eq!(text("x-ratelimit-reset-requests"), Some("1s"));
        assert_eq!(text("x-ratelimit-remaining-joules"), Some("12.346"));
        assert_eq!(text("x-ratelimit-reset-joules"), Some("23h59m1s"));
        assert_eq!(text("x-ratelimit-limit-tokens"), None);
        assert_eq!(duration(Duration::from_secs(360)), "6m0s");
    }
}
