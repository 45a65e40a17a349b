//! Progress of long work, on standard error; nothing where no person watches.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar for [`moe2_models::pull`].
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub(crate) fn new(quiet: bool) -> Self {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self {
            bar: ProgressBar::with_draw_target(None, target),
        }
    }
}

impl moe2_models::Progress for Bar {
    fn start(&mut self, total_bytes: u64, what: &str) {
        let style = ProgressStyle::with_template(
            "  {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        );
        if let Ok(style) = style {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.reset();
        self.bar.set_length(total_bytes);
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn message(&mut self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Work is long, and worth a line, after this much of it.
const SOON: Duration = Duration::from_secs(1);
/// Between two updates of the line.
const EVERY: Duration = Duration::from_millis(100);

/// A line that says where long work stands; it appears after a second.
#[derive(Debug)]
pub(crate) struct Watch {
    bar: ProgressBar,
    due: Cell<Instant>,
    what: &'static str,
}

impl Watch {
    pub(crate) fn new(what: &'static str, quiet: bool) -> Self {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            due: Cell::new(Instant::now() + SOON),
            what,
        }
    }

    /// Shows what `text` makes, if it is time to.
    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.due.get() {
            self.due.set(now + EVERY);
            self.bar.set_message(format!("{}: {}", self.what, text()));
            self.bar.tick();
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A bar over a known number of equal pieces of work, with the time that is left.
#[derive(Debug)]
pub(crate) struct Count {
    bar: ProgressBar,
}

impl Count {
    pub(crate) fn new(what: &'static str, pieces: usize, quiet: bool) -> Self {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(4)
        };
        let bar = ProgressBar::with_draw_target(Some(pieces as u64), target);
        let style =
            ProgressStyle::with_template("  {prefix} [{bar:30}] {pos}/{len}, {eta} left  {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        Self { bar }
    }

    /// One more is done; `text` says what came of all so far.
    pub(crate) fn step(&self, text: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(text());
        }
        self.bar.inc(1);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
