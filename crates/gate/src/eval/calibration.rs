//! Whether forecasts come true as often as they say, and how well they order.

/// Bins of equal size over sorted forecasts.
const BINS: usize = 15;

/// Forecast and score of one question, by rising forecast; `at` is its place in the data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) forecast: f64,
    pub(crate) score: f64,
    pub(crate) at: usize,
}

/// One expert's forecasts, sorted once for all resamples.
#[derive(Debug, Clone)]
pub(crate) struct Sorted(Vec<Pair>);

impl Sorted {
    pub(crate) fn new(pairs: impl Iterator<Item = Pair>) -> Self {
        let mut all: Vec<Pair> = pairs.collect();
        all.sort_by(|a, b| a.forecast.total_cmp(&b.forecast));
        Self(all)
    }

    fn weighted<'s>(&'s self, weights: &'s [u16]) -> impl Iterator<Item = (&'s Pair, f64)> {
        let with = self.0.iter().map(|p| (p, f64::from(weights[p.at])));
        with.filter(|(_, w)| *w > 0.0)
    }

    /// Expected calibration error: mean distance of a bin's mean forecast from its mean score, in bins of
    /// equal size (Naeini, Cooper and Hauskrecht 2015).
    pub(crate) fn ece(&self, weights: &[u16]) -> Option<f64> {
        let total: f64 = self.weighted(weights).map(|(_, w)| w).sum();
        if total == 0.0 {
            return None;
        }
        let (mut error, mut seen) = (0.0, 0.0);
        let mut bin = (0.0, 0usize);
        for (pair, w) in self.weighted(weights) {
            let index = ((seen / total * BINS as f64) as usize).min(BINS - 1);
            if index != bin.1 {
                error += f64::abs(bin.0);
                bin = (0.0, index);
            }
            bin.0 += w * (pair.forecast - pair.score);
            seen += w;
        }
        Some((error + f64::abs(bin.0)) / total)
    }

    /// Mean squared error of the forecasts (Brier 1950).
    pub(crate) fn brier(&self, weights: &[u16]) -> Option<f64> {
        let (mut sum, mut total) = (0.0, 0.0);
        for (pair, w) in self.weighted(weights) {
            sum += w * (pair.forecast - pair.score).powi(2);
            total += w;
        }
        (total > 0.0).then(|| sum / total)
    }

    /// Probability that of a right and a wrong answer the right one had the higher forecast, ties half;
    /// scores between count as both in part.
    pub(crate) fn auc(&self, weights: &[u16]) -> Option<f64> {
        let (mut right, mut wrong, mut won) = (0.0, 0.0, 0.0);
        let pairs: Vec<(&Pair, f64)> = self.weighted(weights).collect();
        for tied in pairs.chunk_by(|a, b| a.0.forecast == b.0.forecast) {
            let good: f64 = tied.iter().map(|(p, w)| w * p.score).sum();
            let bad: f64 = tied.iter().map(|(p, w)| w * (1.0 - p.score)).sum();
            won += good * (wrong + 0.5 * bad);
            right += good;
            wrong += bad;
        }
        (right > 0.0 && wrong > 0.0).then(|| won / (right * wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(pairs: &[(f64, f64)]) -> (Sorted, Vec<u16>) {
        let numbered = pairs.iter().enumerate();
        let all = numbered.map(|(at, p)| Pair {
            forecast: p.0,
            score: p.1,
            at,
        });
        (Sorted::new(all), vec![1; pairs.len()])
    }

    #[test]
    fn perfect_order_is_one_none_is_a_half() {
        let (best, ones) = sorted(&[(0.1, 0.0), (0.2, 0.0), (0.8, 1.0), (0.9, 1.0)]);
        assert_eq!(best.auc(&ones), Some(1.0));
        let (flat, ones) = sorted(&[(0.5, 0.0), (0.5, 1.0), (0.5, 1.0)]);
        assert_eq!(flat.auc(&ones), Some(0.5));
        let (one_kind, ones) = sorted(&[(0.5, 1.0), (0.7, 1.0)]);
        assert_eq!(one_kind.auc(&ones), None);
    }

    #[test]
    fn a_constant_at_the_base_rate_is_calibrated_and_a_boast_is_not() {
        let pairs: Vec<(f64, f64)> = (0..1_500)
            .map(|n| (0.25, f64::from(u8::from(n % 4 == 0))))
            .collect();
        let (honest, ones) = sorted(&pairs);
        assert!(honest.ece(&ones).expect("there are pairs") < 0.01);
        let boast: Vec<(f64, f64)> = pairs.iter().map(|p| (0.75, p.1)).collect();
        let (boast, ones) = sorted(&boast);
        assert!((boast.ece(&ones).expect("there are pairs") - 0.5).abs() < 0.01);
        assert!(
            (boast.brier(&ones).expect("there are pairs") - (0.25 * 0.0625 + 0.75 * 0.5625)).abs()
                < 1e-9
        );
    }

    #[test]
    fn a_question_that_is_drawn_twice_counts_twice() {
        let (twice, _) = sorted(&[(0.1, 0.0), (0.9, 1.0)]);
        assert_eq!(twice.brier(&[3, 1]), Some(0.01));
        assert_eq!(twice.brier(&[0, 0]), None);
    }
}
