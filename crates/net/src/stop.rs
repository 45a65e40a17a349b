//! When a process of the fleet is to end, and how: coordinator and agents are told in the same way.

use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Not at all, for now.
    No,
    /// Once what has begun is finished.
    Drained,
    /// At once.
    Now,
}

/// SIGINT or SIGTERM: what has begun is finished, a second one ends it. Where asked for, a closed standard input
/// ends the process at once, because then nobody is left to wait for it.
///
/// # Errors
/// The signals cannot be listened for.
pub fn stop_signal(exit_on_stdin_close: bool) -> std::io::Result<watch::Receiver<Stop>> {
    let (stop, stopped) = watch::channel(Stop::No);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stdin_closed = async move {
        if !exit_on_stdin_close {
            std::future::pending::<()>().await;
        }
        let mut buffer = [0; 64];
        let mut stdin = tokio::io::stdin();
        while stdin.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    };
    tokio::spawn(async move {
        tokio::pin!(stdin_closed);
        let mut next = Stop::Drained;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = &mut stdin_closed => next = Stop::Now,
            }
            tracing::info!(how = ?next, "stopping; a second signal stops at once");
            if stop.send(next).is_err() || next == Stop::Now {
                // The receiver sees the value before it sees the sender gone.
                return;
            }
            next = Stop::Now;
        }
    });
    Ok(stopped)
}
