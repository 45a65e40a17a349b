//! One measured rate: `y = overhead + slope · x`, learnt online from a prior.
//!
//! The unknowns are two dimensionless *multipliers*, and every observation is divided by what the
//! prior said. That makes the regression free of units, weighs errors relatively (a long answer's
//! second is not worth more than a short one's tenth), and bounds the features to [0, 1], so the
//! 2×2 system stays well conditioned for ever. The multipliers' prior is strongly correlated: a
//! machine three times slower than its roofline is slower in both, so one short request already
//! corrects the forecast of a long one. Data is forgotten exponentially, the prior never: plain
//! recursive least squares with forgetting winds its covariance up when all requests look the
//! same; this form cannot.

/// Weight kept by older observations when a new one comes: a memory of 1 / (1 − 0.98) = 50
/// requests, minutes under load, so that a hotter device or a new neighbour shows quickly.
const KEEP: f64 = 0.98;
/// Prior variance of what both multipliers share, in units of the noise variance: with 10 % noise a
/// roofline wrong by a factor of two is within one standard deviation, and one observation weighs
/// 99 % against the prior.
const SHARED: f64 = 100.0;
/// Prior variance of what each multiplier has of its own, in the same units.
const OWN: f64 = 25.0;
/// Relative spread from request to request assumed until it is measured.
const SPREAD: f64 = 0.1;
/// Observations that assumption is worth.
const SPREAD_WEIGHT: f64 = 3.0;
/// Once this many observations exist, one that differs from the forecast by more than
/// [`OUTLIER`] times is pulled in to that: a laptop that slept through an answer must not spoil the
/// next fifty forecasts, while a real change is still followed within a few requests.
const TRUST_AFTER: u64 = 3;
/// See [`TRUST_AFTER`].
const OUTLIER: f64 = 8.0;
/// Largest multiplier believed: a million times slower than the roofline is a broken clock.
const MOST: f64 = 1e6;
/// Largest count, rate or overhead taken as such, in any unit; keeps products far from overflow.
const HUGE: f64 = 1e9;
/// Smallest slope: a multiplier could not correct zero.
const TINY: f64 = 1e-12;

/// A forecast of one quantity with its predictive spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Expected value, at least 0, in the unit of `y`.
    pub mean: f64,
    /// Predictive variance (of the next observation, not of the line), in that unit squared.
    pub variance: f64,
    /// Degrees of freedom of the Student distribution the interval is read from.
    pub freedom: f64,
}

impl Prediction {
    /// The value that the next observation stays under 95 times in 100.
    #[must_use]
    pub fn p95(&self) -> f64 {
        self.mean + student_95(self.freedom) * self.variance.sqrt()
    }
}

/// The 95 % quantile of Student's t, by the first terms of its Cornish–Fisher expansion: within
/// 3 % from 3 degrees of freedom on, and we never have fewer.
#[inline]
pub(crate) fn student_95(freedom: f64) -> f64 {
    let v = freedom.max(SPREAD_WEIGHT);
    1.644_854 + 1.523_77 / v + 1.420_2 / (v * v)
}

/// A symmetric 2×2 matrix over (overhead, slope).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Square {
    on_f: f64,
    off: f64,
    on_g: f64,
}

impl Square {
    const fn determinant(&self) -> f64 {
        self.on_f * self.on_g - self.off * self.off
    }

    const fn inverse(&self) -> Self {
        let determinant = self.determinant();
        Self {
            on_f: self.on_g / determinant,
            off: -self.off / determinant,
            on_g: self.on_f / determinant,
        }
    }

    #[inline]
    const fn times(&self, f: f64, g: f64) -> (f64, f64) {
        (self.on_f * f + self.off * g, self.off * f + self.on_g * g)
    }

    #[inline]
    const fn quadratic(&self, f: f64, g: f64) -> f64 {
        let (p, q) = self.times(f, g);
        f * p + g * q
    }
}

/// What a [`Line`]'s forecasts follow from, without what it was learnt from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Curve {
    /// What the overhead's multiplier multiplies, in units of `y`: the prior's overhead and one
    /// grain, so that an overhead the prior missed altogether can still be found.
    unit: f64,
    slope: f64,
    /// The multipliers.
    a: f64,
    b: f64,
    /// Of the multipliers, in units of the noise's variance.
    covariance: Square,
    /// The noise's variance: what is assumed, for a relative forecast of 1, and what was seen.
    assumed: f64,
    seen: f64,
    /// Degrees of freedom of a forecast, and the quantile that follows from them.
    freedom: f64,
    student: f64,
}

