//! Where things lie on this machine.

use std::path::PathBuf;

/// Directory of the local fleet that `moe2 up` starts: `$MOE2_STATE`, else under the user's state
/// directory.
pub(crate) fn local_state() -> PathBuf {
    if let Some(dir) = std::env::var_os("MOE2_STATE") {
        return PathBuf::from(dir);
    }
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| {
            std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local").join("state"))
        });
    base.unwrap_or_else(std::env::temp_dir)
        .join("moe2")
        .join("local")
}
