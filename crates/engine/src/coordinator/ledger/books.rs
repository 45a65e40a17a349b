//! One tenant's books: what it owes, and the windows that it may fill.

use std::collections::BTreeMap;
use std::time::Duration;

use moe2_model::Joules;
use serde::{Deserialize, Serialize};

use super::Account;
use super::window::{Span, Wall, Window};

/// Joules within a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyWindow {
    /// How many.
    pub joules: Joules,
    /// Within what.
    pub per: Span,
    /// Looking back over the whole length at any time, instead of starting anew with the calendar (UTC).
    #[serde(default)]
    pub rolling: bool,
    /// Whether it is only watched: a hard window, the default, refuses what does not fit.
    #[serde(default)]
    pub soft: bool,
}

/// What a tenant may spend, whatever it asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spending {
    /// Windows of joules; a query must fit all hard ones.
    pub energy_windows: Vec<EnergyWindow>,
    /// Queries within any minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers within any minute.
    pub tokens_per_minute: Option<u64>,
    /// Queries under way at once.
    pub parallel: Option<u32>,
}

/// Why a tenant's query is not taken now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Full {
    /// Too many queries under way.
    Parallel {
        /// How many may be.
        limit: u32,
    },
    /// Too many in the last minute.
    Requests {
        /// How many may be.
        limit: u32,
        /// Until there is room.
        wait: Duration,
    },
    /// Too many tokens in the last minute.
    Tokens {
        /// How many may be.
        limit: u64,
        /// Until there is room; nothing if there never is.
        wait: Option<Duration>,
    },
}

/// What binds a tenant's joules now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Binding {
    pub(crate) window: EnergyWindow,
    pub(crate) used: Joules,
    pub(crate) left: Joules,
    /// What was reserved before is not in it.
    pub(crate) since: Wall,
}

/// A tenant's account and windows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Books {
    pub(crate) account: Account,
    energy: Vec<(EnergyWindow, Window)>,
    requests: Option<Window>,
    tokens: Option<Window>,
    parallel: Option<u32>,
    running: u32,
    /// Settled joules by the minute they were charged to, for windows that are made later.
    charges: BTreeMap<u64, f64>,
}

/// Seconds in which charges are one, and how many of them the longest window needs.
const MINUTE: u64 = 60;
const KEPT_MINUTES: u64 = 33 * 24 * 60;

impl Books {
    /// Notes what was charged before this process began.
    pub(crate) fn remember(&mut self, at: Wall, joules: f64) {
        *self.charges.entry(at.0 / MINUTE).or_default() += joules;
    }

    /// Whether its tokens have a window.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Takes other limits. What a window of the same kind holds stays; a new one starts with what was
    /// charged in its time, and with `open`, the reservations of now.
    pub(crate) fn limit(&mut self, now: Wall, limits: &Spending, open: &[(Wall, f64)]) {
        let before = std::mem::take(&mut self.energy);
        for wanted in &limits.energy_windows {
            let same = |w: &&(EnergyWindow, Window)| {
                (w.1.span, w.1.rolling) == (wanted.per, wanted.rolling)
            };
            let mut window = match before.iter().find(same) {
                Some((_, window)) => window.clone(),
                None => {
                    let mut window = Window::new(wanted.per, wanted.rolling, 0.0);
                    // The end of the minute: a window looking back into it must see all of it.
                    let charges = self.charges.iter();
                    let charged =
                        charges.map(|(minute, j)| (Wall((minute + 1) * MINUTE - 1).min(now), *j));
                    charged
                        .chain(open.iter().copied())
                        .for_each(|(at, joules)| window.add(now, at, joules));
                    window
                }
            };
            window.limit = wanted.joules.get();
            self.energy.push((*wanted, window));
        }
        let minute = |before: &mut Option<Window>, limit: Option<f64>| {
            let window = before.take();
            let mut window = window.unwrap_or_else(|| Window::new(Span::Minute, true, 0.0));
            *before = limit.map(|limit| {
                window.limit = limit;
                window
            });
        };
        minute(
            &mut self.requests,
            limits.requests_per_minute.map(f64::from),
        );
        minute(&mut self.tokens, limits.tokens_per_minute.map(|t| t as f64));
        self.parallel = limits.parallel;
    }

