//! The rules for Rust files, one row each in [`RULES`]: a name for the test report and a checker.
//!
//! Sizes are smells rather than laws, so only their hard ends are kept here. Purity is kept by
//! name: a decision that reads a clock or a file can be neither replayed nor simulated, and the
//! compiler cannot say so for us. A new rule is a function and a row, with a bad snippet in the
//! tests below that shows it can fail.

use crate::Finding;
use crate::source::{blank, functions, line_of, test_regions, words};

/// Hard end for a file, in lines; the median aimed at is 120 to 220.
pub const MAX_FILE_LINES: usize = 800;
/// Hard end for a function, in lines, signature and closing brace included.
pub const MAX_FUNCTION_LINES: usize = 90;

/// File or module names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "manager", "helper", "helpers", "misc", "stuff",
];

/// Modules of `std` that reach outside; `core::net` has the address types without the sockets.
const IMPURE_STD: &[&str] = &["fs", "net", "thread", "process", "env"];
/// Names that bring a clock, a lock or a runtime with them.
const IMPURE_WORDS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "Mutex",
    "RwLock",
    "async fn",
    "async move",
];

/// A Rust file under judgement.
#[derive(Debug)]
pub struct Rust<'a> {
    /// Path from the repository root.
    pub path: &'a str,
    /// The file as it stands.
    pub text: &'a str,
    /// The same with comments and literals blanked.
    pub code: String,
    /// Whether it belongs to the `src` of a crate that must stay pure.
    pub pure: bool,
}

impl<'a> Rust<'a> {
    /// Prepares `text` for the rules.
    pub fn new(path: &'a str, text: &'a str, pure: bool) -> Self {
        Self {
            path,
            text,
            code: blank(text),
            pure,
        }
    }

    fn at(&self, offset: usize, message: impl Into<String>) -> Finding {
        Finding::new(self.path, line_of(&self.code, offset), message)
    }
}

/// Checks one file against one rule.
pub type Check = fn(&Rust<'_>) -> Vec<Finding>;

/// Every rule for Rust files.
pub const RULES: &[(&str, Check)] = &[
    ("files and functions stay below their hard ends", sizes),
    ("modules open with their job", opens_with_its_job),
    ("files are named for what they hold", telling_name),
    (
        "no lint is switched off for a whole crate or module",
        no_wide_allow,
    ),
    (
        "pure crates have no clock, file, socket, thread or lock",
        purity,
    ),
    ("tests do not sleep", no_sleep_in_tests),
];

fn sizes(file: &Rust<'_>) -> Vec<Finding> {
    let lines = file.text.lines().count();
    let mut findings = Vec::new();
    if lines > MAX_FILE_LINES {
        let message = format!("{lines} lines; split it, at most {MAX_FILE_LINES} are allowed");
        findings.push(Finding::new(file.path, 0, message));
    }
    for f in functions(&file.code)
        .into_iter()
        .filter(|f| f.lines > MAX_FUNCTION_LINES)
    {
        let message = format!(
            "`{}` has {} lines, at most {MAX_FUNCTION_LINES} are allowed",
            f.name, f.lines
        );
        findings.push(Finding::new(file.path, f.line, message));
    }
    findings
}

fn opens_with_its_job(file: &Rust<'_>) -> Vec<Finding> {
    if file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![Finding::new(
        file.path,
        1,
        "starts without a `//!` comment that says its job and why",
    )]
}

fn telling_name(file: &Rust<'_>) -> Vec<Finding> {
    let empty = file
        .path
        .split('/')
        .map(|part| part.strip_suffix(".rs").unwrap_or(part));
    empty
        .filter(|part| EMPTY_NAMES.contains(part))
        .map(|part| {
            Finding::new(
                file.path,
                0,
                format!("`{part}` says nothing: name what it holds"),
            )
        })
        .collect()
}

fn no_wide_allow(file: &Rust<'_>) -> Vec<Finding> {
    file.code
        .match_indices("#![")
        .filter(|(at, _)| {
            let attribute = file.code[*at..].split(']').next().unwrap_or_default();
            ["allow", "expect"]
                .iter()
                .any(|level| !words(attribute, level).is_empty())
        })
        .map(|(at, _)| {
            file.at(
                at,
                "switches a lint off too widely: put it on the one item, with a reason",
            )
        })
        .collect()
}

fn purity(file: &Rust<'_>) -> Vec<Finding> {
    if !file.pure {
        return Vec::new();
    }
    let modules = IMPURE_STD.iter().flat_map(|name| {
        std_uses(&file.code, name)
            .into_iter()
            .map(move |at| (at, format!("std::{name}")))
    });
    let names = IMPURE_WORDS.iter().flat_map(|name| {
        words(&file.code, name)
            .into_iter()
            .map(move |at| (at, (*name).to_owned()))
    });
    modules
        .chain(names)
        .map(|(at, name)| {
            file.at(
                at,
                format!("`{name}` in a pure crate: take it as an argument"),
            )
        })
        .collect()
}

/// Where `std::name` is used, spelt out or inside a `std::{…}` group.
fn std_uses(code: &str, name: &str) -> Vec<usize> {
    let mut found = words(code, &format!("std::{name}"));
    for (at, opening) in code.match_indices("std::{") {
        let group = at + opening.len();
        let items = group_items(&code[group..]);
        let named = items
            .into_iter()
            .filter(|o| words(&code[group + o..], name).first() == Some(&0));
        found.extend(named.map(|offset| group + offset));
    }
    found
}

/// Where the items of a `{a, b::{c, d}}` group start; `inside` begins after its opening brace.
fn group_items(inside: &str) -> Vec<usize> {
    let (mut depth, mut at_start) = (0_usize, true);
    let mut items = Vec::new();
    for (offset, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                items.push(offset);
                at_start = false;
            }
            _ => {}
        }
    }
    items
}

