//! What a long operation tells its caller while it runs.
//!
//! The library draws nothing: the command line turns these calls into a bar, a service into log
//! lines, a test into a list. A callback per chunk is enough; a channel would need a thread.

/// Receiver of progress. One phase runs at a time: `start`, any number of `advance`, `finish`.
pub trait Progress {
    /// A phase begins. `total_bytes` is how many bytes it will handle, `what` what it does.
    fn start(&mut self, total_bytes: u64, what: &str);
    /// `bytes` more bytes of the current phase are done.
    fn advance(&mut self, bytes: u64);
    /// Something worth one line: a source skipped, a package being fetched, waiting for a lock.
    fn message(&mut self, text: &str);
    /// The current phase ended, well or not.
    fn finish(&mut self);
}

/// Discards all progress.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _total_bytes: u64, _what: &str) {}
    fn advance(&mut self, _bytes: u64) {}
    fn message(&mut self, _text: &str) {}
    fn finish(&mut self) {}
}
