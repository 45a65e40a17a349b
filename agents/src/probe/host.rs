//! What the kernel says about the machine: processor, memory, module.
//!
//! Everything comes from a few text files below a root folder that is passed in, so that a Jetson
//! can be described from a tree of fixtures. A hardware inventory library was not taken: these are
//! five files, and the ones that matter for Jetson modules are in none of them.

use std::fs;
use std::path::Path;

use moe2_model::Bytes;

/// The machine as its files describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// The processor or board, for people; on a Jetson module with its power mode.
    pub(super) model: String,
    /// Memory this process may use: installed, or the container's limit when that is less.
    pub(super) memory: Bytes,
    /// True on an NVIDIA Jetson module.
    pub(super) jetson: bool,
    /// True when the driver for NVIDIA GPUs has made its device node.
    pub(super) nvidia: bool,
}

impl Host {
    /// Reads the files below `root`. What is missing or garbled is "unknown" or zero, never an
    /// error: an agent must start on machines nobody has seen yet.
    pub(super) fn read(root: &Path) -> Self {
        let board = text(root, "proc/device-tree/model");
        let jetson = board.contains("Jetson") || board.contains("NVIDIA Orin");
        let model = if jetson {
            match power_mode(root) {
                Some(mode) => format!("{board} ({mode})"),
                None => board,
            }
        } else {
            processor(&text(root, "proc/cpuinfo"))
                .or_else(|| (!board.is_empty()).then_some(board))
                .unwrap_or_else(|| format!("unknown {} processor", std::env::consts::ARCH))
        };
        Self {
            model,
            memory: memory(root),
            jetson,
            nvidia: root.join("dev/nvidia0").exists(),
        }
    }
}

/// A file's text without trailing NULs (device tree) and white space; empty when unreadable.
fn text(root: &Path, path: &str) -> String {
    let bytes = fs::read(root.join(path)).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .trim_matches(|c: char| c == '\0' || c.is_whitespace())
        .to_owned()
}

/// The processor's name: x86 says `model name`, Arm boards `Model` or nothing but part numbers.
fn processor(cpuinfo: &str) -> Option<String> {
    let field = |key: &str| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            (name.trim() == key && !value.is_empty()).then(|| value.to_owned())
        })
    };
    let arm = || {
        let (maker, part) = (field("CPU implementer")?, field("CPU part")?);
        Some(format!("Arm processor, implementer {maker}, part {part}"))
    };
    field("model name").or_else(|| field("Model")).or_else(arm)
}

/// The active mode of `nvpmodel` with its name where the table of modes has one.
fn power_mode(root: &Path) -> Option<String> {
    let status = text(root, "var/lib/nvpmodel/status");
    let digits = status.split_once("pmode:")?.1;
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let id: u32 = digits[..end].parse().ok()?;
    let table = text(root, "etc/nvpmodel.conf");
    let name = table
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix('<')?
                .trim()
                .strip_prefix("POWER_MODEL")
        })
        .find_map(|row| {
            let value = |key: &str| {
                let word = row
                    .split_whitespace()
                    .find_map(|word| word.strip_prefix(key))?;
                Some(word.trim_end_matches('>'))
            };
            (value("ID=")?.parse() == Ok(id)).then(|| value("NAME="))?
        });
    Some(match name {
        Some(name) => format!("mode {id}, {name}"),
        None => format!("mode {id}"),
    })
}

/// Memory installed, cut to the limit of the control group.
fn memory(root: &Path) -> Bytes {
    let meminfo = text(root, "proc/meminfo");
    let installed = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(1024);
    // "max" (no limit) does not parse, which is what it means.
    let limit = text(root, "sys/fs/cgroup/memory.max")
        .parse()
        .unwrap_or(u64::MAX);
    Bytes(installed.min(limit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn host(files: &[(&str, &str)]) -> Host {
        let root = TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Host::read(root.path())
    }

    #[test]
    fn a_pc_is_named_by_its_processor_and_limited_by_its_container() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nmodel name\t: other\n";
        let meminfo = "MemTotal:       16384 kB\nMemFree:  12 kB\n";
        let files = [("proc/cpuinfo", cpuinfo), ("proc/meminfo", meminfo)];
        let pc = host(&files);
        assert_eq!(pc.model, "AMD EPYC 9B14");
        assert_eq!(pc.memory, Bytes(16 << 20));
        assert!(!pc.jetson && !pc.nvidia);
        for (limit, expected) in [("max\n", 16 << 20), ("1048576\n", 1 << 20)] {
            let limited = host(&[files[0], files[1], ("sys/fs/cgroup/memory.max", limit)]);
            assert_eq!(limited.memory, Bytes(expected));
        }
    }

    #[test]
    fn an_orin_is_named_by_its_board_and_power_mode() {
        let files = [
            (
                "proc/device-tree/model",
                "NVIDIA Jetson AGX Orin Developer Kit\0",
            ),
            ("proc/cpuinfo", "CPU implementer : 0x41\nCPU part : 0xd42\n"),
            ("var/lib/nvpmodel/status", "pmode:0002 fmode:quiet\n"),
            (
                "etc/nvpmodel.conf",
                "# < POWER_MODEL ID=2 NAME=NOT_THIS >\n< POWER_MODEL ID=0 NAME=MAXN >\n\
                 CPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\n",
            ),
        ];
        let named = host(&files);
        assert!(named.jetson);
        assert_eq!(
            named.model,
            "NVIDIA Jetson AGX Orin Developer Kit (mode 2, MODE_30W)"
        );
        assert!(host(&files[..3]).model.ends_with("(mode 2)"));
        assert_eq!(
            host(&files[..2]).model,
            "NVIDIA Jetson AGX Orin Developer Kit"
        );
    }

    #[test]
    fn an_arm_board_without_a_name_shows_its_part() {
        let part = host(&[(
            "proc/cpuinfo",
            "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n",
        )]);
        assert_eq!(part.model, "Arm processor, implementer 0x41, part 0xd0c");
        let board = host(&[("proc/device-tree/model", "Raspberry Pi 5\0")]);
        assert_eq!(board.model, "Raspberry Pi 5");
        assert!(!board.jetson);
    }

    #[test]
    fn an_empty_tree_is_an_unknown_machine_rather_than_a_failure() {
        let unknown = host(&[]);
        assert!(unknown.model.starts_with("unknown"));
        assert_eq!(unknown.memory, Bytes(0));
    }

    proptest! {
        #[test]
        fn no_content_of_any_file_is_an_error(text in "\\PC*|(<? ?(pmode:|POWER_MODEL|ID=|NAME=|[0-9é>: ])*\n?)*") {
            let files = [
                ("proc/cpuinfo", &*text),
                ("proc/meminfo", &*text),
                ("var/lib/nvpmodel/status", &*text),
                ("etc/nvpmodel.conf", &*text),
                ("proc/device-tree/model", "NVIDIA Orin NX"),
            ];
            prop_assert!(host(&files).jetson);
        }
    }
}