    /// Counts a query of about so many tokens in, or says what it is too much for. Whether its tokens are
    /// counted.
    pub(crate) fn enter(&mut self, now: Wall, tokens: f64) -> Result<bool, Full> {
        if let Some(limit) = self.parallel.filter(|limit| self.running >= *limit) {
            return Err(Full::Parallel { limit });
        }
        if let Some(window) = self.requests.as_ref().filter(|w| w.left(now) < 1.0) {
            let wait = window.fits_in(now, 1.0).unwrap_or(Duration::MAX);
            let limit = window.limit as u32;
            return Err(Full::Requests { limit, wait });
        }
        if let Some(window) = self.tokens.as_ref().filter(|w| w.left(now) < tokens) {
            let (limit, wait) = (window.limit as u64, window.fits_in(now, tokens));
            return Err(Full::Tokens { limit, wait });
        }
        self.running += 1;
        if let Some(window) = &mut self.requests {
            window.add(now, now, 1.0);
        }
        self.add_tokens(now, now, tokens);
        Ok(self.tokens.is_some())
    }

    /// Queries that were counted in and not out.
    pub(crate) const fn running(&self) -> u32 {
        self.running
    }

    /// Counts a query out that was counted in.
    pub(crate) fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    pub(crate) fn add_tokens(&mut self, now: Wall, at: Wall, tokens: f64) {
        if let Some(window) = &mut self.tokens {
            window.add(now, at, tokens);
        }
    }

    pub(crate) fn reserve(&mut self, now: Wall, bound: Joules) {
        self.account.reserved += bound;
        for (_, window) in &mut self.energy {
            window.add(now, now, bound.get());
        }
    }

    /// Replaces a reservation of `at` by what was used.
    pub(crate) fn settle(&mut self, now: Wall, at: Wall, (bound, used): (Joules, Joules)) {
        self.account.reserved = self.account.reserved - bound;
        self.account.spent += used;
        self.remember(at, used.get());
        let oldest = (now.0 / MINUTE).saturating_sub(KEPT_MINUTES);
        while self
            .charges
            .first_key_value()
            .is_some_and(|c| *c.0 < oldest)
        {
            self.charges.pop_first();
        }
        for (_, window) in &mut self.energy {
            window.add(now, at, used.get() - bound.get());
        }
    }

    /// The hard window with the least room, if there is any, once so much that was reserved at a time is given back: to
    /// the windows that it counts in, which a minute later may be none.
    pub(crate) fn binding(&self, now: Wall, (bound, at): (Joules, Wall)) -> Option<Binding> {
        let hard = self.energy.iter().filter(|(wanted, _)| !wanted.soft);
        hard.map(|(wanted, window)| Binding {
            window: *wanted,
            used: Joules::saturating(window.used(now)),
            left: Joules::saturating(window.left_without(now, at, bound.get())),
            since: window.since(now),
        })
        .min_by(|a, b| a.left.get().total_cmp(&b.left.get()))
    }

    /// How long until `amount` fits all hard windows; nothing if it never does.
    pub(crate) fn fits_in(&self, now: Wall, amount: Joules) -> Option<Duration> {
        let hard = self.energy.iter().filter(|(wanted, _)| !wanted.soft);
        hard.map(|(_, window)| window.fits_in(now, amount.get()))
            .try_fold(Duration::ZERO, |longest, wait| Some(longest.max(wait?)))
    }

    /// Everything that is limited, for headers and tables.
    pub(crate) fn left(&self, now: Wall) -> Room {
        let of = |window: &Window| Left {
            limit: window.limit,
            left: window.left(now),
            resets_in: window.resets_in(now),
        };
        let tightest = self
            .energy
            .iter()
            .min_by(|a, b| a.1.left(now).total_cmp(&b.1.left(now)));
        Room {
            requests: self.requests.as_ref().map(of),
            tokens: self.tokens.as_ref().map(of),
            joules: tightest.map(|(_, window)| of(window)),
            windows: self
                .energy
                .iter()
                .map(|(wanted, window)| (*wanted, of(window)))
                .collect(),
        }
    }
}

/// What is left of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Left {
    /// All of it.
    pub limit: f64,
    /// What is left, reservations counted as spent.
    pub left: f64,
    /// Until it starts anew.
    pub resets_in: Duration,
}

/// What is left of a tenant's limits.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Room {
    /// Queries a minute.
    pub requests: Option<Left>,
    /// Tokens a minute.
    pub tokens: Option<Left>,
    /// The window of joules with the least room.
    pub joules: Option<Left>,
    /// Every window of joules.
    pub windows: Vec<(EnergyWindow, Left)>,
}
