//! Forecasts of seconds and joules for one expert on one device.
//!
//! Delay is queue + network + prefill + decode. Prefill, decode and scoring each have a line of
//! their own because they meet different limits (arithmetic, bandwidth, arithmetic again); joules
//! follow busy seconds, because power hardly depends on which token is being made. Scoring the
//! options of a choice has its own line: it runs at prefill speed, and would teach the decode line
//! a speed that no generated answer reaches.

use moe2_model::{Joules, Seconds, Usage};

use crate::regression::{Curve, Line, Point};
use crate::residuals::Residuals;
use crate::roofline::Prior;

/// Seconds between the end of the prompt and the first decoded token that no ceiling explains.
const DECODE_OVERHEAD_S: f64 = 0.002;
/// Requests shorter than this take much the same time: one small batch, one thread wake-up.
const GRAIN_TOKENS: f64 = 32.0;
/// Tokens a chat template and a start marker add to a prompt, until counted.
const TEMPLATE_TOKENS: f64 = 8.0;
/// Bytes per token of English text in common vocabularies, until counted.
const BYTES_PER_TOKEN: f64 = 4.0;

/// What one request is forecast to cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostForecast {
    /// Expected end-to-end delay: queue, network, prefill and decode.
    pub delay: Seconds,
    /// The delay it stays under 95 times in 100, for the given token counts.
    pub delay_p95: Seconds,
    /// Expected time to the first token: queue, network, prefill and one token; of a choice, the whole delay.
    pub first_token: Seconds,
    /// The time to the first token that it stays under 95 times in 100.
    pub first_token_p95: Seconds,
    /// The part of the delay before the expert begins.
    pub waiting: Seconds,
    /// The part of the delay in which the expert works: what the request adds to the queue.
    pub busy: Seconds,
    /// Expected energy of the device; the network's is not in it.
    pub energy: Joules,
    /// The energy it stays under 95 times in 100, for the given token counts.
    pub energy_p95: Joules,
    /// Measured requests behind it; 0 means roofline only.
    pub samples: u64,
}

impl CostForecast {
    /// The same request with this much to wait for first: work ahead, and the way there and back. What is
    /// ahead is mostly work of the same device, so it is as uncertain, relatively, as the request's own:
    /// one factor stretches the whole delay to its p95.
    #[inline]
    #[must_use]
    pub fn behind(self, waiting: Seconds) -> Self {
        let stretched = |own: Seconds, p95: Seconds| {
            let factor = if own > Seconds::ZERO {
                p95.get() / own.get()
            } else {
                1.0
            };
            (own + waiting, (own + waiting) * factor)
        };
        let (delay, delay_p95) = stretched(self.delay, self.delay_p95);
        let (first_token, first_token_p95) = stretched(self.first_token, self.first_token_p95);
        Self {
            delay,
            delay_p95,
            first_token,
            first_token_p95,
            waiting: self.waiting + waiting,
            ..self
        }
    }
}

/// What forecasts of one expert follow from, without what it was learnt from: small and in one piece, so that a
/// choice among many experts reads little.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    prefill: Curve,
    decode: Curve,
    score: Curve,
    energy: Curve,
    prompt: Curve,
    /// Factors from a mean to its p95, once enough errors are known.
    delay_p95: Option<f64>,
    prefill_p95: Option<f64>,
    energy_p95: Option<f64>,
    samples: u64,
}

impl Speed {
    /// Prompt tokens expected for `bytes` of text, template included.
    #[inline]
    #[must_use]
    pub fn prompt_tokens(&self, bytes: usize) -> f64 {
        self.prompt.mean(bytes as f64)
    }

    /// Forecasts a generated answer on an idle device beside the coordinator; see
    /// [`CostForecast::behind`].
    #[must_use]
    pub fn forecast(&self, prompt_tokens: f64, output_tokens: f64) -> CostForecast {
        self.forecast_up_to(prompt_tokens, output_tokens, output_tokens)
            .0
    }