fn no_sleep_in_tests(file: &Rust<'_>) -> Vec<Finding> {
    // The end-to-end suite waits for real processes.
    if file.path.starts_with("crates/e2e/") {
        return Vec::new();
    }
    let regions = test_regions(&file.code);
    let in_tests = |at: usize| is_test_path(file.path) || regions.iter().any(|r| r.contains(&at));
    ["sleep", "sleep_until", "sleep_ms"]
        .iter()
        .flat_map(|name| words(&file.code, name))
        .filter(|at| in_tests(*at))
        .map(|at| {
            file.at(
                at,
                "a test that sleeps is slow or flaky: wait for the event, or pass the time in",
            )
        })
        .collect()
}

fn is_test_path(path: &str) -> bool {
    path.split('/')
        .any(|part| matches!(part, "tests" | "tests.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(check: Check, path: &str, text: &str) -> usize {
        check(&Rust::new(path, text, true)).len()
    }

    /// A bad and a good snippet for each rule, so that no row can be there without biting.
    fn snippets(check: Check) -> (String, String) {
        let pair = |bad: &str, good: &str| (bad.to_owned(), good.to_owned());
        let lines = |n: usize| format!("//! Job.\nfn f() {{\n{}}}\n", "    g();\n".repeat(n));
        let name = RULES
            .iter()
            .position(|(_, row)| std::ptr::fn_addr_eq(*row, check));
        match name.expect("the rule is a row of the table") {
            0 => (lines(MAX_FUNCTION_LINES), lines(MAX_FUNCTION_LINES - 2)),
            1 => pair("use a::b;\n", "//! Job.\nuse a::b;\n"),
            2 => pair("//! In a badly named file.\n", ""),
            3 => pair(
                "#![allow(dead_code)]",
                "#[allow(dead_code)] fn f() {} // #![allow(x)]",
            ),
            4 => pair(
                "fn f() { std::fs::read(p); }",
                "fn f() { s.fs(); } // std::fs",
            ),
            5 => pair(
                "#[cfg(test)] mod t { fn a() { sleep(d); } }",
                "fn b() { sleep(d); }",
            ),
            other => panic!("rule {other} has no bad snippet: add one"),
        }
    }

    #[test]
    fn every_rule_finds_its_bad_snippet_and_leaves_the_good_one() {
        for (name, check) in RULES {
            let (bad, good) = snippets(*check);
            let bad_path = if *name == RULES[2].0 {
                "a/src/utils.rs"
            } else {
                "a/src/b.rs"
            };
            assert!(findings(*check, bad_path, &bad) > 0, "{name}: {bad}");
            assert_eq!(findings(*check, "a/src/b.rs", &good), 0, "{name}: {good}");
        }
    }

    #[test]
    fn a_file_over_the_hard_end_is_found() {
        assert_eq!(findings(sizes, "a.rs", &"//\n".repeat(MAX_FILE_LINES)), 0);
        assert_eq!(
            findings(sizes, "a.rs", &"//\n".repeat(MAX_FILE_LINES + 1)),
            1
        );
    }

    #[test]
    fn grouped_imports_of_std_are_seen_through() {
        for bad in [
            "use std::{fmt, fs};",
            "use std::{\n    collections::{BTreeMap},\n    net::TcpStream,\n};",
            "let t = Instant::now();",
            "use std::sync::{Arc, Mutex};",
            "async fn f() {}",
        ] {
            assert_eq!(findings(purity, "a.rs", bad), 1, "{bad}");
        }
        for good in [
            "use std::{fmt, fmt::{self, fs}};",
            "use std::time::Instant;",
            "core::net::IpAddr",
        ] {
            assert_eq!(findings(purity, "a.rs", good), 0, "{good}");
        }
        let impure_crate = Rust::new("a.rs", "use std::fs;", false);
        assert!(purity(&impure_crate).is_empty());
    }

    #[test]
    fn lints_hidden_in_cfg_attr_are_found() {
        assert_eq!(
            findings(no_wide_allow, "a.rs", "#![cfg_attr(test, allow(unused))]"),
            1
        );
        assert_eq!(
            findings(no_wide_allow, "a.rs", "#![doc(html_no_source)]"),
            0
        );
    }

    #[test]
    fn integration_tests_may_not_sleep_but_the_end_to_end_suite_may() {
        let text = "tokio::time::sleep(d).await;";
        assert_eq!(
            findings(no_sleep_in_tests, "crates/net/tests/join.rs", text),
            1
        );
        assert_eq!(
            findings(no_sleep_in_tests, "crates/e2e/tests/join.rs", text),
            0
        );
        assert_eq!(
            findings(no_sleep_in_tests, "crates/net/src/redial.rs", text),
            0
        );
    }
}