/// A [`Prediction`] as choices among many experts want it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) mean: f64,
    pub(crate) variance: f64,
    /// As [`student_95`].
    pub(crate) student: f64,
}

impl Curve {
    /// Features of both multipliers at `x`, which add up to 1, and what `y` is divided by.
    fn features(&self, x: f64) -> Option<(f64, f64, f64)> {
        let linear = self.slope * tame(x);
        let scale = self.unit + linear;
        (scale > 0.0).then(|| (self.unit / scale, linear / scale, scale))
    }

    /// The expected value alone.
    #[inline(always)]
    pub(crate) fn mean(&self, x: f64) -> f64 {
        self.a * self.unit + self.b * (self.slope * tame(x))
    }

    /// Mean and variance in terms of `y` rather than of the features: every query asks this of every expert several
    /// times, and divisions are most of what it would take.
    #[inline(always)]
    pub(crate) fn at(&self, x: f64) -> Point {
        let linear = self.slope * tame(x);
        let scale = self.unit + linear;
        let mean = self.a * self.unit + self.b * linear;
        let squared = scale * scale;
        let noise = self.assumed * mean * mean + self.seen * squared;
        let of_the_line = self.covariance.quadratic(self.unit, linear).max(0.0);
        // A scale that small is none.
        let variance = if squared > 0.0 {
            noise + noise * of_the_line / squared
        } else {
            0.0
        };
        Point {
            mean,
            variance,
            student: self.student,
        }
    }
}

/// One learnt rate. `x` and `y` are in whatever units the prior was given in.
#[derive(Debug, Clone)]
pub struct Line {
    /// The multipliers' prior mean: the slope's is 1, the overhead's is this.
    expected_overhead: f64,
    /// The multipliers' prior precision, in units of the noise's.
    prior: Square,
    /// Discounted sums over observations with features (f, g) and outcome z, all relative.
    weight: f64,
    ff: f64,
    fg: f64,
    gg: f64,
    fz: f64,
    gz: f64,
    zz: f64,
    samples: u64,
    /// What follows from all of that, kept because forecasts are made far more often than something is learnt: for
    /// every query and every expert.
    curve: Curve,
}

impl Line {
    /// A line expected at `overhead + slope · x`, to be corrected by data. `grain` is the `x` under
    /// which requests are much alike: noise is relative to the forecast plus one grain's worth, and
    /// a few grains are an unsurprising overhead. 0 where `y` is proportional to `x`.
    #[must_use]
    pub fn new(overhead: f64, slope: f64, grain: f64) -> Self {
        let (overhead, slope) = (tame(overhead), tame(slope).max(TINY));
        let unit = overhead + slope * tame(grain);
        let expected_overhead = if unit > 0.0 { overhead / unit } else { 0.0 };
        let covariance = Square {
            on_f: expected_overhead * expected_overhead * SHARED + OWN,
            off: expected_overhead * SHARED,
            on_g: SHARED + OWN,
        };
        let curve = Curve {
            unit,
            slope,
            a: 0.0,
            b: 0.0,
            covariance,
            assumed: 0.0,
            seen: 0.0,
            freedom: SPREAD_WEIGHT,
            student: 0.0,
        };
        let mut line = Self {
            expected_overhead,
            prior: covariance.inverse(),
            weight: 0.0,
            ff: 0.0,
            fg: 0.0,
            gg: 0.0,
            fz: 0.0,
            gz: 0.0,
            zz: 0.0,
            samples: 0,
            curve,
        };
        line.fit();
        line
    }

    /// What forecasts follow from.
    pub(crate) const fn curve(&self) -> Curve {
        self.curve
    }

    fn fit(&mut self) {
        let (a, b) = self.multipliers();
        let freedom = SPREAD_WEIGHT + self.weight;
        self.curve = Curve {
            a,
            b,
            covariance: self.precision().inverse(),
            assumed: SPREAD_WEIGHT * SPREAD * SPREAD / freedom,
            seen: self.squared_error(a, b) / freedom,
            freedom,
            student: student_95(freedom),
            ..self.curve
        };
    }