    /// The same of an answer as long as is expected, and of one that is longer: at least as many tokens.
    #[inline(always)]
    #[must_use]
    pub fn forecast_up_to(
        &self,
        prompt_tokens: f64,
        output_tokens: f64,
        long: f64,
    ) -> (CostForecast, CostForecast) {
        let prefill = self.prefill.at(prompt_tokens);
        let token = self.decode.at(output_tokens.min(1.0));
        let (first_token, first_token_p95) = span([prefill, token], self.prefill_p95);
        let of = |tokens| CostForecast {
            first_token,
            first_token_p95,
            ..self.add_up([prefill, self.decode.at(tokens)])
        };
        (of(output_tokens), of(long))
    }

    /// Forecasts a choice whose options have `option_tokens` together.
    #[inline]
    #[must_use]
    pub fn forecast_choice(&self, prompt_tokens: f64, option_tokens: f64) -> CostForecast {
        self.add_up([self.prefill.at(prompt_tokens), self.score.at(option_tokens)])
    }

    #[inline(always)]
    fn add_up(&self, phases: [Point; 2]) -> CostForecast {
        let (delay, delay_p95) = span(phases, self.delay_p95);
        let (busy, variance, student) = together(phases);
        let energy = self.energy.at(busy);
        // Uncertain seconds make uncertain joules, through the power.
        let power = if busy > 0.0 { energy.mean / busy } else { 0.0 };
        let spread = energy.variance + power * power * variance;
        let student = student.max(energy.student);
        let energy_factor = stretch(self.energy_p95, energy.mean, spread, student);
        CostForecast {
            delay,
            delay_p95,
            first_token: delay,
            first_token_p95: delay_p95,
            waiting: Seconds::ZERO,
            busy: delay,
            energy: Joules::saturating(energy.mean),
            energy_p95: Joules::saturating(energy.mean) * energy_factor,
            samples: self.samples,
        }
    }
}

/// Phases one after the other: expected seconds, their variance, and the quantile of the less certain.
#[inline(always)]
fn together([one, other]: [Point; 2]) -> (f64, f64, f64) {
    let variance = one.variance + other.variance;
    let student = one.student.max(other.student);
    (one.mean + other.mean, variance, student)
}

/// Phases one after the other: expected seconds and their p95.
#[inline(always)]
fn span(phases: [Point; 2], factor: Option<f64>) -> (Seconds, Seconds) {
    let (busy, variance, student) = together(phases);
    let seconds = Seconds::saturating(busy);
    (seconds, seconds * stretch(factor, busy, variance, student))
}

/// What is known about the speed and power of one expert on one device.
#[derive(Debug, Clone)]
pub struct ExpertCost {
    prefill: Line,
    decode: Line,
    score: Line,
    energy: Line,
    prompt: Line,
    delay_errors: Residuals,
    prefill_errors: Residuals,
    energy_errors: Residuals,
    samples: u64,
}

impl ExpertCost {
    /// Starts from what is expected before anything was measured.
    #[must_use]
    pub fn new(prior: &Prior) -> Self {
        Self {
            prefill: Line::new(
                prior.prefill_overhead_s,
                prior.prefill_s_per_token,
                GRAIN_TOKENS,
            ),
            decode: Line::new(DECODE_OVERHEAD_S, prior.decode_s_per_token, GRAIN_TOKENS),
            score: Line::new(DECODE_OVERHEAD_S, prior.prefill_s_per_token, GRAIN_TOKENS),
            energy: Line::new(0.0, prior.busy_power.get(), 0.0),
            prompt: Line::new(
                TEMPLATE_TOKENS,
                1.0 / BYTES_PER_TOKEN,
                GRAIN_TOKENS * BYTES_PER_TOKEN,
            ),
            delay_errors: Residuals::default(),
            prefill_errors: Residuals::default(),
            energy_errors: Residuals::default(),
            samples: 0,
        }
    }

    /// Learns from a generated answer.
    pub fn observe(&mut self, usage: &Usage) {
        let busy = self.busy(&self.decode, usage);
        self.learn(usage, busy);
        if usage.output_tokens > 0 {
            let tokens = f64::from(usage.output_tokens);
            self.decode.observe(tokens, usage.decode.get());
        }
    }

