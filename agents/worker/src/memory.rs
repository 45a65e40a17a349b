//! Whether the machine has room for a model, asked before it is loaded.
//!
//! The kernel grants memory it does not have and kills a process that uses it, often not the one at
//! fault. An estimate that refuses the hopeless cases turns that into a message. It is coarse on
//! purpose: weights and key-value cache only, since the rest depends on the engine's version.

use moe2_model::Bytes;

/// Memory the system can give without swapping; `None` where it does not say.
pub(crate) fn available() -> Option<Bytes> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    kibibytes(&meminfo, "MemAvailable:")
}

/// Memory of this process that is resident; `None` where the system does not say.
pub(crate) fn resident() -> Option<Bytes> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kibibytes(&status, "VmHWM:")
}

/// The value of `key` in a table of lines such as `MemAvailable:  123 kB`.
fn kibibytes(table: &str, key: &str) -> Option<Bytes> {
    let line = table.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_kibibytes_is_read_in_bytes() {
        let table = "MemTotal:       100 kB\nMemAvailable:    7 kB\n";
        assert_eq!(kibibytes(table, "MemAvailable:"), Some(Bytes(7168)));
        assert_eq!(kibibytes(table, "SwapFree:"), None);
        assert_eq!(kibibytes("MemAvailable: x kB", "MemAvailable:"), None);
    }
}
