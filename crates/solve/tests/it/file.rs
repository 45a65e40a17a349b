//! The file contract: what is read, what is refused and how the refusal names the field.

use crate::instances::{parts, solve};
use moe2_solve::{Problem, ResultFile, parse_instance, write_instance};
use proptest::prelude::*;
use serde_json::json;

const EXAMPLE: &str = r#"{"format": "moe2-selection/1", "experts": ["a", "b"],
 "utility": [[0.9, 0.1], [0.2, 0.8]], "weights": [0.5, 0.5], "k": 1,
 "constraints": [
  {"name": "standing_energy_j", "kind": "sum", "cost": [3.0, 2.0], "limit": 4.0},
  {"name": "latency_s/chat", "kind": "max", "cost": [0.4, 1.5], "limit": 2.0},
  {"name": "prompt_energy_j", "kind": "top_sum", "top": 2, "cost": [1.0, 2.0], "limit": 3.0},
  {"name": "experts", "kind": "count", "limit": 1}]}"#;

fn refusal(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from}");
    parse_instance(EXAMPLE.replacen(from, to, 1).as_bytes())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_documented_example_is_read_and_solved() {
    let problem = parse_instance(EXAMPLE.as_bytes()).unwrap();
    let solution = solve("auto", &problem);
    let result = serde_json::to_value(ResultFile::new(&problem, &solution, 0.25)).unwrap();
    let expected = json!({
        "format": "moe2-selection-result/1", "status": "optimal", "selected": ["a"],
        "objective": 0.55, "bound": 0.55, "gap": 0.0, "solver": "brute", "nodes": 2,
        "evaluations": 2, "seconds": 0.25, "binding": ["experts"],
    });
    assert_eq!(result, expected);
}

