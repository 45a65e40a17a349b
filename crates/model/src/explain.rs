//! Why a query went where it went, as the reply's `moe2` field shows it.

use serde::{Deserialize, Serialize};

use crate::{EnergySource, ExpertId, Joules, Seconds, Usage};

/// Prices that turn budgets into one score: quality − λ·joules − μ·seconds (MATH 2.2), the seconds until the last
/// and until the first token each with a price of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// λ in quality per joule.
    pub per_joule: f64,
    /// μ in quality per second.
    pub per_second: f64,
    /// In quality per second to the first token; 0 unless the answer is streamed.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub per_first_token_second: f64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_nothing(price: &f64) -> bool {
    *price == 0.0
}

impl Prices {
    /// What the joules and seconds of a forecast cost, in quality.
    #[must_use]
    pub fn cost(&self, forecast: &Forecast) -> f64 {
        self.per_joule * forecast.energy.get()
            + self.per_second * forecast.delay.get()
            + self.per_first_token_second * forecast.first_token.get()
    }
}

/// What one expert was forecast to do with one query.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Probability that its answer is good, in [0, 1].
    pub quality: f64,
    /// Expected output in tokens.
    pub output_tokens: f64,
    /// Expected wait before the expert begins, in the coordinator's line and behind what runs.
    pub waiting: Seconds,
    /// Expected end-to-end delay, the wait included.
    pub delay: Seconds,
    /// The delay it stays under 95 times in 100.
    pub delay_p95: Seconds,
    /// Expected time to the first token, the wait included; of an answer that comes in one piece, its delay.
    pub first_token: Seconds,
    /// The time to the first token that it stays under 95 times in 100.
    pub first_token_p95: Seconds,
    /// Expected energy.
    pub energy: Joules,
    /// The energy it stays under 95 times in 100.
    pub energy_p95: Joules,
    /// Measured requests behind the forecast; 0 means roofline only.
    pub samples: u64,
}

/// ln(0.95 / 0.05): the log-odds of a 95th percentile.
const LOG_ODDS_P95: f64 = 2.944_438_979_166_44;

impl Forecast {
    /// Probability that the answer takes longer than this.
    #[must_use]
    pub fn later_than(&self, limit: Seconds) -> f64 {
        beyond(self.delay, self.delay_p95, limit)
    }

    /// Probability that the first token takes longer than this.
    #[must_use]
    pub fn first_token_later_than(&self, limit: Seconds) -> f64 {
        beyond(self.first_token, self.first_token_p95, limit)
    }

    /// Time the expert itself takes.
    #[must_use]
    pub fn busy(&self) -> Seconds {
        self.delay - self.waiting
    }

    /// The delay it stays under 95 times in 100 if it begins at once.
    #[must_use]
    pub fn busy_p95(&self) -> Seconds {
        self.without_wait(self.delay, self.delay_p95)
    }

    /// The mean time to the first token if it begins at once.
    #[must_use]
    pub fn first_token_busy(&self) -> Seconds {
        self.first_token - self.waiting
    }

    /// The time to the first token that it stays under 95 times in 100 if it begins at once.
    #[must_use]
    pub fn first_token_busy_p95(&self) -> Seconds {
        self.without_wait(self.first_token, self.first_token_p95)
    }

    /// What is still to come of an answer that has not begun `elapsed` after its expert was sent it. Of the times to
    /// the first token that are longer than that the median and the 95th percentile: by the same distribution as
    /// [`Self::first_token_later_than`], and at least as long again as it is overdue beyond the p95 it had, since a
    /// forecast that was sure of itself and wrong says nothing any more (a Pareto tail of index 1). All else as
    /// before.
    #[must_use]
    pub fn after(&self, elapsed: Seconds) -> Self {
        let (middle, p95) = (self.first_token_busy(), self.first_token_busy_p95());
        let survives = beyond(middle, p95, elapsed);
        let left = |share: f64| {
            let overdue = (elapsed - p95) * (1.0 / share - 1.0);
            (at_odds(middle, p95, share * survives) - elapsed).max(overdue)
        };
        // One in two, as `beyond` takes a mean for the median.
        let (first_token, first_token_p95) = (left(0.5), left(0.05));
        Self {
            waiting: Seconds::ZERO,
            first_token,
            first_token_p95,
            delay: first_token + (self.busy() - middle),
            delay_p95: first_token_p95 + (self.busy_p95() - p95),
            ..*self
        }
    }

