//! Intervals that are right because they were checked: the last relative errors of a forecast.
//!
//! The regression's own interval assumes a bell-shaped error; real delays have a heavy right tail
//! (another worker woke up, the governor slowed down). So once enough forecasts met reality, their
//! p95 is the mean times an empirical quantile of measured / forecast, which needs no such
//! assumption (split conformal prediction; coverage is exact for exchangeable errors). The window
//! is short because errors of an hour ago describe a machine in another mood.

use crate::percentile::conformal_quantile;

/// Errors kept. Long enough that the 95 % quantile is not simply the maximum (that needs 39),
/// short enough to forget a bad hour within tens of requests.
const WINDOW: usize = 64;
/// Errors needed before the empirical quantile is trusted: below 19 no finite p95 exists.
const ENOUGH: usize = 20;

/// The last 64 ratios of measured to forecast.
#[derive(Debug, Clone, Default)]
pub struct Residuals {
    ratios: Vec<f64>,
    /// Where the next ratio goes once the window is full.
    oldest: usize,
    /// Kept, because a forecast asks for it far more often than an outcome changes it.
    factor_95: Option<f64>,
}

impl Residuals {
    /// Remembers one outcome; both in the same unit. Ignored unless the forecast was positive and
    /// the ratio is finite.
    pub fn observe(&mut self, forecast: f64, measured: f64) {
        let ratio = measured / forecast;
        if forecast <= 0.0 || !ratio.is_finite() || ratio < 0.0 {
            return;
        }
        if self.ratios.len() < WINDOW {
            self.ratios.push(ratio);
        } else {
            self.ratios[self.oldest] = ratio;
            self.oldest = (self.oldest + 1) % WINDOW;
        }
        if self.ratios.len() >= ENOUGH {
            self.factor_95 = conformal_quantile(&self.ratios, 0.95);
        }
    }

    /// The factor on a forecast that the next outcome stays under 95 times in 100; `None` until
    /// enough outcomes were seen.
    #[must_use]
    pub const fn factor_95(&self) -> Option<f64> {
        self.factor_95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantile_appears_with_the_twentieth_outcome() {
        let mut residuals = Residuals::default();
        for _ in 0..19 {
            residuals.observe(2.0, 3.0);
        }
        assert_eq!(residuals.factor_95(), None);
        residuals.observe(2.0, 4.0);
        assert_eq!(residuals.factor_95(), Some(2.0));
    }

    #[test]
    fn the_window_forgets_what_is_older_than_64_outcomes() {
        let mut residuals = Residuals::default();
        for _ in 0..200 {
            residuals.observe(1.0, 50.0);
        }
        for _ in 0..64 {
            residuals.observe(1.0, 1.0);
        }
        assert_eq!(residuals.factor_95(), Some(1.0));
        assert_eq!(residuals.ratios.len(), WINDOW);
    }

    #[test]
    fn outcomes_that_are_no_ratio_are_ignored() {
        let mut residuals = Residuals::default();
        for (forecast, measured) in [(0.0, 1.0), (1.0, f64::NAN), (1e-300, 1e300), (-1.0, -1.0)] {
            residuals.observe(forecast, measured);
        }
        assert!(residuals.ratios.is_empty());
    }
}
