//! Durations as people write them: a number with `ms`, `s`, `m`, `h` or `d`.

use std::time::Duration;

use anyhow::bail;

/// Longest accepted: clocks and deadlines stay far from overflow.
const LONGEST: f64 = 365.0 * 86_400.0;

/// `250ms`, `1.5s`, `15m`, `1h`, `2d`.
///
/// # Errors
/// What to write instead.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => bail!("use a number with ms, s, m, h or d, e.g. 10s"),
    };
    let Ok(number) = number.parse::<f64>() else {
        bail!("use a number with ms, s, m, h or d, e.g. 10s")
    };
    let seconds = number * factor;
    if seconds > LONGEST {
        bail!("at most a year");
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn a_duration_has_a_unit() {
        let millis = |text| duration(text).ok().map(|d| d.as_millis());
        assert_eq!(millis("15m"), Some(900_000));
        assert_eq!(millis("1.5s"), Some(1_500));
        assert_eq!(millis("250ms"), Some(250));
        for bad in ["", "h", "10", "1w", "-1h", "é", "1.2.3s", "999999999d"] {
            assert!(duration(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
