//! How many files this process and those that it starts may have open.

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Asks the system for so many, which those that are started from then on have, too.
///
/// # Errors
/// The operator allows fewer.
pub(crate) fn open(wanted: u64) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard >= wanted,
        "this needs {wanted} open files and the hard limit is {hard}: raise it (`ulimit -Hn`)"
    );
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
            .with_context(|| format!("this needs {wanted} open files: raise `ulimit -n`"))?;
    }
    Ok(())
}
