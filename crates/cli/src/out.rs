//! The one place that prints, so that a lint keeps every other file from doing so.

use std::io::Write;

/// Writes data to standard output. A reader that went away (`moe2 fleet | head`) is no error.
pub(crate) fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a piece of data without ending the line.
pub(crate) fn piece(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a note for people to standard error.
pub(crate) fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "{text}");
}