    /// Learns from a choice, whose output tokens were scored, not generated.
    pub fn observe_choice(&mut self, usage: &Usage) {
        let busy = self.busy(&self.score, usage);
        self.learn(usage, busy);
        if usage.output_tokens > 0 {
            let tokens = f64::from(usage.output_tokens);
            self.score.observe(tokens, usage.decode.get());
        }
    }

    /// Learns how many tokens this expert's vocabulary and template make of `bytes` of text.
    pub fn observe_prompt(&mut self, bytes: usize, tokens: u32) {
        self.prompt.observe(bytes as f64, f64::from(tokens));
    }

    /// What forecasts follow from, as it is now.
    #[must_use]
    pub fn speed(&self) -> Speed {
        Speed {
            prefill: self.prefill.curve(),
            decode: self.decode.curve(),
            score: self.score.curve(),
            energy: self.energy.curve(),
            prompt: self.prompt.curve(),
            delay_p95: self.delay_errors.factor_95(),
            prefill_p95: self.prefill_errors.factor_95(),
            energy_p95: self.energy_errors.factor_95(),
            samples: self.samples,
        }
    }

    /// Seconds per prompt token, overhead not included; the roofline's before the first sample.
    #[must_use]
    pub fn prefill_s_per_token(&self) -> f64 {
        self.prefill.slope()
    }

    /// Seconds per output token, overhead not included; the roofline's before the first sample.
    #[must_use]
    pub fn decode_s_per_token(&self) -> f64 {
        self.decode.slope()
    }

    /// Seconds per prompt token as they were expected before the first sample.
    #[must_use]
    pub const fn prior_prefill_s_per_token(&self) -> f64 {
        self.prefill.expected_slope()
    }

    /// Seconds per output token as they were expected before the first sample.
    #[must_use]
    pub const fn prior_decode_s_per_token(&self) -> f64 {
        self.decode.expected_slope()
    }

    /// Measured requests behind the forecasts.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// Expected seconds of what was computed.
    fn busy(&self, output: &Line, usage: &Usage) -> f64 {
        self.prefill
            .predict(f64::from(usage.computed_tokens()))
            .mean
            + output.predict(f64::from(usage.output_tokens)).mean
    }

    /// What all answers teach; `forecast` is what the busy seconds were expected to be, computed
    /// before anything is learnt so that the error is out of sample.
    fn learn(&mut self, usage: &Usage, forecast: f64) {
        let busy = usage.prefill.get() + usage.decode.get();
        let joules = usage.energy.get();
        // What was in a cache took no time. Forecasts count on none: nobody knows what will be there.
        let prompt = usage.computed_tokens();
        self.samples = self.samples.saturating_add(1);
        // Errors of the unmeasured prior say nothing about forecasts made from measurements.
        if self.samples > 1 {
            self.delay_errors.observe(forecast, busy);
            if prompt > 0 {
                let prefill = self.prefill.predict(f64::from(prompt)).mean;
                self.prefill_errors.observe(prefill, usage.prefill.get());
            }
            self.energy_errors
                .observe(self.energy.predict(forecast).mean, joules);
        }
        if prompt > 0 {
            self.prefill.observe(f64::from(prompt), usage.prefill.get());
        }
        self.energy.observe(busy, joules);
    }
}

