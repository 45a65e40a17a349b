//! A small plot for terminals: value and bound closing in on each other over time.

/// Columns and rows of the plot without its axes.
const WIDTH: usize = 56;
const HEIGHT: usize = 8;

/// Left end of the time axis at the earliest, in seconds.
const SOONEST: f64 = 1e-6;

/// Relative movement below which there is nothing to see.
const VISIBLE: f64 = 1e-6;

/// One moment of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moment {
    pub(crate) seconds: f64,
    pub(crate) objective: f64,
    pub(crate) bound: f64,
}

/// The plot, or nothing if nothing moved. The time axis is logarithmic: most of a proof is made early.
pub(crate) fn plot(moments: &[Moment]) -> Option<String> {
    let (first, last) = (moments.first()?, moments.last()?);
    let visible = VISIBLE * last.bound.abs();
    let moved = last.objective - first.objective > visible || first.bound - last.bound > visible;
    if !moved || last.seconds <= first.seconds {
        return None;
    }
    // The first bounds are far off and would flatten the rest.
    let spread = (last.bound - last.objective).max(last.objective - first.objective);
    let margin = 3.0 * spread.max(0.002 * last.bound.abs());
    let high = first.bound.min(last.bound + margin);
    let low = first.objective.max(last.objective - margin);
    let row = |value: f64| {
        let part = ((high - value) / (high - low).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
        (part * (HEIGHT - 1) as f64).round() as usize
    };
    let began = first
        .seconds
        .clamp(SOONEST, (last.seconds / 2.0).max(SOONEST));
    let span = (last.seconds / began).max(1.0 + 1e-9).ln();
    let columns = (0..WIDTH).map(|column| {
        let part = column as f64 / (WIDTH - 1) as f64;
        let now = began * (span * part).exp();
        let at = moments.partition_point(|m| m.seconds <= now).max(1);
        (row(moments[at - 1].bound), row(moments[at - 1].objective))
    });
    let columns: Vec<(usize, usize)> = columns.collect();
    let cell = |at: usize, (bound, objective): (usize, usize)| match (at == bound, at == objective)
    {
        (true, true) => '=',
        (true, false) => '▔',
        (false, true) => '▁',
        (false, false) => ' ',
    };
    let mut lines = Vec::new();
    for at in 0..HEIGHT {
        let label = match at {
            0 => format!("{high:.5}"),
            _ if at == HEIGHT - 1 => format!("{low:.5}"),
            _ => String::new(),
        };
        let line: String = columns.iter().map(|&column| cell(at, column)).collect();
        lines.push(format!("{label:>10} │{}", line.trim_end()));
    }
    lines.push(format!("{:>10} └{}", "", "─".repeat(WIDTH)));
    let end = seconds(last.seconds);
    let start = seconds(began);
    let gap = WIDTH.saturating_sub(start.chars().count() + end.chars().count());
    lines.push(format!("{:>11} {start}{}{end}", "", " ".repeat(gap)));
    lines.push(format!("{:>11} ▔ bound   ▁ best set   = both", ""));
    Some(lines.join("\n"))
}

/// A time in a unit that leaves it at least one digit.
fn seconds(value: f64) -> String {
    match value {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(seconds: f64, objective: f64, bound: f64) -> Moment {
        Moment {
            seconds,
            objective,
            bound,
        }
    }

    #[test]
    fn value_and_bound_meet_at_the_right() {
        let moments = [
            moment(0.001, 0.5, 1.0),
            moment(0.01, 0.6, 0.8),
            moment(0.1, 0.7, 0.7),
        ];
        let drawn = plot(&moments).expect("something moved");
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 3);
        assert!(lines.iter().any(|line| line.ends_with('=')), "{drawn}");
        assert!(
            lines[0].contains('▔') && lines[HEIGHT - 1].contains('▁'),
            "{drawn}"
        );
    }

    #[test]
    fn nothing_is_drawn_when_nothing_moved() {
        assert_eq!(plot(&[moment(0.1, 0.5, 0.5)]), None);
        assert_eq!(plot(&[]), None);
    }
}