#[test]
fn weights_may_be_absent_and_are_then_uniform() {
    let text = EXAMPLE.replace(r#""weights": [0.5, 0.5],"#, "");
    assert_eq!(
        parse_instance(text.as_bytes()).unwrap().weights(),
        [0.5, 0.5]
    );
}

#[test]
fn an_infeasible_result_carries_its_reason() {
    let text = EXAMPLE.replace(
        r#""kind": "count", "limit": 1"#,
        r#""kind": "count", "limit": 0"#,
    );
    let problem = parse_instance(text.as_bytes()).unwrap();
    let result = ResultFile::new(&problem, &solve("auto", &problem), 0.0);
    assert_eq!((result.status, result.selected.len()), ("infeasible", 0));
    assert!(
        result
            .reason
            .unwrap()
            .contains("experts needs a limit of at least 1 (is 0)")
    );
}

/// Text of the sound file, what replaces it, and how the refusal begins.
const FAULTS: &[(&str, &str, &str)] = &[
    (r#""k": 1"#, r#""k": 1, "seed": 3"#, "seed: unknown field"),
    (
        r#""top": 2"#,
        r#""topp": 2"#,
        "constraints[2].topp: unknown field",
    ),
    (r#""k": 1,"#, "", ".: missing field `k`"),
    (r#""k": 1"#, r#""k": -1"#, "k: invalid value"),
    (r#""k": 1"#, r#""k": 0"#, "k: must not be empty or zero"),
    ("0.8]]", "NaN]]", "utility[1][1]: expected"),
    ("0.8]]", "1e999]]", "utility[1][1]: number out of range"),
    ("0.8]]", "null]]", "utility[1][1]: invalid type"),
    (
        "0.8]]",
        "-0.8]]",
        "utility[1][1]: is -0.8, expected a finite number from 0 to 1e9",
    ),
    ("0.8]]", "2e9]]", "utility[1][1]: is 2000000000"),
    ("0.8]]", "0.8, 1]]", "utility[1]: has 3 entries, expected 2"),
    ("[0.5, 0.5]", "[0.5]", "weights: has 1 entries, expected 2"),
    ("[0.5, 0.5]", "[0.5, -1]", "weights[1]: is -1"),
    ("[0.5, 0.5]", "[0, 0]", "weights: must not be empty or zero"),
    (r#"["a", "b"]"#, "[]", "experts: must not be empty"),
    (
        r#"["a", "b"]"#,
        r#"["a", "a"]"#,
        "experts[1]: the name \"a\" is already used",
    ),
    (
        r#"["a", "b"]"#,
        r#"["a", ""]"#,
        "experts[1]: must not be empty",
    ),
    (
        "[[0.9, 0.1], [0.2, 0.8]]",
        "[]",
        "utility: must not be empty",
    ),
    (
        "[3.0, 2.0]",
        "[3.0]",
        "constraints[0].cost: has 1 entries, expected 2",
    ),
    ("[3.0, 2.0]", "[3.0, -2]", "constraints[0].cost[1]: is -2"),
    (
        "[3.0, 2.0]",
        r#"[3.0, "2"]"#,
        "constraints[0].cost[1]: invalid type",
    ),
    (
        r#""limit": 4.0"#,
        r#""limit": -4.0"#,
        "constraints[0].limit: is -4",
    ),
    (
        r#""limit": 4.0"#,
        r#""limit": 1e308"#,
        "constraints[0].limit: is 1",
    ),
    (
        r#""top": 2, "#,
        "",
        "constraints[2].top: missing for kind \"top_sum\"",
    ),
    (
        r#""top": 2"#,
        r#""top": 0"#,
        "constraints[2].top: must not be empty or zero",
    ),
    (
        r#""cost": [3.0, 2.0], "#,
        "",
        "constraints[0].cost: missing for kind \"sum\"",
    ),
    (
        r#""limit": 1}"#,
        r#""limit": 1, "top": 1}"#,
        "constraints[3].top: not allowed",
    ),
    (
        r#""limit": 1}"#,
        r#""limit": 1, "cost": []}"#,
        "constraints[3].cost: not allowed",
    ),
    (
        r#""kind": "max""#,
        r#""kind": "min""#,
        "constraints[1].kind: unknown variant `min`",
    ),
    (
        "latency_s/chat",
        "experts",
        "constraints[3].name: the name \"experts\"",
    ),
    (
        "selection/1",
        "selection/2",
        "format: is \"moe2-selection/2\"",
    ),
    (
        r#""limit": 1}]}"#,
        r#""limit": 1}]} x"#,
        ".: trailing characters",
    ),
];

#[test]
fn every_fault_is_refused_with_the_name_of_the_field() {
    for (from, to, expected) in FAULTS {
        let message = refusal(from, to);
        assert!(message.starts_with(expected), "{to}: {message}");
    }
}

#[test]
fn sizes_beyond_the_caps_are_refused() {
    let names: Vec<String> = (0..4097).map(|n| n.to_string()).collect();
    let text = json!({
        "format": "moe2-selection/1", "experts": names, "utility": [vec![0; 4097]], "k": 1,
    });
    let error = parse_instance(text.to_string().as_bytes()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("experts: more than 4096 entries"),
        "{message}"
    );
}

/// JSON that goes on for ever without ever being held: what a hostile file does.
fn endless(start: &str, again: &'static str) -> impl std::io::Read {
    use std::io::Read;
    struct Repeat(&'static [u8], usize);
    impl Read for Repeat {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            for byte in buffer.iter_mut() {
                *byte = self.0[self.1 % self.0.len()];
                self.1 += 1;
            }
            Ok(buffer.len())
        }
    }
    std::io::Cursor::new(start.as_bytes().to_vec()).chain(Repeat(again.as_bytes(), 0))
}

#[test]
fn a_file_without_an_end_is_refused_early() {
    let cases = [
        (
            r#"{"experts": ["#,
            r#""a","#,
            "experts: more than 4096 entries",
        ),
        (
            r#"{"experts": [""#,
            "a",
            "experts[0]: a string longer than 4096 bytes",
        ),
        (r#"{""#, "a", ".: a string longer than 4096 bytes"),
        (
            r#"{"constraints": [{"cost": ["#,
            "1,",
            "constraints[0].cost: more than 4096 entries",
        ),
        (
            r#"{"utility": "#,
            "[",
            "utility[0][0]: invalid type: sequence",
        ),
    ];
    for (start, again, expected) in cases {
        let message = parse_instance(endless(start, again))
            .unwrap_err()
            .to_string();
        assert!(message.starts_with(expected), "{start}: {message}");
    }
}

#[test]
fn a_stray_quote_is_found_where_it_stands() {
    let text = EXAMPLE.replacen("selection/1\"", "selection/1\"\"", 1) + &" ".repeat(10_000);
    let message = parse_instance(text.as_bytes()).unwrap_err().to_string();
    assert!(message.contains("line 1 column"), "{message}");
    assert!(!message.contains("4096"), "{message}");
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same_problem(parts in parts()) {
        let problem = Problem::new(parts).unwrap();
        let text = write_instance(&problem);
        prop_assert_eq!(parse_instance(text.as_bytes()).unwrap(), problem);
    }

    #[test]
    fn damaged_files_never_panic(at in 0usize..EXAMPLE.len(), byte in any::<u8>()) {
        let mut text = EXAMPLE.as_bytes().to_vec();
        text[at] = byte;
        // Some changes leave a valid file; solving it must work then.
        if let Ok(problem) = parse_instance(&text[..]) {
            solve("auto", &problem);
        }
        let _ = parse_instance(&text[..at]);
    }
}
