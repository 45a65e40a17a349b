//! The one place that prints, so that a lint keeps every other file from doing so.
//!
//! Names come from files and from the network, and answers from models: what would command the
//! terminal is replaced.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use serde::Serialize;

/// The first write to standard output that failed.
static LOST: OnceLock<ErrorKind> = OnceLock::new();

/// Writes data to standard output. A reader that went away (`moe2 fleet | head`) is no error.
pub(crate) fn data(text: &str) {
    let mut out = io::stdout().lock();
    note_loss(writeln!(out, "{}", harmless(text)).and_then(|()| out.flush()));
}

/// Writes data as JSON on one line.
///
/// # Errors
/// The data has no JSON, which for the types here means a bug.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // JSON escapes C0 itself; the rest would command some terminals.
        if c.is_control() {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    data(&escaped);
    Ok(())
}

/// Writes a piece of data without ending the line.
pub(crate) fn piece(text: &str) {
    let mut out = io::stdout().lock();
    note_loss(write!(out, "{}", harmless(text)).and_then(|()| out.flush()));
}

/// Writes a note for people to standard error.
pub(crate) fn note(text: &str) {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "{}", harmless(text));
}

/// Why data did not reach standard output, if any was lost.
pub(crate) fn lost() -> Option<ErrorKind> {
    LOST.get().copied()
}

fn note_loss(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.get_or_init(|| error.kind());
    }
}

/// The text without control characters other than line ends and tabs.
fn harmless(text: &str) -> String {
    let keep = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    let shown = text.chars().filter(|c| *c != '\r');
    shown
        .map(|c| {
            if keep(c) {
                c
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        assert_eq!(
            harmless("a\u{1b}[31mb\u{7}\tc\nd\u{9b}e"),
            "a\u{fffd}[31mb\u{fffd}\tc\nd\u{fffd}e"
        );
    }
}