    /// Learns that `x` took `y`. Ignored when either is negative or not finite, or when the prior
    /// expects nothing at `x` (no overhead, no grain and `x` = 0), where a multiplier cannot be seen.
    pub fn observe(&mut self, x: f64, y: f64) {
        let Some((f, g, scale)) = self.curve.features(x) else {
            return;
        };
        if !(y.is_finite() && y >= 0.0 && x.is_finite() && x >= 0.0) {
            return;
        }
        let mut z = (y / scale).min(MOST);
        if self.samples >= TRUST_AFTER {
            let forecast = self.curve.a * f + self.curve.b * g;
            z = z.clamp(forecast / OUTLIER, (forecast * OUTLIER).min(MOST));
        }
        // The first requests pay for paging the weights in, so early ones are left behind faster:
        // after n of them the first keeps 1/n of its weight.
        let count = self.samples as f64;
        let keep = KEEP.min(count / (count + 1.0));
        let discount = |sum: &mut f64, new: f64| *sum = keep * *sum + new;
        discount(&mut self.weight, 1.0);
        discount(&mut self.ff, f * f);
        discount(&mut self.fg, f * g);
        discount(&mut self.gg, g * g);
        discount(&mut self.fz, f * z);
        discount(&mut self.gz, g * z);
        discount(&mut self.zz, z * z);
        self.samples = self.samples.saturating_add(1);
        self.fit();
    }

    /// The forecast at `x`.
    #[must_use]
    pub fn predict(&self, x: f64) -> Prediction {
        let Point { mean, variance, .. } = self.curve.at(x);
        Prediction {
            mean,
            variance,
            freedom: self.curve.freedom,
        }
    }

    /// The learnt slope, at least 0, in units of `y` per unit of `x`.
    #[must_use]
    pub fn slope(&self) -> f64 {
        self.curve.b * self.curve.slope
    }

    /// The slope that was expected before anything was learnt.
    #[must_use]
    pub const fn expected_slope(&self) -> f64 {
        self.curve.slope
    }

    /// Observations learnt from.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    const fn precision(&self) -> Square {
        Square {
            on_f: self.prior.on_f + self.ff,
            off: self.prior.off + self.fg,
            on_g: self.prior.on_g + self.gg,
        }
    }

    /// The posterior mean of both multipliers, constrained to be non-negative: neither more tokens
    /// nor a request as such can save time.
    fn multipliers(&self) -> (f64, f64) {
        let precision = self.precision();
        let (hf, hg) = self.prior.times(self.expected_overhead, 1.0);
        let (hf, hg) = (hf + self.fz, hg + self.gz);
        let (a, b) = precision.inverse().times(hf, hg);
        if a >= 0.0 && b >= 0.0 {
            return (a, b);
        }
        // The optimum of a convex quadratic over a quadrant lies on an edge if not inside; with
        // one multiplier at 0, the other's gain is h² / precision.
        let only_a = (hf / precision.on_f).max(0.0);
        let only_b = (hg / precision.on_g).max(0.0);
        if only_a * hf.max(0.0) >= only_b * hg.max(0.0) {
            (only_a, 0.0)
        } else {
            (0.0, only_b)
        }
    }

    /// Discounted squared error of the fit, with the distance from the prior as the conjugate
    /// update has it.
    fn squared_error(&self, a: f64, b: f64) -> f64 {
        let data = self.zz - 2.0 * (a * self.fz + b * self.gz)
            + a * a * self.ff
            + 2.0 * a * b * self.fg
            + b * b * self.gg;
        let prior = self.prior.quadratic(a - self.expected_overhead, b - 1.0);
        data.max(0.0) + prior.max(0.0)
    }
}