    fn without_wait(&self, mean: Seconds, p95: Seconds) -> Seconds {
        if mean > Seconds::ZERO {
            (mean - self.waiting) * (p95.get() / mean.get())
        } else {
            Seconds::ZERO
        }
    }
}

/// Probability that a time is beyond a limit, by the log-logistic distribution through the expected time (as
/// its median) and the 95th percentile. Its tail is a power, as that of the lengths of answers is; a bell's
/// would say "never" where one in a thousand is meant.
fn beyond(middle: Seconds, p95: Seconds, limit: Seconds) -> f64 {
    if limit <= Seconds::ZERO {
        return 1.0;
    }
    let spread = (p95.get() / middle.get()).ln();
    // Certain, or no forecast at all.
    if middle <= Seconds::ZERO || !spread.is_finite() || spread <= 0.0 {
        return f64::from(u8::from(middle > limit));
    }
    let odds = (limit.get() / middle.get()).powf(LOG_ODDS_P95 / spread);
    1.0 / (1.0 + odds)
}

/// The time beyond which this share is, by the distribution of [`beyond`].
fn at_odds(middle: Seconds, p95: Seconds, share: f64) -> Seconds {
    let spread = (p95.get() / middle.get()).ln();
    let odds = (1.0 - share) / share;
    if middle <= Seconds::ZERO || !spread.is_finite() || spread <= 0.0 || !odds.is_finite() {
        return p95;
    }
    Seconds::saturating(middle.get() * odds.powf(spread / LOG_ODDS_P95))
}

/// Why a candidate was or was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Highest score.
    Chosen,
    /// Admissible, but another scored higher.
    Outscored,
    /// Its delay forecast (p95) breaks the delay budget.
    TooSlow,
    /// Its energy forecast breaks the energy budget.
    TooCostly,
    /// Not in the active set the planner chose.
    NotSelected,
    /// Lost or failed an earlier attempt at this query.
    Excluded,
    /// It failed again and again and is left alone for a while.
    LeftAlone,
    /// Its context window is shorter than the prompt.
    ContextTooShort,
    /// The tenant may not ask it.
    NotAllowed,
    /// Its forecast is below the tenant's quality floor.
    TooWeak,
}

impl Verdict {
    /// A phrase for tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Outscored => "outscored",
            Self::TooSlow => "too slow",
            Self::TooCostly => "too costly",
            Self::NotAllowed => "not allowed",
            Self::TooWeak => "too weak",
            Self::NotSelected => "not selected",
            Self::Excluded => "excluded",
            Self::LeftAlone => "left alone",
            Self::ContextTooShort => "context too short",
        }
    }
}

/// One expert the router looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Who.
    pub expert: ExpertId,
    /// What was forecast.
    pub forecast: Forecast,
    /// quality − λ·joules − μ·seconds.
    pub score: f64,
    /// What became of it.
    pub verdict: Verdict,
}

/// What an expert was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Its own answer.
    #[default]
    Answer,
    /// Its scores of all answers.
    Score,
}

impl Job {
    /// Whether it is the usual one.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        *self == Self::Answer
    }
}

/// How a cascade went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cascade {
    /// Probability that the first answer is right, in [0, 1].
    pub confidence: f64,
    /// Experts asked because that was not enough.
    pub escalated: u32,
}

/// One expert that worked on the query, once for each job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Participant {
    /// Who.
    pub expert: ExpertId,
    /// What for.
    pub job: Job,
    /// Its weight in the decision, as the fusion rule used it; they add up to 1. 0 if it was lost or
    /// cancelled, or if scores decided and this is the answer.
    pub weight: f64,
    /// What was forecast when it was dispatched.
    pub forecast: Forecast,
    /// What it used; `None` if it was lost before it could say.
    pub usage: Option<Usage>,
    /// Log-probability of every option, for choice queries; of every different answer, for scores.
    pub option_logprobs: Option<Vec<f64>>,
    /// Why it gave no answer, if it gave none.
    pub failure: Option<String>,
}

