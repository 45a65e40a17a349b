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
/// Points that are drawn together; of an hour without its warm-up about nine minutes.
const BLOCK: usize = 8;
/// How much wider than what was left beside the line it is drawn: a line takes some of it for itself, the more the
/// longer it hangs together. With it the interval holds the truth in 99, 94 and 92 of 100 series whose noise hangs
/// together for one, three and five minutes (time constants), and in 82 for ten; without it in 87, 82, 77 and 63.
const WIDER: f64 = 1.5;
/// Series that are drawn.
const DRAWS: usize = 600;
/// Between which of them the interval is.
const ENDS: (f64, f64) = (0.005, 0.995);
/// Less than this tells nothing.
const FEWEST: usize = 2 * BLOCK;

/// A slope with an interval that holds the truth nine times in ten where noise hangs together for five minutes or
/// less, per hour, in the unit of the series.
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
    let beside = points.iter().map(|(t, v)| (v - line * t - level) * WIDER);
    let beside: Vec<f64> = beside.collect();
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

    /// Fifty minutes of a look every ten seconds at `per_hour`, with noise that is `sd` wide and hangs together for so
    /// many seconds.
    fn noisy(seed: u64, per_hour: f64, (sd, together): (f64, f64)) -> Vec<(f64, f64)> {
        let mut rng = Rng::new(seed);
        let mut noise = sd * rng.normal();
        let stays = (-10.0 / together).exp();
        let look = |n: u32| {
            noise = stays * noise + sd * (1.0 - stays * stays).sqrt() * rng.normal();
            let seconds = f64::from(n) * 10.0;
            (seconds, 3e7 + per_hour * seconds / 3_600.0 + noise)
        };
        (0..300).map(look).collect()
    }

    #[test]
    fn a_line_is_found_exactly_whatever_few_outliers_do() {
        let mut line = noisy(1, 5e5, (0.0, 60.0));
        for n in [3, 90, 91, 250] {
            line[n].1 += 1e9;
        }
        let found = trend(&line, 1).expect("long enough");
        assert!((found.slope - 5e5).abs() < 1.0, "{found:?}");
        assert!(found.low <= found.slope && found.slope <= found.high);
    }

    #[test]
    fn the_interval_holds_the_truth_nine_times_in_ten() {
        for (truth, together) in [(0.0, 60.0), (1e6, 60.0), (0.0, 300.0)] {
            let held = (0..50).filter(|seed| {
                let series = noisy(*seed, truth, (1e5, together));
                let found = trend(&series, *seed).expect("long enough");
                (found.low..=found.high).contains(&truth)
            });
            let held = held.count();
            assert!(held >= 44, "{held} of 50 at {truth}, {together} s");
        }
    }

    #[test]
    fn a_short_series_has_no_trend() {
        assert_eq!(trend(&noisy(1, 0.0, (1.0, 60.0))[..9], 1), None);
    }
}
