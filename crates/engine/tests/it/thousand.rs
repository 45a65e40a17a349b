//! A thousand experts, each on a node of its own: every choice looks at all of them, says what became of each, and can
//! be made again.

use std::time::Duration;

use moe2_engine::coordinator::{Config, Output};
use moe2_model::{Candidate, FinishReason, Verdict};
use moe2_wire::FromExpert;

use crate::support::{Bench, device, question, usage};

const EXPERTS: u64 = 1_000;
const QUERIES: u64 = 100;

#[test]
fn a_choice_among_a_thousand_experts_leaves_nobody_out() {
    let mut bench = Bench::configured(Config {
        records: true,
        ..Config::default()
    });
    for n in 0..EXPERTS {
        // Nodes and experts in different orders.
        let (node, expert) = (format!("n{}", n * 7 % EXPERTS), format!("m{n}"));
        bench.join_on(device(), n, &node, &expert);
    }
    bench.plan();
    for _ in 0..QUERIES {
        let sent = bench.ask_one(question("Why is the sky blue?"));
        bench.now = bench.now + Duration::from_millis(1);
        let finish = FinishReason::Stop;
        let usage = usage(3.0);
        bench.text(&sent, "It scatters.");
        bench.says(&sent, FromExpert::Done { finish, usage });
    }
    let mut records = 0;
    for output in &bench.outputs {
        let Output::Ended(record) = output else {
            continue;
        };
        let [decision] = &record.decisions[..] else {
            panic!("one choice is enough: {record:?}");
        };
        let candidates = &decision.candidates;
        assert_eq!(candidates.len() as u64, EXPERTS);
        assert_eq!(candidates[0].verdict, Verdict::Chosen);
        let better = |a: &Candidate, b: &Candidate| {
            let by_score = b.score.total_cmp(&a.score);
            by_score.then_with(|| a.expert.cmp(&b.expert)).is_lt()
        };
        assert!(
            candidates.is_sorted_by(better),
            "the best first, by name if equal"
        );
        assert_eq!(decision.replay(), *candidates);
        records += 1;
    }
    assert_eq!(records, QUERIES);
}
