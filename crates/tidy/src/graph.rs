//! Who may import whom, as one table, judged against what `cargo metadata` reports.
//!
//! The table is the architecture: decisions sit in crates that cannot reach a socket, a file or a
//! clock, and the scheduler and the agents meet only on the wire. It lists what is *allowed*, so a
//! new edge fails until someone argues for it here, in a one-line diff. Development dependencies
//! are left free: a test may lean on anything.

use crate::Finding;

/// Packages of this workspace, each with the workspace packages it may depend on.
pub const ALLOWED: &[(&str, &[&str])] = &[
    ("moe2-model", &[]),
    ("moe2-cost", &["moe2-model"]),
    ("moe2-solve", &[]),
    ("moe2-gate", &["moe2-model"]),
    ("moe2-embed", &["moe2-gate"]),
    ("moe2-wire", &["moe2-model"]),
    (
        "moe2-engine",
        &[
            "moe2-gate",
            "moe2-solve",
            "moe2-cost",
            "moe2-wire",
            "moe2-model",
        ],
    ),
    ("moe2-metrics", &["moe2-model"]),
    (
        "moe2-sim",
        &[
            "moe2-engine",
            "moe2-gate",
            "moe2-solve",
            "moe2-cost",
            "moe2-wire",
            "moe2-model",
        ],
    ),
    ("moe2-net", &["moe2-wire", "moe2-model"]),
    ("moe2-models", &["moe2-model"]),
    (
        "moe2-coordinator",
        &[
            "moe2-net",
            "moe2-wire",
            "moe2-model",
            "moe2-engine",
            "moe2-metrics",
            "moe2-gate",
            "moe2-embed",
            "moe2-cost",
            "moe2-solve",
        ],
    ),
    (
        "moe2-agent",
        &[
            "moe2-net",
            "moe2-wire",
            "moe2-model",
            "moe2-engine",
            "moe2-cost",
            "moe2-models",
        ],
    ),
    ("moe2-worker", &["moe2-wire", "moe2-model", "moe2-models"]),
    (
        "moe2",
        &[
            "moe2-model",
            "moe2-engine",
            "moe2-models",
            "moe2-net",
            "moe2-wire",
            "moe2-solve",
            "moe2-gate",
            "moe2-embed",
            "moe2-cost",
        ],
    ),
    (
        "moe2-experiments",
        &[
            "moe2-sim",
            "moe2-engine",
            "moe2-solve",
            "moe2-gate",
            "moe2-embed",
            "moe2-cost",
            "moe2-metrics",
            "moe2-model",
            "moe2-models",
            "moe2-wire",
        ],
    ),
    ("moe2-tidy", &[]),
    ("moe2-fake-nvml", &[]),
    ("moe2-e2e", &["moe2-model", "moe2-wire", "moe2-fake-nvml"]),
];

/// Packages that decide and never touch the outside world.
pub const PURE: &[&str] = &[
    "moe2-model",
    "moe2-cost",
    "moe2-solve",
    "moe2-gate",
    "moe2-wire",
    "moe2-engine",
    "moe2-metrics",
    "moe2-sim",
];

/// Packages that bring sockets, files, clocks, threads or entropy, which a pure crate is handed instead.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "async-std",
    "smol",
    "quinn",
    "axum",
    "hyper",
    "tower",
    "ureq",
    "reqwest",
    "rusqlite",
    "rustls",
    "rcgen",
    "wgpu",
    "llama-cpp-2",
    "getrandom",
    "rayon",
    "tempfile",
    "chrono",
    "time",
    "jiff",
    "quanta",
    "instant",
    "web-time",
];

/// One normal or build dependency of a workspace package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The workspace package that declares the dependency.
    pub from: String,
    /// The package it depends on, of this workspace or not.
    pub to: String,
}

/// Judges the workspace's `packages` and their normal and build dependencies against [`ALLOWED`].
pub fn check(packages: &[String], edges: &[Edge]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages.iter().filter(|p| allowed(p).is_none()) {
        findings.push(Finding::new(
            package,
            0,
            "not in the dependency table: add a row to `ALLOWED`",
        ));
    }
    for (row, _) in ALLOWED
        .iter()
        .filter(|(row, _)| !packages.iter().any(|p| p == row))
    {
        findings.push(Finding::new(
            row,
            0,
            "in the dependency table but not in the workspace",
        ));
    }
    for Edge { from, to } in edges {
        let ours = packages.contains(to);
        if ours && !allowed(from).is_none_or(|list| list.contains(&to.as_str())) {
            findings.push(Finding::new(from, 0, format!("must not depend on `{to}`")));
        }
        if PURE.contains(&from.as_str()) && IMPURE.contains(&to.as_str()) {
            let message = format!("is pure and must not depend on `{to}`: have it passed in");
            findings.push(Finding::new(from, 0, message));
        }
    }
    findings
}

fn allowed(package: &str) -> Option<&'static [&'static str]> {
    ALLOWED
        .iter()
        .find(|(row, _)| *row == package)
        .map(|(_, list)| *list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Vec<String> {
        ALLOWED.iter().map(|(row, _)| (*row).to_owned()).collect()
    }

    fn judge(from: &str, to: &str) -> Vec<Finding> {
        check(
            &workspace(),
            &[Edge {
                from: from.to_owned(),
                to: to.to_owned(),
            }],
        )
    }

    #[test]
    fn the_table_itself_has_no_cycle_and_keeps_pure_crates_among_themselves() {
        let mut done: Vec<&str> = Vec::new();
        while done.len() < ALLOWED.len() {
            let next = ALLOWED
                .iter()
                .find(|(row, list)| !done.contains(row) && list.iter().all(|d| done.contains(d)));
            done.push(next.expect("the dependency table has a cycle").0);
        }
        for (_, list) in ALLOWED.iter().filter(|(row, _)| PURE.contains(row)) {
            assert!(list.iter().all(|d| PURE.contains(d)), "{list:?}");
        }
    }

    #[test]
    fn an_edge_outside_the_table_is_found() {
        assert!(judge("moe2-engine", "moe2-model").is_empty());
        assert!(judge("moe2-engine", "serde").is_empty());
        assert_eq!(judge("moe2-model", "moe2-engine").len(), 1);
        assert_eq!(judge("moe2-coordinator", "moe2-agent").len(), 1);
        assert_eq!(judge("moe2-agent", "moe2-coordinator").len(), 1);
    }

    #[test]
    fn a_runtime_under_a_pure_crate_is_found() {
        assert_eq!(judge("moe2-engine", "tokio").len(), 1);
        assert!(judge("moe2-net", "tokio").is_empty());
    }

    #[test]
    fn unknown_and_vanished_packages_are_found() {
        let mut packages = workspace();
        packages.push("moe2-surprise".to_owned());
        packages.retain(|p| p != "moe2-sim");
        assert_eq!(check(&packages, &[]).len(), 2);
    }
}
