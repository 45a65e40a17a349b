//! Reading and solving take less than four times the utility table: a hostile or simply large file
//! must not take the machine down. In a binary of its own, because the allocator counts for all.

use std::io::Read;

use moe2_solve::{BranchAndBound, Limits, Solver, check, parse_instance};
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

const EXPERTS: usize = 200;
const ROWS: usize = 10_000;
/// The table as double-precision numbers.
const TABLE: usize = 8 * EXPERTS * ROWS;

/// An instance file that is made while it is read, so that its text takes no memory.
struct Written {
    row: usize,
    buffer: Vec<u8>,
    state: u64,
    digits: u64,
}

impl Written {
    fn new(digits: u64) -> Self {
        let names: Vec<String> = (0..EXPERTS).map(|n| format!("\"e{n}\"")).collect();
        let head = format!(
            "{{\"format\": \"moe2-selection/1\", \"experts\": [{}], \"k\": 1, \"utility\": [",
            names.join(",")
        );
        Self {
            row: 0,
            buffer: head.into_bytes(),
            state: 7,
            digits,
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.state >> 33) % self.digits
    }

    fn more(&mut self) {
        if self.row < ROWS {
            let comma = if self.row == 0 { "" } else { "," };
            let line: Vec<String> = (0..EXPERTS)
                .map(|_| format!("{:.7}", self.next() as f64 / self.digits as f64))
                .collect();
            self.buffer = format!("{comma}[{}]", line.join(",")).into_bytes();
        } else if self.row == ROWS {
            let costs: Vec<String> = (0..EXPERTS)
                .map(|_| (1 + self.next()).to_string())
                .collect();
            let limit = 15 * EXPERTS as u64 * self.digits / 200;
            self.buffer = format!(
                "], \"constraints\": [{{\"name\": \"w\", \"kind\": \"sum\", \"cost\": [{}], \"limit\": {limit}}}]}}",
                costs.join(",")
            )
            .into_bytes();
        }
        self.row += 1;
    }
}

impl Read for Written {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.buffer.is_empty() {
            self.more();
        }
        let count = out.len().min(self.buffer.len());
        out[..count].copy_from_slice(&self.buffer[..count]);
        self.buffer.drain(..count);
        Ok(count)
    }
}

#[test]
fn reading_and_solving_stay_below_four_times_the_table() {
    // Right or wrong, and numbers that no two of are alike.
    for digits in [2, 10_000_000] {
        PEAK.reset_peak_usage();
        let problem = parse_instance(Written::new(digits)).unwrap();
        let reading = PEAK.peak_usage() as f64 / TABLE as f64;
        PEAK.reset_peak_usage();
        let limits = &mut Limits::default().with_nodes(20);
        let solution = BranchAndBound::FULL.solve(&problem, limits).unwrap();
        let solving = PEAK.peak_usage() as f64 / TABLE as f64;
        assert_eq!(check(&problem, &solution), Ok(()));
        println!("{digits} digits: reading {reading:.2}, solving {solving:.2} times the table");
        assert!(reading < 2.5, "reading takes {reading:.2} times the table");
        assert!(solving < 4.0, "solving takes {solving:.2} times the table");
    }
}