/// The factor from a mean to its p95, at least 1: empirical when enough errors are known.
#[inline(always)]
fn stretch(factor: Option<f64>, mean: f64, variance: f64, student: f64) -> f64 {
    let parametric = || {
        if mean > 0.0 {
            1.0 + student * variance.sqrt() / mean
        } else {
            1.0
        }
    };
    factor.unwrap_or_else(parametric).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofline::tests::{device, offer};
    use moe2_model::{DeviceKind, EnergySource};
    use proptest::prelude::*;

    fn expert() -> ExpertCost {
        ExpertCost::new(&Prior::new(&offer(), &device(DeviceKind::Cpu)))
    }

    fn usage(prompt_tokens: u32, output_tokens: u32, slow: f64) -> Usage {
        let prefill = slow * (0.02 + 0.005 * f64::from(prompt_tokens));
        let decode = slow * 0.04 * f64::from(output_tokens);
        Usage {
            prompt_tokens,
            cached_tokens: 0,
            output_tokens,
            queue: Seconds::ZERO,
            prefill: Seconds::saturating(prefill),
            decode: Seconds::saturating(decode),
            energy: Joules::saturating(12.0 * (prefill + decode)),
            energy_source: EnergySource::Modelled,
            energy_error: Joules::ZERO,
        }
    }

    fn ask(cost: &ExpertCost) -> CostForecast {
        cost.speed().forecast(100.0, 50.0)
    }

    #[test]
    fn the_first_forecast_is_the_roofline_and_says_so() {
        let forecast = ask(&expert());
        assert_eq!(forecast.samples, 0);
        assert!(forecast.delay_p95 > forecast.delay && forecast.delay > Seconds::ZERO);
        let power = forecast.energy.get() / forecast.busy.get();
        assert!((power - 20.0).abs() < 1e-9, "{power} W");
    }

    #[test]
    fn the_second_forecast_is_mostly_measured() {
        for slow in [0.3, 1.0, 4.0, 20.0] {
            let mut cost = expert();
            let used = usage(100, 50, slow);
            cost.observe(&used);
            let forecast = ask(&cost);
            let truth = used.prefill.get() + used.decode.get();
            let error = (forecast.delay.get() / truth - 1.0).abs();
            assert!(error < 0.15, "{slow}: off by {error}");
            let joules = (forecast.energy.get() / used.energy.get() - 1.0).abs();
            assert!(joules < 0.15, "{slow}: joules off by {joules}");
            assert_eq!(forecast.samples, 1);
        }
    }

    #[test]
    fn queue_and_network_delay_the_answer_but_use_no_device_energy() {
        let cost = expert();
        let alone = ask(&cost);
        let behind = alone
            .behind(Seconds::saturating(3.0))
            .behind(Seconds::saturating(0.5));
        assert!((behind.delay.get() - alone.delay.get() - 3.5).abs() < 1e-9);
        assert!((behind.first_token.get() - alone.first_token.get() - 3.5).abs() < 1e-9);
        assert_eq!(behind.energy, alone.energy);
        assert_eq!(behind.busy, alone.busy);
        assert_eq!(behind.waiting.get(), 3.5);
        let factor = |f: CostForecast| f.delay_p95.get() / f.delay.get();
        assert!((factor(behind) - factor(alone)).abs() < 1e-9);
    }

    #[test]
    fn the_first_token_comes_after_the_prompt_and_is_as_sure_as_prompts_are() {
        let mut cost = expert();
        // Prompts are read at one speed; answers are made at two.
        for i in 0..100 {
            let mut used = usage(100, 50, 1.0);
            used.decode = used.decode * if i % 2 == 0 { 0.5 } else { 2.0 };
            cost.observe(&used);
        }
        let forecast = ask(&cost);
        let truth = usage(100, 1, 1.0).prefill.get();
        let first = forecast.first_token.get();
        assert!(first > truth && first < truth + 0.2, "{first} for {truth}");
        let spread = |mean: Seconds, p95: Seconds| p95.get() / mean.get();
        assert!(spread(forecast.first_token, forecast.first_token_p95) < 1.1);
        assert!(spread(forecast.delay, forecast.delay_p95) > 1.3);
        let choice = cost.speed().forecast_choice(100.0, 20.0);
        assert_eq!(choice.first_token, choice.delay);
        assert_eq!(
            cost.speed().forecast(100.0, 0.0).first_token,
            cost.speed().forecast(100.0, 0.0).delay
        );
    }

    #[test]
    fn choices_do_not_teach_the_decode_speed() {
        let mut cost = expert();
        for _ in 0..10 {
            cost.observe(&usage(100, 50, 1.0));
        }
        let before = cost.decode_s_per_token();
        for _ in 0..10 {
            let mut fast = usage(100, 40, 1.0);
            fast.decode = Seconds::saturating(0.01);
            cost.observe_choice(&fast);
        }
        assert!((cost.decode_s_per_token() - before).abs() < 1e-12);
        let choice = cost.speed().forecast_choice(100.0, 40.0);
        assert!(choice.delay < ask(&cost).delay);
        assert_eq!(cost.samples(), 20);
    }

    #[test]
    fn a_prompt_that_was_in_a_cache_teaches_no_speed_that_others_do_not_reach() {
        let (mut cost, mut plain) = (expert(), expert());
        for i in 0..60 {
            plain.observe(&usage(100 + i, 50, 1.0));
            // Three in four prompts begin with 400 tokens that are in the cache.
            let cached = if i % 4 == 0 { 0 } else { 400 };
            let mut used = usage(100 + i, 50, 1.0);
            (used.prompt_tokens, used.cached_tokens) = (100 + i + cached, cached);
            cost.observe(&used);
        }
        assert_eq!(
            cost.speed().forecast(500.0, 50.0),
            plain.speed().forecast(500.0, 50.0)
        );
    }

    #[test]
    fn a_p95_from_twenty_errors_on_is_what_was_seen_and_not_what_was_assumed() {
        let mut cost = expert();
        // Nine in ten take 1x, one takes 3x: a tail that a symmetric interval misplaces.
        for i in 0..200 {
            cost.observe(&usage(100, 50, if i % 10 == 9 { 3.0 } else { 1.0 }));
        }
        let forecast = ask(&cost);
        let slow = usage(100, 50, 3.0);
        let truth = slow.prefill.get() + slow.decode.get();
        assert!(
            forecast.delay_p95.get() >= 0.95 * truth,
            "{:?} for {truth}",
            forecast
        );
        assert!(forecast.energy_p95 > forecast.energy);
    }

    #[test]
    fn tokens_are_estimated_from_bytes_and_learnt_per_vocabulary() {
        let mut cost = expert();
        assert!((cost.speed().prompt_tokens(400) - 108.0).abs() < 1e-9);
        for bytes in [100, 900, 300, 2000] {
            cost.observe_prompt(bytes, 30 + (bytes as u32) / 3);
        }
        let tokens = cost.speed().prompt_tokens(600);
        assert!((tokens / 230.0 - 1.0).abs() < 0.1, "{tokens}");
    }

    proptest! {
        #[test]
        fn any_history_gives_quantities_and_p95_is_never_below_the_mean(
            history in prop::collection::vec(
                (any::<u32>(), any::<u32>(), any::<f64>(), any::<f64>(), any::<f64>(), any::<bool>()), 0..80),
            prompt in any::<f64>(), output in any::<f64>()
        ) {
            let mut cost = expert();
            for (prompt_tokens, output_tokens, prefill, decode, energy, choice) in history {
                let usage = Usage {
                    prompt_tokens,
                    cached_tokens: prompt_tokens / 3,
                    output_tokens,
                    queue: Seconds::ZERO,
                    prefill: Seconds::saturating(prefill),
                    decode: Seconds::saturating(decode),
                    energy: Joules::saturating(energy),
                    energy_source: EnergySource::Modelled,
                    energy_error: Joules::ZERO,
                };
                if choice { cost.observe_choice(&usage) } else { cost.observe(&usage) }
            }
            let forecast = cost.speed().forecast(prompt, output);
            for value in [forecast.delay.get(), forecast.energy.get(), forecast.delay_p95.get(), forecast.energy_p95.get()] {
                prop_assert!(value.is_finite() && value >= 0.0);
            }
            prop_assert!(forecast.delay_p95 >= forecast.delay);
            prop_assert!(forecast.first_token_p95 >= forecast.first_token);
            prop_assert!(output < 1.0 || forecast.first_token <= forecast.delay);
            prop_assert!(forecast.energy_p95 >= forecast.energy);
        }
    }
}