/// A number forced into `[0, HUGE]`; NaN becomes 0.
const fn tame(x: f64) -> f64 {
    if x > 0.0 { x.min(HUGE) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64, relative: f64) -> bool {
        (a - b).abs() <= relative * b.abs()
    }

    #[test]
    fn before_any_data_the_prior_is_the_forecast() {
        let line = Line::new(0.1, 0.02, 32.0);
        let forecast = line.predict(100.0);
        assert!(close(forecast.mean, 2.1, 1e-9), "{forecast:?}");
        // Twice to five times the mean: unsure, yet not so unsure that cold experts are shunned.
        let factor = forecast.p95() / forecast.mean;
        assert!((2.0..5.0).contains(&factor), "{factor}");
    }

    #[test]
    fn the_second_request_is_forecast_from_the_first() {
        for truth in [0.2, 1.0, 10.0, 300.0] {
            let mut line = Line::new(0.01, 0.02, 32.0);
            line.observe(50.0, truth * 1.01);
            let forecast = line.predict(50.0).mean;
            assert!(close(forecast, truth * 1.01, 0.1), "{truth}: {forecast}");
        }
    }

    #[test]
    fn one_short_request_corrects_the_forecast_of_a_long_one() {
        let mut line = Line::new(0.1, 0.001, 32.0);
        line.observe(10.0, 5.0 * 0.11);
        let long = line.predict(2000.0).mean;
        assert!(close(long, 5.0 * 2.1, 0.25), "{long}");
    }

    #[test]
    fn overhead_and_slope_are_told_apart_by_requests_of_different_sizes() {
        let mut line = Line::new(0.005, 0.01, 32.0);
        for i in 0..40 {
            let x = f64::from(10 + (i * 37) % 400);
            line.observe(x, 0.5 + 0.03 * x);
        }
        assert!(close(line.slope(), 0.03, 0.03), "{}", line.slope());
        assert!(close(line.predict(10.0).mean, 0.8, 0.05));
    }

    #[test]
    fn a_change_of_speed_is_followed_within_the_memory() {
        let mut line = Line::new(0.0, 0.01, 0.0);
        for _ in 0..500 {
            line.observe(100.0, 1.0);
        }
        for _ in 0..120 {
            line.observe(100.0, 3.0);
        }
        let now = line.predict(100.0).mean;
        assert!(close(now, 3.0, 0.1), "{now}");
    }

    #[test]
    fn a_slow_first_request_is_left_behind_soon() {
        let mut line = Line::new(0.0, 0.01, 0.0);
        line.observe(100.0, 10.0);
        for _ in 0..10 {
            line.observe(100.0, 1.0);
        }
        assert!(line.predict(100.0).mean < 1.5);
    }

    #[test]
    fn one_absurd_measurement_does_not_spoil_the_line() {
        let mut line = Line::new(0.0, 0.01, 0.0);
        for _ in 0..50 {
            line.observe(100.0, 1.0);
        }
        line.observe(100.0, 1e300);
        assert!(line.predict(100.0).mean < 1.5);
    }

    #[test]
    fn neither_tokens_nor_requests_save_time() {
        let mut line = Line::new(0.1, 0.01, 32.0);
        for _ in 0..30 {
            line.observe(10.0, 5.0);
            line.observe(1000.0, 1.0);
        }
        assert!(line.slope() >= 0.0);
        assert!(line.predict(1e9).mean >= line.predict(0.0).mean);
    }

    #[test]
    fn the_interval_covers_noise_it_was_not_told_about() {
        let mut line = Line::new(0.01, 0.01, 32.0);
        let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
        let (mut covered, mut total) = (0.0, 0.0);
        for i in 0..400 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let u = (noise >> 11) as f64 / (1_u64 << 53) as f64;
            let x = 20.0 + f64::from(i % 17) * 30.0;
            let y = (0.01 + 0.03 * x) * (0.7 + 0.6 * u);
            if i > 20 {
                covered += f64::from(u8::from(y <= line.predict(x).p95()));
                total += 1.0;
            }
            line.observe(x, y);
        }
        let share = covered / total;
        assert!((0.92..=1.0).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn no_input_makes_a_forecast_that_is_not_a_quantity(
            overhead in any::<f64>(), slope in any::<f64>(), grain in any::<f64>(),
            data in prop::collection::vec((any::<f64>(), any::<f64>()), 0..200),
            at in any::<f64>()
        ) {
            let mut line = Line::new(overhead, slope, grain);
            for (x, y) in data {
                line.observe(x, y);
                let forecast = line.predict(at);
                prop_assert!(forecast.mean.is_finite() && forecast.mean >= 0.0);
                prop_assert!(forecast.variance.is_finite() && forecast.variance >= 0.0);
                prop_assert!(forecast.p95().is_finite() && forecast.p95() >= forecast.mean);
                prop_assert!(line.slope().is_finite() && line.slope() >= 0.0);
            }
        }

        #[test]
        fn thousands_of_updates_end_at_the_truth(
            a in 0.0..2.0_f64, prior in 1e-5..1e-1_f64, off in 0.02..50.0_f64, seed in any::<u32>()
        ) {
            let b = prior * off;
            let mut line = Line::new(0.005, prior, 32.0);
            for i in 0..3000_u32 {
                // Multiplicative hashing: sizes from 1 to 512 in an order without a trend.
                let x = f64::from(1 + ((i ^ seed).wrapping_mul(0x9E37_79B1) >> 23));
                line.observe(x, a + b * x);
            }
            let forecast = line.predict(256.0).mean;
            let truth = a + 256.0 * b;
            prop_assert!(close(forecast, truth, 0.05), "{} for {}", forecast, truth);
        }

        #[test]
        fn units_do_not_matter(scale in 1e-3..1e3_f64, data in prop::collection::vec((1.0..500.0_f64, 0.01..50.0_f64), 1..40)) {
            let (mut one, mut other) = (Line::new(0.01, 0.02, 32.0), Line::new(0.01 * scale, 0.02 * scale, 32.0));
            for (x, y) in data {
                one.observe(x, y);
                other.observe(x, y * scale);
            }
            prop_assert!(close(one.predict(100.0).p95() * scale, other.predict(100.0).p95(), 1e-6));
        }
    }
}
