//! The worker as the agent sees it: a process with real weights at the other end of two pipes.

mod answers;
mod bad_input;
mod endings;
mod options;
mod support;
mod together;
