//! House rules as tests: `cargo test -p moe2-tidy` reads the repository and lists what breaks them.
//!
//! The checkers are pure functions from text to [`Finding`]s, so that each has a self-test which
//! feeds it a bad snippet and sees it complain; `tests/house.rs` walks the tree and runs them.
//! A rule that clippy or rustfmt can already express does not belong here, and a real Rust parser
//! is left out on purpose: blanking comments and literals is enough for every rule below, and
//! keeps this crate without dependencies and quick to build.

pub mod docs;
pub mod graph;
pub mod rules;
pub mod source;

use std::fmt;

/// One broken rule at one place, printed as `path:line: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path from the repository root, with `/` between components.
    pub path: String,
    /// Line counted from 1; 0 when the finding is about the file as a whole.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub message: String,
}

impl Finding {
    /// A finding at `line` of `path`.
    pub fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}
