//! Whether a series grows: a slope that outliers do not move, with an interval.
//!
//! Memory goes in steps and with the load, so a least-squares line would follow the highest of them. Here it is the
//! median of the slopes between all pairs of points (Theil 1950, Sen 1968). What is left beside that line hangs
//! together over minutes, so it is drawn anew in blocks (Künsch 1989): drawn one by one, chance would look smaller
//! than it is.

use moe2_cost::percentile;
use moe2_model::Rng;

/// Points that a series is brought to, each the median of what lies in its share of the time: steps and spikes of
/// seconds are not what is looked for.
const POINTS: usize = 48;
/// Points that are drawn together; of an hour without its warm-up about five minutes.
const BLOCK: usize = 5;
/// Series that are drawn.
const DRAWS: usize = 600;
/// Between which of them the interval is. Few blocks look more alike than many would, so the middle 95 % of the
/// draws hold the truth in 85 of 100 series only.
const ENDS: (f64, f64) = (0.005, 0.995);
/// Less than this tells nothing.
const FEWEST: usize = 2 * BLOCK;

/// A slope with an interval that holds the truth nine times in ten and more, per hour, in the unit of the series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trend {
    pub(super) slope: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The trend of a series of (seconds, value) in order of time; `None` if it is too short.
pub(super) fn trend(series: &[(f64, f64)], seed: u64) -> Option<Trend> {
    let points = thinned(series);
    if points.len() < FEWEST {
        return None;
    }
    let line = slope(&points)?;
    let level = middle(points.iter().map(|(t, v)| v - line * t))?;
    let beside: Vec<f64> = points.iter().map(|(t, v)| v - line * t - level).collect();
    let mut rng = Rng::new(seed);
    let drawn: Vec<f64> = (0..DRAWS)
        .filter_map(|_| slope(&redrawn(&points, (line, level), &beside, &mut rng)))
        .collect();
    Some(Trend {
        slope: line,
        low: percentile(&drawn, ENDS.0)?,
        high: percentile(&drawn, ENDS.1)?,
    })
}

/// At most [`POINTS`] of (hours, value).
fn thinned(series: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let each = series.len().div_ceil(POINTS).max(1);
    let point = |part: &[(f64, f64)]| {
        let hours = middle(part.iter().map(|(t, _)| t / 3_600.0))?;
        Some((hours, middle(part.iter().map(|(_, v)| *v))?))
    };
    // A last part that is not whole would be noisier than the others.
    series.chunks_exact(each).filter_map(point).collect()
}

fn middle(values: impl Iterator<Item = f64>) -> Option<f64> {
    percentile(&values.collect::<Vec<_>>(), 0.5)
}

fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let pairs = points.iter().enumerate().flat_map(|(n, (t, v))| {
        let later = points[n + 1..].iter();
        later.map(move |(then, value)| (value - v) / (then - t))
    });
    middle(pairs)
}

/// The line with blocks of what lay beside it, each from anywhere in the series.
fn redrawn(
    points: &[(f64, f64)],
    (line, level): (f64, f64),
    beside: &[f64],
    rng: &mut Rng,
) -> Vec<(f64, f64)> {
    let mut from = 0;
    let drawn = points.iter().enumerate().map(|(n, (t, _))| {
        if n % BLOCK == 0 {
            from = rng.below(beside.len() - BLOCK + 1);
        }
        (*t, level + line * t + beside[from + n % BLOCK])
    });
    drawn.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fifty minutes of a look every ten seconds at `per_hour`, with noise that hangs together for a minute and is
    /// `sd` wide.
    pub(crate) fn noisy(seed: u64, per_hour: f64, sd: f64) -> Vec<(f64, f64)> {
        let mut rng = Rng::new(seed);
        let mut noise = 0.0;
        let look = |n: u32| {
            noise = 0.85 * noise + sd * (1.0 - 0.85_f64 * 0.85).sqrt() * rng.normal();
            let seconds = f64::from(n) * 10.0;
            (seconds, 3e7 + per_hour * seconds / 3_600.0 + noise)
        };
        (0..300).map(look).collect()
    }

    #[test]
    fn a_line_is_found_exactly_whatever_few_outliers_do() {
        let mut line = noisy(1, 5e5, 0.0);
        for n in [3, 90, 91, 250] {
            line[n].1 += 1e9;
        }
        let found = trend(&line, 1).expect("long enough");
        assert!((found.slope - 5e5).abs() < 1.0, "{found:?}");
        assert!(found.low <= found.slope && found.slope <= found.high);
    }

    #[test]
    fn the_interval_holds_the_truth_nine_times_in_ten() {
        for truth in [0.0, 1e6] {
            let held = (0..50).filter(|seed| {
                let found = trend(&noisy(*seed, truth, 1e5), *seed).expect("long enough");
                (found.low..=found.high).contains(&truth)
            });
            let held = held.count();
            assert!(held >= 45, "{held} of 50 at {truth}");
        }
    }

    #[test]
    fn a_short_series_has_no_trend() {
        assert_eq!(trend(&noisy(1, 0.0, 1.0)[..9], 1), None);
    }
}