/// Everything a client may want to know about how its query was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What the gate saw, e.g. `code`.
    pub topic: String,
    /// Prices in force.
    pub prices: Prices,
    /// All experts looked at, best score first.
    pub candidates: Vec<Candidate>,
    /// Those that worked on it, in order of dispatch.
    pub participants: Vec<Participant>,
    /// How the answer was made: `single`, `mixture`, `vote`, `best_of` or `best_of/unscored`.
    pub fusion: String,
    /// How it went, for cascades.
    pub cascade: Option<Cascade>,
    /// Forecast energy of the work that was cancelled because it could not change the answer. What it
    /// had used by then is not known yet and counts as saved here.
    pub saved: Joules,
    /// Attempts beyond the first that losses made necessary.
    pub redispatches: u32,
    /// From submission to the last byte of answer.
    pub delay: Seconds,
    /// All experts together, including cancelled and failed work that was reported.
    pub energy: Joules,
    /// The weakest source among the energies added up.
    pub energy_source: EnergySource,
    /// The most by which that energy may be off: the sum of what each of them may be off by.
    pub energy_error: Joules,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_two_is_later_than_expected_and_one_in_twenty_than_the_percentile() {
        let forecast = |delay: f64, p95: f64| Forecast {
            quality: 0.5,
            output_tokens: 1.0,
            waiting: Seconds::ZERO,
            delay: Seconds::saturating(delay),
            delay_p95: Seconds::saturating(p95),
            first_token: Seconds::saturating(delay / 4.0),
            first_token_p95: Seconds::saturating(p95 / 4.0),
            energy: Joules::ZERO,
            energy_p95: Joules::ZERO,
            samples: 0,
        };
        let later = |f: Forecast, limit: f64| f.later_than(Seconds::saturating(limit));
        let usual = forecast(2.0, 5.0);
        assert!((later(usual, 2.0) - 0.5).abs() < 1e-12);
        assert!((later(usual, 5.0) - 0.05).abs() < 1e-12);
        assert!(later(usual, 1.0) > 0.5 && later(usual, 20.0) < 0.05);
        assert!((later(usual, 0.0) - 1.0).abs() < 1e-12);
        let first = |limit: f64| usual.first_token_later_than(Seconds::saturating(limit));
        assert!((first(0.5) - 0.5).abs() < 1e-12 && (first(1.25) - 0.05).abs() < 1e-12);
        // Of what has not begun after its p95, half takes at least so long again as the odds of 39 to 1 say.
        let begins = |at: f64| usual.after(Seconds::saturating(at));
        let median = 0.5 * 39.0_f64.powf((2.5_f64).ln() / 19.0_f64.ln());
        let rest = begins(1.25);
        assert!(
            (rest.first_token.get() - (median - 1.25)).abs() < 1e-9,
            "{rest:?}"
        );
        assert!((rest.delay.get() - rest.first_token.get() - 1.5).abs() < 1e-9);
        let (first, delay) = (begins(0.0).first_token, begins(0.0).delay);
        assert!((first.get() - 0.5).abs() < 1e-9 && (delay.get() - 2.0).abs() < 1e-9);
        let sure = forecast(2.0, 2.0).after(Seconds::saturating(0.9));
        assert!((sure.first_token.get() - 0.4).abs() < 1e-9, "{sure:?}");
        assert!((sure.first_token_p95.get() - 7.6).abs() < 1e-9, "{sure:?}");
        let waits = [1.0, 2.0, 4.0, 8.0].map(|at| begins(at).first_token.get());
        assert!(waits.is_sorted(), "who waits long waits longer: {waits:?}");
        // Certain.
        assert_eq!(
            [1.9, 2.0].map(|at| later(forecast(2.0, 2.0), at)),
            [1.0, 0.0]
        );
        assert_eq!(later(forecast(0.0, 0.0), 1.0), 0.0);
    }
}
