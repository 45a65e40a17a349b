//! Checks of what is written *about* the code: paths and links that exist, length, words.
//!
//! Documentation rots silently; what can be checked is whether the things it names are there. A
//! path in backticks is taken for one of ours when it starts with a top-level directory of this
//! repository, which needs no markup discipline from the writer and has few false alarms.

use crate::Finding;
use std::collections::BTreeSet;

/// Most words a README may have, code blocks and tables included.
pub const MAX_README_WORDS: usize = 899;

/// Top-level directories whose paths are checked when they stand in backticks.
const ROOTS: &[&str] = &[
    "crates",
    "scheduler",
    "agents",
    "experiments",
    "deploy",
    "docs",
    ".ci",
    ".config",
];

/// File stems of diaries: what was planned or finished belongs in the history or the changelog.
const DIARIES: &[&str] = &[
    "plan",
    "todo",
    "summary",
    "notes",
    "progress",
    "status",
    "implementation",
];

/// Directories that exist only on somebody's machine, in two halves so that this file passes.
const MACHINE_PATHS: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/Us", "ers/"),
];

/// Paths of the repository's files, from its root.
#[derive(Debug, Default)]
pub struct Tree {
    files: BTreeSet<String>,
}

impl Tree {
    /// A tree of these files; their directories are implied.
    pub fn new(files: impl IntoIterator<Item = String>) -> Self {
        Self {
            files: files.into_iter().collect(),
        }
    }

    /// Every file, in order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Whether `path` is a file or a directory of the tree; the root is.
    pub fn contains(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        path.is_empty()
            || self.files.contains(path)
            || self
                .files
                .range(inside.clone()..)
                .next()
                .is_some_and(|f| f.starts_with(&inside))
    }
}

/// Paths in backticks and relative links of the Markdown file `path` that lead nowhere.
pub fn dead_references(path: &str, text: &str, tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        // Odd pieces are inside backticks, even ones outside.
        for (piece, span) in line.split('`').enumerate() {
            let problem = if piece % 2 == 1 {
                repo_path(span).and_then(|p| path_problem(p, tree))
            } else {
                link_problem(path, span, tree)
            };
            findings.extend(problem.map(|message| Finding::new(path, index + 1, message)));
        }
    }
    findings
}

fn repo_path(span: &str) -> Option<&str> {
    let path = span.split_whitespace().next()?;
    let (root, _) = path.split_once('/')?;
    let pattern = path.contains(['*', '{', '<', '$', '…']) || path.contains("...");
    (ROOTS.contains(&root) && !pattern).then_some(path)
}

fn path_problem(path: &str, tree: &Tree) -> Option<String> {
    if path.contains([':', '#']) {
        return Some(format!("`{path}`: name the file or the item, lines move"));
    }
    (!tree.contains(path)).then(|| format!("`{path}` does not exist"))
}

/// First dead relative link in `text`, which stands in the file `from`.
fn link_problem(from: &str, text: &str, tree: &Tree) -> Option<String> {
    text.split("](").skip(1).find_map(|rest| {
        let target = rest.split([')', ' ']).next()?;
        let file = target.split('#').next()?;
        if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
            return None;
        }
        let known = resolve(from, file).is_some_and(|path| tree.contains(&path));
        (!known).then(|| format!("link to `{target}` leads nowhere"))
    })
}

/// `link` as written in the file `from`, from the repository root; `None` if it climbs out.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// A README that nobody would read to its end.
pub fn too_long(path: &str, text: &str) -> Vec<Finding> {
    let words = text.split_whitespace().count();
    if words <= MAX_README_WORDS {
        return Vec::new();
    }
    vec![Finding::new(
        path,
        0,
        format!("{words} words, at most {MAX_README_WORDS}: move detail to docs/"),
    )]
}

/// A file that is a plan or a report rather than a part of the project.
pub fn diary(path: &str) -> Vec<Finding> {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let stem = name
        .strip_suffix(".md")
        .or_else(|| name.strip_suffix(".txt"));
    let found = stem.is_some_and(|s| s.split(['_', '-', ' ']).any(|word| DIARIES.contains(&word)));
    let message = "plans and reports belong in the history or the changelog";
    if found {
        vec![Finding::new(path, 0, message)]
    } else {
        Vec::new()
    }
}

/// Absolute paths that exist only on the machine of whoever wrote them.
pub fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (head, tail) in MACHINE_PATHS {
            let word = format!("{head}{tail}");
            // Inside a longer path or a URL it is just a directory of that name.
            let absolute = |at: usize| {
                line[..at]
                    .chars()
                    .next_back()
                    .is_none_or(|c| !c.is_alphanumeric() && !".-_}/".contains(c))
            };
            if line.match_indices(&word).any(|(at, _)| absolute(at)) {
                let message = format!("`{word}` is a place on one machine");
                findings.push(Finding::new(path, index + 1, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree::new(["README.md", "docs/a.md", "crates/x/src/lib.rs"].map(str::to_owned))
    }

    #[test]
    fn a_path_in_backticks_that_is_not_there_is_found() {
        let dead = |text| dead_references("docs/a.md", text, &tree()).len();
        assert_eq!(dead("see `crates/x/src/gone.rs` and `crates/y`"), 2);
        assert_eq!(dead("see `crates/x/src/lib.rs:12`"), 1);
        assert_eq!(
            dead("see `crates/x/src/`, `crates/*/src`, `/v1/models`, `a/b` and `lib.rs`"),
            0
        );
        assert_eq!(dead("```\n`crates/gone`\n```\n"), 0);
    }

    #[test]
    fn a_relative_link_that_leads_nowhere_is_found() {
        let dead = |text| dead_references("docs/a.md", text, &tree()).len();
        assert_eq!(dead("[a](b.md)"), 1);
        assert_eq!(dead("[a](../../etc/passwd)"), 1);
        assert_eq!(dead("[`lib`](../crates/x/src/gone.rs)"), 1);
        assert_eq!(
            dead("[a](../README.md#top) [b](a.md) [c](#here) [d](https://example.org/x)"),
            0
        );
    }

    #[test]
    fn a_directory_is_not_confused_with_a_longer_name() {
        assert!(tree().contains("crates/x"));
        assert!(!tree().contains("crates/x/sr"));
        assert!(tree().contains(""));
    }

    #[test]
    fn a_long_readme_is_found() {
        assert!(too_long("README.md", &"word ".repeat(MAX_README_WORDS)).is_empty());
        assert_eq!(
            too_long("README.md", &"word ".repeat(MAX_README_WORDS + 1)).len(),
            1
        );
    }

    #[test]
    fn diaries_are_found_by_name() {
        for bad in [
            "PLAN.md",
            "docs/implementation-complete.md",
            "IMPLEMENTATION_SUMMARY.md",
        ] {
            assert_eq!(diary(bad).len(), 1, "{bad}");
        }
        for good in ["README.md", "docs/planner.md", "crates/engine/src/plan.rs"] {
            assert!(diary(good).is_empty(), "{good}");
        }
    }

    #[test]
    fn machine_paths_are_found_but_not_inside_other_paths() {
        let (head, tail) = MACHINE_PATHS[0];
        let bad = format!("cd {head}{tail}main");
        let good = format!("cd crates{head}{tail}main https://example.org{head}{tail}");
        assert_eq!(machine_paths("a.md", &bad).len(), 1);
        assert!(machine_paths("a.md", &good).is_empty());
    }
}
