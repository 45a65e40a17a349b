//! Joules from a meter to the books, through a stand-in for NVIDIA's library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moe2_e2e::{System, alone, binary, run, stub, until};
use serde_json::{Value, json};

const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// For idle power to be learnt, at a reading a second, and for failed readings to add up.
const SEEN_WITHIN: Duration = Duration::from_secs(20);
/// The board moves its counter so often.
const STEP: Duration = Duration::from_millis(10);
const IDLE_WATTS: u64 = 20;
const BUSY_WATTS: u64 = 220;

/// A board whose counter moves as long as there is power.
struct Board {
    dir: tempfile::TempDir,
    watts: AtomicU64,
}

impl Board {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let here = std::env::current_exe().expect("a test has a path");
        let built = here.with_file_name("libmoe2_fake_nvml.so");
        let board = Self {
            dir,
            watts: AtomicU64::new(IDLE_WATTS),
        };
        fs::copy(built, board.library()).expect("cargo builds it beside this test");
        board.says("boards 1\nenergy 0 1000\n");
        board
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    fn says(&self, state: &str) {
        // Whole, whenever it is read.
        let new = self.dir.path().join("new");
        fs::write(&new, state).expect("there is room");
        fs::rename(new, self.dir.path().join("state")).expect("there is room");
    }

    /// Draws power until there is none.
    fn draw(&self) {
        let (mut millijoules, mut last) = (1_000.0, Instant::now());
        loop {
            let watts = self.watts.load(Ordering::Relaxed);
            if watts == 0 {
                return;
            }
            std::thread::sleep(STEP);
            let now = Instant::now();
            millijoules += watts as f64 * (now - last).as_secs_f64() * 1e3;
            last = now;
            self.says(&format!("boards 1\nenergy 0 {millijoules:.0}\n"));
        }
    }
}

/// Takes the power away, also from a test that fails.
struct Off<'a>(&'a Board);

impl Drop for Off<'_> {
    fn drop(&mut self) {
        self.0.watts.store(0, Ordering::Relaxed);
    }
}

fn usage(system: &System, how: &[&str]) -> String {
    let mut command = Command::new(binary("moe2"));
    command
        .args(["usage", "--by", "source"])
        .args(how)
        .args(["--url", system.coordinator.admin.base()])
        .arg("--key-file")
        .arg(system.dir().join("coordinator").join("admin.key"));
    let ended = run(&mut command, COMMAND_WITHIN);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.said
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("edge-1.log")).unwrap_or_default()
}

/// What an answer says of its joules.
fn ask(system: &System) -> (String, f64, f64) {
    let reply = system.api().chat("Hello!", &json!({"max_tokens": 8}));
    assert_eq!(reply.status, 200, "{:?}", reply.json);
    let own = &reply.json["moe2"];
    let number = |field: &str| own[field].as_f64().expect("a number");
    let source = own["energy_source"].as_str().unwrap_or_default();
    (
        source.to_owned(),
        number("energy_j"),
        number("energy_error_j"),
    )
}

#[test]
fn a_board_s_joules_and_their_bound_go_all_the_way_and_a_lost_board_is_modelled() {
    let _alone = alone();
    let board = Board::new();
    std::thread::scope(|scope| {
        scope.spawn(|| board.draw());
        let _off = Off(&board);
        let mut system = System::empty();
        system.join_all(&[stub("edge-1").metered_by(&board.library())]);
        let standing = "moe2_standing_joules_total{node=\"edge-1\",source=\"measured:nvml\"}";
        until("standing energy is reported", SEEN_WITHIN, || {
            system.coordinator.admin.text("/metrics").contains(standing)
        });
        board.watts.store(BUSY_WATTS, Ordering::Relaxed);
        let (source, joules, error) = ask(&system);
        board.watts.store(IDLE_WATTS, Ordering::Relaxed);
        assert_eq!(source, "measured:nvml");
        // About 40 ms at 200 W beyond idle power, on a machine that may be slow; a counter that moves every
        // 100 ms cannot tell that well, and says so.
        assert!((0.5..60.0).contains(&joules), "{joules} J");
        assert!(error > joules, "{joules} J ± {error} J");
        let json = usage(&system, &["--json"]);
        let used: Value = serde_json::from_str(&json).expect("it prints one JSON object");
        let used = &used["usage"][0];
        assert_eq!(
            (&used["key"], &used["source"]),
            (&json!("measured:nvml"), &json!("measured:nvml"))
        );
        let near = |field: &str, value: f64| {
            (used[field].as_f64().unwrap_or_default() - value).abs() < 1e-6
        };
        assert!(near("energy_j", joules) && near("error_j", error), "{used}");
        let csv = usage(&system, &["--csv"]);
        let columns: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(columns[0][9..], ["error_j", "source"]);
        assert_eq!(columns[1][9..], [&error.to_string(), "measured:nvml"]);
        let table = usage(&system, &[]);
        assert!(
            table.contains("OFF BY") && table.contains(&format!("±{error:.1}")),
            "{table}"
        );

        // The board falls off its bus.
        board.watts.store(0, Ordering::Relaxed);
        until("the board is still", SEEN_WITHIN, || {
            board.says("boards 1\nenergy 0 error 15\n");
            log(system.dir()).contains("joules are modelled from now on")
        });
        let (source, joules, error) = ask(&system);
        assert_eq!(source, "modelled");
        assert!(joules > 0.0 && error > 0.0, "{joules} J ± {error} J");
    });
}
